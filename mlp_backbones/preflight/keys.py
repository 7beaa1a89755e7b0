"""Keys and values of a config, held against the classes that they go to."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any

from mmengine.config import Config
from mmengine.dist import init_dist
from mmengine.hooks import EMAHook
from mmengine.runner import Runner
from mmengine.runner.log_processor import LogProcessor
from mmengine.utils.dl_utils import set_multi_processing

from mlp_backbones.preflight.signatures import (
    Signature,
    find_classes,
    find_operator,
    known_types,
    quoted_words_of,
    registries_of,
    signature_of,
    type_mistake,
    words_of,
)

RUNNER_KEYS = frozenset(inspect.signature(Runner.__init__).parameters) - {"self", "cfg"}
# Top-level keys that are no arguments of the runner and that it, the reader of config
# files or our tools read all the same.
OTHER_KEYS = frozenset(
    [
        *("activation_checkpointing", "compile", "efficient_conv_bn_eval"),
        *("find_unused_parameters", "model_wrapper_cfg", "runner_type", "sync_bn"),
        *("custom_imports", "tta_model", "tta_pipeline"),
    ]
)
TOP_LEVEL_KEYS = RUNNER_KEYS | OTHER_KEYS
# What OpenMMLab's second generation read, and what has taken its place.
OLD_KEYS = {
    "checkpoint_config": "default_hooks.checkpoint",
    "data": "train_dataloader, val_dataloader and test_dataloader",
    "dist_params": "env_cfg.dist_cfg",
    "evaluation": "val_evaluator and train_cfg.val_interval",
    "log_config": "default_hooks.logger and visualizer",
    "lr_config": "param_scheduler",
    "optimizer_config": "optim_wrapper",
    "resume_from": "load_from with resume=True",
    "runner": "train_cfg",
}
# Usual names of variables are too like these to be taken for a misspelling.
_SIMILAR = frozenset({"tta_model", "tta_pipeline"})
ALWAYS_KNOWN = frozenset({"type", "_delete_", "_scope_"})
LOOP_KEYS = ("train_cfg", "val_cfg", "test_cfg")

# What is taken out of a dict before its class gets the rest.
TAKEN_OUT = {
    "custom_hooks": {"priority"},
    "dcn": {"fallback_on_stride"},
    "norm_cfg": {"requires_grad"},
    "optim_wrapper": {"constructor", "paramwise_cfg"},
    "param_scheduler": {"convert_to_iter_based"},
    "policies": {"magnitude_key", "magnitude_range"},
}
# Parts of a model that are built as they are. Readers of others (a norm, a loss, an
# encoder) take some keys out first: there only what resembles a known key is a mistake.
_BUILT = frozenset(
    {
        *(
            "auxiliary_head",
            "backbone",
            "bbox_head",
            "data_preprocessor",
            "decode_head",
        ),
        *("head", "mask_head", "model", "neck", "roi_head", "rpn_head"),
    }
)
# Slips in configs that OpenMMLab ships and that run all the same: no reason to refuse.
KNOWN_SLIPS = frozenset({"_delete", "img_encoder", "models", "wd_mult"})
# Their keys are the user's own words, or go where no signature says more.
FREE = frozenset(
    {
        *("backend_args", "custom_imports", "custom_keys", "data_prefix"),
        *("file_client_args", "key_mapper", "keymap", "label_map_file", "mapping"),
        *("metainfo", "meta_keys", "metas", "palette", "remapping", "init_kwargs"),
    }
)
DEFAULT_HOOKS = frozenset(
    {
        *("checkpoint", "early_stopping", "logger", "param_scheduler"),
        *("runtime_info", "sampler_seed", "timer", "visualization"),
    }
)
# What detectors and segmentors read of their settings for training and inference.
_MODEL_SETTINGS = frozenset(
    {
        *("allowed_border", "assigner", "crop_size", "debug", "mask_size"),
        *("mask_thr_binary", "max_per_img", "min_bbox_size", "mode", "nms", "nms_pre"),
        *("pos_weight", "rcnn", "rpn", "rpn_proposal", "sampler", "score_thr"),
        *("stride",),
    }
)


@dataclass(frozen=True)
class Mistake:
    """A place in a config that is certainly wrong.

    Attributes:
        path: Keys and indices that lead to it.
        message: What is wrong there and the nearest thing that would do, without the
            name of the file.
        is_certain: False for what may be harmless: a warning.
    """

    path: tuple[str, ...]
    message: str
    is_certain: bool = True

    @property
    def place(self) -> str:
        """The path as options spell it."""
        return ".".join(self.path)


def nearest(name: str, known: Any, cutoff: float = 0.6) -> str | None:
    """Return the known name that resembles a name most, if one does."""
    by_letters = {str(one).lower(): str(one) for one in sorted(map(str, known))}
    near = get_close_matches(name.lower(), by_letters, n=1, cutoff=cutoff)
    return by_letters[near[0]] if near else None


def loader_arguments() -> set[str]:
    """Name what a data loader of a config may hold."""
    from torch.utils.data import DataLoader

    names = set(inspect.signature(DataLoader.__init__).parameters) - {"self"}
    return names | {"num_batch_per_epoch"}


def known_names(
    path: Sequence[str],
    kind: Any,
    scope: str | None,
    node: Mapping[str, Any],
) -> Signature | None:
    """Tell what the reader of a dict asks for.

    Args:
        path: Keys and indices that lead to the dict.
        kind: Its ``type``, or None.
        scope: The config's default scope.
        node: Its content.

    Returns:
        The names and whether others are taken; None if nobody can tell.
    """
    root = path[0]
    if root.endswith("_dataloader") and len(path) == 1:
        return Signature(dict.fromkeys(loader_arguments()))
    extra = set(TAKEN_OUT.get(_owner(path), ()))
    if root == "default_hooks":
        extra.add("priority")
    if kind is None:
        kind, more = _kind_of_untyped(path, scope, node.get("by_epoch", True))
        extra |= more
    if kind is None:
        return None
    classes = find_classes(kind, root, scope)
    if not classes and root == "model":
        operator = find_operator(kind)
        classes = [] if operator is None else [operator]
        if operator is not None and not inspect.isclass(operator):
            return Signature(dict(signature_of(operator).annotations), True)
    names: dict[str, Any] = dict.fromkeys(extra)
    is_open = False
    for cls in classes:
        signature = signature_of(cls)
        names |= signature.annotations
        averaged = _averaged_model(cls, node, scope)
        names |= averaged.annotations
        is_open |= averaged.is_open if averaged.annotations else signature.is_open
    return Signature(names, is_open or not classes)


def _averaged_model(cls: Any, node: Mapping[str, Any], scope: str | None) -> Signature:
    """Read the arguments of the model that an ``EMAHook`` passes the rest on to."""
    if not (inspect.isclass(cls) and issubclass(cls, EMAHook)):
        return Signature()
    kind = node.get("ema_type", "ExponentialMovingAverage")
    classes = find_classes(kind, "model", scope)
    return signature_of(classes[0]) if classes else Signature()


def _owner(path: Sequence[str]) -> str:
    """Return the last name; an element of lists is known by the name of the list."""
    return next((name for name in reversed(path) if not name.isdigit()), path[-1])


def _kind_of_untyped(
    path: Sequence[str], scope: str | None, by_epoch: bool
) -> tuple[Any, set[str]]:
    """Name the class or function that reads a dict without a type."""
    place = tuple(path)
    loops = {
        "train_cfg": "EpochBasedTrainLoop" if by_epoch else "IterBasedTrainLoop",
        "val_cfg": "ValLoop",
        "test_cfg": "TestLoop",
    }
    if len(place) == 1 and place[0] in loops:
        return loops[place[0]], {"by_epoch"}
    readers: dict[tuple[str, ...], tuple[Any, set[str]]] = {
        ("auto_scale_lr",): (_auto_scale_lr, set()),
        ("env_cfg",): (_env_cfg, set()),
        ("env_cfg", "mp_cfg"): (set_multi_processing, set()),
        ("log_processor",): (LogProcessor, set()),
        ("optim_wrapper",): ("OptimWrapper", set()),
        ("randomness",): (Runner.set_randomness, set()),
    }
    if place in readers:
        return readers[place]
    if place == ("data_preprocessor",) and scope == "mmpretrain":
        return "ClsDataPreprocessor", set()
    return None, set()


def _auto_scale_lr(base_batch_size: int, enable: bool = False) -> None:
    """Stand for ``Runner.scale_lr``, which reads these keys."""


def _env_cfg(
    cudnn_benchmark: bool, dist_cfg: dict, mp_cfg: dict, resource_limit: int
) -> None:
    """Stand for ``Runner.setup_env``, which reads these keys."""


def find_mistakes(config: Config) -> list[Mistake]:
    """Find keys that nobody reads and values of a type that nobody takes.

    Args:
        config: A whole config with ``default_scope``.
    """
    content = config.to_dict() if isinstance(config, Config) else config
    scope = content.get("default_scope")
    mistakes = list(_top_level(content))
    for root in sorted(TOP_LEVEL_KEYS & content.keys()):
        mistakes += _walk((root,), content[root], content, scope)
    return mistakes


def _top_level(content: Mapping[str, Any]) -> Iterator[Mistake]:
    used = None
    for name, value in content.items():
        if name in TOP_LEVEL_KEYS:
            wanted = type_mistake(value, _runner_hints().get(name))
            if wanted:
                yield Mistake((name,), f"{name} must be {wanted}, got {value!r}")
            continue
        if used is None:
            used = _values_in_use(content)
        if not isinstance(value, (dict, list)) and name not in OLD_KEYS:
            # Numbers and texts are worked into others: nothing tells whether they are.
            near = nearest(name, TOP_LEVEL_KEYS - _SIMILAR, 0.85)
        elif _frozen(value) in used:
            continue
        else:
            near = nearest(name, TOP_LEVEL_KEYS - _SIMILAR, 0.8)
        if near is not None and near != name:
            message = f"nothing reads {name!r}; did you mean {near!r}?"
            yield Mistake((name,), message, name not in KNOWN_SLIPS)
        elif name in OLD_KEYS and isinstance(value, dict):
            message = f"nothing reads {name!r}; its place is {OLD_KEYS[name]}"
            yield Mistake((name,), message, False)


@cache
def _runner_hints() -> Mapping[str, Any]:
    return signature_of(Runner).annotations


def _values_in_use(content: Mapping[str, Any]) -> set[Any]:
    """Collect every dict and list below the keys that are read."""
    values: set[Any] = set()

    def collect(node: Any) -> None:
        if isinstance(node, dict):
            values.add(_frozen(node))
            for child in node.values():
                collect(child)
        elif isinstance(node, (list, tuple)):
            values.add(_frozen(node))
            for child in node:
                collect(child)

    for key in TOP_LEVEL_KEYS & content.keys():
        collect(content[key])
    return values


def _frozen(node: Any) -> str:
    return repr(node)


def _walk(
    path: tuple[str, ...], node: Any, content: Mapping[str, Any], scope: str | None
) -> Iterator[Mistake]:
    if isinstance(node, (list, tuple)):
        for index, child in enumerate(node):
            if isinstance(child, (dict, list, tuple)):
                yield from _walk((*path, str(index)), child, content, scope)
        return
    if not isinstance(node, dict) or path[-1] in FREE:
        return
    yield from _check_dict(path, node, content, scope)
    scope = node.get("_scope_", scope)
    for name, child in node.items():
        if isinstance(child, (dict, list, tuple)):
            yield from _walk((*path, str(name)), child, content, scope)


def _check_dict(
    path: tuple[str, ...],
    node: Mapping[str, Any],
    content: Mapping[str, Any],
    scope: str | None,
) -> Iterator[Mistake]:
    place, kind = ".".join(path), node.get("type")
    special = _check_special(path, node, content, scope)
    if special is not None:
        yield from special
        return
    signature = known_names(path, kind, scope, node)
    if signature is None:
        return
    if isinstance(kind, str) and (path[0] != "model" or _owner(path) in _BUILT):
        yield from _check_type(path, kind, scope)
    known = set(signature.annotations) | ALWAYS_KNOWN
    reader = place if kind is None else f"{place} ({_name_of(kind)})"
    for name, value in node.items():
        if name not in known:
            loose = path[0] == "model" and _owner(path) not in _BUILT
            loose |= _owner(path) in ("norm_cfg", "cfg")
            cutoff = 0.85 if signature.is_open else 0.8 if loose else 0.6
            near = nearest(name, known, cutoff)
            if name == "by_epoch" and path[0] in LOOP_KEYS:
                advice = "it goes without a type only"
            elif near is not None:
                advice = f"did you mean {near!r}?"
            elif loose or signature.is_open:
                continue
            else:
                advice = f"it has {', '.join(sorted(known - ALWAYS_KNOWN))}"
            yield Mistake((*path, name), f"{reader} has no {name!r}; {advice}")
        elif name not in ALWAYS_KNOWN:
            wanted = type_mistake(value, signature.annotations.get(name))
            if wanted:
                yield Mistake(
                    (*path, name),
                    f"{place}.{name} must be {wanted}, got {value!r}",
                )


def _name_of(kind: Any) -> str:
    return kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))


def _check_type(
    path: tuple[str, ...], kind: str, scope: str | None
) -> Iterator[Mistake]:
    """Offer the nearest name for a type that is registered nowhere."""
    root = path[0]
    if not registries_of(root, scope) or find_classes(kind, root, scope):
        return
    prefix, _, name = kind.rpartition(".")
    near = nearest(name, known_types(root, prefix or scope), 0.8)
    if near is not None and near != name:
        offer = f"{prefix}.{near}" if prefix else near
        yield Mistake(
            (*path, "type"),
            f"{'.'.join(path)}: no {kind!r} is registered; did you mean {offer!r}?",
        )


def _check_special(
    path: tuple[str, ...],
    node: Mapping[str, Any],
    content: Mapping[str, Any],
    scope: str | None,
) -> Iterator[Mistake] | None:
    """Check dicts that code reads key by key; None for all others."""
    if path == ("default_hooks",):
        return _near_only(path, node, DEFAULT_HOOKS)
    if path == ("optim_wrapper", "paramwise_cfg"):
        return _check_paramwise(path, node, content, scope)
    if path == ("optim_wrapper", "clip_grad"):
        return _check_clip_grad(path, node)
    if path == ("env_cfg", "dist_cfg"):
        return _check_dist(path, node)
    if path[0] == "model" and "type" not in node and scope is not None:
        settings = [n for n in path[1:] if n in ("train_cfg", "test_cfg")]
        if settings and not any("type" in n for n in _parents(path, content, settings)):
            return _check_read(path, node, scope, _MODEL_SETTINGS, content)
    if path[-1] == "filter_cfg" and scope is not None:
        known = frozenset({"filter_empty_gt", "min_size"})
        return _check_read(path, node, scope, known, content)
    return None


def _parents(
    path: tuple[str, ...], content: Mapping[str, Any], settings: list[str]
) -> list[Any]:
    """Return the dicts between the settings and a path, itself left out."""
    start = path.index(settings[0]) + 1
    node: Any = content
    found = []
    for depth, name in enumerate(path[:-1]):
        node = node[int(name)] if isinstance(node, (list, tuple)) else node[name]
        if depth >= start and isinstance(node, dict):
            found.append(node)
    return found


def _near_only(
    path: tuple[str, ...], node: Mapping[str, Any], known: frozenset[str]
) -> Iterator[Mistake]:
    for name in node:
        near = nearest(name, known, 0.75)
        if name not in known and near is not None:
            yield Mistake(
                (*path, name),
                f"{'.'.join(path)} has no {name!r}; did you mean {near!r}?",
            )


def _check_read(
    path: tuple[str, ...],
    node: Mapping[str, Any],
    scope: str,
    known: frozenset[str],
    content: Mapping[str, Any],
) -> Iterator[Mistake]:
    """Refuse a key whose name occurs in no source that could read it."""
    for name in node:
        if not isinstance(name, str) or name in known or name.isdigit():
            continue
        if any(name in words_of(package) for package in _packages(scope, content)):
            continue
        near = nearest(name, known, 0.7)
        advice = f"did you mean {near!r}?" if near else f"known: {_listed(known)}"
        yield Mistake(
            (*path, name), f"{'.'.join(path)}: nothing reads {name!r}; {advice}"
        )


def _listed(known: Any) -> str:
    return ", ".join(sorted(known))


def _packages(scope: str, content: Mapping[str, Any]) -> list[str]:
    imports = (content.get("custom_imports") or {}).get("imports") or []
    imports = [imports] if isinstance(imports, str) else list(imports)
    return [scope, *(name.partition(".")[0] for name in imports), "mlp_backbones"]


def _constructor_of(content: Mapping[str, Any], scope: str | None) -> Any:
    from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS

    kind = (content.get("optim_wrapper") or {}).get("constructor")
    if not isinstance(kind, str):
        kind = kind or "DefaultOptimWrapperConstructor"
    if not isinstance(kind, str):
        return kind
    try:
        with OPTIM_WRAPPER_CONSTRUCTORS.switch_scope_and_registry(scope) as registry:
            return registry.get(kind)
    except (ImportError, KeyError, RuntimeError):
        return None


def _check_paramwise(
    path: tuple[str, ...],
    node: Mapping[str, Any],
    content: Mapping[str, Any],
    scope: str | None,
) -> Iterator[Mistake]:
    """Refuse what the constructor of the optimizer never asks for."""
    constructor = _constructor_of(content, scope)
    if constructor is None:
        return
    allowed = getattr(constructor, "allowed", None)
    known = frozenset(allowed or quoted_words_of(constructor))
    rules = {n for n in known if n.endswith(("_mult", "_rate", "_keys", "_type"))}
    name_of = getattr(constructor, "__name__", str(constructor))
    for name in node:
        if name not in known:
            near = nearest(name, rules)
            advice = f"did you mean {near!r}?" if near else f"it has {_listed(rules)}"
            message = f"{'.'.join(path)} ({name_of}) has no {name!r}; {advice}"
            yield Mistake((*path, name), message, name not in KNOWN_SLIPS)
    for key, settings in (node.get("custom_keys") or {}).items():
        for name in settings if isinstance(settings, Mapping) else ():
            if name in known | {"lr_mult", "decay_mult"}:
                continue
            near = nearest(name, ("lr_mult", "decay_mult"), 0.75)
            packages = ("mmengine", *_packages(scope or "mmengine", content))
            if near is None and any(name in words_of(one) for one in packages):
                continue
            near = near or "lr_mult"
            message = (
                f"{'.'.join(path)}.custom_keys[{key!r}] has no {name!r}; did you mean "
                f"{near!r}?"
            )
            place = (*path, "custom_keys", str(key), name)
            yield Mistake(place, message, name not in KNOWN_SLIPS)


def _check_clip_grad(
    path: tuple[str, ...], node: Mapping[str, Any]
) -> Iterator[Mistake]:
    import torch

    function = (
        torch.nn.utils.clip_grad_value_
        if node.get("type") == "value"
        else torch.nn.utils.clip_grad_norm_
    )
    known = set(inspect.signature(function).parameters) - {"parameters"}
    yield from _unknown(path, node, known | {"type"})


def _check_dist(path: tuple[str, ...], node: Mapping[str, Any]) -> Iterator[Mistake]:
    from torch.distributed import init_process_group

    known = {"port", *inspect.signature(init_dist).parameters}
    known |= set(inspect.signature(init_process_group).parameters)
    yield from _unknown(path, node, known - {"kwargs", "launcher"})


def _unknown(
    path: tuple[str, ...], node: Mapping[str, Any], known: set[str]
) -> Iterator[Mistake]:
    for name in node:
        if name not in known:
            near = nearest(name, known)
            advice = f"did you mean {near!r}?" if near else f"it has {_listed(known)}"
            yield Mistake((*path, name), f"{'.'.join(path)} has no {name!r}; {advice}")
