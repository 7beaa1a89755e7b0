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
    def mix_lines(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mix the tokens of each column, and those of each row, on any grid.

        Args:
            x: Maps, (B, H, W, C), zero where ``mask`` is not True.
            mask: As in :meth:`GridMixer.mix`.

        Returns:
            Both mixed maps, (B, H, W, C).
        """

    def mix(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        branches = (*self.mix_lines(x, mask), self.channel(x))
        return self.proj(blend(branches, self.reweight(branches, mask)))

    def mix_resized(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        return self.mix(x, None)
