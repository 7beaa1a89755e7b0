"""The shipped configs, each file read once a process.

MMEngine reads a base again for each config that inherits from it, through a temporary
file: most of the time of the tests of 425 configs would go into that.
"""

import copy
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from mmengine.config import Config

from dev.zoo.counting import has_flops
from dev.zoo.metafile import read_metafile
from mlp_backbones.config_names import config_dir, find_configs, parse_config_name

CONFIG_DIR = config_dir()
BASES = str(CONFIG_DIR / "_base_") + os.sep


@cache
def read(path: Path) -> Config:
    """Return a config of the folder. It is shared: who changes it takes a copy."""
    return Config.fromfile(path)


def read_bases_once() -> None:
    """Let MMEngine keep what it has read from `configs/_base_`."""
    read_file: Callable[..., tuple] = Config._file2dict
    kept: dict[tuple, tuple] = {}

    def read_or_copy(filename: str | Path, *args: Any, **kwargs: Any) -> tuple:
        path = os.path.realpath(filename)
        if not path.startswith(BASES):
            return read_file(filename, *args, **kwargs)
        key = (path, args, tuple(kwargs.items()))
        if key not in kept:
            kept[key] = read_file(filename, *args, **kwargs)
        return copy.deepcopy(kept[key])

    Config._file2dict = staticmethod(read_or_copy)


@cache
def stated_multiply_adds() -> dict[str, int]:
    """Return what the metafiles state of each classifier, by its name in `get_model`.

    `configs/test_metafile.py` counts them; others compare with them, since a count
    runs a model of full size.
    """
    stated = {}
    for family in {path.parent for path in find_configs(CONFIG_DIR)}:
        for model in read_metafile(family / "metafile.yml").models:
            path = family / f"{model.name}.py"
            if has_flops(path):
                size = parse_config_name(path).size.replace("-", "_")
                stated[f"{family.name}_{size}"] = model.flops
    return stated
