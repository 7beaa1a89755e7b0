"""Loading weights into a backbone or classifier, with a strict two-way check."""

import re
from collections.abc import Iterable
from logging import WARNING
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mlp_backbones.checkpoints.image_size import describe_other_size
from mlp_backbones.checkpoints.layout import CheckpointLayout, split_flat_blocks
from mlp_backbones.checkpoints.read import CheckpointError, read_checkpoint

__all__ = ["CheckpointError", "load_pretrained"]

OWN_SIGNATURE = re.compile(r"^stages\.\d+\.blocks\.\d+\.")
_NUM_SHOWN = 5
_RGB = 3


def load_pretrained(
    model: nn.Module,
    checkpoint: str | Path,
    *,
    prefix: str | None = None,
    map_location: str | None = None,
    sha256: str | None = None,
) -> None:
    """Load official weights, this package's or a whole OpenMMLab model's.

    Every tensor of the file must find its place and every parameter its tensor, with
    these exceptions, each of which is logged: a head of another number of classes; a
    head, a final norm or stages that ``model`` does not have; and what resamples and
    norms the levels of a pyramid, which starts fresh as it does in the authors' dense
    modes. A model that returns the last stage alone takes the classifier's final norm
    as its output norm, unless that stood behind the pooling. A stem for three channels
    is summed for one channel, and repeated and scaled for other numbers, as timm does.
    Where weights were made with other arguments than the model's, and the model's were
    left open, they are set and logged; see :attr:`CheckpointLayout.arguments`.

    Args:
        model: A backbone, or a classifier that has ``backbone`` and ``head``.
        checkpoint: A file or address as in :func:`read_checkpoint`, or ``official``
            for the address the authors published for the backbone's arch.
        prefix: If given, only tensors whose names start so are used.
        map_location: Accepted for MMEngine's sake; weights pass through the CPU.
        sha256: The first digits of the file's SHA-256 hash, checked on download.

    Raises:
        TypeError: If ``checkpoint`` is neither a string nor a path.
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file cannot be read, or belongs to another family or
            size; the message lists the first mismatches.
    """
    del map_location
    if not isinstance(checkpoint, str | Path):
        raise TypeError(f"checkpoint must be a file or an address, got {checkpoint!r}")
    backbone: Any = getattr(model, "backbone", model)
    source = _resolve_official(backbone) if checkpoint == "official" else checkpoint
    found = read_checkpoint(source, sha256=sha256)
    tensors: dict[str, Tensor] = found
    arguments = found.arguments
    if prefix is not None:
        tensors = {
            key.removeprefix(prefix).lstrip("."): tensor
            for key, tensor in tensors.items()
            if key.startswith(prefix)
        }
    notes: list[str] = []
    named, layout = to_own_names(_strip(tensors, notes), backbone, source)
    if layout is not None:
        arguments = layout.arguments
    expected = model.state_dict()
    is_classifier = model is not backbone
    if is_classifier:
        expected = {k.removeprefix("backbone."): v for k, v in expected.items()}
    named = backbone.adapt_weights(named)
    _fit_stem(named, expected, backbone, notes)
    _fit_norms(named, expected, backbone, notes)
    dropped = _fit_head(named, expected, notes)
    _fit_stages(named, backbone, notes)
    _fit_resamplers(named, expected, notes)

    fresh = {key for key in expected if dropped and key.startswith("head.")}
    if not is_classifier:  # whole norms of a pyramid start fresh, never half of one
        fresh |= _of_new_levels("out_norms", named, expected)
    fresh |= _of_new_levels("resamplers", named, expected)
    for key in expected.keys() & named.keys():
        named[key] = _squeeze_like(named[key], expected[key])
    headline = f"{source} does not fit {_describe(backbone)}"
    headline += describe_other_size(named, expected, backbone)
    _compare(named, expected, fresh, headline)
    if dropped is not None:
        print_log(dropped, logger="current", level=WARNING)

    own_names = {
        f"backbone.{key}"
        if is_classifier and not key.startswith(("head.", "neck."))
        else key: v
        for key, v in named.items()
    }
    model.load_state_dict(own_names, strict=False)
    if arguments:
        notes += backbone.apply_noted_arguments(arguments)
    norms_fresh = sorted(key for key in fresh if key.startswith("out_norms."))
    if norms_fresh:
        notes.append(f"output norms start fresh ({len(norms_fresh)} tensors)")
    if any(key.startswith("resamplers.") for key in fresh):
        notes.append("the pyramid's resampling starts fresh")
    summary = f"loaded {len(named)} tensors from {source}"
    print_log("; ".join([summary, *notes]), logger="current")


