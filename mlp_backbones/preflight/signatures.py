"""Which class a config's ``type`` means, and which arguments that class takes."""

import ast
import importlib
import importlib.util
import inspect
import re
import textwrap
import typing
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import mmengine.registry
from mmengine.registry import Registry
from torch import Tensor, nn

# Where the types below a top-level key are registered; other keys end in these words.
REGISTRIES = {
    "model": ("MODELS", "TASK_UTILS", "WEIGHT_INITIALIZERS", "MODEL_WRAPPERS"),
    "data_preprocessor": ("MODELS",),
    "dataloader": ("DATASETS", "TRANSFORMS", "DATA_SAMPLERS", "FUNCTIONS"),
    "pipeline": ("TRANSFORMS",),
    "optim_wrapper": ("OPTIM_WRAPPERS", "OPTIMIZERS"),
    "param_scheduler": ("PARAM_SCHEDULERS",),
    "evaluator": ("METRICS", "EVALUATOR"),
    "hooks": ("HOOKS", "TRANSFORMS"),
    "cfg": ("LOOPS", "MODEL_WRAPPERS"),
    "visualizer": ("VISUALIZERS", "VISBACKENDS"),
    "log_processor": ("LOG_PROCESSORS",),
}
# What only one of the three packages registers, by the section it occurs in.
_OWN_REGISTRIES = {"model": ("BATCH_AUGMENTS",), "hooks": ("BATCH_AUGMENTS",)}


@dataclass(frozen=True)
class Signature:
    """What a class or function takes by keyword.

    Attributes:
        annotations: The arguments' names, each with its annotation (None without one).
        is_open: Whether it takes names that no signature lists.
    """

    annotations: Mapping[str, Any] = field(default_factory=dict)
    is_open: bool = False


def registries_of(root: str, scope: str | None) -> list[Registry]:
    """List the registries that types below a top-level key may come from."""
    if scope is None or importlib.util.find_spec(scope) is None:
        return []
    names = next((n for end, n in REGISTRIES.items() if root.endswith(end)), ())
    found = [getattr(mmengine.registry, name) for name in names]
    own = next((n for end, n in _OWN_REGISTRIES.items() if root.endswith(end)), ())
    for name in own:
        registry = getattr(importlib.import_module(f"{scope}.registry"), name, None)
        if registry is not None:
            found.append(registry)
    return found


def find_classes(kind: Any, root: str, scope: str | None) -> list[Any]:
    """Find what a type may mean below a top-level key.

    Args:
        kind: The ``type``: a name, with or without a scope, or the class itself.
        root: The top-level key, which decides where names are looked up.
        scope: The config's default scope.
    """
    if not isinstance(kind, str):
        return [kind]
    return list(_find_by_name(kind, root, scope))


@cache
def _find_by_name(kind: str, root: str, scope: str | None) -> tuple[Any, ...]:
    found: list[Any] = []
    for root_registry in registries_of(root, scope):
        try:
            with _in_scope(root_registry, scope) as registry:
                cls = registry.get(kind)
        except (ImportError, KeyError, RuntimeError):
            continue
        if cls is not None and not any(cls is other for other in found):
            found.append(cls)
    return tuple(found)


def _in_scope(registry: Registry, scope: str | None) -> Any:
    """Switch to a scope's own registry; nobody has functions of their own."""
    if (
        registry is mmengine.registry.FUNCTIONS
    ):  # MMEngine would warn that there is none
        return nullcontext(registry)
    return registry.switch_scope_and_registry(scope)


def known_types(root: str, scope: str | None) -> set[str]:
    """Name the types that could stand below a top-level key, without scopes."""
    names: set[str] = set()
    for root_registry in registries_of(root, scope):
        with _in_scope(root_registry, scope) as registry:
            registry.import_from_location()
            while registry is not None:
                names |= set(registry.module_dict)
                registry = registry.parent
    return names


def signature_of(cls: Any) -> Signature:
    """Read the arguments of a class, its parents' where it passes them on.

    Args:
        cls: A class or function.
    """
    try:
        return _signature_of(cls)
    except TypeError:  # not hashable, such as a partial of a list
        return Signature(is_open=True)


