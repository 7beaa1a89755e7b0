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
        # the mean of a sum is the sum of means: no summed map is ever stored
        pooled = sum(branch.mean((1, 2), keepdim=True) for branch in branches)
        logits = self.fc2(self.act(self.fc1(pooled)))
        logits = logits.unflatten(-1, (-1, self.num_branches))  # (B, 1, 1, C, K)
        weights = torch.softmax(logits, dim=-1).to(branches[0].dtype)
        weights = weights.unbind(-1)  # K times (B, 1, 1, C)
        blended = branches[0] * weights[0]
        for branch, weight in zip(branches[1:], weights[1:], strict=True):
            blended = torch.addcmul(blended, branch, weight)
        return blended
