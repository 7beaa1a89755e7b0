"""A group norm of one group on channels-last maps is torch's own."""

import pytest
import torch
from torch import nn

from mlp_backbones.ops import norm_samples


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_samples_are_normed_as_by_a_group_norm_of_one_group(offset: float) -> None:
    norm = nn.GroupNorm(1, 6, eps=1e-3).double()
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
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
    full = x.bfloat16().double().permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W)
    expected = norm.double()(full).permute(0, 2, 3, 1)
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=1e-3)
