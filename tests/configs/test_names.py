"""Each name says what the config holds."""

import copy
from pathlib import Path

import pytest
import shipped_configs
from mmengine.config import Config

from dev.zoo.naming import find_name_faults, schedule_length
from mlp_backbones.config_names import config_dir, parse_config_name
from mlp_backbones.factory import get_family
from mlp_backbones.preprocessing import check_preprocessing

CONFIG_DIR = shipped_configs.CONFIG_DIR


def _schedule_faults(config, name):
    """The learning rate comes to its end with the training, warm-up to its curve."""
    key, length = schedule_length(name.schedule)
    *warm_up, last = config.param_scheduler
    if last.by_epoch != (key == "max_epochs"):
        yield f"the curve counts by_epoch={last.by_epoch}, the training by {key}"
    ends = {"end": last.end}
    if last.type == "CosineAnnealingLR":
        ends["begin + T_max"] = last.begin + last.T_max
    for what, end in ends.items():
        if end != length:
            yield f"{last.type} has {what} {end}, the training {length}"
    if last.type == "MultiStepLR" and max(last.milestones) >= length:
        yield f"milestones {last.milestones} reach beyond {length}"

    if len(warm_up) > 1:
        yield f"{len(warm_up)} schedulers before the curve"
    for scheduler in warm_up:
        if scheduler.type != "LinearLR" or not scheduler.end > scheduler.begin == 0:
            yield f"warm-up {scheduler.to_dict()}"
        # Steps only multiply the rate and may run beside a warm-up.
        begin = 0 if last.type == "MultiStepLR" else scheduler.end
        if last.begin != begin:
            yield f"warm-up ends at {scheduler.end}, the curve begins at {last.begin}"


def _crop_faults(config, name):
    """Names with a size, which are those of ADE20K, mean the crop."""
    _, *size = name.dataset.rsplit("-", 1)
    if size and "x" in size[0]:
        promised = tuple(map(int, size[0].split("x")))
        preprocessor = tuple(config.model.data_preprocessor.size)
        for what, found in (("crop", config.crop_size), ("padding", preprocessor)):
            if found != promised:
                yield f"the name says {promised}, {what} is {found}"


def _owed_faults(config, path):
    """What each config owes a runner."""
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
        if key not in config:
            yield f"no {key}"
    if config.auto_scale_lr.enable is not False:
        yield f"auto_scale_lr.enable is {config.auto_scale_lr.enable}"
    if "mlp_backbones.FiniteGuardHook" not in [
        hook.type for hook in config.custom_hooks
    ]:
        yield "no FiniteGuardHook"
    # Test-time augmentation where the task has one; mmdet merges no masks.
    has_tta = config.model.type != "MaskRCNN"
    for key in ("tta_model", "tta_pipeline"):
        if (key in config) != has_tta:
            yield f"{key}: {'missing' if has_tta else 'of no use'}"
    # Self-contained: no part comes from another package's folder.
    text = path.read_text()
    if "custom_imports" in config or "::" in text or "../_base_/" not in text:
        yield "not self-contained"


def _weights_faults(config, path, name):
    """Sizes with released weights start from them, and others from none."""
    released = get_family(path.parent.name).released_weights
    official = {"type": "Pretrained", "checkpoint": "official"}
    has_weights = name.head is not None and name.size.replace("-", "_") in released
    init = config.model.backbone.get("init_cfg")
    if init != (official if has_weights else None):  # {} would be a second spelling
        yield f"init_cfg {init}, though weights are {'' if has_weights else 'not '}here"


def _normalisation_faults(config, path, name):
    """Images are normalised as the weights of the size want it."""
    settings = config.get("data_preprocessor") or config.model.data_preprocessor
    wanted = get_family(path.parent.name).preprocessing_of(name.size.replace("-", "_"))
    difference = wanted.difference(settings)
    if difference:
        yield f"data_preprocessor: {difference}"
    warning = check_preprocessing(config)
    if warning:
        yield warning


def _reading_faults(config, name):
    """Training and validation name bad files; OpenMMLab's inferencers find a loader."""
    pipelines = {
        split: config[f"{split}_dataloader"].dataset.pipeline
        for split in ("train", "val", "test")
    }
    for split in ("train", "val"):
        if pipelines[split][0] != {"type": "mlp_backbones.LoadImage"}:
            yield f"{split} reads with {pipelines[split][0]}"
    types = [step.type for step in pipelines["test"]]
    # They look for this name in the test pipeline.
    if types[0] != "LoadImageFromFile":
        yield f"the test pipeline reads with {types[0]}"
    if types[1:] != [step.type for step in pipelines["val"]][1:]:
        yield f"the test pipeline {types} goes on unlike the one of validation"
    if name.dataset == "digit-scenes":
        # A digit that is mirrored is no longer one.
        text = str([*pipelines.values(), config.get("tta_pipeline")])
        if "Flip" in text.replace("'RandomFlip', 'prob': 0.0", ""):
            yield "digits are mirrored"


