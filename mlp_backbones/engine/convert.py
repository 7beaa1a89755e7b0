"""Bringing checkpoints from one form to another."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlp_backbones.checkpoints import load_pretrained, read_checkpoint
from mlp_backbones.checkpoints.load import OWN_SIGNATURE, to_own_names
from mlp_backbones.checkpoints.read import read_file
from mlp_backbones.checkpoints.state_dicts import find_weights, plain_name
from mlp_backbones.engine.config import check_checkpoint
from mlp_backbones.engine.errors import UserError, one_line
from mlp_backbones.engine.publish import check_out, publish_checkpoint, write_weights
from mlp_backbones.factory import MINI, families, get_model, list_models

_BACKBONE = "backbone."


@dataclass(frozen=True)
class Conversion:
    """What a conversion has done.

    Attributes:
        file: The file written.
        description: What it holds.
    """

    file: Path
    description: str


def convert_checkpoint(
    source: Path,
    out: Path,
    *,
    model: str | None = None,
    backbone_only: bool = False,
    image_size: int | None = None,
) -> Conversion:
    """Convert a checkpoint.

    A checkpoint of an OpenMMLab model keeps its weights and loses the optimizer, or is
    cut down to its backbone. What others have published of a classifier, in any layout
    that this package reads, becomes a classifier of this package. Its names are those
    of mmpretrain's ``ImageClassifier``: tools/test.py takes it with the family's
    ImageNet config.

    Args:
        source: The file.
        out: The file wanted, ``.pth`` or ``.safetensors``; the first digits of its hash
            are put before the suffix.
        model: The model's name as in ``list_models``; None finds it by names and
            shapes.
        backbone_only: Write the backbone alone, under its own names.
        image_size: Side of the training images where it is not the default.

    Raises:
        UserError: If a file cannot be read, fits no model or more than one, or the new
            one has no place.
    """
    check_out(out)
    check_checkpoint(str(source), whole_model=False)
    tensors = {
        key.removeprefix(_BACKBONE): value
        for key, value in read_checkpoint(source).items()
    }
    # some layouts of others have names like ours among theirs
    is_own = any(OWN_SIGNATURE.match(key) for key in tensors)
    if is_own and not _families_of(tensors):
        if model is not None or image_size is not None:
            raise UserError(
                f"{source} has this package's names already; leave out --model and "
                "--image-size"
            )
        if backbone_only:
            cut = _cut(find_weights(read_file(source), str(source)))
            what = f"backbone, {len(cut)} of {len(tensors)} tensors"
            return Conversion(write_weights(cut, {}, out), what)
        return Conversion(publish_checkpoint(source, out), "weights alone")
    options: dict[str, Any] = {} if image_size is None else {"image_size": image_size}
    name = model or find_model(tensors, source, options)
    try:
        named = _rename(name, tensors, source, options)[0]
        head = named.get("head.fc.weight")
        num_classes = 0 if head is None else len(head)
        classifier = get_model(name, num_classes=num_classes, **options)
        load_pretrained(classifier, source)
    except (TypeError, ValueError) as error:
        raise UserError(one_line(error), exit_code=1) from error
    part = classifier.backbone if backbone_only else classifier
    state_dict: Any = part.state_dict()  # with torch's notes
    file = write_weights(state_dict, {"model": name}, out)
    return Conversion(file, f"{'backbone' if backbone_only else 'classifier'} {name}")


def find_model(
    tensors: Mapping[str, Tensor], source: Path, options: dict[str, Any]
) -> str:
    """Return the one model whose trunk tensors belong to, by names and shapes.

    Args:
        tensors: As :func:`mlp_backbones.checkpoints.read_checkpoint` returns them.
        source: What the file is called in messages.
        options: Arguments of the backbone that are not left at their defaults.

    Raises:
        UserError: If they fit no model, or more than one.
    """
    fitting, matching = [], _families_of(tensors)
    for family in matching:
        for name in [*list_models(f"{family}_*"), f"{family}_{MINI}"]:
            try:
                named, expected = _rename(name, tensors, source, options)
            except (TypeError, ValueError):
                continue  # constants contradict it, or it takes no such option
            if _trunk(named) == _trunk(expected):
                fitting.append(name)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UserError(f"{source} fits {', '.join(fitting)}; choose one by --model")
    if matching:
        raise UserError(
            f"{source} has the names of {', '.join(matching)}, but the shapes "
            "of none of its sizes; say which by --model, and with --image-size "
            "if the training images were of another size",
            exit_code=1,
        )
    raise UserError(
        f"{source} has the names of no layout that this package reads; it starts with "
        + ", ".join(list(tensors)[:5]),
        exit_code=1,
    )


def _families_of(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the families that have a layout with such names."""
    return [
        family
        for family, cls in sorted(families().items())
        if any(layout.matches(tensors) for layout in cls.checkpoint_layouts)
    ]


def _rename(
    name: str, tensors: Mapping[str, Tensor], source: Path, options: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return tensors under the names of a model's backbone, and what that has."""
    with torch.device("meta"):
        backbone = get_model(name, **options).backbone
    return to_own_names(dict(tensors), backbone, source)[0], backbone.state_dict()


def _trunk(state_dict: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the sides longer than 1 of the stem's and the stages' tensors."""
    return {
        name: tuple(side for side in tensor.shape if side > 1)
        for name, tensor in state_dict.items()
        if name.startswith(("stem.", "stages.", "blocks."))
        and "num_batches" not in name
    }


def _cut(weights: Mapping[str, Tensor]) -> "OrderedDict[str, Tensor]":
    """Take the backbone out of a model, with what it notes beside its weights."""
    named = {plain_name(str(key)): value for key, value in weights.items()}
    prefix = _BACKBONE if any(key.startswith(_BACKBONE) for key in named) else ""
    state_dict = OrderedDict(
        (key.removeprefix(prefix), value.detach().clone())
        for key, value in named.items()
        if key.startswith(prefix) and isinstance(value, Tensor)
    )
    for notes in getattr(weights, "_metadata", {}).values():
        if "layout_arguments" in notes:
            own = {"": {"layout_arguments": notes["layout_arguments"]}}
            state_dict._metadata = own  # type: ignore[attr-defined]
    return state_dict
