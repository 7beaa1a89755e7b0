"""The shared bricks against plain formulas."""

import pytest
import torch
from torch.nn import functional as F

from mlp_backbones.layers import (
    ChannelMLP,
    ConvEmbed,
    DropPath,
    MixerBlock,
    SplitAttention,
    blend,
)


def test_split_attention_is_channel_major() -> None:
    layer = SplitAttention(8).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    maps = [torch.randn(2, 3, 5, 8, dtype=torch.float64) for _ in range(3)]
    pooled = torch.stack(maps).sum(0).flatten(1, 2).mean(1)  # (B, C)
    hidden = F.gelu(pooled @ layer.fc1.weight.T + layer.fc1.bias)
    logits = hidden @ layer.fc2.weight.T + layer.fc2.bias  # (B, 3C)
    expected = torch.zeros_like(maps[0])
    for channel in range(8):
        weights = logits[:, 3 * channel : 3 * channel + 3].softmax(-1)
        for branch in range(3):
            expected[..., channel] += (
                weights[:, branch, None, None] * maps[branch][..., channel]
            )
    torch.testing.assert_close(blend(maps, layer(maps)), expected)


def test_drop_path_keeps_the_mean_and_drops_whole_samples() -> None:
    layer = DropPath(0.25).train()
    x = torch.ones(8000, 2, 2)
    y = layer(x)
    kept = y[:, 0, 0] != 0
    assert torch.equal(y, kept[:, None, None] * torch.full_like(x, 1 / 0.75))
    # five standard deviations of the mean of 8000 coins
    assert abs(kept.float().mean().item() - 0.75) < 5 * (0.75 * 0.25 / 8000) ** 0.5
    assert torch.equal(layer.eval()(x), x)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2.0])
def test_drop_path_names_a_wrong_rate(rate: float) -> None:
    with pytest.raises(ValueError, match=str(rate)):
        DropPath(rate)


@pytest.mark.parametrize(("gelu", "differs"), [("none", False), ("tanh", True)])
def test_channel_mlp_gelu_flavours(gelu: str, differs: bool) -> None:
    layer = ChannelMLP(4, 6, gelu=gelu).double()
    x = 3 * torch.randn(5, 4, dtype=torch.float64)
    hidden = x @ layer.fc1.weight.T + layer.fc1.bias
    exact = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    expected = exact @ layer.fc2.weight.T + layer.fc2.bias
    assert torch.allclose(layer(x), expected, atol=1e-12) is not differs


def test_conv_embed_takes_both_layouts() -> None:
    stem = ConvEmbed(3, 4, kernel_size=7, stride=4, padding=2, channels_last=False)
    x = torch.randn(2, 3, 33, 47)
    expected = F.conv2d(x, stem.proj.weight, stem.proj.bias, stride=4, padding=2)
    embedded = stem(x)
    assert embedded.is_contiguous()
    torch.testing.assert_close(embedded, expected.permute(0, 2, 3, 1))


def test_block_divides_both_branches() -> None:
    mlp = ChannelMLP(3, 6)
    block = MixerBlock(
        norm1=torch.nn.Identity(),
        mixer=torch.nn.Identity(),
        norm2=torch.nn.Identity(),
        mlp=mlp,
        branch_scale=0.5,
    )
    x = torch.randn(1, 2, 2, 3)
    torch.testing.assert_close(block(x), 1.5 * x + 0.5 * mlp(1.5 * x))
