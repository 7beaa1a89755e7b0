"""Blending of parallel branches by softmax weights."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class SplitAttention(nn.Module):
    """Weigh K branches per sample and channel by an MLP on their pooled sum.

    Source: Vision Permutator (arXiv 2106.12368, section 3.2), taken over by CycleMLP
    (arXiv 2107.10224, section 3.2). The weights depend on the mean over the whole map.

    Args:
        dim: Channels of each branch.
        num_branches: Number of branches K.
        reduction: The MLP is ``dim // reduction`` wide.
    """

    def __init__(self, dim: int, *, num_branches: int = 3, reduction: int = 4) -> None:
        super().__init__()
        self.num_branches = num_branches
        hidden_dim = dim // reduction
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        # output unit c * K + k belongs to channel c, branch k
        self.fc2 = nn.Linear(hidden_dim, dim * num_branches)

    def forward(self, branches: Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
        """Compute the weights of K maps, for :func:`blend`.

        Args:
            branches: The maps, (B, H, W, C).
            mask: True for real tokens, (B, H, W, 1), or None if all are real.

        Returns:
            The weights, (K, B, 1, 1, C).
        """
        # the mean of a sum is the sum of means: no summed map is ever stored
        pooled = _mean(branches[0], mask)
        for branch in branches[1:]:
            pooled = pooled + _mean(branch, mask)
        logits = self.fc2(self.act(self.fc1(pooled)))
        logits = logits.unflatten(-1, (-1, self.num_branches))  # (B, 1, 1, C, K)
        weights = torch.softmax(logits, dim=-1).to(pooled.dtype)
        return weights.movedim(-1, 0)  # (K, B, 1, 1, C)


def blend(branches: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Sum K maps (B, H, W, C) with weights (K, B, 1, 1, C).

    The sum lies in memory as the last map does.
    """
    blended = branches[-1] * weights[-1]
    for branch, weight in zip(branches[:-1], weights[:-1], strict=True):
        blended = torch.addcmul(blended, branch, weight)
    return blended


def _mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Average maps (B, H, W, C) over their real tokens, (B, 1, 1, C)."""
    if mask is None:
        return x.mean((1, 2), keepdim=True)
    # means, because sums over a map may leave the range of half precision
    dtype = torch.promote_types(x.dtype, torch.float32)
    share = mask.to(dtype).mean((1, 2), keepdim=True).to(x.dtype)
    return x.masked_fill(~mask, 0).mean((1, 2), keepdim=True) / share
