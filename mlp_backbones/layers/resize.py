"""Maps of other sizes brought to the grid of mixing weights, and back.

Interpolating the weights of a linear layer over tokens is the same as interpolating
its outputs, and as summing up its inputs with the transposed interpolation. That way
the layer itself is called, on its own grid, at a cost that grows with the area alone.
"""

import torch
from torch import Tensor


def linear_samples(old: int, new: int, x: Tensor) -> Tensor:
    """Return the matrix of linear interpolation, ``align_corners=False``.

    Args:
        old: Number of samples that are known.
        new: Number of samples wanted.
        x: A tensor whose type and device the matrix shall have.

    Returns:
        The matrix, (new, old).
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    known = torch.arange(old, dtype=dtype, device=x.device)
    places = torch.arange(new, dtype=dtype, device=x.device)
    places = ((places + 0.5) * (old / new) - 0.5).clamp(0, old - 1)
    return (1 - (places[:, None] - known).abs()).clamp(min=0).to(x.dtype)


def grid_to_map(x: Tensor, axis: int, size: int) -> Tensor:
    """Interpolate one side of maps linearly.

    Args:
        x: Maps, (B, H, W, C).
        axis: 1 for the height, 2 for the width.
        size: Its new length, in tokens.

    Returns:
        The maps; themselves where the length stays.
    """
    old = x.shape[axis]
    return x if size == old else _multiply(linear_samples(old, size, x), x, axis)


def map_to_grid(x: Tensor, axis: int, size: int) -> Tensor:
    """Sum up one side of maps as the weights of a layer, interpolated to them, would.

    It is the transpose of :func:`grid_to_map`, times new over old length, so that
    constant maps keep their response.

    Args:
        x: Maps, (B, H, W, C).
        axis: 1 for the height, 2 for the width.
        size: Its new length, in tokens.

    Returns:
        The maps; themselves where the length stays.
    """
    old = x.shape[axis]
    if size == old:
        return x
    return _multiply(linear_samples(size, old, x).t() * (size / old), x, axis)


def _multiply(matrix: Tensor, x: Tensor, axis: int) -> Tensor:
    lines = x.flatten(0, axis - 1).flatten(2)  # (batch, L, rest)
    lines = torch.bmm(matrix.expand(len(lines), -1, -1), lines)
    return lines.view(*x.shape[:axis], len(matrix), *x.shape[axis + 1 :])
