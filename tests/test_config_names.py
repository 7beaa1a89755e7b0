"""The folder of configs is found in a checkout and in an installation."""

import subprocess
import sys
from pathlib import Path

import pytest

import mlp_backbones
from mlp_backbones import config_names


@pytest.mark.parametrize("place", ["configs", "mlp_backbones/.mim/configs"])
def test_configs_are_found(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / place
    (folder / "_base_").mkdir(parents=True)
    file = tmp_path / "mlp_backbones" / "config_names.py"
    monkeypatch.setattr(config_names, "__file__", str(file))
    assert mlp_backbones.config_dir() == folder.resolve()


def test_missing_configs_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").mkdir()  # of somebody else
    file = tmp_path / "mlp_backbones" / "config_names.py"
    monkeypatch.setattr(config_names, "__file__", str(file))
    with pytest.raises(FileNotFoundError, match="mlp_backbones"):
        mlp_backbones.config_dir()


def test_asking_for_the_folder_needs_no_torch() -> None:
    code = (
        "import sys, mlp_backbones\n"
        "assert (mlp_backbones.config_dir() / '_base_').is_dir()\n"
        "assert not {'torch', 'mmengine'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
