"""Reading a file of weights without running code from it."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import barrier, get_dist_info
from torch import Tensor

from mlp_backbones.checkpoints.state_dicts import (
    COUNTERS,
    WEIGHT_KEYS,
    find_weights,
    plain_name,
    read_safetensors,
)
from mlp_backbones.checkpoints.torch_file import DamagedFileError, read_torch_file


class CheckpointError(ValueError):
    """A file of weights that cannot be read or does not belong to the model."""


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
        sha256: The first digits of the file's SHA-256 hash, checked on download.

    Returns:
        The tensors by name, on the CPU, without the names of wrappers.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file cannot be read or holds no tensors.
    """
    name = str(source)
    if re.match(r"https?://", name):
        content = _download(name, sha256)
    else:
        path = Path(source).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"checkpoint {name} does not exist")
        content = read_file(path)
    content = find_weights(content, name)
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
        raise CheckpointError(
            f"cannot read checkpoint {path}: {_reason(error)}"
        ) from error


def _download(url: str, sha256: str | None) -> Any:
    stem, _, suffix = url.rsplit("/", 1)[-1].rpartition(".")
    if suffix in ("safetensors", "npz"):
        raise CheckpointError(f"download {url} yourself and name the file")
    if sha256 is not None:
        file_name = f"{stem}-{sha256}.{suffix}"  # where torch.hub looks for the hash
    else:  # files of one name from two addresses must not pass for each other
        file_name = f"{stem}_{hashlib.sha256(url.encode()).hexdigest()[:8]}.{suffix}"
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / file_name
    rank, _ = get_dist_info()
    if rank > 0:
        barrier()  # the first process downloads, the others read its file
    try:
        if not file.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), hash_prefix=sha256)
    except Exception as error:
        raise CheckpointError(
            f"cannot download {url}: {_reason(error)}; name a local file, or no "
            "checkpoint (init_cfg=None, pretrained=None) to start from random weights"
        ) from error
    finally:
        if rank == 0:
            barrier()
    try:
        return read_file(file)
    except CheckpointError as error:
        if isinstance(error.__cause__, DamagedFileError):
            raise CheckpointError(f"{error}; delete it to download it anew") from error
        raise


def _reason(error: Exception) -> str:
    """Bring an error into one line."""
    if isinstance(error, DamagedFileError):
        return "it is damaged, or no file of torch.save"
    return str(error).strip().split("\n")[0].split(". ")[0] or type(error).__name__