def _resolve_official(backbone: Any) -> str:
    released = backbone.released_weights
    if backbone.arch_name not in released:
        raise CheckpointError(
            f"no official weights are known for {_describe(backbone)}; there are "
            f"addresses for {', '.join(released) or 'no size'}; name a file, or "
            "choose one of list_models(pretrained=True)"
        )
    return released[backbone.arch_name]


def to_own_names(
    tensors: dict[str, Tensor], backbone: Any, source: str | Path
) -> tuple[dict[str, Tensor], CheckpointLayout | None]:
    """Rename and convert tensors of any layout that a backbone knows.

    Args:
        tensors: As :func:`read_checkpoint` returns them.
        backbone: The backbone that they may belong to.
        source: What the file is called in messages.

    Returns:
        The tensors under this package's names, and their layout, None where the names
        were this package's.

    Raises:
        CheckpointError: If the names fit no layout, or constants contradict the model.
    """
    for layout in backbone.checkpoint_layouts:
        if layout.matches(tensors):
            if layout.check is not None:
                try:
                    layout.check(tensors, backbone)
                except ValueError as error:
                    raise CheckpointError(
                        f"{source} does not fit {_describe(backbone)}: {error}"
                    ) from error
            renamed = layout.rename(tensors)
            if layout.convert is not None:
                renamed = layout.convert(renamed, backbone)
            return split_flat_blocks(renamed, backbone.depths), layout
    if not any(OWN_SIGNATURE.match(key) for key in tensors):
        layouts = ", ".join(layout.name for layout in backbone.checkpoint_layouts)
        raise CheckpointError(
            f"{source} holds no {type(backbone).__name__}: its names fit neither this "
            f"package nor the layouts known ({layouts or 'none'}); it starts with "
            + ", ".join(list(tensors)[:_NUM_SHOWN])
        )
    return dict(tensors), None


