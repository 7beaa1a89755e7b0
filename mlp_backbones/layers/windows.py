"""Cutting maps into windows, and putting them together again."""

import torch
import torch.nn.functional as F
from torch import Tensor


def partition_windows(
    x: Tensor, window: tuple[int, int], offset: tuple[int, int] = (0, 0)
) -> tuple[Tensor, Tensor | None]:
    """Cut maps into windows, filled up with zeros at the borders.

    Args:
        x: Maps, (B, H, W, C).
        window: Height h and width w of a window, in tokens.
        offset: Where the first whole window begins, in tokens.

    Returns:
        The windows, (B * number, h, w, C), and True for real tokens, (B * number, h,
        w, 1), or None where nothing was filled up.
    """
    batch, height, width, _ = x.shape
    top, rows, bottom = plan_windows(height, window[0], offset[0])
    left, columns, right = plan_windows(width, window[1], offset[1])
    mask = None
    if top or bottom or left or right:
        real_rows = _is_real(top, height, rows * window[0], x.device)
        real_columns = _is_real(left, width, columns * window[1], x.device)
        mask = (real_rows[:, None] & real_columns)[None, :, :, None]  # (1, H', W', 1)
        mask = _cut(mask.expand(batch, -1, -1, -1), window, rows, columns)
        x = F.pad(x, (0, 0, left, right, top, bottom))
    return _cut(x, window, rows, columns), mask


def join_windows(
    windows: Tensor, size: tuple[int, int], offset: tuple[int, int] = (0, 0)
) -> Tensor:
    """Put windows of :func:`partition_windows` together to maps of ``size``.

    Args:
        windows: Windows, (B * number, h, w, C).
        size: Height and width of the maps, in tokens.
        offset: As it was given when cutting.

    Returns:
        The maps, (B, H, W, C).
    """
    height, width = size
    h, w, channels = windows.shape[1:]
    top, rows, _ = plan_windows(height, h, offset[0])
    left, columns, _ = plan_windows(width, w, offset[1])
    x = windows.reshape(-1, rows, columns, h, w, channels)
    # (B, rows, columns, h, w, C) -> (B, rows * h, columns * w, C)
    x = x.transpose(2, 3).reshape(-1, rows * h, columns * w, channels)
    return x[:, top : top + height, left : left + width]


def plan_windows(side: int, step: int, start: int) -> tuple[int, int, int]:
    """Plan the windows along one side.

    Args:
        side: Its length, in tokens.
        step: Length of a window.
        start: Where the first whole window begins.

    Returns:
        Tokens that fill up the first window, number of windows, and tokens that fill
        up the last.
    """
    # one division and no nested remainders: symbolic sizes stay simple to compile
    before = -start % step
    number = (before + side + step - 1) // step
    return before, number, number * step - side - before


def _is_real(start: int, length: int, total: int, device: torch.device) -> Tensor:
    positions = torch.arange(total, device=device)
    return (positions >= start) & (positions < start + length)


def _cut(x: Tensor, window: tuple[int, int], rows: int, columns: int) -> Tensor:
    batch, channels = x.shape[0], x.shape[3]
    h, w = window
    x = x.reshape(batch, rows, h, columns, w, channels)
    # (B, rows, h, columns, w, C) -> (B * rows * columns, h, w, C)
    return x.transpose(2, 3).reshape(batch * rows * columns, h, w, channels)
