"""Kernels behind the layers: plain torch, exact, any device and dtype."""

from mlp_backbones.ops.shift import axial_shift, shift_taps
from mlp_backbones.ops.spatial_shift import (
    blend_shifted,
    direction_mask,
    shifted_means,
    spatial_shift,
)

__all__ = [
    "axial_shift",
    "blend_shifted",
    "direction_mask",
    "shift_taps",
    "shifted_means",
    "spatial_shift",
]
