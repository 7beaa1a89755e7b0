"""Batch and group norms on channels-last maps."""

import torch
from torch import Tensor, nn

from mlp_backbones.ops import dispatch, norm_samples


def apply_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """Apply any norm to a channels-last map.

    Batch and group norms want channels in front. They stay torch's own modules, which
    tools know how to synchronise, freeze and fold, and are called through a view.

    Args:
        norm: A norm over the last dimension, or torch's batch or group norm.
        x: Feature map, (B, H, W, C).

    Returns:
        The normed map, (B, H, W, C).
    """
    # torch's own copies the map on CUDA; on CPUs its backward pass crashes on
    # channels_last maps that need no gradient themselves, as behind frozen stages
    frozen = torch.is_grad_enabled() and not x.requires_grad
    own_fails = dispatch.prefers_gpu_kernel(x) or frozen
    if isinstance(norm, nn.GroupNorm) and norm.num_groups == 1 and own_fails:
        return norm_samples(x, norm.weight, norm.bias, norm.eps)
    if isinstance(norm, nn.GroupNorm | nn.modules.batchnorm._NormBase):
        # (B, H, W, C) -> (B, C, H, W) in channels_last memory format, and back
        return norm(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return norm(x)
