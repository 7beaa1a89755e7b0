"""Checkpoints as plain data: written so, brought back for MMEngine, and finite."""

import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from torch import Tensor

from mlp_backbones.checkpoints.torch_file import CheckpointError

__all__ = ["check_finite", "plain_checkpoint", "restore_histories"]

_SHOWN = 5
_PLAIN = (bool, int, float, complex, str, bytes, torch.Size, torch.dtype, torch.device)
_NOTHING = object()


def plain_checkpoint(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Bring a checkpoint into what ``torch.load(weights_only=True)`` reads everywhere.

    Tensors are neither copied nor changed. Scalars and arrays of numpy become numbers
    and lists, histories of MMEngine their arrays as tensors, other mappings
    dictionaries, sets lists. What is no data at all, such as a function, is left out
    with a warning that names it.

    Args:
        checkpoint: As MMEngine's runner makes it.
    """
    return _plain(checkpoint, "checkpoint")


def _plain(value: Any, name: str) -> Any:
    if value is None or isinstance(value, Tensor) or type(value) in _PLAIN:
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, HistoryBuffer):
        log, counts = (torch.from_numpy(np.asarray(array)) for array in value.data)
        return {
            "log_history": log,
            "count_history": counts,
            "max_length": value.max_length,
        }
    if isinstance(value, Mapping):
        result: dict[Any, Any] = OrderedDict() if isinstance(value, OrderedDict) else {}
        for key, item in value.items():
            plain_key, plain = _plain(key, name), _plain(item, f"{name}.{key}")
            if plain_key is not _NOTHING and plain is not _NOTHING:
                result[plain_key] = plain
        if hasattr(value, "_metadata"):
            result._metadata = value._metadata  # type: ignore[attr-defined]
        return result
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [_plain(item, f"{name}.{i}") for i, item in enumerate(value)]
        items = [None if item is _NOTHING else item for item in items]
        return tuple(items) if isinstance(value, tuple) else items
    for kind in (bool, int, float, str, bytes):  # of a class of their own
        if isinstance(value, kind):
            return kind(value)  # type: ignore[arg-type]
    if isinstance(value, PurePath):
        return str(value)
    print_log(
        f"{name} is a {type(value).__name__}, no plain data: the file does not keep it",
        "current",
        level=logging.WARNING,
    )
    return _NOTHING


def restore_histories(checkpoint: Any) -> None:
    """Bring the histories of a message hub back into objects of MMEngine, in place.

    Args:
        checkpoint: What a file holds, as MMEngine or :func:`plain_checkpoint` wrote it.
    """
    hub = checkpoint.get("message_hub") if isinstance(checkpoint, Mapping) else None
    scalars = hub.get("log_scalars") if isinstance(hub, Mapping) else None
    for name, value in list((scalars or {}).items()):
        if isinstance(value, Mapping) and {"log_history", "count_history"} <= {*value}:
            log, counts = (
                np.asarray(value[key]) for key in ("log_history", "count_history")
            )
            if log.ndim != 1 or log.shape != counts.shape:
                raise CheckpointError(f"the history {name} is of two lengths")
            length = int(value.get("max_length", 1000000))
            scalars[name] = HistoryBuffer(log, counts, length)  # type: ignore


def check_finite(values: Any, file: str) -> None:
    """Refuse weights, or states of an optimizer, that are NaN or infinite.

    Args:
        values: Tensors in nested dictionaries and lists.
        file: How to call their checkpoint, such as its path.

    Raises:
        CheckpointError: If one is not finite, naming the first of them.
    """
    bad = [
        name
        for name, tensor in _tensors(values)
        if (tensor.is_floating_point() or tensor.is_complex())
        # a sum reads the values once and writes none; of large ones it is infinite
        and not bool(tensor.sum().isfinite())
        and not bool(tensor.isfinite().all())
    ]
    if bad:
        rest = ", ..." if len(bad) > _SHOWN else ""
        raise CheckpointError(
            f"checkpoint {file} holds NaN or infinite values in {len(bad)} tensors: "
            f"{', '.join(bad[:_SHOWN])}{rest}; take an earlier one"
        )


def _tensors(values: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(values, Tensor):
        yield name, values
    elif isinstance(values, Mapping):
        for key, value in values.items():
            yield from _tensors(value, f"{name}.{key}" if name else str(key))
    elif isinstance(values, (list, tuple)):
        for index, value in enumerate(values):
            yield from _tensors(value, f"{name}.{index}")
