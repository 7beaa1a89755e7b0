"""Stochastic depth."""

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Drop a residual branch per sample and rescale the survivors.

    Source: "Deep Networks with Stochastic Depth", arXiv 1603.09382; survivors are
    divided by the keep probability, as in timm.

    Args:
        drop_prob: Probability of dropping the branch of one sample, in [0, 1).

    Raises:
        ValueError: If ``drop_prob`` is outside [0, 1).
    """

    def __init__(self, drop_prob: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= drop_prob < 1.0:
            raise ValueError(f"drop_prob must lie in [0, 1), got {drop_prob}")
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        """Drop samples of ``x``, (B, ...), in training mode; identity otherwise."""
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep_prob = 1.0 - self.drop_prob
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)  # (B, 1, ..., 1)
        mask = torch.empty(shape, dtype=x.dtype, device=x.device).bernoulli_(keep_prob)
        return x * mask.div_(keep_prob)

    def extra_repr(self) -> str:
        """Show the rate in the printed model."""
        return f"drop_prob={self.drop_prob:.3f}"
