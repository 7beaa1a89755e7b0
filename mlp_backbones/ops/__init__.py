"""Kernels behind the layers: plain torch, exact, any device and dtype."""

from mlp_backbones.ops.shift import axial_shift, shift_taps

__all__ = ["axial_shift", "shift_taps"]
