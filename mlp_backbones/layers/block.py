"""The blocks that nearly all vision MLPs share."""

from torch import Tensor, nn

from mlp_backbones.layers.drop_path import DropPath
from mlp_backbones.layers.layer_scale import LayerScale
from mlp_backbones.layers.map_norm import apply_norm
from mlp_backbones.ops import recomputed


class MixerBlock(nn.Module):
    """``x + mixer(norm1(x))``, then ``x + mlp(norm2(x))``, with stochastic depth.

    Args:
        norm1: Norm in front of the token mixer.
        mixer: Token mixer, (B, H, W, C) to (B, H, W, C).
        norm2: Norm in front of the channel MLP.
        mlp: Channel MLP, (B, H, W, C) to (B, H, W, C).
        drop_path_rate: Stochastic depth rate of both branches.
        branch_scale: Constant factor on both branches.
        layer_scale1: Learnt scale of the mixer's branch, or None.
        layer_scale2: Learnt scale of the MLP's branch, or None.
        recompute_mixer: Whether training computes the mixer's inner maps again in the
            backward pass instead of storing them.
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
        layer_scale1: LayerScale | None = None,
        layer_scale2: LayerScale | None = None,
        recompute_mixer: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = norm1
        self.mixer = mixer
        self.norm2 = norm2
        self.mlp = mlp
        self.layer_scale1 = layer_scale1 or nn.Identity()
        self.layer_scale2 = layer_scale2 or nn.Identity()
        self.drop_path = DropPath(drop_path_rate)
        self.branch_scale = branch_scale
        self.recompute_mixer = recompute_mixer

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        if self.recompute_mixer and self.training:
            x = self._add(x, recomputed(self._mix, x))
        else:
            x = self._add(x, self._mix(x))
        return self._add(x, self.layer_scale2(self.mlp(apply_norm(self.norm2, x))))

    def _mix(self, x: Tensor) -> Tensor:
        return self.layer_scale1(self.mixer(apply_norm(self.norm1, x)))

    def _add(self, x: Tensor, branch: Tensor) -> Tensor:
        branch = self.drop_path(branch)
        return x + (branch if self.branch_scale == 1.0 else branch * self.branch_scale)


class ChainedBlock(nn.Module):
    """``x + scale * mlp(norm2(mixer(norm1(x))))``: one skip around both.

    Source: GFNet (arXiv 2107.00645, figure 2) and MS-MLP (arXiv 2202.06510, section
    3.2), which has no first norm.

    Args:
        norm1: Norm in front of the token mixer, or None.
        mixer: Token mixer, (B, H, W, C) to (B, H, W, C).
        norm2: Norm between token mixer and channel MLP.
        mlp: Channel MLP, (B, H, W, C) to (B, H, W, C).
        layer_scale: Learnt scale of the branch, or None.
        drop_path_rate: Stochastic depth rate of the branch.
    """

    def __init__(
        self,
        *,
        norm1: nn.Module | None = None,
        mixer: nn.Module,
        norm2: nn.Module,
        mlp: nn.Module,
        layer_scale: LayerScale | None,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = norm1 or nn.Identity()
        self.mixer = mixer
        self.norm2 = norm2
        self.mlp = mlp
        self.layer_scale = layer_scale or nn.Identity()
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        branch = self.mlp(self.norm2(self.mixer(self.norm1(x))))
        return x + self.drop_path(self.layer_scale(branch))
