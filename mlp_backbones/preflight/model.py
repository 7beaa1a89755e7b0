"""The model of a config tried on a picture of zeros, before any data are read.

Everything happens on the meta device: shapes are computed, values are not.
"""

import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode

from mlp_backbones.building import build_model
from mlp_backbones.preflight.keys import KNOWN_SLIPS, Mistake, nearest
from mlp_backbones.preflight.signatures import find_classes

# Heads that sort an image or an object into the classes of the data.
_HEADS = {
    "mmdet": ("bbox_head", "mask_head", "roi_head.bbox_head", "roi_head.mask_head"),
    "mmseg": ("decode_head", "auxiliary_head"),
    "mmpretrain": ("head",),
}
_DEFAULT_SIDE = {"mmdet": 256, "mmseg": 256, "mmpretrain": 224}


@dataclass
class ModelFacts:
    """What is known of a model without its weights.

    Attributes:
        model: The model on the meta device, or None if it could not be built there.
        num_classes: Classes of each head, by its place in the config.
        mistakes: What does not fit together.
        notes: What could not be tried.
    """

    model: nn.Module | None = None
    num_classes: dict[str, int] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class _MisfitError(Exception):
    """A layer was given other channels than it was made for."""

    def __init__(self, layer: str, found: int, expected: int) -> None:
        super().__init__(f"{layer}: {found} channels for {expected}")
        self.layer, self.found, self.expected = layer, found, expected


def try_model(config: Config) -> ModelFacts:
    """Build the model, send a picture through it, and look at its heads.

    Args:
        config: A whole config with ``default_scope``.

    Returns:
        What was found; a model that needs more than an image is tried as far as that
        goes.
    """
    facts = ModelFacts()
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            facts.model = _build(config, facts)
            if facts.model is not None:
                facts.num_classes = _count_classes(facts.model, config.default_scope)
                facts.mistakes += _send_picture(facts.model, config, facts.notes)
                facts.mistakes += _custom_keys(facts.model, config, facts.notes)
    finally:
        logging.disable(level)
    return facts