def _strip(tensors: dict[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    """Take backbone and classifier head out of a whole OpenMMLab model."""
    if not any(key.startswith("backbone.") for key in tensors):
        return tensors
    kept = {
        key.removeprefix("backbone."): tensor
        for key, tensor in tensors.items()
        if key.startswith(("backbone.", "head.fc.", "neck.norm."))
    }
    if len(kept) < len(tensors):
        surplus = len(tensors) - len(kept)
        notes.append(f"{surplus} tensors outside the backbone are left aside")
    return kept


def _fit_stem(
    named: dict[str, Tensor],
    expected: dict[str, Tensor],
    backbone: Any,
    notes: list[str],
) -> None:
    """Bring a stem for RGB images to the model's channels."""
    channels = backbone.in_channels
    if channels == _RGB:
        return
    fitted = False
    for key in [key for key in named if key.startswith("stem.") and key in expected]:
        weight, wanted = named[key], expected[key]
        if weight.ndim < 2 or weight.shape != (
            wanted.shape[0],
            _RGB,
            *wanted.shape[2:],
        ):
            continue
        if wanted.shape[1] != channels:
            continue
        if channels == 1:
            weight = weight.sum(1, keepdim=True)
        else:
            order = torch.arange(channels) % _RGB
            weight = weight[:, order] * (_RGB / channels)
        named[key], fitted = weight, True
    if fitted:
        how = "summed for one channel" if channels == 1 else f"repeated for {channels}"
        notes.append(f"the stem's weights for {_RGB} channels are {how}")


def _fit_norms(
    named: dict[str, Tensor],
    expected: dict[str, Tensor],
    backbone: Any,
    notes: list[str],
) -> None:
    for key in [key for key in named if key.startswith("neck.norm.")]:
        named[key.removeprefix("neck.")] = named.pop(key)
    if any(key.startswith("neck.norm.") for key in expected):
        for key in [key for key in named if key.startswith("norm.")]:
            named[f"neck.{key}"] = named.pop(key)
    last = len(backbone.stage_strides) - 1
    has = {key.split(".")[1] for key in named if key.startswith("out_norms.")}
    final = [key for key in named if key.startswith("norm.")]
    # a norm of averages says nothing about a map's
    same_place = not backbone.norm_after_pool
    if has == {str(last)} and not final and same_place:  # a classifier of this package
        final = [key for key in named if key.startswith("out_norms.")]
    wanted = {
        index
        for index, norm in backbone.out_norms.items()
        if next(norm.parameters(), None) is not None
    }
    if final and wanted == {str(last)} and same_place:
        for key in final:
            named[f"out_norms.{last}.{key.rsplit('.', 1)[1]}"] = named.pop(key)
        return
    if final:
        notes.append("the classifier's final norm is left aside")
    for key in final:
        del named[key]
    for key in [key for key in named if key.startswith("out_norms.")]:
        if key.split(".")[1] not in wanted:
            del named[key]


def _fit_head(
    named: dict[str, Tensor], expected: dict[str, Tensor], notes: list[str]
) -> str | None:
    """Drop a head that has no place; if the model's own is left fresh, say why."""
    head = [key for key in named if key.startswith("head.")]
    if not head:
        return None
    weight = named.get("head.fc.weight")
    wanted = expected.get("head.fc.weight")
    reason = None
    if wanted is None:
        notes.append("the classifier's head is left aside")
    elif (
        weight is not None
        and weight.shape[0] != wanted.shape[0]
        and weight.shape[1:] == wanted.shape[1:]
    ):
        reason = (
            f"the head of {weight.shape[0]} classes is dropped, the model has "
            f"{wanted.shape[0]}"
        )
    else:
        return None
    for key in head:
        del named[key]
    return reason


def _fit_stages(named: dict[str, Tensor], backbone: Any, notes: list[str]) -> None:
    built, total = len(backbone.stages), len(backbone.stage_strides)
    surplus = [
        key
        for key in named
        if (match := re.match(r"stages\.(\d+)\.", key))
        and built <= int(match[1]) < total
    ]
    if surplus:
        notes.append(f"stages behind number {built - 1} are left aside")
    for key in surplus:
        del named[key]


def _of_new_levels(
    part: str, named: Iterable[str], expected: Iterable[str]
) -> set[str]:
    """Return the keys of a part's levels of which the file holds nothing."""
    pattern = re.compile(rf"{part}\.\d+\.")
    held = {match[0] for key in named if (match := pattern.match(key))}
    return {
        key
        for key in expected
        if (match := pattern.match(key)) and match[0] not in held
    }


def _fit_resamplers(
    named: dict[str, Tensor], expected: dict[str, Tensor], notes: list[str]
) -> None:
    surplus = [
        key for key in named if key.startswith("resamplers.") and key not in expected
    ]
    if surplus:
        notes.append("resampling of levels that are not returned is left aside")
    for key in surplus:
        del named[key]


def _squeeze_like(tensor: Tensor, wanted: Tensor) -> Tensor:
    """Read a 1x1 convolution as a linear layer and the other way round."""
    if tensor.ndim != wanted.ndim and tensor.squeeze().shape == wanted.squeeze().shape:
        return tensor.reshape(wanted.shape)
    return tensor


def _compare(
    named: dict[str, Tensor],
    expected: dict[str, Tensor],
    fresh: Iterable[str],
    headline: str,
) -> None:
    missing = [key for key in expected if key not in named and key not in set(fresh)]
    surplus = [key for key in named if key not in expected]
    shapes = [
        f"{key} {tuple(named[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if key in named and named[key].shape != expected[key].shape
    ]
    problems = [
        f"{len(items)} {what}: {', '.join(items[:_NUM_SHOWN])}"
        + (", ..." if len(items) > _NUM_SHOWN else "")
        for what, items in (
            ("of another shape", shapes),
            ("missing in the file", missing),
            ("unknown to the model", surplus),
        )
        if items
    ]
    if problems:
        raise CheckpointError(f"{headline}; " + "; ".join(problems))


def _describe(backbone: Any) -> str:
    name = type(backbone).__name__
    return f"{name} {backbone.arch_name}" if backbone.arch_name else name
