"""The product over channels; what it computes is tested with its layer."""

import torch

from mlp_backbones.ops import channel_linear


def test_map_of_contiguous_memory_stays_so():
    x = torch.randn(2, 6, 8, 16)
    assert channel_linear(x, torch.randn(24, 16)).is_contiguous()
