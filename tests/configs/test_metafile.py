"""The metafiles against the configs and the classes."""

import json
from pathlib import Path

import pytest
import shipped_configs
import yaml

from dev.zoo.checking import check_family, check_model_index
from dev.zoo.counting import count_flops, has_flops
from mlp_backbones.config_names import config_dir, find_configs, parse_config_name

CONFIG_DIR = config_dir()

RECORDED = {
    "box AP": "coco/bbox_mAP",
    "box AP50": "coco/bbox_mAP_50",
    "mask AP": "coco/segm_mAP",
    "mask AP50": "coco/segm_mAP_50",
    "mIoU": "mIoU",
    "Top 1 Accuracy": "accuracy/top1",
}
"""Names of the metrics in the records of `benchmarks/results`."""

FAMILY_DIRS = sorted({path.parent for path in find_configs(CONFIG_DIR)})


def _metafile(folder: Path) -> dict:
    return yaml.safe_load((folder / "metafile.yml").read_text())


@pytest.fixture(params=FAMILY_DIRS, ids=lambda folder: folder.name)
def family_dir(request):
    return request.param


def _model_name(path: Path) -> str:
    return f"{path.parent.name}_{parse_config_name(path).size.replace('-', '_')}"


def _classifiers() -> list:
    """Mark all but the cheapest classifier of each family as nightly."""
    stated = shipped_configs.stated_multiply_adds()
    classifiers = [path for path in find_configs(CONFIG_DIR) if has_flops(path)]
    cheapest: dict[Path, Path] = {}
    for path in sorted(classifiers, key=lambda path: stated[_model_name(path)]):
        cheapest.setdefault(path.parent, path)
    return [
        pytest.param(
            path,
            marks=() if path in cheapest.values() else pytest.mark.nightly,
            id=path.stem,
        )
        for path in classifiers
    ]


def test_the_model_index_is_in_order():
    assert check_model_index(CONFIG_DIR) == []


def test_a_family_is_in_order(family_dir):
    """All of its names and entries; test_step.py builds the models and counts."""
    assert check_family(family_dir, build=()) == []


@pytest.mark.parametrize("path", _classifiers())
def test_the_stated_multiply_adds_are_those_counted(path: Path) -> None:
    """The parameters of all models are compared in test_step.py."""
    counted = count_flops(shipped_configs.read(path))
    # A tool has written the exact number; authors' counts are compared with it.
    stated = shipped_configs.stated_multiply_adds()[_model_name(path)]
    assert stated == pytest.approx(counted, rel=1e-4)


def test_nothing_was_trained_here_but_on_digit_scenes(family_dir):
    for model in _metafile(family_dir)["Models"]:
        for result in model.get("Results", []):
            is_here = model["Metadata"]["Training Data"] == "Digit Scenes"
            expected = "measured here" if is_here else "paper"
            assert result["Source"] == expected, model["Name"]


def _recorded_runs() -> dict[str, list[dict]]:
    """Finished trainings on record, by the config's path."""
    runs: dict[str, list[dict]] = {}
    for path in (CONFIG_DIR.parent / "benchmarks" / "results").glob("digit_*.json"):
        for run in json.loads(path.read_text()).get("runs", []):
            if run.get("finished"):
                runs.setdefault(run["config"], []).append(run)
    return runs


def test_what_was_measured_here_is_on_record(family_dir):
    runs = _recorded_runs()
    assert runs
    for model in _metafile(family_dir)["Models"]:
        for result in model.get("Results", []):
            if result["Source"] == "paper":
                continue
            records = [
                {
                    # Detectors are recorded in parts of one, the others in percent.
                    name: run["metrics"][key] * (100 if "coco/" in key else 1)
                    for name, key in RECORDED.items()
                    if key in run["metrics"]
                }
                | {"Minutes": run["minutes"]}
                for run in runs.get(model["Config"], [])
            ]
            metrics = result["Metrics"]
            assert any(
                all(abs(record.get(k, -1) - v) <= 0.0501 for k, v in metrics.items())
                for record in records
            ), (model["Name"], metrics, records)


def test_the_readme_shows_every_config_and_marks_borrowed_numbers(family_dir):
    readme = (family_dir / "README.md").read_text()
    for path in family_dir.glob("*.py"):
        assert f"({path.name})" in readme, path.name
    metrics = [
        (model["Name"], str(value))
        for model in _metafile(family_dir)["Models"]
        for result in model.get("Results", [])
        if result.get("Source") == "paper"
        for value in result["Metrics"].values()
    ]
    header: list[str] = []
    columns: dict[str, dict[str, str]] = {}
    for line in readme.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            header = []
        elif not header:
            header = cells
        else:
            for cell in cells:
                if cell.startswith("[config]("):
                    stem = cell.removeprefix("[config](").removesuffix(".py)")
                    columns[stem] = dict(zip(header, cells, strict=True))
    for stem, value in metrics:
        borrowed = [
            v for title, v in columns[stem].items() if title.endswith("(paper)")
        ]
        assert value in borrowed, (stem, value)
