"""Modules that two or more families use. All maps are channels-last, (B, H, W, C)."""

from mlp_backbones.layers.affine import Affine
from mlp_backbones.layers.axial_mix import AxialMixer
from mlp_backbones.layers.block import ChainedBlock, MixerBlock
from mlp_backbones.layers.channel_linear import ChannelLinear
from mlp_backbones.layers.drop_path import DropPath
from mlp_backbones.layers.grid_mixer import GridMixer
from mlp_backbones.layers.init import init_lecun_normal
from mlp_backbones.layers.layer_scale import LayerScale
from mlp_backbones.layers.map_norm import SampleNorm, apply_norm
from mlp_backbones.layers.mlp import ChannelMLP
from mlp_backbones.layers.patch_embed import ConvEmbed
from mlp_backbones.layers.pyramid import PyramidResample, resample_patch_kernel
from mlp_backbones.layers.resize import grid_to_map, linear_samples, map_to_grid
from mlp_backbones.layers.split_attention import SplitAttention, blend
from mlp_backbones.layers.token_grid import TokenGrid
from mlp_backbones.layers.token_mix import (
    GatedActivation,
    TokenLinear,
    TokenMLP,
    TransposedLinear,
)
from mlp_backbones.layers.windows import join_windows, partition_windows, plan_windows

__all__ = [
    "Affine",
    "AxialMixer",
    "ChainedBlock",
    "ChannelLinear",
    "ChannelMLP",
    "ConvEmbed",
    "DropPath",
    "GatedActivation",
    "GridMixer",
    "LayerScale",
    "MixerBlock",
    "PyramidResample",
    "SampleNorm",
    "SplitAttention",
    "TokenGrid",
    "TokenLinear",
    "TokenMLP",
    "TransposedLinear",
    "apply_norm",
    "blend",
    "grid_to_map",
    "init_lecun_normal",
    "join_windows",
    "linear_samples",
    "map_to_grid",
    "partition_windows",
    "plan_windows",
    "resample_patch_kernel",
]
