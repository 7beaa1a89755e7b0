"""Settings that override a config, ``KEY=VALUE``: parsed, and held against the config.

A key may name what the config does not have only where something reads it: an
argument of the runner, or one of the class that the ``type`` beside it names.
"""

import importlib.util
import inspect
import typing
from argparse import ArgumentParser
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

import mmengine.registry
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.runner import Runner

from mlp_backbones.engine.errors import UserError

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

# Where the types below a top-level key are registered; other keys end in these words.
_REGISTRIES = {
    "model": ("MODELS", "TASK_UTILS", "WEIGHT_INITIALIZERS", "MODEL_WRAPPERS"),
    "data_preprocessor": ("MODELS",),
    "dataloader": ("DATASETS", "TRANSFORMS", "DATA_SAMPLERS"),
    "pipeline": ("TRANSFORMS",),
    "optim_wrapper": ("OPTIM_WRAPPERS", "OPTIMIZERS"),
    "param_scheduler": ("PARAM_SCHEDULERS",),
    "evaluator": ("METRICS", "EVALUATOR"),
    "hooks": ("HOOKS",),
    "cfg": ("LOOPS", "MODEL_WRAPPERS"),
    "visualizer": ("VISUALIZERS", "VISBACKENDS"),
    "log_processor": ("LOG_PROCESSORS",),
}
# What is taken out of a dict before its class gets the rest.
_TAKEN_OUT = {
    "optim_wrapper": {"constructor", "paramwise_cfg"},
    "param_scheduler": {"convert_to_iter_based"},
    "norm_cfg": {"requires_grad"},
}
# Dicts that are read without a ``type``, with all that can be in them.
_UNTYPED = {
    "auto_scale_lr": {"base_batch_size", "enable"},
    "env_cfg": {"cudnn_benchmark", "dist_cfg", "mp_cfg", "resource_limit"},
    "randomness": {"deterministic", "diff_rank_seed", "seed"},
}
# Their keys are the user's own words.
_FREE = frozenset({"custom_keys", "data_prefix"})


def parse_options(options: Iterable[str]) -> dict[str, Any]:
    """Turn ``key=value`` arguments into full keys and values.

    Raises:
        UserError: If an argument has no ``=``.
    """
    options = list(options)
    for option in options:
        if "=" not in option:
            raise UserError(f"--cfg-options takes KEY=VALUE, got {option!r}")
    parser = ArgumentParser()
    parser.add_argument("--cfg-options", nargs="*", action=DictAction, default={})
    return parser.parse_args(["--cfg-options", *options]).cfg_options or {}


def check_options(config: Config, options: Mapping[str, Any]) -> None:
    """Refuse options whose place the config does not have and no class asks for.

    Where an option leads through a None, a dict takes its place in the config, so
    that it can be merged.

    Args:
        config: The config as its file has it.
        options: Full keys and values.

    Raises:
        UserError: Naming the key, what is wrong with it, and the nearest name that
            would do.
    """
    for key in options:
        _check(config, key, options)


def _check(config: Config, key: str, options: Mapping[str, Any]) -> None:
    names = key.split(".")
    if names[0] in config and names[0] not in TOP_LEVEL_KEYS | {"data_root"}:
        raise UserError(
            f"--cfg-options {key}: {names[0]!r} is a variable of the config file, "
            "already used there; set the place where its value went"
        )
    node: Any = config
    for depth, name in enumerate(names):
        path = names[:depth]
        place = ".".join(path) or "the config"
        if isinstance(node, (list, tuple)):
            if not name.isdigit() or int(name) >= len(node):
                raise UserError(
                    f"--cfg-options {key}: {place} is a list of {len(node)}, "
                    f"{name!r} is no index of it"
                )
            node = node[int(name)]
        elif isinstance(node, (dict, Config)):
            if name not in node:
                _check_new_name(config, key, path, node, name, options)
            last = depth == len(names) - 1
            if not last and node.get(name) is None:
                node[name] = ConfigDict()
            node = node.get(name, ConfigDict())
        else:
            raise UserError(
                f"--cfg-options {key}: {place} is {node!r} and has no {name!r}"
            )
    if names[-2:-1] == ["init_cfg"] and names[-1] != "type":
        _check_type_of_init(config, key, options)


def _check_new_name(
    config: Config,
    key: str,
    path: list[str],
    node: Mapping[str, Any],
    name: str,
    options: Mapping[str, Any],
) -> None:
    """Refuse a name that a dict lacks and its reader does not know."""
    place = ".".join(path) or "the config"
    kind = options.get(f"{place}.type", node.get("type")) if path else None
    if path:
        known, is_open = _known_names(config, path, node, kind, options)
    else:
        known, is_open = set(TOP_LEVEL_KEYS), False
    known |= set(map(str, node))
    if name in known | {"type", "_delete_", "_scope_"}:
        return
    # Where others are taken too, what looks like a known name is one misspelt.
    near = get_close_matches(name, sorted(known), n=1, cutoff=0.8 if is_open else 0.6)
    if (
        path
        and path[-1] in _FREE
        or (kind is None and f"{place}.{name}.type" in options)
    ):
        return
    is_last = key == f"{place}.{name}"
    is_read = kind is not None or is_last or "paramwise_cfg" in path
    if is_open and not near and is_read:
        return
    reader = place if kind is None else f"{place} ({kind})"
    if near:
        advice = f"did you mean {near[0]!r}?"
    else:
        advice = f"it has {', '.join(sorted(known))}"
    raise UserError(f"--cfg-options {key}: {reader} has no {name!r}; {advice}")


