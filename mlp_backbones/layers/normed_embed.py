"""Stems that end in a norm."""

from torch import Tensor, nn

from mlp_backbones.layers.map_norm import apply_norm
from mlp_backbones.layers.patch_embed import ConvEmbed


class NormedConvEmbed(ConvEmbed):
    """A strided convolution with bias, then a norm over the channels.

    Args:
        in_channels: Channels of the input.
        dim: Channels of the output.
        norm: What the embedded map, (B, H', W', C'), passes last, by
            :func:`mlp_backbones.layers.apply_norm`.
        kernel_size: See :class:`ConvEmbed`, as all that follow.
        stride: Step, in cells of the input.
        padding: Zero padding on each side, in cells of the input.
        channels_last: Whether the input is (B, H, W, C).
    """

    def __init__(
        self,
        in_channels: int,
        dim: int,
        *,
        norm: nn.Module,
        kernel_size: int,
        stride: int,
        padding: int = 0,
        channels_last: bool = True,
    ) -> None:
        super().__init__(
            in_channels,
            dim,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            channels_last=channels_last,
        )
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Return the embedded map, (B, H', W', C')."""
        return apply_norm(self.norm, super().forward(x))