class _KeepRamps(TorchFunctionMode):
    """Leave ramps on the CPU, whose values constructors read (stochastic depth)."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.linspace:
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)


def _build(config: Config, facts: ModelFacts) -> nn.Module | None:
    try:
        with _KeepRamps():
            return build_model(config, device="meta")
    except Exception as error:  # whatever a constructor raises
        first = error
    try:  # what the meta device cannot do is no mistake of the config
        build_model(config)
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        facts.mistakes.append(
            Mistake(("model",), f"the model cannot be built: {_in_words(error)}")
        )
    except Exception as error:  # such as a package that is missing
        first = error
    if facts.mistakes and "process group" in facts.mistakes[0].message:
        facts.mistakes.clear()  # SyncBN of a distributed run
    if not facts.mistakes:
        facts.notes.append(f"the model was not tried: {_in_words(first)}")
    return None


def _in_words(error: Exception) -> str:
    """Put an error into one line, with its type where nobody wrote it for users."""
    text = " ".join(str(error).split())
    # MMEngine puts the class and its file in front of what a constructor raised.
    text = re.sub(r"^class `\w+` in \S+: ", "", text)
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


def _count_classes(model: nn.Module, scope: str) -> dict[str, int]:
    """Read the number of classes of each head that classifies."""
    counts = {}
    for place in _HEADS[scope]:
        head: Any = model
        for name in place.split("."):
            head = getattr(head, name, None)
        heads = list(head) if isinstance(head, nn.ModuleList) else [head]
        for index, one in enumerate(heads):
            number = getattr(one, "num_classes", None)
            if type(one).__name__.endswith("RPNHead"):
                continue  # it tells objects from the rest
            if type(number) is int and not getattr(one, "class_agnostic", False):
                suffix = f".{index}" if isinstance(head, nn.ModuleList) else ""
                counts[f"model.{place}{suffix}.num_classes"] = number
    return counts


def classes_of(dataset: Any, scope: str) -> tuple[tuple[str, ...], str] | None:
    """Name the classes that a data set has by its config or by its type.

    Args:
        dataset: Config of a data set or of a wrapper around some.
        scope: The config's default scope.

    Returns:
        The names and their source, or None if only the files tell.
    """
    while isinstance(dataset, Mapping):
        own = dataset.get("classes", (dataset.get("metainfo") or {}).get("classes"))
        if own is not None:
            return None if isinstance(own, str) else (tuple(own), "metainfo.classes")
        inner = dataset.get("dataset")
        if inner is None and dataset.get("datasets"):
            inner = dataset["datasets"][0]
        if inner is None:
            break
        dataset = inner
    kind = dataset.get("type") if isinstance(dataset, Mapping) else None
    for cls in find_classes(kind, "train_dataloader", scope) if kind else ():
        found = (getattr(cls, "METAINFO", None) or {}).get("classes")
        if isinstance(found, (list, tuple)):
            return tuple(found), f"{cls.__name__}.METAINFO"
    return None


def class_mistakes(
    num_classes: Mapping[str, int],
    classes: Sequence[str],
    source: str,
    scope: str,
) -> Iterator[Mistake]:
    """Compare the number of classes of each head with the data's.

    Args:
        num_classes: As :class:`ModelFacts` has it.
        classes: The data's, by name.
        source: Where the names come from.
        scope: The config's default scope.
    """
    for place, number in num_classes.items():
        if number != len(classes):
            # A classifier may have more outputs than a list that ships with a type.
            more = scope == "mmpretrain" and number > len(classes)
            yield Mistake(
                tuple(place.split(".")),
                f"{place} is {number}, the data have {len(classes)} classes "
                f"({source}); set {place}={len(classes)}, or metainfo.classes of the "
                "data sets",
                not (more and source.endswith("METAINFO")),
            )


def _side(config: Config) -> tuple[int, int]:
    """Take the size of the pictures that the model is trained on, where it is told."""
    preprocessor = config.model.get("data_preprocessor") or {}
    sizes = [preprocessor.get("size")]
    dataset = (config.get("train_dataloader") or {}).get("dataset") or {}
    while isinstance(dataset.get("dataset"), Mapping):
        dataset = dataset["dataset"]
    pipeline = dataset.get("pipeline") or []
    if config.default_scope != "mmdet":
        for step in reversed(pipeline):
            if isinstance(step, Mapping):
                sizes += [step.get("crop_size"), step.get("scale")]
    for size in sizes:
        if isinstance(size, int):
            return size, size
        if (
            isinstance(size, (list, tuple))
            and len(size) == 2
            and all(isinstance(side, int) and side > 0 for side in size)
        ):
            return size[0], size[1]
    side = _DEFAULT_SIDE[config.default_scope]
    return side, side


def _send_picture(model: Any, config: Config, notes: list[str]) -> Iterator[Mistake]:
    """Run backbone, neck and heads; explain what fails by the config's own keys."""
    if not hasattr(model, "backbone"):
        return
    handles = [
        layer.register_forward_pre_hook(_guard(name))
        for name, layer in model.named_modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear, _NormBase, nn.LayerNorm))
    ]
    model.eval()
    image = torch.zeros(2, 3, *_side(config), device="meta")
    try:
        with (
            torch.no_grad(),
            DefaultScope.overwrite_default_scope(config.default_scope),
        ):
            maps = _run("backbone", lambda: model.backbone(image), None, config, notes)
            if isinstance(maps, Mistake):
                yield maps
            if not isinstance(maps, tuple) or not _are_maps(maps):
                return
            if getattr(model, "neck", None) is not None:
                before, neck = maps, model.neck
                found = _run("neck", lambda: neck(before), before, config, notes)
                if isinstance(found, Mistake):
                    yield found
                if not isinstance(found, (tuple, list)) or not _are_maps(found):
                    return
                maps = tuple(found)
            for place, head, inputs in _heads(model, maps, config.default_scope):
                found = _run(
                    place, lambda h=head, i=inputs: h(i), inputs, config, notes
                )
                if isinstance(found, Mistake):
                    yield found
    finally:
        for handle in handles:
            handle.remove()


def _are_maps(maps: Sequence[Any]) -> bool:
    return len(maps) > 0 and all(isinstance(one, Tensor) for one in maps)


def _heads(
    model: Any, maps: tuple[Tensor, ...], scope: str
) -> Iterator[tuple[str, Any, Any]]:
    """Yield each head with its place and with what it is given."""
    names = {
        "mmdet": ("rpn_head", "bbox_head"),
        "mmseg": ("decode_head", "auxiliary_head"),
        "mmpretrain": ("head",),
    }[scope]
    for name in names:
        head = getattr(model, name, None)
        if isinstance(head, nn.ModuleList):
            for index, one in enumerate(head):
                yield f"{name}.{index}", one, maps
        elif head is not None:
            yield name, head, maps
    roi_head = getattr(model, "roi_head", None)
    for kind in ("bbox", "mask"):
        heads = getattr(roi_head, f"{kind}_head", None)
        extractors = getattr(roi_head, f"{kind}_roi_extractor", None)
        is_list = isinstance(heads, nn.ModuleList)
        if heads is None or extractors is None:
            continue
        if getattr(roi_head, "with_shared_head", False):
            continue
        pairs = (
            zip(heads, extractors, strict=False) if is_list else [(heads, extractors)]
        )
        for index, (head, extractor) in enumerate(pairs):
            sizes = getattr(extractor.roi_layers[0], "output_size", None)
            if sizes is None:
                continue
            sizes = (sizes, sizes) if isinstance(sizes, int) else sizes
            pooled = maps[0].new_zeros(2, maps[0].shape[1], *sizes)
            place = f"roi_head.{kind}_head" + (f".{index}" if is_list else "")
            yield place, head, pooled


