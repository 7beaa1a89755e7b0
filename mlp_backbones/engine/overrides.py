"""Settings that override a config, ``KEY=VALUE``: parsed, and held against the config.

A key may name what the config does not have only where something reads it: an
argument of the runner, or one of the class that the ``type`` beside it names.
"""

from argparse import ArgumentParser
from collections.abc import Iterable, Mapping
from typing import Any

from mmengine.config import Config, ConfigDict, DictAction

from mlp_backbones.engine.errors import UserError
from mlp_backbones.preflight.keys import (
    ALWAYS_KNOWN,
    FREE,
    TOP_LEVEL_KEYS,
    known_names,
    nearest,
)


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
        if key != "data_root":  # it is no key to set but a folder to move
            _check(config, key, options)


def _check(config: Config, key: str, options: Mapping[str, Any]) -> None:
    names = key.split(".")
    if names[0] in config and names[0] not in TOP_LEVEL_KEYS:
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
        scope = options.get("default_scope", config.get("default_scope"))
        by_epoch = options.get("train_cfg.by_epoch", node.get("by_epoch", True))
        signature = known_names(path, kind, scope, {**node, "by_epoch": by_epoch})
        known = set(signature.annotations) if signature else set()
        is_open = signature is None or signature.is_open
    else:
        known, is_open = set(TOP_LEVEL_KEYS), False
    known |= set(map(str, node))
    if name in known | ALWAYS_KNOWN:
        return
    # Where others are taken too, what looks like a known name is one misspelt.
    near = nearest(name, known, 0.8 if is_open else 0.6)
    if (
        path
        and path[-1] in FREE
        or (kind is None and f"{place}.{name}.type" in options)
    ):
        return
    is_last = key == f"{place}.{name}"
    is_read = kind is not None or is_last or "paramwise_cfg" in path
    if is_open and not near and is_read:
        return
    reader = place if kind is None else f"{place} ({kind})"
    if near:
        advice = f"did you mean {near!r}?"
    else:
        advice = f"it has {', '.join(sorted(known))}"
    raise UserError(f"--cfg-options {key}: {reader} has no {name!r}; {advice}")


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
