"""A scale and an offset for each channel."""

import torch
from torch import Tensor, nn


class Affine(nn.Module):
    """Scale and offset each channel, without statistics of any kind.

    Source: ResMLP (arXiv 2105.03404, section 2); the deep S2-MLP (arXiv 2106.07477,
    section 4.1) uses it in place of layer norms.

    Args:
        dim: Number of channels.
        scale: The scale of every channel at the start.
    """

    def __init__(self, dim: int, *, scale: float = 1.0) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((dim,), float(scale)))
        self.beta = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        return torch.addcmul(self.beta, self.alpha, x)

    def extra_repr(self) -> str:
        """Show the number of channels."""
        return str(len(self.alpha))