def _guard(name: str) -> Any:
    """Make a hook that compares the channels of a layer's input with its weight."""

    def check(layer: Any, inputs: tuple[Any, ...]) -> None:
        if not inputs or not isinstance(inputs[0], Tensor):
            return
        shape = inputs[0].shape
        if isinstance(layer, nn.Linear):
            found, expected = shape[-1], layer.in_features
        elif isinstance(layer, nn.LayerNorm):
            if len(layer.normalized_shape) != 1 or type(layer) is not nn.LayerNorm:
                return
            found, expected = shape[-1], layer.normalized_shape[0]
        elif isinstance(layer, nn.Conv2d):
            if len(shape) != 4 or type(layer) is not nn.Conv2d:
                return
            found, expected = shape[1], layer.in_channels
        else:
            if len(shape) < 2:
                return
            found, expected = shape[1], layer.num_features
        if found != expected:
            raise _MisfitError(name, found, expected)

    return check


def _run(place: str, call: Any, inputs: Any, config: Config, notes: list[str]) -> Any:
    """Call a part; return what it gives, or what explains its failure, or None."""
    try:
        return call()
    except Exception as error:  # whatever a network raises
        mistake = _explain(place, inputs, error, config)
        if mistake is None:
            text = " ".join(str(error).split())[:200]
            notes.append(
                f"model.{place} was not tried on a picture: {type(error).__name__}: "
                f"{text}"
            )
        return mistake


def _explain(
    place: str, inputs: Any, error: Exception, config: Config
) -> Mistake | None:
    part: Any = config.model
    path = ["model"]
    for name in place.split("."):
        if isinstance(part, Mapping) and name in part:
            part = part[name]
        elif isinstance(part, (list, tuple)) and name.isdigit():
            part = part[int(name)]
        elif name.isdigit():  # one config for a head of several stages
            continue
        else:
            break
        path.append(name)
    if not isinstance(part, Mapping):
        return None
    key = ".".join(path)
    before = (
        "the neck" if place != "neck" and config.model.get("neck") else "the backbone"
    )
    wanted, index = part.get("in_channels"), part.get("in_index")
    if isinstance(inputs, tuple) and index is not None:
        indices = index if isinstance(index, (list, tuple)) else [index]
        beyond = [i for i in indices if not -len(inputs) <= i < len(inputs)]
        if beyond:
            return Mistake(
                (*path, "in_index"),
                f"{key}.in_index reads map {beyond[0]}, {before} gives {len(inputs)}",
            )
    if inputs is not None and wanted is not None:
        found = _channels(inputs, part)
        listed = list(wanted) if isinstance(wanted, (list, tuple)) else wanted
        if found is not None and found != listed:
            return Mistake(
                (*path, "in_channels"),
                f"{key}.in_channels is {listed}, {before} gives {found}; set "
                f"{key}.in_channels={_spelt(found)}",
            )
    if isinstance(error, _MisfitError):
        inner = error.layer.removeprefix(f"{place}.")
        return Mistake(
            tuple(path),
            f"{key}: its layer {inner} expects {error.expected} channels and is given "
            f"{error.found}; check the channels and sizes of {key} "
            f"({', '.join(_sizes(part)) or 'it states none'})",
        )
    return None


def _channels(inputs: Any, part: Mapping[str, Any]) -> Any:
    """Read the channels that a part is given, in the form of its ``in_channels``."""
    if isinstance(inputs, Tensor):
        return inputs.shape[1]
    maps = [one.shape[1] for one in inputs]
    index = part.get("in_index")
    if isinstance(part["in_channels"], (list, tuple)):
        if isinstance(index, (list, tuple)):
            return [maps[one] for one in index]
        return maps
    index = -1 if index is None else index
    if not isinstance(index, int):
        return None
    if "in_index" not in part and len(set(maps)) == 1:
        return maps[0]
    return maps[index]


def _spelt(value: Any) -> str:
    return str(value).replace(" ", "")


def _sizes(part: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}={value}"
        for name, value in part.items()
        if "channels" in name or name in ("roi_feat_size", "embed_dims", "channels")
    ]


def _custom_keys(
    model: nn.Module, config: Config, notes: list[str]
) -> Iterator[Mistake]:
    """Find rules for single parameters that match none, and misspell one.

    Recipes carry rules for parts that not every backbone has: those are noted.
    """
    wrapper = config.get("optim_wrapper") or {}
    rules = (wrapper.get("paramwise_cfg") or {}).get("custom_keys") or {}
    names = [name for name, _ in model.named_parameters()] if rules else []
    words = {word for name in names for word in name.split(".") if not word.isdigit()}
    place = "optim_wrapper.paramwise_cfg.custom_keys"
    for key in map(str, rules):
        if any(key in name for name in names):
            continue
        wrong = [word for word in key.split(".") if word and word not in words]
        near = nearest(wrong[-1], words, 0.8) if wrong else None
        message = f"{place}: no parameter has {key!r} in its name"
        if near is None:
            notes.append(message)
            continue
        path = ("optim_wrapper", "paramwise_cfg", "custom_keys", key)
        message += f"; did you mean {near!r}?"
        yield Mistake(path, message, key not in KNOWN_SLIPS)
