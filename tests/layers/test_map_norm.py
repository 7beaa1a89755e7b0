"""Norms on channels-last maps against torch's own on channels-first ones."""

import pytest
import torch
from torch import nn

from mlp_backbones.layers import ChannelMLP, MixerBlock, NormedConvEmbed, apply_norm
from mlp_backbones.layers.map_norm import norm_samples


def _randomised(norm: nn.Module) -> nn.Module:
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return norm


@pytest.mark.parametrize(
    "norm",
    [nn.BatchNorm2d(6), nn.GroupNorm(1, 6), nn.GroupNorm(3, 6), nn.Identity()],
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


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_samples_are_normed_as_by_a_group_norm_of_one_group(offset: float) -> None:
    norm = _randomised(nn.GroupNorm(1, 6, eps=1e-3)).double()
    x = (torch.randn(3, 4, 5, 6) + offset).double()
    gradients = []
    for function in (
        lambda x: norm(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1),
        lambda x: norm_samples(x, norm.weight, norm.bias, norm.eps),
    ):
        norm.zero_grad()
        image = x.clone().requires_grad_()
        y = function(image)
        (y * torch.arange(y.numel()).view_as(y)).sum().backward()
        gradients.append((y, image.grad, norm.weight.grad, norm.bias.grad))
    torch.testing.assert_close(gradients[1], gradients[0])


def test_samples_keep_their_precision_in_half() -> None:
    norm = nn.GroupNorm(1, 4)
    x = torch.randn(2, 8, 8, 4) + 40  # bfloat16 would sum this up to nonsense
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = norm_samples(x.bfloat16(), norm.weight, norm.bias, norm.eps)
    expected = apply_norm(norm.double(), x.bfloat16().double())
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=1e-3)


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

    embed = NormedConvEmbed(
        6, 8, norm=_randomised(nn.BatchNorm2d(8)), kernel_size=3, stride=2, padding=1
    )
    expected = embed.norm(embed.proj(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
    torch.testing.assert_close(embed(x), expected)
