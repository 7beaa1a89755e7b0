"""Stems and downsamplings that are one strided convolution."""

from torch import Tensor, nn

from mlp_backbones.layers.map_norm import apply_norm


class ConvEmbed(nn.Module):
    """A strided convolution with bias between channels-last maps, and maybe a norm.

    Args:
        in_channels: Channels of the input.
        dim: Channels of the output.
        kernel_size: Side of the kernel, in cells of the input.
        stride: Step, in cells of the input.
        padding: Zero padding on each side, in cells of the input.
        norm: What the embedded map, (B, H', W', C'), passes last, by
            :func:`mlp_backbones.layers.apply_norm`, or None.
        channels_last: Whether the input is (B, H, W, C); a stem takes (B, C, H, W).
    """

    def __init__(
        self,
        in_channels: int,
        dim: int,
        *,
        kernel_size: int,
        stride: int,
        padding: int = 0,
        norm: nn.Module | None = None,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        self.channels_last = channels_last
        self.proj = nn.Conv2d(in_channels, dim, kernel_size, stride, padding)
        self.norm = norm or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the embedded map, (B, H', W', C')."""
        if self.channels_last:
            x = x.permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W)
        x = self.proj(x).permute(0, 2, 3, 1)  # (B, C', H', W') -> (B, H', W', C')
        # a stem fed with NCHW memory yields NCHW memory: settle the layout once
        return apply_norm(self.norm, x.contiguous())
