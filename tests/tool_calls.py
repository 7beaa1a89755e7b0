"""Tools called in the process of a test."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

TOOLS = Path(__file__).parents[1] / "tools"

Result = tuple[int, str, str]
"""Exit code, stdout and stderr."""

Call = Callable[..., Result]


def load_tool(tool: str) -> ModuleType:
    """Import a tool by its path below `tools`."""
    spec = importlib.util.spec_from_file_location("tool", TOOLS / tool)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call_tool(monkeypatch, capfd, tool: str, *arguments: object) -> Result:
    """Run a tool as if it were typed."""
    module = load_tool(tool)
    monkeypatch.setattr(sys, "argv", [tool, *map(str, arguments)])
    return module.main(), *capfd.readouterr()


def fail(result: Result, word: str) -> None:
    """Demand one line of error that has a word in it."""
    code, _, err = result
    lines = [line for line in err.splitlines() if ": error: " in line]
    assert code in (1, 2)
    assert len(lines) == 1, err
    assert word in lines[0]
    assert "Traceback" not in err
