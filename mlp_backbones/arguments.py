"""Checks of users' arguments: each returns the value, or says what is allowed.

All take the argument's name, for the message, and the value that the user gave. They
raise ValueError, and :func:`switch` TypeError, with name, value and what is allowed.
True and False are no numbers; NaN and infinity are refused.
"""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

ValueT = TypeVar("ValueT")


def switch(name: str, value: Any) -> bool:
    """Check that an argument is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def positive_int(name: str, value: Any) -> int:
    """Check that an argument is a whole number of at least 1."""
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} must be a positive whole number, got {value!r}")
    return value


def odd(name: str, value: Any) -> int:
    """Check that an argument is an odd whole number of at least 1."""
    if type(value) is not int or value < 1 or value % 2 == 0:
        raise ValueError(f"{name} must be a positive odd number, got {value!r}")
    return value


def positive(name: str, value: Any) -> float:
    """Check that an argument is a number above 0."""
    if not _is_number(value) or not 0 < value < float("inf"):
        raise ValueError(f"{name} must be a positive number, got {value!r}")
    return value


def not_negative(name: str, value: Any) -> float:
    """Check that an argument is a number of at least 0."""
    if not _is_number(value) or not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
    return value


def rate(name: str, value: Any) -> float:
    """Check that an argument is a probability below 1."""
    if not _is_number(value) or not 0 <= value < 1:
        raise ValueError(f"{name} must lie in [0, 1), got {value!r}")
    return value


def one_of(name: str, value: ValueT, choices: Iterable[ValueT]) -> ValueT:
    """Check that an argument is one of the values allowed."""
    allowed = tuple(choices)
    # True == 1: a switch must not pass for a number
    if not any(value == one and type(value) is type(one) for one in allowed):
        raise ValueError(f"{name} must be one of {allowed}, got {value!r}")
    return value


def image_size(value: Any, minimum: int) -> tuple[int, int]:
    """Return height and width of the training images, in pixels.

    Args:
        value: One side for both, or height and width.
        minimum: The least that a side may measure.

    Raises:
        TypeError: If it is neither a number nor a sequence.
        ValueError: If it holds no two whole numbers of at least ``minimum``.
    """
    sides = (value, value) if isinstance(value, int) else value
    if not isinstance(sides, Sequence) or isinstance(sides, str):
        raise TypeError(
            "image_size must be one or two whole numbers, got "
            f"{value!r} of type {type(value).__name__}"
        )
    if len(sides) != 2 or not all(
        type(side) is int and side >= minimum for side in sides
    ):
        raise ValueError(
            "image_size must be one or two whole numbers of at least "
            f"{minimum} pixels, got {value!r}"
        )
    return sides[0], sides[1]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
