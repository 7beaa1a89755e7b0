"""The door to mmcv's operators where mmcv is installed without compiled ones.

``mmcv.ops`` needs a compiled module ``mmcv._ext``. Importing this package makes one
available that computes by torchvision's kernels (:mod:`mlp_backbones.ops.mmcv_ext`).
A compiled ``mmcv._ext`` is found first and is left alone. Nothing but the standard
library is imported here; torchvision follows at the first call of an operator.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["compile_command", "install"]

MODULE = "mmcv._ext"
# OpenMMLab packages that go on without ``mmcv.ops``, with stand-ins for its names.
GUARDED = ("mmdet", "mmseg")
STAND_IN = "requires mmcv to be compiled"


class OperatorFinder:
    """Finder and loader of ``mmcv._ext``, asked after all ordinary finders."""

    module = MODULE

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: Any = None
    ) -> ModuleSpec | None:
        """Return a spec for ``mmcv._ext`` and nothing for any other name."""
        if fullname != MODULE:
            return None
        return ModuleSpec(fullname, cls, origin=__name__)  # type: ignore[arg-type]

    @staticmethod
    def create_module(spec: ModuleSpec) -> None:
        """Leave the making of the module to the import system."""

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        """Give the module an operator for every name that is asked for."""
        module.__getattr__ = _operator  # type: ignore[method-assign]


def _operator(name: str) -> Callable[..., Any]:
    if name.startswith("_"):
        raise AttributeError(f"module {MODULE!r} has no attribute {name!r}")

    def call(*args: Any, **kwargs: Any) -> Any:
        operators = importlib.import_module("mlp_backbones.ops.mmcv_ext")
        if name not in operators.__all__:
            raise NotImplementedError(
                f"mmcv is not compiled, and torchvision has no operator {name!r}: "
                f"compile mmcv by `{compile_command()}`"
            )
        with operators.torch.no_grad():
            return getattr(operators, name)(*args, **kwargs)

    call.__name__ = call.__qualname__ = name
    return call


def compile_command() -> str:
    """Return the command that compiles mmcv's own operators here."""
    root = Path(__file__).resolve().parents[1]
    if (root / "Makefile").is_file() and (root / "constraints.txt").is_file():
        return f"make -C {root} operators"
    installed = {}
    for name in ("onedl-mmcv", "mmcv", "mmcv-lite"):
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    found = next(iter(installed), "onedl-mmcv")
    name = "mmcv" if found == "mmcv-lite" else found
    wanted = f"{name}=={installed[found]}" if installed else name
    remove = "pip uninstall -y mmcv-lite && " if found == "mmcv-lite" else ""
    return (
        f"{remove}MMCV_WITH_OPS=1 pip install --no-build-isolation --no-cache-dir "
        f"--no-deps --force-reinstall --no-binary {name} {wanted}"
    )


def install() -> None:
    """Make ``mmcv._ext`` importable; a second call changes nothing.

    mmdet and mmseg that were imported before get the operators that they missed.
    """
    if not any(getattr(finder, "module", None) == MODULE for finder in sys.meta_path):
        sys.meta_path.append(OperatorFinder)
    if any(package in sys.modules for package in GUARDED):
        _replace_stand_ins()


def _replace_stand_ins() -> None:
    """Put mmcv's operators in the place of what was defined for want of them."""
    missed = []
    for module in list(sys.modules.values()):
        package = getattr(module, "__name__", "").partition(".")[0]
        if package in GUARDED:
            names = vars(module).items()
            missed += [(module, key) for key, old in names if _stands_in(package, old)]
    if not missed:
        return
    try:
        operators = importlib.import_module("mmcv.ops")
    except ImportError:  # no mmcv, or a compiled one that does not load
        return
    for module, key in missed:
        operator = getattr(operators, key.lstrip("_"), None)
        if operator is not None:
            setattr(module, key, operator)


def _stands_in(package: str, value: Any) -> bool:
    if value is None:  # all that mmseg has for an operator
        return package == "mmseg"
    if isinstance(value, type):
        value = vars(value).get("__init__")
    constants = getattr(getattr(value, "__code__", None), "co_consts", ())
    return any(isinstance(text, str) and STAND_IN in text for text in constants)
