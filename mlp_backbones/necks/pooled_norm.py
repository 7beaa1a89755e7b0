"""Average first, norm then: the end of classifiers such as ConvNeXt's."""

from collections.abc import Sequence

from torch import Tensor, nn

from mlp_backbones.registry import MODELS


@MODELS.register_module()
class PooledNorm(nn.Module):
    """Average each map over its positions and norm what comes.

    mmpretrain's ``GlobalAveragePooling`` with a norm behind it.

    Args:
        norm: The norm, on (B, C); or a number of channels, for a layer norm.
        norm_eps: Epsilon of the layer norm.
    """

    def __init__(self, norm: nn.Module | int, norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(norm, eps=norm_eps) if isinstance(norm, int) else norm

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Map each (B, C, H, W) to (B, C)."""
        return tuple(self.norm(feature.mean((2, 3))) for feature in maps)
