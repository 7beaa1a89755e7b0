"""The backbones, one file a family."""

from mlp_backbones.backbones.base import MLPBackbone
from mlp_backbones.backbones.cycle_mlp import CycleMLP

__all__ = ["CycleMLP", "MLPBackbone"]
