"""CCS in ResMLP-36: the cheaper of two forms, beside a matrix gathered by index."""

import copy

import torch
from torch import Tensor, nn

from mlp_backbones.backbones import CCSMLP
from mlp_backbones.backbones.ccs_mlp import CirculantMixer


class PlainMixer(nn.Module):
    """Equation 7 of the paper: tokens times one circulant matrix for each group."""

    def __init__(self, mixer: CirculantMixer) -> None:
        super().__init__()
        self.weight = mixer.weight

    def forward(self, x: Tensor) -> Tensor:
        groups, num_tokens = self.weight.shape
        place = torch.arange(num_tokens, device=x.device)
        matrix = self.weight[:, (place - place[:, None]) % num_tokens]
        tokens = x.flatten(1, 2).unflatten(2, (-1, groups))  # (B, H*W, C/G, G)
        mixed = torch.einsum("gim,bmcg->bicg", matrix, tokens)
        return mixed.reshape(x.shape)


def forms() -> dict[str, nn.Module]:
    """Build both forms with the same weights."""
    ours = CCSMLP("resmlp_36", **CCSMLP.classifier_arguments, out_indices=(3,))
    plain = copy.deepcopy(ours)
    for stage in plain.stages:
        for block in stage.blocks:
            block.mixer = PlainMixer(block.mixer)
    return {"ours": ours, "plain": plain}
