"""Token mixers that are linear layers along the token axis."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlp_backbones.layers.grid_mixer import GridMixer
from mlp_backbones.layers.resize import resize_tokens
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

    def mix(
        self, x: Tensor, weights: tuple[Tensor, ...], mask: Tensor | None
    ) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        if mask is not None:
            x = x.masked_fill(~mask, 0)
        weight, bias = weights
        # (B, H, W, C) -> (B, H*W, C) and back
        return mix_tokens(x.flatten(1, 2), weight, bias).view(x.shape)

    def resize_weights(self, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """Return weight and bias for a grid of ``size``."""
        old = self.grid_size
        weight = resize_tokens(self.weight, 1, old, size, scale=True)
        weight = resize_tokens(weight, 0, old, size)
        return weight, resize_tokens(self.bias, 0, old, size)


class GatedActivation(nn.Module):
    """Multiply the first half of an axis by the SiLU of the second.

    Args:
        axis: The axis that is halved.
    """

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., 2 * D, ...) to (..., D, ...)."""
        value, gate = x.chunk(2, dim=self.axis)
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
        self.fc1 = nn.Linear(num_tokens, hidden_dim)
        self.act = GatedActivation(1) if gated else nn.GELU(approximate=gelu)
        self.fc2 = nn.Linear(hidden_dim // 2 if gated else hidden_dim, num_tokens)

    def mix(
        self, x: Tensor, weights: tuple[Tensor, ...], mask: Tensor | None
    ) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        if mask is not None:
            x = x.masked_fill(~mask, 0)
        weight1, weight2, bias2 = weights
        tokens = x.flatten(1, 2)  # (B, H, W, C) -> (B, H*W, C)
        hidden = mix_tokens(tokens, weight1, self.fc1.bias)  # (B, D, C)
        return mix_tokens(self.act(hidden), weight2, bias2).view(x.shape)

    def resize_weights(self, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """Return both weights and the last bias for a grid of ``size``."""
        old = self.grid_size
        return (
            resize_tokens(self.fc1.weight, 1, old, size, scale=True),
            resize_tokens(self.fc2.weight, 0, old, size),
            resize_tokens(self.fc2.bias, 0, old, size),
        )
