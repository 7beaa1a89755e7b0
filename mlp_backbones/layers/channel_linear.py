"""The linear layer over the channels of a map."""

from torch import Tensor, nn

from mlp_backbones.ops import channel_linear


class ChannelLinear(nn.Linear):
    """A linear layer over channels, by :func:`mlp_backbones.ops.channel_linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C_in) to (..., C_out)."""
        return channel_linear(x, self.weight, self.bias)
