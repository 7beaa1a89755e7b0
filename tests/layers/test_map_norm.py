"""Norms on channels-last maps against torch's own on channels-first ones."""

import pytest
import torch
from torch import nn

from mlp_backbones.layers import (
    ChannelMLP,
    ConvEmbed,
    MixerBlock,
    SampleNorm,
    apply_norm,
)


def _randomised(norm: nn.Module) -> nn.Module:
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return norm


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(6),
        nn.GroupNorm(1, 6),
        nn.GroupNorm(3, 6),
        SampleNorm(6),
        nn.Identity(),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_channels_first_norms_take_channels_last_maps(norm: nn.Module) -> None:
    _randomised(norm)
    x = torch.randn(2, 3, 5, 6)
    expected = norm(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(apply_norm(norm, x), expected)


def test_layer_norms_see_the_last_dimension() -> None:
    norm = _randomised(nn.LayerNorm(6))
    x = torch.randn(2, 6, 6, 6)
    torch.testing.assert_close(apply_norm(norm, x), norm(x))


def test_block_and_embedding_use_it() -> None:
    block = MixerBlock(
        norm1=_randomised(nn.BatchNorm2d(6)),
        mixer=nn.Identity(),
        norm2=_randomised(nn.GroupNorm(1, 6)),
        mlp=ChannelMLP(6, 8),
    )
    x = torch.randn(2, 3, 5, 6)
    y = x + block.norm1(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    y = y + block.mlp(block.norm2(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
    torch.testing.assert_close(block.eval()(x), block(x))  # and nothing random in it
    block.train()
    torch.testing.assert_close(block(x), y)

    embed = ConvEmbed(
        6, 8, norm=_randomised(nn.BatchNorm2d(8)), kernel_size=3, stride=2, padding=1
    )
    expected = embed.norm(embed.proj(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
    torch.testing.assert_close(embed(x), expected)