@cache
def _signature_of(cls: Any) -> Signature:
    known: dict[str, Any] = {}
    is_open = leaves_order = False
    bases = inspect.getmro(cls) if inspect.isclass(cls) else [cls]
    for base in bases:
        if base is nn.Module:  # it takes anything to refuse it by itself
            break
        function = vars(base).get("__init__") if inspect.isclass(base) else base
        if function is None:
            continue
        try:
            parameters = inspect.signature(function).parameters
        except (TypeError, ValueError):
            return Signature(known, True)
        hints = _hints(function)
        rest = [p.name for p in parameters.values() if p.kind is p.VAR_KEYWORD]
        for name, parameter in parameters.items():
            if name != "self" and parameter.kind is not parameter.VAR_POSITIONAL:
                known.setdefault(name, hints.get(name))
        for name in _renamed(function):
            known.setdefault(name, None)
        if not rest:
            if leaves_order:
                continue
            break
        del known[rest[0]]
        keys = _unpacked(hints.get(rest[0]))
        if keys is not None:
            return Signature({**keys, **known}, is_open)
        use = _use_of_rest(function, rest[0], getattr(base, "__name__", ""))
        for name in use.taken:
            known.setdefault(name, None)
        is_open |= not use.passes_on
        leaves_order |= use.leaves_order
    return Signature(known, is_open)


def _renamed(function: Callable) -> set[str]:
    """Name the old names that mmcv's ``deprecated_api_warning`` still takes."""
    cells = getattr(function, "__closure__", None) or ()
    contents = [cell.cell_contents for cell in cells]
    is_wrapper = hasattr(function, "__wrapped__")
    return {
        name
        for content in contents
        if is_wrapper and isinstance(content, dict)
        for name in content
        if isinstance(name, str)
    }


def _hints(function: Callable) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except Exception:  # names that only a type checker has
        return {}


def _unpacked(annotation: Any) -> dict[str, Any] | None:
    """Name the keys of ``**name: Unpack[SomeTypedDict]`` (PEP 692)."""
    # typing_extensions has an Unpack of its own where typing has none.
    if not str(typing.get_origin(annotation)).endswith("Unpack"):
        return None
    (keys,) = typing.get_args(annotation)
    return typing.get_type_hints(keys)


@dataclass
class _Use:
    """What an ``__init__`` does with its further arguments.

    Attributes:
        passes_on: They go to the parents alone.
        taken: Names that are taken out of them.
        leaves_order: A parent is named, so that others of the order are passed over.
    """

    passes_on: bool = False
    taken: set[str] = field(default_factory=set)
    leaves_order: bool = False


def _use_of_rest(function: Callable, name: str, owner: str) -> _Use:
    """Read from the source what is done with ``**kwargs``.

    Args:
        function: An ``__init__``.
        name: What it calls its further arguments.
        owner: Name of its class.
    """
    try:
        source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
        tree = ast.parse(source)
    except (OSError, TypeError, SyntaxError):
        return _Use()
    leaves_order = False
    taken: set[str] = set()
    uses = allowed = passed = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == name:
            uses += 1
        elif isinstance(node, ast.Call) and _is_parents_init(node.func):
            found = sum(_is_name(k.value, name) for k in node.keywords if not k.arg)
            passed += found
            allowed += found
            leaves_order |= found > 0 and not _is_next(node.func, owner)
        elif isinstance(node, ast.Call) and _is_reader(node.func, name):
            allowed += 1
            taken |= _texts(node.args[:1])
        elif isinstance(node, ast.Subscript) and _is_name(node.value, name):
            allowed += 1
            taken |= _texts([node.slice])
        elif isinstance(node, ast.Compare) and _is_name(node.comparators[0], name):
            allowed += 1
            taken |= _texts([node.left])
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            # kwargs = {"more": ..., **kwargs}
            values = zip(node.value.keys, node.value.values, strict=True)
            if any(key is None and _is_name(value, name) for key, value in values):
                allowed += 1 + sum(_is_name(target, name) for target in node.targets)
                taken |= _texts([key for key in node.value.keys if key is not None])
    return _Use(passed > 0 and uses == allowed, taken, leaves_order)


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _is_parents_init(node: ast.AST) -> bool:
    """Whether a call is ``super().__init__`` or ``Parent.__init__``."""
    return isinstance(node, ast.Attribute) and node.attr == "__init__"


