"""Architectures: the numbers that tell the sizes of a family apart, checked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar

from mlp_backbones.arguments import positive, positive_int, switch

ArchT = TypeVar("ArchT", bound="Arch")
Check = Callable[[str, Any], Any]


def single(check: Check, *, default: Any = MISSING) -> Any:
    """Declare a field that holds one value.

    Args:
        check: Takes a name for messages and the value, and returns the value.
        default: What the field holds where a config's mapping leaves it out; without
            it the field must be there.
    """
    return field(metadata={"check": check}, default=default)


def per_stage(check: Check, num_values: int = 4) -> Any:
    """Declare a field that holds one value for each stage.

    Args:
        check: Takes a name for messages and one value, and returns the value.
        num_values: How many values there must be.
    """

    def check_all(name: str, values: Any) -> tuple[Any, ...]:
        if (
            isinstance(values, str)
            or not isinstance(values, Sequence)
            or len(values) != num_values
        ):
            raise ValueError(
                f"{name} must hold {num_values} values, one for each stage, got "
                f"{values!r}"
            )
        try:
            return tuple(check(name, value) for value in values)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{error} in {values!r}") from None

    return field(metadata={"check": check_all})


@dataclass(frozen=True, kw_only=True)
class Arch:
    """The fields of one architecture.

    A family derives a frozen dataclass from this or from one of the classes below and
    declares each field by :func:`single` or :func:`per_stage`.

    Raises:
        TypeError: If a switch is neither True nor False.
        ValueError: If a field has an impossible value.
    """

    def __post_init__(self) -> None:
        for one in fields(self):
            check: Check = one.metadata["check"]
            value = check(f"arch field {one.name!r}", getattr(self, one.name))
            object.__setattr__(self, one.name, value)  # a list becomes a tuple

    @classmethod
    def from_mapping(cls: type[ArchT], values: Mapping[str, Any], owner: str) -> ArchT:
        """Make an architecture of a config's mapping.

        Args:
            values: All fields by name.
            owner: The backbone's class, for the message.

        Raises:
            TypeError: If a switch is neither True nor False.
            ValueError: If fields are missing, unknown or impossible.
        """
        expected = {one.name for one in fields(cls)}
        optional = {one.name for one in fields(cls) if one.default is not MISSING}
        missing = expected - optional - values.keys()
        unknown = values.keys() - expected
        if missing or unknown:
            raise ValueError(
                f"arch of {owner} needs exactly the fields {sorted(expected)}; "
                f"missing {sorted(missing)}, unknown {sorted(unknown)}"
            )
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{owner}: {error}") from None

    @property
    def stage_dims(self) -> tuple[int, ...]:
        """Channels of each stage."""
        raise NotImplementedError

    @property
    def stage_depths(self) -> tuple[int, ...]:
        """Number of blocks of each stage."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class StagedArch(Arch):
    """Four stages, each with a width and a depth of its own."""

    embed_dims: tuple[int, ...] = per_stage(positive_int)
    depths: tuple[int, ...] = per_stage(positive_int)

    @property
    def stage_dims(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return self.embed_dims

    @property
    def stage_depths(self) -> tuple[int, ...]:
        """Number of blocks of each stage."""
        return self.depths


@dataclass(frozen=True, kw_only=True)
class PyramidArch(StagedArch):
    """Four stages whose channel MLPs widen by ``mlp_ratios``."""

    mlp_ratios: tuple[float, ...] = per_stage(positive)


@dataclass(frozen=True, kw_only=True)
class IsotropicArch(Arch):
    """Equal blocks at one stride; each quarter of the depth counts as a stage."""

    embed_dim: int = single(positive_int)
    depth: int = single(positive_int)
    patch_size: int = single(positive_int)

    @property
    def stage_dims(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return (self.embed_dim,) * 4

    @property
    def stage_depths(self) -> tuple[int, ...]:
        """Number of blocks of each quarter of the depth."""
        ends = [self.depth * quarter // 4 for quarter in range(5)]
        return tuple(end - start for start, end in zip(ends, ends[1:], strict=False))


@dataclass(frozen=True, kw_only=True)
class TwoStrideArch(PyramidArch):
    """Patches of one size, and a stride that doubles behind some stages."""

    patch_size: int = single(positive_int)
    transitions: tuple[bool, ...] = per_stage(switch)
