"""Reading a file of weights without running code from it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlp_backbones.checkpoints.download import use_download
from mlp_backbones.checkpoints.state_dicts import (
    COUNTERS,
    WEIGHT_KEYS,
    find_weights,
    plain_name,
    read_safetensors,
)
from mlp_backbones.checkpoints.torch_file import (
    CheckpointError,
    DamagedFileError,
    read_torch_file,
)

__all__ = [
    "CheckpointError",
    "Tensors",
    "describe_fault",
    "read_checkpoint",
    "read_content",
    "read_file",
]


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
        for counter in COUNTERS & tensors.keys():
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
            return read_safetensors(path)
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
