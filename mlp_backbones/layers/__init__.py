"""Bricks that two or more families use. All maps are channels-last, (B, H, W, C)."""

from mlp_backbones.layers.affine import Affine
from mlp_backbones.layers.axial_mix import AxialMixer
from mlp_backbones.layers.block import MixerBlock
from mlp_backbones.layers.channel_linear import ChannelLinear, channel_linear
from mlp_backbones.layers.drop_path import DropPath
from mlp_backbones.layers.fold import fold_batch_norm
from mlp_backbones.layers.grid import (
    CachingModule,
    GridMixer,
    join_windows,
    partition_windows,
    resize_axis,
    resize_tokens,
    resolve_image_size,
)
from mlp_backbones.layers.init import init_lecun_normal
from mlp_backbones.layers.layer_scale import LayerScale
from mlp_backbones.layers.map_norm import apply_norm
from mlp_backbones.layers.mlp import ChannelMLP
from mlp_backbones.layers.normed_embed import NormedConvEmbed
from mlp_backbones.layers.patch_embed import ConvEmbed
from mlp_backbones.layers.pyramid import PyramidResample, resample_patch_kernel
from mlp_backbones.layers.recompute import recomputed
from mlp_backbones.layers.split_attention import SplitAttention, blend
from mlp_backbones.layers.token_grid import TokenGrid
from mlp_backbones.layers.token_mix import (
    GatedActivation,
    TokenLinear,
    TokenMLP,
    mix_tokens,
)

__all__ = [
    "Affine",
    "AxialMixer",
    "CachingModule",
    "ChannelLinear",
    "ChannelMLP",
    "ConvEmbed",
    "DropPath",
    "GatedActivation",
    "GridMixer",
    "LayerScale",
    "MixerBlock",
    "NormedConvEmbed",
    "PyramidResample",
    "SplitAttention",
    "TokenGrid",
    "TokenLinear",
    "TokenMLP",
    "apply_norm",
    "blend",
    "channel_linear",
    "fold_batch_norm",
    "init_lecun_normal",
    "join_windows",
    "mix_tokens",
    "partition_windows",
    "recomputed",
    "resample_patch_kernel",
    "resize_axis",
    "resize_tokens",
    "resolve_image_size",
]
