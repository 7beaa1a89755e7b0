"""Every test that asks for `config_path` runs on every config of the folder."""

from collections import defaultdict
from collections.abc import Collection
from functools import cache
from pathlib import Path

import pytest
import shipped_configs
from mmengine.config import Config

from mlp_backbones.config_names import find_configs, parse_config_name
from mlp_backbones.factory import get_family

CONFIG_DIR = shipped_configs.CONFIG_DIR
DIGIT_SCENES = "digit-scenes"
CHOICES = {"config_path", "step_path", "digit_path", "runner_path"}


@cache
def _first_sizes() -> frozenset[Path]:
    """The first size of each family, head and data set, in the order of its table."""
    first: dict[tuple, Path] = {}
    for path in sorted(find_configs(CONFIG_DIR), key=_place_in_table):
        try:
            name = parse_config_name(path)
        except ValueError:
            first[(path,)] = path  # test_names.py reports it
            continue
        first.setdefault((name.family, name.head, name.dataset), path)
    return frozenset(first.values())


def _place_in_table(path: Path) -> int:
    """Say which size of its family's table a config has; a size of its own is last."""
    try:
        name = parse_config_name(path)
    except ValueError:
        return 0
    sizes = [
        arch.replace("_", "-") for arch in get_family(path.parent.name).arch_settings
    ]
    return sizes.index(name.size) if name.size in sizes else len(sizes)


def _by_turns(paths: list[Path]) -> frozenset[Path]:
    """Take one task a family, by turns, so that all tasks have some."""
    tasks: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        tasks[path.parent.name].append(path)
    return frozenset(
        tasks[family][number % len(tasks[family])]
        for number, family in enumerate(sorted(tasks))
    )


def _digits() -> list[Path]:
    return [
        path
        for path in find_configs(CONFIG_DIR)
        if path.stem.endswith(f"_{DIGIT_SCENES}")
    ]


def _with_ids(
    paths: list[Path], others: str = "", quick: Collection[Path] = ()
) -> list:
    """Name configs, and mark those that are not quick."""
    marks = [getattr(pytest.mark, others)] if others else []
    return [
        pytest.param(path, marks=[] if path in quick else marks, id=path.stem)
        for path in paths
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Hand out configs.

    `config_path` is all of them, `step_path` the first size of each family, head and
    data set, `digit_path` all of digit scenes, and `runner_path` these again. A step
    at a paper's size is taken in all tasks of CycleMLP and in one of each other
    family; the rest is nightly, as `backbones/test_dense.py` takes small steps in all.
    """
    paths = find_configs(CONFIG_DIR)
    papers = [path for path in _first_sizes() if path not in _digits()]
    steps = [path for path in paths if path in _first_sizes()]
    quick = _by_turns(sorted(papers)) | _by_turns(_digits())
    quick |= {path for path in steps if path.parent.name == "cyclemlp"}
    choices = {
        "config_path": lambda: _with_ids(paths),
        "step_path": lambda: _with_ids(steps, "nightly", quick),
        "digit_path": lambda: _with_ids(_digits()),
        "runner_path": lambda: _with_ids(_digits(), "nightly", _by_turns(_digits())),
    }
    for name in CHOICES & set(metafunc.fixturenames):
        metafunc.parametrize(name, choices[name]())


@pytest.fixture
def config(request: pytest.FixtureRequest) -> Config:
    """Return the config that the test is about, shared: who changes it copies it."""
    (name,) = CHOICES & set(request.fixturenames)
    return shipped_configs.read(request.getfixturevalue(name))
