"""Batch and group norms on channels-last maps."""

import torch
from torch import Tensor, nn

from mlp_backbones.ops import dispatch, norm_samples
from mlp_backbones.ops.dispatch import is_compiling


class SampleNorm(nn.GroupNorm):
    """Norm each sample over height, width and channels: a group norm of one group.

    Args:
        dim: Number of channels.
        eps: Added to the variance.
    """

    def __init__(self, dim: int, *, eps: float = 1e-5) -> None:
        super().__init__(1, dim, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        # torch's own copies the map on CUDA
        if dispatch.prefers_gpu_kernel(x) or _own_crashes(x):
            x = x.permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)
            x = norm_samples(x, self.weight, self.bias, self.eps)
            return x.permute(0, 3, 1, 2)
        return super().forward(x)


def _own_crashes(x: Tensor) -> bool:
    """Say whether torch's group norm crashes in the backward pass on CPUs.

    It does on channels_last maps that need no gradient, as behind frozen stages.
    """
    return torch.is_grad_enabled() and not x.requires_grad


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
    if isinstance(norm, nn.GroupNorm | nn.modules.batchnorm._NormBase):
        view = x.permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W), and back
        if type(norm) is nn.GroupNorm and _own_crashes(x) and not is_compiling():
            view = view.detach().requires_grad_()
        return norm(view).permute(0, 2, 3, 1)
    return norm(x)
