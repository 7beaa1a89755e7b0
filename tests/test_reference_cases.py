"""The loader of reference cases."""

import json
import shutil
from pathlib import Path

import pytest
from reference_cases import (
    find_data_dir,
    find_family,
    find_reference_folder,
    load_reference_case,
)

from mlp_backbones.factory import families


def test_either_file_names_the_case(reference_dir: Path) -> None:
    folder = find_reference_folder("cyclemlp")
    one = load_reference_case(folder / "b3_like_wide.json")
    other = load_reference_case(str(folder / "b3_like_wide.safetensors"))
    assert one.description == other.description
    assert one.tolerance == 1e-5
    assert [tuple(s.shape) for s in one.stages(one.input)] == [
        tuple(one.description["outputs"][f"out.stage{i}"]) for i in range(4)
    ]


def test_wrong_cases_are_named(reference_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        load_reference_case(tmp_path / "nothing.json")
    source = find_reference_folder("cyclemlp") / "b_like_square"
    shutil.copy(source.with_suffix(".safetensors"), tmp_path / "case.safetensors")
    described = json.loads(source.with_suffix(".json").read_text())
    for change, words in (
        ({"family": "no_mlp"}, "no_mlp"),
        ({"config": {**described["config"], "stem_kernel": 5}}, "stem_kernel"),
        ({"config": {**described["config"], "cycle_step": 5}}, "cycle of 5"),
    ):
        (tmp_path / "case.json").write_text(json.dumps({**described, **change}))
        with pytest.raises(ValueError, match=words):
            load_reference_case(tmp_path / "case.json")


def test_a_named_folder_wins(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLP_BACKBONES_DATA", str(tmp_path))
    assert find_data_dir() == tmp_path
    monkeypatch.setenv("MLP_BACKBONES_DATA", str(tmp_path / "missing"))
    assert find_data_dir() is None


def test_underscores_of_a_family_do_not_count(
    reference_dir: Path, tmp_path: Path
) -> None:
    for family, cls in families().items():
        assert find_family(family) is cls
        assert find_family(family.replace("_", "")) is cls
    source = next((find_reference_folder("gfnet")).glob("*.safetensors"))
    described = json.loads(source.with_suffix(".json").read_text())
    shutil.copy(source.with_suffix(".safetensors"), tmp_path / "case.safetensors")
    for family in ("g_f_net", "gfnet"):
        (tmp_path / "case.json").write_text(json.dumps({**described, "family": family}))
        case = load_reference_case(tmp_path / "case.json")
        assert type(case.model.backbone).__name__ == "GFNet"
