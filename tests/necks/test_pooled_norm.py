"""The end of classifiers that average first and norm then."""

import torch
from mmengine.registry import MODELS
from torch import nn

from mlp_backbones.necks import PooledNorm


def test_builds_in_every_scope_and_norms_the_mean() -> None:
    neck = MODELS.build({"type": "mlp_backbones.PooledNorm", "norm": 8})
    assert isinstance(neck, PooledNorm)
    x = torch.randn(2, 8, 3, 5)
    (pooled,) = neck((x,))
    expected = torch.stack([sample.flatten(1).mean(1) for sample in x])
    expected = (expected - expected.mean(1, keepdim=True)) / (
        expected.var(1, unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    torch.testing.assert_close(pooled, expected)


def test_takes_any_norm_and_several_maps() -> None:
    neck = PooledNorm(nn.Identity())
    maps = (torch.randn(2, 4, 3, 3), torch.randn(2, 6, 2, 2))
    for pooled, feature in zip(neck(maps), maps, strict=True):
        torch.testing.assert_close(pooled, feature.mean((2, 3)))
