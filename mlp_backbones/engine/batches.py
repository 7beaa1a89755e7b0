"""What a batch holds, in words, for messages about it; nothing here needs torch."""

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["describe_size", "name_images"]


def name_images(batch: Any) -> list[str]:
    """Name the images of a batch, by path or else by identity.

    Args:
        batch: What a data loader gives, nested as it likes.
    """
    names = []
    for sample in _walk(batch, "metainfo"):
        known = (getattr(sample, key, None) for key in ("img_path", "img_id"))
        name = next((name for name in known if name is not None), "one without a path")
        names.append(str(name))
    return names


def describe_size(batch: Any) -> str:
    """Say how many images a batch holds and how large they are; empty if none.

    Args:
        batch: What a data loader gives, nested as it likes.
    """
    shapes = []
    for tensor in _walk(batch, "shape"):
        *leading, height, width = (*(1, 1), *tensor.shape)[-4:]
        if len(tensor.shape) in (3, 4) and leading[-1] in (1, 3, 4):
            shapes += [(height, width)] * (leading[0] if len(tensor.shape) == 4 else 1)
    if not shapes:
        return ""
    height, width = (max(side) for side in zip(*shapes, strict=True))
    up_to = "up to " if len(set(shapes)) > 1 else ""
    images = "1 image" if len(shapes) == 1 else f"{len(shapes)} images"
    return f"a batch of {images} of {up_to}{width} x {height} pixels"


def _walk(value: Any, attribute: str) -> Iterator[Any]:
    """Yield what has the attribute in nested containers, but not inside of it."""
    if hasattr(type(value), attribute):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _walk(item, attribute)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _walk(item, attribute)
