"""SPACH: tokens in a flat sequence, unfolded and folded around every convolution."""

import copy

import torch.nn.functional as F
from torch import Tensor, nn

from mlp_backbones import get_model
from mlp_backbones.backbones.spach import SpachBlock
from mlp_backbones.layers import TokenMLP


class PlainTokenMLP(nn.Module):
    """Two linear layers on the transposed sequence."""

    def __init__(self, layer: TokenMLP) -> None:
        super().__init__()
        self.fc1 = copy.deepcopy(layer.fc1)
        self.fc2 = copy.deepcopy(layer.fc2)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, dim = x.shape
        tokens = x.reshape(batch, height * width, dim).transpose(1, 2)
        tokens = self.fc2(F.gelu(self.fc1(tokens)))
        return tokens.transpose(1, 2).reshape(batch, height, width, dim)


class PlainConv(nn.Module):
    """A depthwise convolution on a contiguous copy in the order B, C, H, W."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight = nn.Parameter(conv.weight.detach().clone())
        self.bias = nn.Parameter(conv.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(
            x.contiguous(), self.weight, self.bias, padding=1, groups=len(self.weight)
        )


def forms() -> dict[str, nn.Module]:
    """Build the trunk of SPACH-MS-XXS with token MLPs twice."""
    ours = get_model("spach_ms_xxs_mlp").backbone
    plain = copy.deepcopy(ours)
    for block in plain.modules():
        if isinstance(block, SpachBlock):
            block.cpe = PlainConv(block.cpe)
            if isinstance(block.mixer, TokenMLP):
                block.mixer = PlainTokenMLP(block.mixer)
    return {"ours": ours, "plain": plain}
