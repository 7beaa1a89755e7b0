"""Moving every channel of a map its own number of steps along one axis."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mlp_backbones.ops import dispatch


def axial_shift(x: Tensor, steps: Tensor, dim: int, *, reach: int) -> Tensor:
    """Shift each channel along one spatial axis; cells from outside the map are 0.

    On CPUs this is one depthwise convolution with constant 0/1 taps, which for a
    channels-last map costs little more than a copy. On CUDA it is a chain of
    selections, which torch.compile fuses into one kernel and which needs no
    layout change.

    Args:
        x: Feature map, (B, H, W, C).
        steps: For each channel the signed distance of the cell to read, (C,); ``+1``
            is the next cell to the right (or below).
        dim: The axis to move along: 1 for the height, 2 for the width.
        reach: The longest distance among them.

    Returns:
        The shifted map, (B, H, W, C).

    Raises:
        ValueError: If ``dim`` is neither 1 nor 2.
    """
    if dim not in (1, 2):
        raise ValueError(f"dim must be 1 (height) or 2 (width), got {dim}")
    # made anew in each pass: a constant that is kept must survive the meta device,
    # empty memory and assigned weights
    taps = steps[:, None] == torch.arange(-reach, reach + 1, device=steps.device)
    if dispatch.prefers_gpu_kernel(x):
        return _shift_by_selection(x, taps, dim)
    return _shift_by_convolution(x, taps, dim)


def _shift_by_convolution(x: Tensor, taps: Tensor, dim: int) -> Tensor:
    channels, width = taps.shape
    weight = taps.to(x.dtype)
    weight = weight.view(channels, 1, width, 1) if dim == 1 else weight[:, None, None]
    padding = (width // 2, 0) if dim == 1 else (0, width // 2)
    # (B, H, W, C) -> (B, C, H, W), a view in channels_last memory format
    x = F.conv2d(x.permute(0, 3, 1, 2), weight, padding=padding, groups=channels)
    return x.permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)


def _shift_by_selection(x: Tensor, taps: Tensor, dim: int) -> Tensor:
    width, size = taps.shape[1], x.shape[dim]
    reach = width // 2
    padding = (0, 0, 0, 0, reach, reach) if dim == 1 else (0, 0, reach, reach)
    padded = F.pad(x, padding)
    shifted = x
    for tap in range(width):
        if tap != reach:
            neighbour = padded.narrow(dim, tap, size)
            shifted = torch.where(taps[:, tap], neighbour, shifted)
    return shifted
