"""Finding out which ``image_size`` weights of another token grid were made for."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

_LARGEST = 4096
_PROBES = (1024, 2048)


def describe_other_size(
    named: Mapping[str, Tensor], expected: Mapping[str, Tensor], backbone: Any
) -> str:
    """Say which ``image_size`` makes a backbone take weights, if that is what differs.

    Args:
        named: The weights under the backbone's names.
        expected: What the model has, under the same names.
        backbone: The backbone, whose class may have an argument ``image_size``.

    Returns:
        A part of a message, or an empty string where the size is not the reason.
    """
    differing = {
        key: tuple(named[key].shape)
        for key in named.keys() & expected.keys()
        if named[key].shape != expected[key].shape
    }
    if not differing or expected.keys() - named.keys():
        return ""  # nothing differs in shape, or more than shapes differs
    if not takes_image_size(type(backbone)):
        return ""
    size: Any = _find_size(backbone, differing)
    if size is None:
        probes = [_shapes_for(backbone, side, differing) for side in _PROBES]
        if any(probes[0].get(key) == probes[1].get(key) for key in differing):
            return ""  # something else differs
        size = "(height, width) of their training images"
    return (
        f" (these weights were made for another image_size; give image_size={size}, "
        "with which images of any size run)"
    )


def takes_image_size(cls: type) -> bool:
    """Say whether a class or one of its parents has an argument ``image_size``."""
    initialisers = [vars(base).get("__init__") for base in cls.__mro__[:-1]]
    return any(
        "image_size" in inspect.signature(initialiser).parameters
        for initialiser in initialisers
        if initialiser is not None
    )


def _find_size(backbone: Any, shapes: dict[str, tuple[int, ...]]) -> int | None:
    """Find the smallest square size whose weights have these shapes, by bisection."""
    wanted = sum(torch.Size(shape).numel() for shape in shapes.values())
    low, high = 1, _LARGEST
    while low < high:
        middle = (low + high) // 2
        found = _shapes_for(backbone, middle, shapes)
        total = sum(torch.Size(shape).numel() for shape in found.values())
        if len(found) < len(shapes) or total < wanted:
            low = middle + 1
        else:
            high = middle
    return low if _shapes_for(backbone, low, shapes) == shapes else None


def _shapes_for(
    backbone: Any, image_size: int, keys: Mapping[str, Any]
) -> dict[str, tuple[int, ...]]:
    """Return the shapes that these weights have in a backbone for a size of images."""
    options = {"pyramid": backbone.pyramid} if hasattr(backbone, "pyramid") else {}
    try:
        with torch.device("meta"):
            model: nn.Module = type(backbone)(
                backbone.arch,
                image_size=image_size,
                in_channels=backbone.in_channels,
                out_indices=backbone.out_indices,
                **options,
            )
    except (TypeError, ValueError):  # too small for this backbone
        return {}
    state = model.state_dict()
    return {key: tuple(state[key].shape) for key in keys if key in state}
