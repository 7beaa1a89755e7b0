"""Comparing the weights of a checkpoint with those of a model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

from mlp_backbones.checkpoints.image_size import describe_other_size

__all__ = [
    "CheckpointMismatchError",
    "Mismatches",
    "compare_state_dicts",
    "find_state_dict",
]


class CheckpointMismatchError(ValueError):
    """A checkpoint does not belong to the model."""


@dataclass(frozen=True)
class Mismatches:
    """Where the weights of a checkpoint differ from those of a model; false if nowhere.

    Attributes:
        wrong_shapes: Name, shape in the checkpoint and shape in the model.
        missing: Names that the checkpoint lacks.
        unknown: Names that the model lacks.
        hint: What the reason is, where it is known.
    """

    wrong_shapes: list[tuple[str, tuple[int, ...], tuple[int, ...]]]
    missing: list[str]
    unknown: list[str]
    hint: str = ""

    def __bool__(self) -> bool:
        return bool(self.wrong_shapes or self.missing or self.unknown)

    def describe(self, checkpoint: str) -> str:
        """Put the first mismatches, two of each kind, into one message.

        Args:
            checkpoint: How to call the checkpoint, such as its path.
        """
        kinds: tuple[Iterator[str], ...] = (
            (
                f"{name} is {found} in the file, {expected} in the model"
                for name, found, expected in self.wrong_shapes
            ),
            (f"{name} is missing in the file" for name in self.missing),
            (f"{name} is not in the model" for name in self.unknown),
        )
        shown = [text for kind in kinds for text in islice(kind, 2)]
        total = len(self.wrong_shapes) + len(self.missing) + len(self.unknown)
        rest = total - len(shown)
        message = f"checkpoint {checkpoint} does not fit this model{self.hint}: "
        return message + "; ".join(shown) + (f"; and {rest} more" if rest else "")


def find_state_dict(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights in a loaded checkpoint, by their names in the model.

    Args:
        checkpoint: Weights, alone or under ``state_dict`` or ``model``. The prefix of
            a model wrapped for distribution is dropped.
    """
    weights = checkpoint.get("state_dict", checkpoint.get("model", checkpoint))
    return {name.removeprefix("module."): value for name, value in weights.items()}


def compare_state_dicts(model: nn.Module, checkpoint: Mapping[str, Any]) -> Mismatches:
    """Compare names and shapes of a model's weights with those of a checkpoint.

    Args:
        model: The model, which may be wrapped for distribution or for test-time
            augmentation.
        checkpoint: As :func:`find_state_dict` takes it.
    """
    inner: Any = model
    while is_model_wrapper(inner) or isinstance(inner, BaseTTAModel):
        inner = inner.module
    loaded = find_state_dict(checkpoint)
    own = {
        name: value
        for name, value in inner.state_dict().items()
        if name in loaded or not name.endswith("num_batches_tracked")
    }
    prefix = "backbone."
    hint = describe_other_size(
        {k.removeprefix(prefix): v for k, v in loaded.items() if k.startswith(prefix)},
        {k.removeprefix(prefix): v for k, v in own.items() if k.startswith(prefix)},
        getattr(inner, "backbone", None),
    )
    return Mismatches(
        wrong_shapes=[
            (name, tuple(loaded[name].shape), tuple(value.shape))
            for name, value in own.items()
            if name in loaded and loaded[name].shape != value.shape
        ],
        missing=[name for name in own if name not in loaded],
        unknown=[name for name in loaded if name not in own],
        hint=hint,
    )