def find_faults(path, config):
    """Find all that a config's name, its siblings and its runner would contradict."""
    faults = find_name_faults(path, config)
    if faults:
        return faults
    name = parse_config_name(path)
    return [
        *_schedule_faults(config, name),
        *_crop_faults(config, name),
        *_owed_faults(config, path),
        *_weights_faults(config, path, name),
        *_normalisation_faults(config, path, name),
        *_reading_faults(config, name),
    ]


def test_the_config_holds_what_its_name_says_and_what_it_owes(config, config_path):
    """Head, family, size, neck, batch, length, data, schedule, weights, pipelines."""
    assert find_faults(config_path, config) == []


FLIP = {"type": "RandomFlip", "prob": 0.5}
ADE20K = "upernet_cyclemlp-tiny_8xb2-160k_ade20k-512x512"
CLASSIFIER = "cyclemlp-b1_8xb128_in1k"
DETECTOR = "retinanet_cyclemlp-b1_fpn_8xb2-1x_coco"
DIGITS = "retinanet_cyclemlp-mini_fpn_1xb8-8e_digit-scenes"


@pytest.mark.parametrize(
    ("stem", "options", "fault"),
    [
        (CLASSIFIER, {"default_scope": "mmdet"}, "the name says scope mmpretrain"),
        (DETECTOR, {"param_scheduler.1.by_epoch": False}, "by_epoch=False"),
        (DETECTOR, {"param_scheduler.1.end": 13}, "end 13, the training 12"),
        (DETECTOR, {"param_scheduler.1.milestones": [8, 12]}, "milestones"),
        (CLASSIFIER, {"param_scheduler.1.T_max": 1}, "T_max"),
        (CLASSIFIER, {"param_scheduler.1.begin": 1}, "begins at 1"),
        (CLASSIFIER, {"param_scheduler.0.type": "StepLR"}, "warm-up"),
        (ADE20K, {"crop_size": (640, 640)}, "crop is"),
        (ADE20K, {"model.data_preprocessor.size": (640, 640)}, "padding is"),
        (CLASSIFIER, {"data_preprocessor.to_rgb": False}, "in BGR"),
        (CLASSIFIER, {"data_preprocessor.std": [1.0, 1.0, 1.0]}, "std=[1.0"),
        (ADE20K, {"model.data_preprocessor.mean": None}, "mean=None where"),
        (CLASSIFIER, {"auto_scale_lr.enable": True}, "enable is True"),
        (CLASSIFIER, {"custom_hooks": []}, "no FiniteGuardHook"),
        (CLASSIFIER, {"custom_imports": {}}, "not self-contained"),
        (DETECTOR, {"model.backbone.init_cfg.checkpoint": "b2.pth"}, "init_cfg"),
        (DIGITS, {"model.backbone.init_cfg": {"type": "Pretrained"}}, "init_cfg"),
        (DIGITS, {"model.backbone.init_cfg": {}}, "init_cfg"),
        (DETECTOR, {"val_dataloader.dataset.pipeline.0.type": "Load"}, "val reads"),
        (DETECTOR, {"test_dataloader.dataset.pipeline.0.type": "Load"}, "test pipe"),
        (DETECTOR, {"test_dataloader.dataset.pipeline.1.type": "Flip"}, "goes on"),
        (DIGITS, {"train_dataloader.dataset.pipeline.1": FLIP}, "mirrored"),
    ],
)
def test_each_fault_is_found(stem, options, fault):
    path = CONFIG_DIR / "cyclemlp" / f"{stem}.py"
    config = copy.deepcopy(shipped_configs.read(path))
    config.merge_from_dict(options)
    faults = find_faults(path, config)
    assert any(fault in line for line in faults), faults


def test_a_missing_part_is_found():
    path = CONFIG_DIR / "cyclemlp" / f"{DETECTOR}.py"
    config = copy.deepcopy(shipped_configs.read(path))
    for key in ("visualizer", "tta_model"):
        config.pop(key)
    assert find_faults(path, config) == ["no visualizer", "tta_model: missing"]


@pytest.mark.parametrize(
    "stem",
    [
        "retinanet_cyclemlp-b1_fpn_8xb2_coco",  # no schedule
        "retinanet_as-mlp-tiny_fpn_8xb2-1x_coco",  # another family
        "retinanet_cyclemlp_fpn_8xb2-1x_coco",  # no size
        "cyclemlp-b1_in1k",  # no batch
        "cyclemlp_b1_8xb128_in1k",
    ],
)
def test_a_name_off_the_rule_is_refused(stem):
    with pytest.raises(ValueError, match=stem):
        parse_config_name(Path("configs/cyclemlp") / f"{stem}.py")


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
