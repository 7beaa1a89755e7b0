"""The block that nearly all vision MLPs share."""

from torch import Tensor, nn

from mlp_backbones.layers.drop_path import DropPath


class MixerBlock(nn.Module):
    """``x + mixer(norm1(x))``, then ``x + mlp(norm2(x))``, with stochastic depth.

    Args:
        norm1: Norm in front of the token mixer.
        mixer: Token mixer, (B, H, W, C) to (B, H, W, C).
        norm2: Norm in front of the channel MLP.
        mlp: Channel MLP, (B, H, W, C) to (B, H, W, C).
        drop_path_rate: Stochastic depth rate of both branches.
        branch_scale: Constant factor on both branches.
    """

    def __init__(
        self,
        *,
        norm1: nn.Module,
        mixer: nn.Module,
        norm2: nn.Module,
        mlp: nn.Module,
        drop_path_rate: float = 0.0,
        branch_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.norm1 = norm1
        self.mixer = mixer
        self.norm2 = norm2
        self.mlp = mlp
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()
        self.branch_scale = branch_scale

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        x = x + self._scale(self.drop_path(self.mixer(self.norm1(x))))
        return x + self._scale(self.drop_path(self.mlp(self.norm2(x))))

    def _scale(self, branch: Tensor) -> Tensor:
        return branch if self.branch_scale == 1.0 else branch * self.branch_scale
