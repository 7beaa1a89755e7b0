"""MyMixer: channels step like a chess king before a linear layer mixes them."""

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.functional import gelu, pad

from mlp_backbones.backbones import MLPBackbone, StagedArch
from mlp_backbones.layers import ChannelLinear, ChannelMLP, ConvEmbed, MixerBlock

STEPS = [(row, column) for row in (0, 1, 2) for column in (0, 1, 2)]


class KingMixer(nn.Module):
    """Each ninth of the channels takes one of a king's steps; zeros come in."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = ChannelLinear(dim, dim)
        self.fc2 = ChannelLinear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        height, width = x.shape[1:3]
        wide = pad(self.fc1(x), (0, 0, 1, 1, 1, 1))  # (B, H+2, W+2, C)
        groups = zip(wide.tensor_split(9, dim=-1), STEPS, strict=True)
        moved = [g[:, r : r + height, c : c + width] for g, (r, c) in groups]
        return self.fc2(gelu(torch.cat(moved, dim=-1)))


@MODELS.register_module()
class MyMixer(MLPBackbone):
    """Four stages of king's steps; see MLPBackbone for the arguments."""

    arch_settings = {
        "tiny": StagedArch(embed_dims=(32, 64, 128, 192), depths=(2, 2, 2, 1)),
        "small": StagedArch(embed_dims=(64, 128, 320, 512), depths=(2, 2, 4, 2)),
    }

    def build_stem(self) -> nn.Module:
        dims = self.in_channels, self.embed_dims[0]
        return ConvEmbed(*dims, kernel_size=7, stride=4, padding=3, channels_last=False)

    def build_downsample(self, stage: int) -> nn.Module:
        dims = self.embed_dims[stage - 1 : stage + 1]
        return ConvEmbed(*dims, kernel_size=3, stride=2, padding=1)

    def build_block(self, stage: int, block: int, drop_path_rate: float) -> nn.Module:
        dim = self.embed_dims[stage]
        return MixerBlock(
            norm1=nn.LayerNorm(dim),
            mixer=KingMixer(dim),
            norm2=nn.LayerNorm(dim),
            mlp=ChannelMLP(dim, 4 * dim),
            drop_path_rate=drop_path_rate,
        )
