"""Bricks that two or more families use. All maps are channels-last, (B, H, W, C)."""

from mlp_backbones.layers.block import MixerBlock
from mlp_backbones.layers.drop_path import DropPath
from mlp_backbones.layers.mlp import ChannelMLP
from mlp_backbones.layers.patch_embed import ConvEmbed
from mlp_backbones.layers.recompute import recomputed
from mlp_backbones.layers.split_attention import SplitAttention, blend

__all__ = [
    "ChannelMLP",
    "ConvEmbed",
    "DropPath",
    "MixerBlock",
    "SplitAttention",
    "blend",
    "recomputed",
]
