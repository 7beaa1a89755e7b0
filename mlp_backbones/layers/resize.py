"""Resampling weights that run over a token grid or along one of its sides."""

import torch.nn.functional as F
from torch import Tensor


def resize_tokens(
    weight: Tensor,
    dim: int,
    old: tuple[int, int],
    new: tuple[int, int],
    *,
    scale: bool = False,
    mode: str = "bilinear",
) -> Tensor:
    """Resample one axis of a weight that runs over a token grid, row by row.

    Args:
        weight: Any weight whose axis ``dim`` has one entry for each token.
        dim: The axis.
        old: Height and width of the grid it belongs to, in tokens.
        new: Height and width of the grid wanted, in tokens.
        scale: Whether to multiply by old over new number of tokens, as the axis that
            is summed over needs for a constant map to keep its response.
        mode: ``"bilinear"`` or ``"bicubic"``, both with ``align_corners=False``.

    Returns:
        The weight with ``new[0] * new[1]`` entries along ``dim``; itself where the
        grids are equal.
    """
    if new == old:
        return weight
    moved = weight.movedim(dim, -1)  # (..., N)
    image = moved.reshape(-1, 1, *old).float()
    image = F.interpolate(image, new, mode=mode, align_corners=False)
    if scale:
        image = image * (old[0] * old[1] / (new[0] * new[1]))
    resized = image.reshape(*moved.shape[:-1], new[0] * new[1]).to(weight.dtype)
    return resized.movedim(-1, dim)


def resize_axis(weight: Tensor, dim: int, size: int, *, scale: bool = False) -> Tensor:
    """Resample one axis of a weight that runs along one side of a token grid.

    Linear, ``align_corners=False``; used on two axes in turn it is bilinear.

    Args:
        weight: Any weight.
        dim: The axis.
        size: Entries wanted along it.
        scale: Whether to multiply by old over new length, as the axis that is summed
            over needs.

    Returns:
        The weight with ``size`` entries along ``dim``; itself where nothing changes.
    """
    old = weight.shape[dim]
    if size == old:
        return weight
    moved = weight.movedim(dim, -1)  # (..., length)
    line = moved.reshape(-1, 1, old).float()
    line = F.interpolate(line, size, mode="linear", align_corners=False)
    if scale:
        line = line * (old / size)
    resized = line.reshape(*moved.shape[:-1], size).to(weight.dtype)
    return resized.movedim(-1, dim)
