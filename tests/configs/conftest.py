"""Every test that asks for `config_path` runs on every config of the folder."""

import copy
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest
from mmengine.config import Config

from mlp_backbones.config_names import config_dir, find_configs, parse_config_name
from mlp_backbones.factory import get_family

CONFIG_DIR = config_dir()


DIGIT_SCENES = "digit-scenes"
CHOICES = {
    "config_path",
    "heavy_path",
    "digit_path",
    "heavy_digit_path",
    "pipeline_path",
}

# Read once: most of the time of the quick tests would go into reading.
_load = cache(Config.fromfile)


@cache
def _representatives() -> frozenset[Path]:
    """The first size of each family, head and data set.

    Of the digit scenes one task a family, by turns, so that all tasks have some.
    """
    first: dict[tuple, Path] = {}
    minis: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(find_configs(CONFIG_DIR), key=_place_in_table):
        try:
            name = parse_config_name(path)
        except ValueError:
            first[(path,)] = path  # test_names.py reports it
            continue
        if name.dataset == DIGIT_SCENES:
            minis[name.family].append(path)
        else:
            first.setdefault((name.family, name.head, name.dataset), path)
    by_turns = (
        sorted(minis[family])[number % len(minis[family])]
        for number, family in enumerate(sorted(minis))
    )
    return frozenset([*first.values(), *by_turns])


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


@cache
def _distinct_pipelines() -> list[Path]:
    """The first config of each model type with pipelines of its own."""
    first: dict[str, Path] = {}
    for path in find_configs(CONFIG_DIR):
        config = _load(path)
        loaders = [config[f"{split}_dataloader"] for split in ("train", "val", "test")]
        head = config.model.get("decode_head", {}).get("type")
        kind = (
            config.model.type,
            head,
            [loader.dataset.pipeline for loader in loaders],
            config.get("tta_pipeline"),
            config.get("tta_model"),
        )
        first.setdefault(repr(kind), path)
    return list(first.values())


def _mark_slow(paths: list[Path]) -> list:
    quick = _representatives()
    return [
        pytest.param(
            path, marks=[] if path in quick else [pytest.mark.slow], id=path.stem
        )
        for path in paths
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Hand out configs.

    `config_path` is all of them, `heavy_path` all with most marked slow, `digit_path`
    all of digit scenes, `heavy_digit_path` these with most marked slow, and
    `pipeline_path` one for each set of pipelines.
    """
    paths = find_configs(CONFIG_DIR)
    digits = [path for path in paths if path.stem.endswith(f"_{DIGIT_SCENES}")]
    choices = {
        "config_path": lambda: _with_ids(paths),
        "heavy_path": lambda: _mark_slow(paths),
        "digit_path": lambda: _with_ids(digits),
        "heavy_digit_path": lambda: _mark_slow(digits),
        "pipeline_path": lambda: _with_ids(_distinct_pipelines()),
    }
    for name in CHOICES & set(metafunc.fixturenames):
        metafunc.parametrize(name, choices[name]())


def _with_ids(paths: list[Path]) -> list:
    return [pytest.param(path, id=path.stem) for path in paths]


@pytest.fixture
def config(request: pytest.FixtureRequest) -> Config:
    """Return the config that the test is about, for it alone."""
    (name,) = CHOICES & set(request.fixturenames)
    return copy.deepcopy(_load(request.getfixturevalue(name)))
