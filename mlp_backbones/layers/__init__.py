"""Bricks that two or more families use. All maps are channels-last, (B, H, W, C)."""

from mlp_backbones.layers.affine import Affine
from mlp_backbones.layers.block import MixerBlock
from mlp_backbones.layers.drop_path import DropPath
from mlp_backbones.layers.grid import (
    CachingModule,
    GridMixer,
    join_windows,
    partition_windows,
    resize_axis,
    resize_tokens,
)
from mlp_backbones.layers.mlp import ChannelMLP
from mlp_backbones.layers.patch_embed import ConvEmbed
from mlp_backbones.layers.pyramid import PyramidResample, resample_patch_kernel
from mlp_backbones.layers.recompute import recomputed
from mlp_backbones.layers.split_attention import SplitAttention, blend

__all__ = [
    "Affine",
    "CachingModule",
    "ChannelMLP",
    "ConvEmbed",
    "DropPath",
    "GridMixer",
    "MixerBlock",
    "PyramidResample",
    "SplitAttention",
    "blend",
    "join_windows",
    "partition_windows",
    "recomputed",
    "resample_patch_kernel",
    "resize_axis",
    "resize_tokens",
]
