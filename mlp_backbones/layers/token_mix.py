"""Token mixers that are linear layers along the token axis."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlp_backbones.layers.grid_mixer import GridMixer
from mlp_backbones.ops import mix_tokens


class TokenLinear(GridMixer):
    """One linear layer over all tokens of a map, the same for every channel.

    Args:
        grid_size: Height and width of the grid the weights belong to, in tokens.
        options: The other arguments of :class:`GridMixer`.
    """

    def __init__(self, grid_size: tuple[int, int], **options: Any) -> None:
        super().__init__(grid_size, **options)
        num_tokens = grid_size[0] * grid_size[1]
        self.weight = nn.Parameter(torch.empty(num_tokens, num_tokens))
        self.bias = nn.Parameter(torch.empty(num_tokens))

    def mix(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        # (B, H, W, C) -> (B, H*W, C) and back
        return mix_tokens(x.flatten(1, 2), self.weight, self.bias).view(x.shape)


class TransposedLinear(nn.Linear):
    """A linear layer over the last dimension of (B, C, N) that lies as (B, N, C).

    It is torch's, by :func:`mlp_backbones.ops.mix_tokens`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, N) to (B, C, M), or any other (..., N) to (..., M)."""
        if x.ndim != 3:
            return super().forward(x)
        return mix_tokens(x.transpose(1, 2), self.weight, self.bias).transpose(1, 2)


class GatedActivation(nn.Module):
    """Multiply the first half of the last dimension by the SiLU of the second."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., 2 * D) to (..., D)."""
        value, gate = x.chunk(2, dim=-1)
        return value * F.silu(gate)


class TokenMLP(GridMixer):
    """Two linear layers over all tokens, the same for every channel.

    Source: MLP-Mixer (arXiv 2105.01601), equation 1.

    Args:
        grid_size: Height and width of the grid the weights belong to, in tokens.
        hidden_dim: Width between the two layers, before a gate halves it.
        gelu: ``"none"`` or ``"tanh"`` as in torch.
        gated: Whether half of the hidden width gates the other instead.
        options: The other arguments of :class:`GridMixer`.
    """

    def __init__(
        self,
        grid_size: tuple[int, int],
        hidden_dim: int,
        *,
        gelu: str = "none",
        gated: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(grid_size, **options)
        num_tokens = grid_size[0] * grid_size[1]
        self.fc1 = TransposedLinear(num_tokens, hidden_dim)
        self.act = GatedActivation() if gated else nn.GELU(approximate=gelu)
        self.fc2 = TransposedLinear(
            hidden_dim // 2 if gated else hidden_dim, num_tokens
        )

    def mix(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        tokens = x.flatten(1, 2).transpose(1, 2)  # (B, H, W, C) -> (B, C, H*W)
        mixed = self.fc2(self.act(self.fc1(tokens)))
        return mixed.transpose(1, 2).reshape(x.shape)
