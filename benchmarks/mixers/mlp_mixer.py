"""MLP-Mixer-S/16: token MLPs as left products, beside transposed linear layers."""

import copy

from torch import Tensor, nn

from mlp_backbones.backbones import MlpMixer
from mlp_backbones.layers import TokenMLP


class PlainMixer(nn.Module):
    """The token MLP as the paper writes it, on transposed tokens."""

    def __init__(self, mixer: TokenMLP) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = mixer.fc1, mixer.act, mixer.fc2

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(1, 2).transpose(1, 2)  # (B, H, W, C) -> (B, C, H*W)
        mixed = self.fc2(self.act(self.fc1(tokens)))
        return mixed.transpose(1, 2).unflatten(1, x.shape[1:3])


def forms() -> dict[str, nn.Module]:
    """Build both forms with the same weights."""
    ours = MlpMixer("s16", **MlpMixer.classifier_arguments, out_indices=(3,))
    plain = copy.deepcopy(ours)
    for stage in plain.stages:
        for block in stage.blocks:
            block.mixer = PlainMixer(block.mixer)
    return {"ours": ours, "plain": plain}
