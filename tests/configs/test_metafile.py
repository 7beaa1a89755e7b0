"""The metafiles against the configs and the classes."""

from pathlib import Path

import pytest
import torch
import yaml
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config

from mlp_backbones.models import get_family
from mlp_backbones.testing.configs import (
    build_model,
    count_parameters,
    find_config_dir,
    find_configs,
    parse_config_name,
    shrink_config,
)

CONFIG_DIR = find_config_dir()

FAMILY_DIRS = sorted({path.parent for path in find_configs(CONFIG_DIR)})


def _metafile(folder: Path) -> dict:
    return yaml.safe_load((folder / "metafile.yml").read_text())


def _entry(config_path: Path) -> dict:
    entries = {
        model["Name"]: model for model in _metafile(config_path.parent)["Models"]
    }
    assert config_path.stem in entries, f"{config_path.name} is in no metafile"
    return entries[config_path.stem]


@pytest.fixture(params=FAMILY_DIRS, ids=lambda folder: folder.name)
def family_dir(request):
    return request.param


def test_collection(family_dir):
    (collection,) = _metafile(family_dir)["Collections"]
    assert collection["Name"] == get_family(family_dir.name).__name__
    assert (CONFIG_DIR.parent / collection["README"]).is_file()
    assert collection["Paper"]["URL"].startswith("https://arxiv.org/abs/")
    assert collection["Paper"]["Title"]


def test_no_config_is_left_out_and_none_invented(family_dir):
    models = _metafile(family_dir)["Models"]
    listed = [CONFIG_DIR.parent / model["Config"] for model in models]
    assert sorted(listed) == sorted(family_dir.glob("*.py"))
    assert [path.stem for path in listed] == [model["Name"] for model in models]
    (collection,) = _metafile(family_dir)["Collections"]
    assert {model["In Collection"] for model in models} == {collection["Name"]}


def test_numbers_of_the_entry(config_path, config):
    entry, name = _entry(config_path), parse_config_name(config_path)
    metadata = entry["Metadata"]
    assert metadata["Parameters"] == pytest.approx(count_parameters(config), rel=0.01)
    assert metadata["Batch Size"] == name.gpus * name.batch
    length = metadata.get("Epochs", metadata.get("Iterations"))
    assert length in (
        config.train_cfg.get("max_epochs"),
        config.train_cfg.get("max_iters"),
    )
    # Nothing here has been trained yet but on digit scenes: the rest is borrowed.
    if name.dataset != "digit-scenes":
        assert all(result["Source"] == "paper" for result in entry.get("Results", []))


def test_flops_of_the_entry(heavy_path, config):
    name, metadata = parse_config_name(heavy_path), _entry(heavy_path)["Metadata"]
    if name.dataset != "in1k":
        assert "FLOPs" not in metadata
        return
    model = build_model(shrink_config(config)).eval()
    with torch.no_grad():
        counted = get_model_complexity_info(
            model, (3, 224, 224), show_table=False, show_arch=False
        )
    assert metadata["FLOPs"] == pytest.approx(counted["flops"], rel=0.02)


def test_weights_are_those_the_class_knows(family_dir):
    classifiers = [
        (parse_config_name(path), _entry(path))
        for path in sorted(family_dir.glob("*_in1k.py"))
    ]
    listed = {
        name.size: entry["Weights"]
        for name, entry in classifiers
        if entry.get("Weights")
    }
    released = get_family(family_dir.name).released_weights
    assert listed == {arch.replace("_", "-"): url for arch, url in released.items()}


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


def test_sizes_with_weights_start_from_them_and_others_from_none(config_path, config):
    name = parse_config_name(config_path)
    released = get_family(config_path.parent.name).released_weights
    init = config.model.backbone.get("init_cfg")
    if name.head is not None and name.size.replace("-", "_") in released:
        assert init == {"type": "Pretrained", "checkpoint": "official"}
    else:
        assert not init


def test_a_checkpoint_can_be_named_by_option_for_every_dense_config(config_path):
    config = Config.fromfile(config_path)
    if parse_config_name(config_path).head is None:
        return
    config.merge_from_dict(
        {
            "model.backbone.init_cfg.type": "Pretrained",
            "model.backbone.init_cfg.checkpoint": "own.pth",
        }
    )
    expected = {"type": "Pretrained", "checkpoint": "own.pth"}
    assert config.model.backbone.init_cfg == expected
