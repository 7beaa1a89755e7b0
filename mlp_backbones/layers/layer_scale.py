"""A learnt scale of each channel."""

import torch
from torch import Tensor, nn


class LayerScale(nn.Module):
    """Multiply each channel by a learnt number.

    Source: "Going deeper with Image Transformers", arXiv 2103.17239, section 2.1.

    Args:
        dim: Number of channels.
        init_value: What all channels are multiplied by at initialisation.
    """

    def __init__(self, dim: int, init_value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), float(init_value)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        return x * self.gamma
