"""Every test that asks for `config_path` runs on every config of the folder."""

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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Hand out configs: `config_path` all, `heavy_path` most of them marked slow."""
    paths = find_configs(CONFIG_DIR)
    if "config_path" in metafunc.fixturenames:
        metafunc.parametrize("config_path", paths, ids=[path.stem for path in paths])
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
    names = {"config_path", "heavy_path"} & set(request.fixturenames)
    return Config.fromfile(request.getfixturevalue(names.pop()))
