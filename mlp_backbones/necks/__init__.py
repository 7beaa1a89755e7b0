"""Necks that OpenMMLab lacks."""

from mlp_backbones.necks.pooled_norm import PooledNorm

__all__ = ["PooledNorm"]
