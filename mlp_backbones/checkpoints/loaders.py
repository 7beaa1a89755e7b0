"""MMEngine's ways to a checkpoint, through the reader that runs nothing.

MMEngine asks one loader for each kind of address and lets pickles run in most of them.
:mod:`mlp_backbones.safe_loading` puts these in their place. Tensors come on the CPU
unless ``map_location`` names a device.
"""

import io
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.fileio import get_file_backend
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import Tensor

from mlp_backbones.checkpoints.config_text import drop_code
from mlp_backbones.checkpoints.plain import restore_histories
from mlp_backbones.checkpoints.read import describe_fault, read_content
from mlp_backbones.checkpoints.torch_file import CheckpointError, read_torch_file

__all__ = ["load_safely"]


def load_from_local(filename: str, map_location: Any = None) -> Any:
    """Read a file."""
    return _finish(read_content(filename), filename, map_location)


def load_from_http(filename: str, map_location: Any = None) -> Any:
    """Read the file of an http(s) address."""
    return _finish(read_content(filename), filename, map_location)


def load_from_torchvision(filename: str, map_location: Any = None) -> Any:
    """Read torchvision's weights by their name."""
    urls = mmengine_checkpoint.get_torchvision_models()
    return load_from_http(_look_up(filename, urls), map_location)


def load_from_openmmlab(filename: str, map_location: Any = None) -> Any:
    """Read weights by their name in MMEngine's list and the user's own."""
    urls = mmengine_checkpoint.get_external_models()
    newer = mmengine_checkpoint.get_deprecated_model_names()
    target = _look_up(filename, {**urls, **{old: urls[newer[old]] for old in newer}})
    if not target.startswith(("http://", "https://")):
        target = str(Path(mmengine_checkpoint._get_mmengine_home()) / target)
    return load_from_local(target, map_location)


def load_from_mmcls(filename: str, map_location: Any = None) -> Any:
    """Read the backbone of a classifier by its name in MMEngine's list."""
    url = _look_up(filename, mmengine_checkpoint.get_mmcls_models())
    content = load_from_http(url, map_location)
    return mmengine_checkpoint._process_mmcls_checkpoint(content)


def load_from_ceph(filename: str, map_location: Any = None) -> Any:
    """Read a file of a Petrel or S3 store."""
    backend = get_file_backend(filename, backend_args={"backend": "petrel"})
    try:
        content = read_torch_file(io.BytesIO(backend.get(filename)))
    except ValueError as error:
        raise CheckpointError(describe_fault(filename, error)) from error
    return _finish(content, filename, map_location)


def load_from_pavi(filename: str, map_location: Any = None) -> Any:
    """Read a file of Pavi's model cloud."""
    from pavi import modelcloud  # type: ignore[import-not-found]

    model = modelcloud.get(filename.removeprefix("pavi://"))
    with TemporaryDirectory() as folder:
        file = Path(folder) / model.name
        model.download(str(file))
        return load_from_local(str(file), map_location)


# By the patterns that MMEngine registers its own under.
LOADERS: dict[str, Callable[..., Any]] = {
    "": load_from_local,
    "http://": load_from_http,
    "https://": load_from_http,
    "modelzoo://": load_from_torchvision,
    "torchvision://": load_from_torchvision,
    "open-mmlab://": load_from_openmmlab,
    "openmmlab://": load_from_openmmlab,
    "mmcls://": load_from_mmcls,
    r"(\S+\:)?s3://": load_from_ceph,
    r"(\S+\:)?petrel://": load_from_ceph,
    "pavi://": load_from_pavi,
}


def load_safely(pattern: str, filename: str, map_location: Any) -> Any:
    """Load a checkpoint as MMEngine's loader does, without running what it holds.

    Args:
        pattern: The pattern of addresses that MMEngine knows ``filename`` by.
        filename: The file or address.
        map_location: The device of the tensors.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it cannot be read or asks for more than plain data.
    """
    if pattern not in LOADERS:
        raise CheckpointError(f"no safe way to load {filename}: name a local file")
    return LOADERS[pattern](filename, map_location)


def _look_up(address: str, urls: Mapping[str, str]) -> str:
    scheme, _, name = address.partition("://")
    if name not in urls:
        near = get_close_matches(name, urls, 3)
        raise CheckpointError(
            f"{address}: {scheme} knows no model {name!r}"
            + (f", but {', '.join(near)}" if near else "")
        )
    return urls[name]


def _finish(content: Any, filename: str, map_location: Any) -> Any:
    drop_code(content, filename)
    restore_histories(content)
    if isinstance(map_location, str | torch.device):
        return _moved(content, torch.device(map_location))
    return content


def _moved(value: Any, device: torch.device) -> Any:
    """Move tensors, in the containers that the reader has made for this call."""
    if isinstance(value, Tensor):
        return value.detach().to(device)
    if isinstance(value, dict):
        for key in value:
            value[key] = _moved(value[key], device)
    elif isinstance(value, list):
        value[:] = [_moved(item, device) for item in value]
    elif type(value) is tuple:
        return tuple(_moved(item, device) for item in value)
    return value
