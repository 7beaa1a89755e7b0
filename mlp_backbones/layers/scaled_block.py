"""The block with a learnt scale on each branch."""

import torch
from torch import Tensor, nn

from mlp_backbones.layers.drop_path import DropPath


class ScaledBlock(nn.Module):
    """``x + scale1 * mixer(norm1(x))``, then ``x + scale2 * mlp(norm2(x))``.

    Source: ResMLP (arXiv 2105.03404, section 2), whose scales come from CaiT's
    LayerScale (arXiv 2103.17239). Stochastic depth drops scaled branches.

    Args:
        dim: Channels in and out.
        norm1: Norm in front of the token mixer.
        mixer: Token mixer, (B, H, W, C) to (B, H, W, C).
        norm2: Norm in front of the channel MLP.
        mlp: Channel MLP, (B, H, W, C) to (B, H, W, C).
        init_scale: The scale of every channel at the start.
        drop_path_rate: Stochastic depth rate of both branches.
    """

    def __init__(
        self,
        dim: int,
        *,
        norm1: nn.Module,
        mixer: nn.Module,
        norm2: nn.Module,
        mlp: nn.Module,
        init_scale: float,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = norm1
        self.mixer = mixer
        self.norm2 = norm2
        self.mlp = mlp
        self.scale1 = nn.Parameter(torch.full((dim,), float(init_scale)))
        self.scale2 = nn.Parameter(torch.full((dim,), float(init_scale)))
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        x = self._add(x, self.mixer(self.norm1(x)), self.scale1)
        return self._add(x, self.mlp(self.norm2(x)), self.scale2)

    def _add(self, x: Tensor, branch: Tensor, scale: Tensor) -> Tensor:
        if isinstance(self.drop_path, DropPath) and self.training:
            return x + self.drop_path(branch * scale)
        return torch.addcmul(x, branch, scale)
