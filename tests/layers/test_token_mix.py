"""Linear layers along the token axis, and the initial values beside them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mlp_backbones.layers import TokenLinear, init_lecun_normal


def build_token_linear(grid: str) -> TokenLinear:
    layer = TokenLinear((2, 3), grid=grid).eval()
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    return layer


def test_token_linear_by_hand() -> None:
    layer = build_token_linear("window")
    x = torch.randn(1, 2, 3, 4)
    found = layer(x)
    weight, bias = layer.weight.tolist(), layer.bias.tolist()
    for row in range(2):
        for column in range(3):
            out = 3 * row + column  # row by row
            for channel in range(4):
                total = bias[out]
                for i in range(2):
                    for j in range(3):
                        total += weight[out][3 * i + j] * x[0, i, j, channel].item()
                assert found[0, row, column, channel].item() == pytest.approx(
                    total, abs=1e-5
                )


@pytest.mark.parametrize("factor", [2, 3])
def test_resized_weights_keep_the_response_to_a_constant_map(factor: int) -> None:
    layer = build_token_linear("interpolate")
    channels = torch.randn(4)
    small = layer(channels.expand(1, 2, 3, 4))
    large = layer(channels.expand(1, 2 * factor, 3 * factor, 4))
    resized = F.interpolate(
        small.permute(0, 3, 1, 2), scale_factor=factor, mode="bilinear"
    )
    torch.testing.assert_close(large, resized.permute(0, 2, 3, 1))


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 256, 8), nn.Linear(192, 256)])
def test_lecun_normal(layer: nn.Conv2d | nn.Linear) -> None:
    init_lecun_normal(layer)
    std = 192**-0.5
    assert layer.weight.std().item() == pytest.approx(std, rel=0.02)
    assert layer.weight.abs().max().item() <= 2 * std / 0.8796
    assert not layer.bias.any()
