"""The channel MLP."""

from torch import Tensor, nn

from mlp_backbones.layers.channel_linear import ChannelLinear


class ChannelMLP(nn.Module):
    """Two linear layers over the last dimension with a GELU between them.

    Args:
        dim: Channels in and out.
        hidden_dim: Channels between the two layers.
        gelu: ``"none"`` for the exact (erf) form, ``"tanh"`` for its approximation.
    """

    def __init__(self, dim: int, hidden_dim: int, *, gelu: str = "none") -> None:
        super().__init__()
        self.fc1 = ChannelLinear(dim, hidden_dim)
        self.act = nn.GELU(approximate=gelu)
        self.fc2 = ChannelLinear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        return self.contract(self.fc1(x))

    def contract(self, hidden: Tensor) -> Tensor:
        """Activate the hidden map, (..., hidden), and lead it back to (..., C)."""
        return self.fc2(self.act(hidden))