def _known_names(
    config: Config,
    path: list[str],
    node: Mapping[str, Any],
    kind: Any,
    options: Mapping[str, Any],
) -> tuple[set[str], bool]:
    """Names that what reads a dict asks for, and whether it may take others."""
    root, last = path[0], path[-1]
    if root.endswith("_dataloader") and len(path) == 1:
        return _loader_arguments(), False
    # An element of a list, such as a scheduler, is known by the name of the list.
    extra = _TAKEN_OUT.get(
        path[-2] if last.isdigit() and len(path) > 1 else last, set()
    )
    if kind is None and len(path) == 1 and root in ("train_cfg", "val_cfg", "test_cfg"):
        kind, extra = _loop_type(root, node, options), {"by_epoch"}
    if kind is None and path == ["optim_wrapper"]:
        kind = "OptimWrapper"
    if kind is None:
        names = _UNTYPED.get(root, set()) if len(path) == 1 else set()
        return set(names), not names
    scope = options.get("default_scope", config.get("default_scope"))
    names, is_open = extra, False
    classes = _find_classes(kind, root, scope)
    for cls in classes:
        more, takes_any = _arguments(cls)
        names = names | more
        is_open |= takes_any
    return names, is_open or not classes


def _loader_arguments() -> set[str]:
    from torch.utils.data import DataLoader

    names = set(inspect.signature(DataLoader.__init__).parameters) - {"self"}
    return names | {"num_batch_per_epoch"}


def _loop_type(root: str, node: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """Name the loop that the runner takes where the config names none."""
    if root != "train_cfg":
        return {"val_cfg": "ValLoop", "test_cfg": "TestLoop"}[root]
    by_epoch = options.get("train_cfg.by_epoch", node.get("by_epoch", True))
    return "EpochBasedTrainLoop" if by_epoch else "IterBasedTrainLoop"


def _find_classes(kind: Any, root: str, scope: str | None) -> list[Any]:
    """Find what a type may mean below a top-level key, as the registries have it."""
    if not isinstance(kind, str):
        return [kind]
    if scope is None or importlib.util.find_spec(scope) is None:
        return []
    names = next((n for end, n in _REGISTRIES.items() if root.endswith(end)), ())
    found = []
    for name in names:
        root_registry = getattr(mmengine.registry, name)
        try:
            with root_registry.switch_scope_and_registry(scope) as registry:
                cls = registry.get(kind)
        except (ImportError, KeyError, RuntimeError):
            continue
        if cls is not None:
            found.append(cls)
    return found


def _arguments(cls: Any) -> tuple[set[str], bool]:
    """Name the arguments of a class, and say whether it takes others as well."""
    names: set[str] = set()
    is_open = False
    bases = inspect.getmro(cls) if inspect.isclass(cls) else [cls]
    for base in bases:
        function = vars(base).get("__init__") if inspect.isclass(base) else base
        if function is None:
            continue
        try:
            parameters = inspect.signature(function).parameters
        except (TypeError, ValueError):
            return names, True
        rest = [p.name for p in parameters.values() if p.kind is p.VAR_KEYWORD]
        names |= set(parameters) - {"self", *rest}
        if not rest:
            break
        keys = _unpacked(function, rest[0])
        if keys is not None:
            return names | keys, is_open
        is_open = True  # it passes them on to its parents, or elsewhere
    return names, is_open


def _unpacked(function: Any, name: str) -> set[str] | None:
    """Name the keys of ``**name: Unpack[SomeTypedDict]`` (PEP 692)."""
    try:
        annotation = typing.get_type_hints(function).get(name)
    except (NameError, TypeError, AttributeError):
        return None
    # typing_extensions has an Unpack of its own where typing has none.
    if not str(typing.get_origin(annotation)).endswith("Unpack"):
        return None
    (keys,) = typing.get_args(annotation)
    return set(typing.get_type_hints(keys))


def _check_type_of_init(config: Config, key: str, options: Mapping[str, Any]) -> None:
    """Refuse weights to start from without the way to read them."""
    place = key.rpartition(".")[0]
    node: Any = config
    for name in place.split("."):
        node = node[int(name)] if isinstance(node, (list, tuple)) else node.get(name)
        if node is None:
            break
    if not (node or {}).get("type") and f"{place}.type" not in options:
        raise UserError(
            f"--cfg-options {key}: {place} has no type; add {place}.type=Pretrained"
        )
