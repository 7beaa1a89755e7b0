"""The channel MLP."""

from torch import Tensor, nn

from mlp_backbones.layers.channel_linear import ChannelLinear
from mlp_backbones.ops import recomputed


class ChannelMLP(nn.Module):
    """Two linear layers over the last dimension with a GELU between them.

    Args:
        dim: Channels in and out.
        hidden_dim: Channels between the two layers.
        gelu: ``"none"`` for the exact (erf) form, ``"tanh"`` for its approximation.
        recompute: Whether training computes the activated map again in the backward
            pass instead of storing it, which costs no matrix product.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        *,
        gelu: str = "none",
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.fc1 = ChannelLinear(dim, hidden_dim)
        self.act = nn.GELU(approximate=gelu)
        self.fc2 = ChannelLinear(hidden_dim, dim)
        self.recompute = recompute

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        hidden = self.fc1(x)
        if self.recompute and self.training:
            return recomputed(self._contract, hidden)
        return self._contract(hidden)

    def _contract(self, hidden: Tensor) -> Tensor:
        return self.fc2(self.act(hidden))
