"""The token mixer of Vision Permutator and its heirs: lines, lines, channels."""

from abc import abstractmethod
from typing import Any

from torch import Tensor

from mlp_backbones.layers.channel_linear import ChannelLinear
from mlp_backbones.layers.grid_mixer import GridMixer
from mlp_backbones.layers.split_attention import SplitAttention, blend


class AxialMixer(GridMixer):
    """Mix along columns, along rows and over channels, blend the three and project.

    Source: Vision Permutator (arXiv 2106.12368, section 3.2). A family brings what
    mixes the tokens of one line. In windows, attention pools over each window.

    Args:
        dim: Channels in and out.
        qkv_bias: Whether the channel branch has a bias.
        options: The arguments of :class:`GridMixer`.
    """

    def __init__(self, dim: int, *, qkv_bias: bool, **options: Any) -> None:
        super().__init__(**options)
        self.channel = ChannelLinear(dim, dim, bias=qkv_bias)
        self.reweight = SplitAttention(dim)
        self.proj = ChannelLinear(dim, dim)

    @abstractmethod
    def mix_lines(
        self, x: Tensor, weights: tuple[Tensor, ...], mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Mix the tokens of each column, and those of each row.

        Args:
            x: Maps, (B, H, W, C), zero where ``mask`` is not True.
            weights: As in :meth:`GridMixer.mix`.
            mask: As in :meth:`GridMixer.mix`.

        Returns:
            Both mixed maps, (B, H, W, C).
        """

    def mix(
        self, x: Tensor, weights: tuple[Tensor, ...], mask: Tensor | None
    ) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        if mask is not None:
            x = x.masked_fill(~mask, 0)
        height, width = self.mix_lines(x, weights, mask)
        channel = self.channel(x)
        pooled = _mean(height, mask) + _mean(width, mask) + _mean(channel, mask)
        attention = self.reweight.weigh_pooled(pooled)
        # the first branch decides how the sum lies in memory: columns may lie turned
        return self.proj(blend((channel, width, height), attention.flip(0)))


def _mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Average maps (B, H, W, C) over their real tokens, (B, 1, 1, C)."""
    if mask is None:
        return x.mean((1, 2), keepdim=True)
    # means, because sums over a map may leave the range of half precision
    share = mask.float().mean((1, 2), keepdim=True).to(x.dtype)
    return x.masked_fill(~mask, 0).mean((1, 2), keepdim=True) / share
