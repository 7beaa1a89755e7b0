"""How a foreign checkpoint names its tensors."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Replacement = str | Callable[[re.Match[str]], str]


@dataclass(frozen=True)
class CheckpointLayout:
    """One family's rename table for one source of checkpoints.

    The names it leads to are those of the backbone, plus ``norm.*`` for the
    classifier's final norm and ``head.fc.*`` for the classifier.

    Attributes:
        name: What the layout is called in messages.
        signature: A pattern that some key of such a file matches.
        renames: Patterns and their replacements, all tried on each key in this order.
        drops: Patterns of keys that hold nothing to learn.
        check: Called with the foreign names and the backbone, before renaming; raises
            ValueError where constants in the file contradict the backbone.
    """

    name: str
    signature: str
    renames: tuple[tuple[str, Replacement], ...]
    drops: tuple[str, ...] = ()
    check: Callable[[dict[str, Tensor], Any], None] | None = None

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
            renamed[key] = tensor
        return renamed
