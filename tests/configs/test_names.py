"""Each name says what the config holds."""

from pathlib import Path

import pytest
from mmengine.config import Config

from dev.zoo.naming import find_name_faults, schedule_length
from mlp_backbones.config_names import config_dir, parse_config_name


@pytest.fixture
def name(config_path):
    return parse_config_name(config_path)


def test_the_config_holds_what_its_name_says(config, config_path):
    """Head, family, size, neck, batch, length, data set and number of classes."""
    assert find_name_faults(config_path, config) == []


def test_the_rate_comes_to_its_end_with_the_training(config, name):
    key, length = schedule_length(name.schedule)
    by_epoch = key == "max_epochs"
    last = config.param_scheduler[-1]
    assert last.by_epoch == by_epoch
    assert last.end == length
    if last.type == "CosineAnnealingLR":
        assert last.begin + last.T_max == length
    elif last.type == "MultiStepLR":
        assert max(last.milestones) < length


def test_warm_up_ends_where_the_curve_begins(config_path, config):
    *warm_up, last = config.param_scheduler
    assert len(warm_up) <= 1
    for scheduler in warm_up:
        assert scheduler.type == "LinearLR"
        assert scheduler.end > scheduler.begin == 0
        # Steps only multiply the rate and may run beside a warm-up.
        assert last.begin == (0 if last.type == "MultiStepLR" else scheduler.end)


def test_crops_are_of_the_size_in_the_name(config, name):
    if name.dataset == "ade20k-512x512":
        assert config.crop_size == (512, 512)
        assert config.model.data_preprocessor.size == (512, 512)


def test_keys_every_config_owes(config, config_path):
    for key in (
        "auto_scale_lr",
        "custom_hooks",
        "default_hooks",
        "default_scope",
        "env_cfg",
        "optim_wrapper",
        "param_scheduler",
        "visualizer",
        *(f"{split}_dataloader" for split in ("train", "val", "test")),
        *(f"{split}_cfg" for split in ("train", "val", "test")),
        *(f"{split}_evaluator" for split in ("val", "test")),
    ):
        assert key in config, key
    assert config.auto_scale_lr.enable is False
    assert "mlp_backbones.CheckLossHook" in [hook.type for hook in config.custom_hooks]
    # Test-time augmentation where the task has one; mmdet merges no masks.
    has_tta = config.model.type != "MaskRCNN"
    assert ("tta_model" in config, "tta_pipeline" in config) == (has_tta, has_tta)
    assert "custom_imports" not in config
    # Self-contained: no part comes from another package's folder.
    text = config_path.read_text()
    assert "::" not in text and "../_base_/" in text


@pytest.mark.parametrize(
    "stem",
    [
        "retinanet_cycle-mlp-b1_fpn_8xb2_coco",  # no schedule
        "retinanet_as-mlp-tiny_fpn_8xb2-1x_coco",  # another family
        "retinanet_cycle-mlp_fpn_8xb2-1x_coco",  # no size
        "cycle-mlp-b1_in1k",  # no batch
        "cycle_mlp-b1_8xb128_in1k",
    ],
)
def test_a_name_off_the_rule_is_refused(stem):
    with pytest.raises(ValueError, match=stem):
        parse_config_name(Path("configs/cycle_mlp") / f"{stem}.py")


def test_the_parts_of_a_name():
    name = parse_config_name(
        Path("configs/as_mlp/mask-rcnn_as-mlp-tiny_fpn_4xb3-3x_coco.py")
    )
    assert (name.head, name.family, name.size, name.neck) == (
        "mask-rcnn",
        "as-mlp",
        "tiny",
        "fpn",
    )
    assert (name.gpus, name.batch, name.schedule, name.dataset) == (4, 3, "3x", "coco")


def test_the_parts_in_base_are_all_used():
    folder = config_dir()
    used: set[Path] = set()

    def follow(path: Path) -> None:
        for base in Config._get_base_files(str(path)):
            target = (path.parent / base).resolve()
            if target not in used:
                used.add(target)
                follow(target)

    for path in folder.glob("*/*.py"):
        follow(path)
    assert used == set((folder / "_base_").rglob("*.py"))
