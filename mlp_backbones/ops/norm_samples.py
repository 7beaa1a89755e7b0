"""A group norm of one group on channels-last maps."""

import torch
from torch import Tensor


def norm_samples(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Norm each sample over height, width and channels: a group norm of one group.

    Args:
        x: Feature map, (B, H, W, C).
        weight: Scale of each channel, (C,), or None for 1.
        bias: Offset of each channel, (C,), or None for 0.
        eps: Added to the variance.
    """
    with torch.autocast(x.device.type, enabled=False):
        full = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        if x.shape[0] == 0:  # of which torch warns
            return full if weight is None else weight * full
        variance, mean = torch.var_mean(full, (1, 2, 3), correction=0, keepdim=True)
        scale = torch.rsqrt(variance + eps)  # (B, 1, 1, 1)
        scale = scale if weight is None else weight * scale  # (B, 1, 1, C)
        offset = -mean * scale if bias is None else bias - mean * scale
        return torch.addcmul(offset, full, scale)
