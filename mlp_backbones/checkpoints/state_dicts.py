"""Where the weights are in what a file holds, and what wrappers call them."""

import json
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from torch import Tensor

# Where files keep their state dict, in the order in which it is looked for. Averaged
# weights come last: whoever keeps both keeps them beside those that were tested.
WEIGHT_KEYS = ("state_dict", "model", "state_dict_ema", "model_ema", "ema_state_dict")

_WRAPPERS = re.compile(
    r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
COUNTERS = frozenset({"steps", "n_averaged"})  # of MMEngine's and torch's averaging


def find_weights(content: Any, name: str) -> Any:
    """Return the state dict that a file's content holds, or the content itself.

    Which of several is taken is logged.

    Args:
        content: What :func:`read_file` returns.
        name: What the file is called in messages.
    """
    if not isinstance(content, Mapping):
        return content
    held = [key for key in WEIGHT_KEYS if _holds_tensors(content.get(key))]
    if not held:
        return content
    if len(held) > 1 or held[0] not in WEIGHT_KEYS[:2]:
        others = f"; it also holds {', '.join(held[1:])}" if held[1:] else ""
        print_log(f"{name}: the weights are those of {held[0]}{others}", "current")
    return content[held[0]]


def _holds_tensors(part: Any) -> bool:
    return isinstance(part, Mapping) and any(
        isinstance(value, Tensor) for value in part.values()
    )


def plain_name(key: str) -> str:
    """Return a tensor's name without what DDP, FSDP and torch.compile put into it.

    Args:
        key: Such as ``module._orig_mod.stem.proj.weight``.
    """
    key = _WRAPPERS.sub("", key)
    while key.startswith("module."):
        key = _WRAPPERS.sub("", key.removeprefix("module."))
    return key


def read_safetensors(path: Path) -> "OrderedDict[str, Tensor]":
    """Read tensors, and a backbone's notes to where torch keeps its own.

    Args:
        path: A ``.safetensors`` file.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        tensors = OrderedDict((key, file.get_tensor(key)) for key in names)
        notes = (file.metadata() or {}).get("layout_arguments")
    if notes is not None:
        notes = {"": {"layout_arguments": json.loads(notes)}}
        tensors._metadata = notes  # type: ignore[attr-defined]
    return tensors
