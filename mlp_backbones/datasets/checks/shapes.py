"""What is wrong with a box or a mask of COCO's form."""

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from mlp_backbones.datasets.checks.report import few

__all__ = ["BOX_TOLERANCE", "NUMBERS", "box_problem", "mask_problem"]

BOX_TOLERANCE = 1.0  # px a box may stand out: annotation tools round
NUMBERS = (int, float)


def box_problem(box: Sequence[float], size: tuple[int, int]) -> str | None:
    """Say what is wrong with a box.

    Args:
        box: (left, top, right, bottom), px.
        size: (width, height) of its image, px.

    Returns:
        The end of a sentence that begins with the box, or None.
    """
    left, top, right, bottom = box
    if not all(math.isfinite(value) for value in box):
        return "is not finite"
    if right < left or bottom < top:
        return "has a negative width or height"
    if (
        min(left, top) < -BOX_TOLERANCE
        or right > size[0] + BOX_TOLERANCE
        or bottom > size[1] + BOX_TOLERANCE
    ):
        return f"lies outside its image of {size[0]}x{size[1]} px"
    return None


def mask_problem(mask: Any, size: tuple[int, int]) -> str | None:
    """Say what is wrong with an instance mask.

    Args:
        mask: COCO polygons or run lengths.
        size: (width, height) of its image, px.

    Returns:
        The end of a sentence that begins with the mask, or None.
    """
    if isinstance(mask, Mapping):
        return _run_lengths_problem(mask, size)
    if not isinstance(mask, Sequence) or isinstance(mask, str) or not mask:
        return f"is {mask!r}, expected polygons or run lengths"
    for polygon in mask:
        if not isinstance(polygon, Sequence) or isinstance(polygon, str):
            return f"has {polygon!r} instead of a polygon [x1, y1, x2, y2, ...]"
        if not {*map(type, polygon)} <= {*NUMBERS}:
            return f"has a polygon {few(polygon)} that is not of numbers"
        if len(polygon) % 2:
            return f"has a polygon of {len(polygon)} numbers, an odd count"
        if len(polygon) < 6:
            return f"has a polygon of {len(polygon) // 2} points, expected at least 3"
        horizontal, vertical = polygon[0::2], polygon[1::2]
        problem = box_problem(
            (min(horizontal), min(vertical), max(horizontal), max(vertical)), size
        )
        if problem:
            return problem
    return None


def _run_lengths_problem(mask: Mapping, size: tuple[int, int]) -> str | None:
    if "size" not in mask or "counts" not in mask:
        return "has no run lengths ('size' and 'counts')"
    told, counts = mask["size"], mask["counts"]
    if not isinstance(told, list) or [*map(type, told)] != [int, int]:
        return f"has size {told!r}, expected [height, width]"
    if told != [size[1], size[0]]:
        return f"is {told[1]}x{told[0]} px, its image {size[0]}x{size[1]} px"
    if isinstance(counts, list):
        if not {*map(type, counts)} <= {int} or min(counts, default=0) < 0:
            return "has run lengths that are no whole numbers"
        if sum(counts) != size[0] * size[1]:
            return (
                f"has run lengths of {sum(counts)} px in all, its image has "
                f"{size[0] * size[1]}"
            )
    elif not isinstance(counts, (str, bytes)):
        return f"has run lengths of type {type(counts).__name__}"
    return None


def plausible_polygons(polygons: list[list[float]], sizes: np.ndarray) -> bool:
    """Whether all polygons are good; only whether, but fast.

    Args:
        polygons: P of them, [x1, y1, x2, y2, ...], px.
        sizes: Width and height of the image of each, px, (P, 2).
    """
    if not polygons:
        return True
    lengths = np.fromiter(map(len, polygons), dtype=np.int64)
    if (lengths < 6).any() or (lengths % 2).any():
        return False
    flat = chain.from_iterable(polygons)
    points = np.fromiter(flat, dtype=float, count=lengths.sum()).reshape(-1, 2)
    starts = np.concatenate([[0], np.cumsum(lengths[:-1] // 2)])
    low = np.minimum.reduceat(points, starts, axis=0)
    high = np.maximum.reduceat(points, starts, axis=0)
    # comparisons with NaN are false
    return bool((low >= -BOX_TOLERANCE).all() and (high <= sizes + BOX_TOLERANCE).all())