def _is_next(node: Any, owner: str) -> bool:
    """Whether it is the next class's: ``super()``, ``super(Owner, self)``."""
    call = node.value
    if not (isinstance(call, ast.Call) and _is_name(call.func, "super")):
        return False
    return not call.args or _is_name(call.args[0], owner)


def _is_reader(node: ast.AST, name: str) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and node.attr in ("get", "pop", "setdefault")
        and _is_name(node.value, name)
    )


def _texts(nodes: Iterable[ast.AST]) -> set[str]:
    return {
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def find_operator(kind: Any) -> Any:
    """Find an operator of mmcv that heads name as ``type``: nms, RoIAlign."""
    if not isinstance(kind, str) or not kind.isidentifier():
        return None
    try:
        operators = importlib.import_module("mmcv.ops")
    except ImportError:
        return None
    return getattr(operators, kind, None)


@cache
def words_of(package: str) -> frozenset[str]:
    """Collect every word in the sources of a package.

    A key whose name occurs nowhere is one that nobody reads.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return frozenset()
    origin = Path(spec.origin)
    is_package = origin.name == "__init__.py"
    files = origin.parent.rglob("*.py") if is_package else [origin]
    words: set[str] = set()
    for file in files:
        if ".mim" not in file.parts:
            words |= set(re.findall(r"\w+", file.read_text(errors="ignore")))
    return frozenset(words)


def quoted_words_of(cls: type) -> frozenset[str]:
    """Collect the texts in quotes in the sources of a class and of its parents."""
    words: set[str] = set()
    for base in inspect.getmro(cls):
        try:
            source = inspect.getsource(base)
        except (OSError, TypeError):
            continue
        words |= set(re.findall(r"['\"](\w+)['\"]", source))
    return frozenset(words)


_SPELT_SWITCHES = ("true", "false", "yes", "no", "on", "off", "none", "0", "1", "")
_SIMPLE = (bool, int, float, str, list, tuple, dict, type(None))


def type_mistake(value: Any, annotation: Any) -> str | None:
    """Say which type an argument wants, if its value is certainly of another.

    Annotations are often too narrow (a float where an int is asked for, a list for a
    number), so only a text in the place of a number or container counts, a text that
    spells a switch in the place of one, and a dict or list where none makes sense.

    Args:
        value: As a config has it.
        annotation: As the signature has it.
    """
    if annotation is None or value is None or not isinstance(value, _SIMPLE):
        return None
    kinds = _kinds(annotation)
    if kinds is None:
        return None
    kinds = kinds - {type(None)}
    if not kinds:
        return None
    wanted = " or ".join(sorted(kind.__name__ for kind in kinds))
    if isinstance(value, str):
        if kinds == {bool}:
            is_wrong = value.lower() in _SPELT_SWITCHES
        else:
            is_wrong = str not in kinds
    elif isinstance(value, dict):
        is_wrong = kinds <= {bool, int, float, str}
    elif isinstance(value, (list, tuple)):
        is_wrong = kinds == {bool}
    else:
        is_wrong = kinds == {dict}
    return wanted if is_wrong else None


def _kinds(annotation: Any) -> set[type] | None:
    """Resolve an annotation into plain types; None if it admits anything else."""
    origin = typing.get_origin(annotation)
    if origin is typing.Union or str(origin) == "<class 'types.UnionType'>":
        kinds: set[type] = set()
        for member in typing.get_args(annotation):
            inner = _kinds(member)
            if inner is None:
                return None
            kinds |= inner
        return kinds
    plain = origin or annotation
    if plain in _SIMPLE:
        return {plain}
    if plain is Tensor:  # of one element, which no config can hold
        return {float}
    if inspect.isclass(plain) and issubclass(plain, dict):
        return {dict}
    if getattr(plain, "__module__", "") == "collections.abc":
        # A text is a sequence too, and nobody means it to be one.
        if plain.__name__ in ("Sequence", "Iterable"):
            return {list, tuple}
        if plain.__name__ in ("Mapping", "MutableMapping"):
            return {dict}
    return None
