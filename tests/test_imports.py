"""Imports go down only, those inside functions included; and there is no circle."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "mlp_backbones"
# The rooms from the ground up. A room uses itself and what lies below its own level.
LEVELS = (
    ("version", "arguments", "config_names", "ops", "registry"),
    ("checkpoints", "layers"),
    ("backbones", "necks", "environment", "operators", "safe_loading"),
    ("factory", "building", "datasets", "preprocessing"),
    ("testing",),
    ("preflight",),
    ("engine",),
    ("analysis",),
    ("downstream",),
    ("dev", "tools"),
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}

Graph = dict[str, set[str]]


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(tree: ast.AST) -> Iterator[tuple[str, str | None]]:
    """Yield module and name of every import; what only type checkers see is none."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield from ((node.module or "", alias.name) for alias in node.names)
        else:
            yield from imports_of(node)


def read_graph(sources: dict[str, str]) -> Graph:
    """Return which of these modules imports which."""
    graph: Graph = {module: set() for module in sources}
    for module, source in sources.items():
        for target, name in imports_of(ast.parse(source)):
            full = f"{target}.{name}"
            found = full if full in sources else target
            if found in sources and found != PACKAGE:
                graph[module].add(found)
    return graph


def find_circles(graph: Graph) -> list[list[str]]:
    """Return the modules that reach themselves, one list a circle."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            module = waiting.pop()
            if module not in seen:
                seen.add(module)
                waiting.extend(graph[module])
        return seen

    reach = {module: reached(module) for module in graph}
    circles = {
        tuple(sorted(b for b in reach[a] if a in reach[b]))
        for a in graph
        if a in reach[a]
    }
    return [list(circle) for circle in sorted(circles)]


def find_climbers(graph: Graph) -> list[str]:
    """Return the imports that lead up, or to another room of the same level."""
    return [
        f"{module} imports {target}"
        for module, targets in sorted(graph.items())
        for target in sorted(targets)
        if (room := room_of(module)) is not None  # the package's own lists its names
        if (other := room_of(target)) != room
        if other is not None and LEVEL[other] >= LEVEL[room]
    ]


def room_of(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] == PACKAGE:
        parts = parts[1:]
    return None if not parts or parts[0].startswith("__") else parts[0]


@pytest.fixture(scope="module")
def graph() -> Graph:
    files = [f for top in (PACKAGE, "dev", "tools") for f in (ROOT / top).rglob("*.py")]
    return read_graph({module_name(file): file.read_text() for file in files})


def test_every_room_has_its_level(graph: Graph) -> None:
    assert {room_of(module) for module in graph} - {None} <= LEVEL.keys()


def test_imports_go_down_only(graph: Graph) -> None:
    assert sum(map(len, graph.values())) > 200
    assert find_climbers(graph) == []


def test_there_is_no_circle(graph: Graph) -> None:
    assert find_circles(graph) == []


def test_faults_are_found() -> None:
    sources = {
        f"{PACKAGE}.ops.a": f"def f():\n    from {PACKAGE}.layers import b\n",
        f"{PACKAGE}.layers": f"from {PACKAGE}.layers.b import B\n",
        f"{PACKAGE}.layers.b": f"import {PACKAGE}.layers\n",
        f"{PACKAGE}.factory": f"if TYPE_CHECKING:\n    import {PACKAGE}.engine\n",
        f"{PACKAGE}.engine": f"from {PACKAGE} import factory\n",
    }
    graph = read_graph(sources)
    assert find_climbers(graph) == [f"{PACKAGE}.ops.a imports {PACKAGE}.layers.b"]
    assert find_circles(graph) == [[f"{PACKAGE}.layers", f"{PACKAGE}.layers.b"]]
