"""Config texts inside of checkpoints, which MMEngine runs as Python."""

import ast
import logging
from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log

__all__ = ["drop_code"]

# What MMEngine hands to Config.fromstring: when it resumes, and in an inferencer that
# is given weights alone.
_PLACES = (("meta", "config"), ("meta", "cfg"), ("message_hub", "runtime_info", "cfg"))
_VALUES = (ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.UnaryOp)
_NUMBERS = ("inf", "nan")


def drop_code(content: Any, file: str) -> None:
    """Take config texts out of a checkpoint, in place, unless they hold values only.

    Args:
        content: What a file holds.
        file: How to call it in a warning.
    """
    for *path, key in _PLACES:
        node = content
        for name in path:
            node = node.get(name) if isinstance(node, Mapping) else None
        text = node.get(key) if isinstance(node, dict) else None
        if isinstance(text, str) and not _holds_values_only(text):
            del node[key]
            print_log(
                f"{file}: the config in it ({'.'.join((*path, key))}) is more than "
                "plain values and is left out",
                "current",
                level=logging.WARNING,
            )


def _holds_values_only(text: str) -> bool:
    # MMEngine replaces {{...}} before it runs the text
    if "{{" in text:
        return False
    try:
        return all(map(_assigns_a_value, ast.parse(text).body))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _assigns_a_value(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Assign)
        and all(
            isinstance(target, ast.Name) and not target.id.startswith("_")
            for target in node.targets
        )
        and _is_value(node.value)
    )


def _is_value(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):  # dict(name=value), dict({...})
        values = [*node.args, *(keyword.value for keyword in node.keywords)]
        is_dict = isinstance(node.func, ast.Name) and node.func.id == "dict"
        return is_dict and all(map(_is_value, values))
    if isinstance(node, ast.Name):
        return node.id in _NUMBERS
    if not isinstance(node, _VALUES):
        return False
    children = (
        child
        for child in ast.iter_child_nodes(node)
        if not isinstance(child, (ast.expr_context, ast.unaryop))
    )
    return all(_is_value(child) for child in children)
