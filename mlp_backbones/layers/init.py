"""Initial values that two or more families use."""

import math

from torch import nn

_STD_WITHIN_TWO = 0.87962566103423978  # of a normal distribution cut off at +-2


def init_lecun_normal(layer: nn.Conv2d | nn.Linear) -> None:
    """Give weights a truncated normal distribution of variance 1 / inputs, no bias.

    Source: the default of Flax's layers, which timm took over.

    Args:
        layer: The layer, changed in place; inputs are all entries of one output.
    """
    std = math.sqrt(1 / layer.weight[0].numel()) / _STD_WITHIN_TWO
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
