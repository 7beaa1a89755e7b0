"""Faulty data on purpose, and the one line that a check says about it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from mmengine.config import Config

from mlp_backbones.datasets.checks import DataError, check_data


def edit(root: Path, change: Callable[[dict], object], split: str = "val") -> str:
    path = root / "annotations" / f"instances_{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return str(path)


def problem_of(config: Config, *splits: str) -> str:
    """One line, or a failure of the test."""
    with pytest.raises(DataError) as caught:
        check_data(config, splits or ("train", "val", "test"))
    assert "\n" not in str(caught.value)
    return str(caught.value)
