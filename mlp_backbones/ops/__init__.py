"""Functions behind the layers: plain torch, exact, any device and dtype."""

from mlp_backbones.ops.channel_linear import channel_linear
from mlp_backbones.ops.mix_tokens import mix_tokens
from mlp_backbones.ops.norm_samples import norm_samples
from mlp_backbones.ops.recompute import recomputed
from mlp_backbones.ops.shift import axial_shift
from mlp_backbones.ops.spatial_shift import (
    blend_shifted,
    shifted_means,
    spatial_shift,
)

__all__ = [
    "axial_shift",
    "blend_shifted",
    "channel_linear",
    "mix_tokens",
    "norm_samples",
    "recomputed",
    "shifted_means",
    "spatial_shift",
]
