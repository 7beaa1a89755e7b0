"""MMEngine's checkpoint loader, made safe; caches of others kept out of the home.

Importing this package arranges for both, whichever module is imported first. Nothing
but the standard library is imported here; the reader follows at its first use.
"""

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

__all__ = ["install"]

LOADER = "mmengine.runner.checkpoint"


@contextmanager
def _with_safe_loaders(module: ModuleType) -> Iterator[None]:
    """Put this package's loaders in the place of MMEngine's once those are there."""
    yield
    for pattern, loader in list(module.CheckpointLoader._schemes.items()):
        if loader.__module__ == LOADER:  # another's own scheme is left to it
            safe = _safe(pattern, loader.__name__)
            module.CheckpointLoader.register_scheme(pattern, safe, force=True)


def _safe(pattern: str, name: str) -> Callable[..., Any]:
    def load(filename: str, map_location: Any = None) -> Any:
        from mlp_backbones.checkpoints.loaders import load_safely

        return load_safely(pattern, filename, map_location)

    load.__name__ = load.__qualname__ = name  # MMEngine logs it
    return load


@contextmanager
def _with_own_folder(variable: str, keep: bool) -> Iterator[None]:
    """Let a package that writes a cache as it is imported write it elsewhere.

    A cache that the user has named is left alone.
    """
    named = [name for name in (variable, "XDG_CACHE_HOME") if os.environ.get(name)]
    if named:
        yield
        return
    folder = tempfile.mkdtemp(prefix="mlp_backbones_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ[variable] = folder
    try:
        yield
    finally:
        if not keep:
            del os.environ[variable]


AROUND: dict[str, Callable[[ModuleType], AbstractContextManager[None]]] = {
    LOADER: _with_safe_loaders,
    "matplotlib": lambda module: _with_own_folder("MPLCONFIGDIR", keep=True),
    "yapf_third_party._ylib2to3.pygram": lambda module: _with_own_folder(
        "XDG_CACHE_HOME", keep=False
    ),
}


class Finder:
    """Finds modules as Python does and lets something happen as they are run."""

    @staticmethod
    def find_spec(
        fullname: str, path: Sequence[str] | None = None, target: Any = None
    ) -> ModuleSpec | None:
        """Return the spec of a module of the table and nothing for any other name."""
        if fullname not in AROUND:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            with AROUND[fullname](module):
                run(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Arrange for safe loading; a second call changes nothing."""
    if Finder not in sys.meta_path:
        sys.meta_path.insert(0, Finder)
        if LOADER in sys.modules:
            with _with_safe_loaders(sys.modules[LOADER]):
                pass
