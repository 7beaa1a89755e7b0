"""Making a checkpoint ready to be given away."""

import copy
import hashlib
import io
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlp_backbones.checkpoints import CheckpointError
from mlp_backbones.checkpoints.read import read_file
from mlp_backbones.checkpoints.state_dicts import find_weights
from mlp_backbones.engine.config import check_checkpoint
from mlp_backbones.engine.errors import UserError, one_line

# What of a run's notes is of use to others; the rest says when and under which name
# it was started.
KEPT_META = ("cfg", "dataset_meta", "epoch", "iter", "mmengine_version", "seed")

# What users of OpenMMLab know from its own files, e.g. ``model-1a2b3c4d.pth``.
HASH_DIGITS = 8


def publish_checkpoint(source: Path, out: Path) -> Path:
    """Write the weights of a checkpoint to a file whose name ends in its hash.

    Optimizer, schedules and logs are left out; names of classes and the config stay,
    with whatever paths the config holds. The same checkpoint gives the same bytes.
    Weights that were averaged in training are what MMEngine has stored as the
    model's; those from before the averaging are left out.

    Args:
        source: A checkpoint of a training, or a bare state dict.
        out: The file wanted, such as ``model.pth``; the first digits of the SHA-256
            hash of the content are put before the suffix. With ``.safetensors`` the
            weights alone are written, which tools/test.py does not read.

    Returns:
        The file written.

    Raises:
        UserError: If there is no such checkpoint, it cannot be read or asks for more
            than plain data, or the new file has no place or an unknown suffix.
    """
    check_out(out)
    check_checkpoint(str(source), whole_model=False)
    try:
        content = read_file(source)
    except CheckpointError as error:
        raise UserError(one_line(error), exit_code=1) from error
    meta = content.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    kept = {key: copy.deepcopy(meta[key]) for key in KEPT_META if key in meta}
    return write_weights(_state_dict(content), kept, out)


def check_out(out: Path) -> None:
    """Refuse a new file that has no place or an unknown suffix.

    Args:
        out: The file wanted.

    Raises:
        UserError: Naming the file.
    """
    if out.suffix not in (".pth", ".safetensors"):
        raise UserError(f"the new file must end in .pth or .safetensors, got {out}")
    if not out.absolute().parent.is_dir():
        raise UserError(f"{out}: its folder does not exist")


def write_weights(
    state_dict: "OrderedDict[str, Tensor]", meta: dict[str, Any], out: Path
) -> Path:
    """Write weights to a file whose name ends in its hash.

    Args:
        state_dict: The weights, with torch's notes on each module.
        meta: What a ``.pth`` file says of them; ``.safetensors`` has no place for it,
            but for the arguments that a backbone notes.
        out: The file wanted, see :func:`publish_checkpoint`.

    Returns:
        The file written.
    """
    if out.suffix == ".pth":
        buffer = io.BytesIO()  # into a file, torch would write its name too
        torch.save({"meta": meta, "state_dict": state_dict}, buffer)
        data = buffer.getvalue()
    else:
        data = _to_safetensors(state_dict)
    digits = hashlib.sha256(data).hexdigest()[:HASH_DIGITS]
    file = out.with_name(f"{out.stem}-{digits}{out.suffix}")
    part = file.with_name(f"{file.name}.part")
    part.write_bytes(data)
    part.replace(file)
    return file


def _state_dict(content: dict[str, Any]) -> "OrderedDict[str, Tensor]":
    weights = find_weights(content, "the checkpoint")
    state_dict = OrderedDict(
        (name, value.detach().clone())
        for name, value in weights.items()
        if isinstance(value, Tensor)
    )
    # Beside the versions of modules, some backbones note their arguments there.
    notes = getattr(weights, "_metadata", None)
    if notes is not None:
        state_dict._metadata = copy.deepcopy(notes)  # type: ignore[attr-defined]
    return state_dict


def _to_safetensors(state_dict: "OrderedDict[str, Tensor]") -> bytes:
    from safetensors.torch import save

    metadata = {"format": "pt"}
    for notes in getattr(state_dict, "_metadata", {}).values():
        if "layout_arguments" in notes:
            # alone: safetensors writes two entries in any order, and the hash changes
            metadata = {"layout_arguments": json.dumps(notes["layout_arguments"])}
    tensors = {name: value.contiguous() for name, value in state_dict.items()}
    return save(tensors, metadata=metadata)
