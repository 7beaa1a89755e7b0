"""Reading a file of weights without running code from it."""

import json
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor

from mlp_backbones.checkpoints.download import use_download
from mlp_backbones.checkpoints.torch_file import (
    CheckpointError,
    DamagedFileError,
    read_torch_file,
)

__all__ = [
    "CheckpointError",
    "Tensors",
    "describe_fault",
    "find_weights",
    "plain_name",
    "read_checkpoint",
    "read_content",
    "read_file",
]

# Where files keep their state dict, in the order in which it is looked for. Averaged
# weights come last: whoever keeps both keeps them beside those that were tested.
WEIGHT_KEYS = ("state_dict", "model", "state_dict_ema", "model_ema", "ema_state_dict")

_WRAPPERS = re.compile(
    r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
_COUNTERS = frozenset({"steps", "n_averaged"})  # of MMEngine's and torch's averaging


class Tensors(dict[str, Tensor]):
    """Tensors by name, and arguments of the model that saved them.

    Attributes:
        arguments: What a backbone of this package noted beside its weights.
    """

    arguments: Mapping[str, Any]


def read_checkpoint(source: str | Path, *, sha256: str | None = None) -> Tensors:
    """Read the tensors of a checkpoint by name.

    Nothing but tensors and plain containers is ever unpickled.

    Args:
        source: A ``.safetensors`` file, an ``.npz`` file of named arrays as Flax
            models are published, or a file of ``torch.save`` that holds a state dict,
            plain or under one of ``WEIGHT_KEYS``; or the http(s) address of the
            latter, which is downloaded and kept in torch's hub folder.
        sha256: The first digits of the file's SHA-256 hash, checked at each use.

    Returns:
        The tensors by name, on the CPU, without the names of wrappers.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file cannot be read or holds no tensors.
    """
    name = str(source)
    content = find_weights(read_content(source, sha256), name)
    tensors = Tensors()
    if isinstance(content, Mapping):
        for key, value in content.items():
            if isinstance(value, Tensor):
                own = plain_name(str(key))
                if own in tensors:
                    raise CheckpointError(
                        f"{name} holds {own} twice, under names of different wrappers"
                    )
                tensors[own] = value
        for counter in _COUNTERS & tensors.keys():
            del tensors[counter]
    tensors.arguments = _noted_arguments(content)
    if not tensors:
        raise CheckpointError(
            f"{name} holds no state dict, neither plain nor under "
            + ", ".join(map(repr, WEIGHT_KEYS))
        )
    return tensors


def read_content(source: str | Path, sha256: str | None = None) -> Any:
    """Read all that a file or the file of an address holds, as :func:`read_file`.

    Args:
        source: As :func:`read_checkpoint` takes it.
        sha256: As :func:`read_checkpoint` takes it.
    """
    if re.match(r"https?://", str(source)):
        return use_download(str(source), read_file, sha256)
    path = Path(source).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {source} does not exist")
    return read_file(path)


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


def _noted_arguments(content: Any) -> Mapping[str, Any]:
    """Find what a backbone wrote beside torch's own notes on each module."""
    for notes in getattr(content, "_metadata", {}).values():
        if isinstance(notes, Mapping) and isinstance(
            notes.get("layout_arguments"), Mapping
        ):
            return dict(notes["layout_arguments"])
    return {}


def read_file(path: Path) -> Any:
    """Read a local file, admitting nothing but tensors and plain data.

    Args:
        path: A ``.safetensors``, ``.npz`` or ``torch.save`` file.

    Returns:
        Its whole content, tensors on the CPU.

    Raises:
        CheckpointError: If it cannot be read or asks for more than plain data.
    """
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        return read_torch_file(path)
    except Exception as error:
        raise CheckpointError(describe_fault(path, error)) from error


def describe_fault(name: str | Path, error: Exception) -> str:
    """Say in one line why a checkpoint cannot be read."""
    reason = str(error).strip().split("\n")[0].split(". ")[0] or type(error).__name__
    if isinstance(error, DamagedFileError):
        reason = "it is damaged, or no file of torch.save"
    return f"cannot read checkpoint {name}: {reason}"


def _read_safetensors(path: Path) -> "OrderedDict[str, Tensor]":
    """Read tensors, and a backbone's notes to where torch keeps its own."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        tensors = OrderedDict((key, file.get_tensor(key)) for key in names)
        notes = (file.metadata() or {}).get("layout_arguments")
    if notes is not None:
        notes = {"": {"layout_arguments": json.loads(notes)}}
        tensors._metadata = notes  # type: ignore[attr-defined]
    return tensors
