"""gMLP-Ti/16: gates as left products, beside a linear layer on transposed tokens."""

import copy

from torch import Tensor, nn

from mlp_backbones.backbones import GMLP
from mlp_backbones.backbones.gmlp import SpatialGate


class PlainGate(nn.Module):
    """The spatial gating unit as the paper writes it, on transposed tokens."""

    def __init__(self, gate: SpatialGate) -> None:
        super().__init__()
        self.norm = gate.norm
        self.proj = nn.Linear(*gate.proj.weight.shape)
        self.proj.weight, self.proj.bias = gate.proj.weight, gate.proj.bias

    def forward(self, u: Tensor, v: Tensor) -> Tensor:
        tokens = self.norm(v).flatten(1, 2).transpose(1, 2)  # to (B, C, H*W)
        mixed = self.proj(tokens).transpose(1, 2)
        return u * mixed.unflatten(1, v.shape[1:3])


def forms() -> dict[str, nn.Module]:
    """Build both forms with the same weights."""
    ours = GMLP("ti16", **GMLP.classifier_arguments, out_indices=(3,))
    plain = copy.deepcopy(ours)
    for stage in plain.stages:
        for block in stage.blocks:
            block.mixer.gate = PlainGate(block.mixer.gate)
    return {"ours": ours, "plain": plain}
