"""Each name says what the config holds."""

from pathlib import Path

import pytest
from mmengine.config import Config

from mlp_backbones.registry import MODELS
from mlp_backbones.testing.configs import find_config_dir, parse_config_name

HEADS = {
    None: ("ImageClassifier", "head", "LinearClsHead"),
    "retinanet": ("RetinaNet", "bbox_head", "RetinaHead"),
    "mask-rcnn": ("MaskRCNN", "roi_head", "StandardRoIHead"),
    "fpn": ("EncoderDecoder", "decode_head", "FPNHead"),
    "upernet": ("EncoderDecoder", "decode_head", "UPerHead"),
}
SCOPES = {
    None: "mmpretrain",
    "retinanet": "mmdet",
    "mask-rcnn": "mmdet",
    "fpn": "mmseg",
    "upernet": "mmseg",
}
DATASETS = {
    "in1k": ("ImageNet", "data/imagenet"),
    "coco": ("CocoDataset", "data/coco/"),
    "ade20k-512x512": ("ADE20KDataset", "data/ade/ADEChallengeData2016"),
}
DIGIT_SCENES = {
    "mmpretrain": ("CustomDataset", "data/digit_scenes/cls"),
    "mmdet": ("CocoDataset", "data/digit_scenes/"),
    "mmseg": ("BaseSegDataset", "data/digit_scenes/ade"),
}
NUM_CLASSES = {"in1k": 1000, "coco": 80, "ade20k-512x512": 150}
LENGTHS = {
    None: ("max_epochs", 300),
    "1x": ("max_epochs", 12),
    "3x": ("max_epochs", 36),
}


@pytest.fixture
def name(config_path):
    return parse_config_name(config_path)


def test_head_is_the_one_of_the_name(config, name):
    model, part, head = HEADS[name.head]
    assert config.default_scope == SCOPES[name.head]
    assert config.model.type == model
    assert config.model[part].type == head


def test_family_and_size_are_those_of_the_name(config, name):
    cls = MODELS.get(config.model.backbone.type)
    assert cls.family.replace("_", "-") == name.family
    arch = config.model.backbone.arch
    if isinstance(arch, str):
        assert arch.replace("_", "-") == name.size
    else:
        # A size of our own must not go by the name of one of the paper's.
        assert name.size not in {known.replace("_", "-") for known in cls.arch_settings}


def test_neck_is_the_one_of_the_name(config, name):
    if name.head in ("retinanet", "mask-rcnn"):
        assert name.neck == "fpn"
        assert config.model.neck.type == "FPN"
    else:
        assert name.neck is None
        cls = MODELS.get(config.model.backbone.type)
        pooling = (
            "mlp_backbones.PooledNorm"
            if cls.norm_after_pool
            else "GlobalAveragePooling"
        )
        expected = {None: pooling, "fpn": "FPN"}.get(name.head)
        assert (config.model.get("neck") or {}).get("type") == expected


def test_batch_is_the_one_of_the_name(config, name):
    assert config.train_dataloader.batch_size == name.batch
    assert config.auto_scale_lr.base_batch_size == name.gpus * name.batch


def _length(schedule: str | None) -> tuple[str, int]:
    if schedule in LENGTHS:
        return LENGTHS[schedule]
    number, unit = int(schedule[:-1]), schedule[-1]
    return {"e": ("max_epochs", number), "k": ("max_iters", 1000 * number)}[unit]


def test_schedule_is_the_one_of_the_name(config, name):
    key, length = _length(name.schedule)
    assert config.train_cfg[key] == length
    by_epoch = key == "max_epochs"
    # The rate must have come to its end when the training does.
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


def test_data_set_is_the_one_of_the_name(config, name):
    if name.dataset == "digit-scenes":
        expected, num_classes = DIGIT_SCENES[config.default_scope], 10
        num_classes += config.default_scope == "mmseg"  # the background
    else:
        expected, num_classes = DATASETS[name.dataset], NUM_CLASSES[name.dataset]
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        dataset = config[loader].dataset
        assert (dataset.type, dataset.data_root) == expected
    model = config.model
    heads = {
        None: lambda: [model.head],
        "retinanet": lambda: [model.bbox_head],
        "mask-rcnn": lambda: [model.roi_head.bbox_head, model.roi_head.mask_head],
        "fpn": lambda: [model.decode_head],
        "upernet": lambda: [model.decode_head, model.auxiliary_head],
    }[name.head]()
    assert {head.num_classes for head in heads} == {num_classes}
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
    folder = find_config_dir()
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
