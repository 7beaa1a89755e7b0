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

    def forward(self, branches: Sequence[Tensor]) -> Tensor:
        """Blend K maps (B, H, W, C) into one, (B, H, W, C)."""
        return blend(branches, self.weigh(branches))

    def weigh(self, branches: Sequence[Tensor]) -> Tensor:
        """Compute the weights of K maps (B, H, W, C): (K, B, 1, 1, C)."""
        # the mean of a sum is the sum of means: no summed map is ever stored
        pooled = branches[0].mean((1, 2), keepdim=True)
        for branch in branches[1:]:
            pooled = pooled + branch.mean((1, 2), keepdim=True)
        return self.weigh_pooled(pooled)

    def weigh_pooled(self, pooled: Tensor) -> Tensor:
        """Compute the weights from the pooled sum of the K maps.

        Args:
            pooled: Mean over the map of the branches' sum, (B, 1, 1, C).

        Returns:
            The weights, (K, B, 1, 1, C).
        """
        logits = self.fc2(self.act(self.fc1(pooled)))
        logits = logits.unflatten(-1, (-1, self.num_branches))  # (B, 1, 1, C, K)
        weights = torch.softmax(logits, dim=-1).to(pooled.dtype)
        return weights.movedim(-1, 0)  # (K, B, 1, 1, C)


def blend(branches: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Sum K maps (B, H, W, C) with weights (K, B, 1, 1, C)."""
    blended = branches[0] * weights[0]
    for index, branch in enumerate(branches[1:], start=1):
        blended = torch.addcmul(blended, branch, weights[index])
    return blended
