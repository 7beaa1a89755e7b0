"""How a foreign checkpoint names its tensors."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Replacement = str | Callable[[re.Match[str]], str]


@dataclass(frozen=True)
class CheckpointLayout:
    """One family's rename table for one source of checkpoints.

    The names it leads to are those of the backbone, plus ``norm.*`` for the
    classifier's final norm and ``head.fc.*`` for the classifier, which ``head.*``
    becomes by itself. Where a file numbers
    its blocks through all stages, ``blocks.{k}.*`` will do: the loader splits them.

    Attributes:
        name: What the layout is called in messages.
        signature: A pattern that some key of such a file matches.
        renames: Patterns and their replacements, all tried on each key in this order.
        drops: Patterns of keys that hold nothing to learn.
        check: Called with the foreign names and the backbone, before renaming; raises
            ValueError where constants in the file contradict the backbone.
        convert: Called with the renamed tensors and the backbone; returns them as the
            backbone has them, for what a rename cannot do.
        arguments: Arguments of the backbone that such weights were made with, given
            to its ``apply_noted_arguments`` once they are loaded.
    """

    name: str
    signature: str
    renames: tuple[tuple[str, Replacement], ...]
    drops: tuple[str, ...] = ()
    check: Callable[[dict[str, Tensor], Any], None] | None = None
    convert: Callable[[dict[str, Tensor], Any], dict[str, Tensor]] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def matches(self, state_dict: Mapping[str, Tensor]) -> bool:
        """Say whether some key has this layout's signature."""
        return any(re.search(self.signature, key) for key in state_dict)

    def rename(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors under this package's names, without the dropped ones."""
        renamed = {}
        for key, tensor in state_dict.items():
            if any(re.search(pattern, key) for pattern in self.drops):
                continue
            for pattern, replacement in self.renames:
                key = re.sub(pattern, replacement, key)
            renamed[re.sub(r"^head\.(?!fc\.)", "head.fc.", key)] = tensor
        return renamed


def split_flat_blocks(
    weights: Mapping[str, Tensor], depths: Sequence[int]
) -> dict[str, Tensor]:
    """Rename ``blocks.{k}.*``, numbered through, to ``stages.{i}.blocks.{j}.*``.

    Args:
        weights: Tensors by name; other names stay as they are.
        depths: Number of blocks of each stage.
    """
    places = [(i, j) for i, depth in enumerate(depths) for j in range(depth)]

    def place(match: re.Match[str]) -> str:
        number = int(match[1])
        if number >= len(places):
            return match[0]
        stage, block = places[number]
        return f"stages.{stage}.blocks.{block}."

    return {
        re.sub(r"^blocks\.(\d+)\.", place, key): value for key, value in weights.items()
    }
