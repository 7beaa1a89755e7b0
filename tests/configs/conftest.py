"""Every test that asks for `config_path` runs on every config of the folder."""

from functools import cache
from pathlib import Path

import pytest
from mmengine.config import Config

from mlp_backbones.models import get_family
from mlp_backbones.testing.configs import (
    find_config_dir,
    find_configs,
    parse_config_name,
)

CONFIG_DIR = find_config_dir()


def _representatives(paths: list[Path]) -> set[Path]:
    """The first size of each family, head and data set, and all for digit scenes."""
    first: dict[tuple, Path] = {}
    for path in sorted(paths, key=_place_in_table):
        try:
            name = parse_config_name(path)
        except ValueError:
            key: tuple = (path,)  # test_names.py reports it
        else:
            key = (name.family, name.head, name.dataset)
        first.setdefault(key, path)
    return set(first.values())


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
        config = Config.fromfile(path)
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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Hand out configs.

    `config_path` is all of them, `heavy_path` all with most marked slow, and
    `pipeline_path` one for each set of pipelines.
    """
    paths = find_configs(CONFIG_DIR)
    if "config_path" in metafunc.fixturenames:
        metafunc.parametrize("config_path", paths, ids=[path.stem for path in paths])
    if "pipeline_path" in metafunc.fixturenames:
        distinct = _distinct_pipelines()
        ids = [path.stem for path in distinct]
        metafunc.parametrize("pipeline_path", distinct, ids=ids)
    if "heavy_path" in metafunc.fixturenames:
        quick = _representatives(paths)
        metafunc.parametrize(
            "heavy_path",
            [
                pytest.param(
                    path,
                    marks=[] if path in quick else [pytest.mark.slow],
                    id=path.stem,
                )
                for path in paths
            ],
        )


@pytest.fixture
def config(request: pytest.FixtureRequest) -> Config:
    """Return the config that the test is about."""
    paths = {"config_path", "heavy_path", "pipeline_path"}
    names = paths & set(request.fixturenames)
    return Config.fromfile(request.getfixturevalue(names.pop()))
