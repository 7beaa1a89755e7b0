"""The shipped COCO, ADE20K and ImageNet configs learn on real images."""

import math
from pathlib import Path

import pytest
from mmengine.config import Config

from benchmarks.overfit_real_images import (
    CONFIG_DIR,
    GOALS,
    SMALL_ARCH,
    GoalHook,
    choose_coco_images,
    make_config,
    overfit,
)
from mlp_backbones.engine.config import read_config

DATA = {
    "retinanet": "coco_mini",
    "mask-rcnn": "coco_mini",
    "semantic-fpn": "ade_mini/coco_ade150",
}


def train(config: Config, metric: str) -> tuple[GoalHook, dict[str, float]]:
    """Train to the end and return what was seen on the way and the last metrics."""
    hook = GoalHook(metric, math.inf, minutes=None)
    _, metrics = overfit(config, hook)
    return hook, metrics


def assert_loss_falls(losses: list[float], share: float) -> None:
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-5:]) / 5 < share * losses[0], losses


@pytest.mark.parametrize(
    ("task", "iterations", "share"),
    [("retinanet", 60, 0.7), ("mask-rcnn", 40, 0.7), ("semantic-fpn", 30, 0.7)],
)
def test_loss_falls(
    task: str, iterations: int, share: float, data_dir: Path, tmp_path: Path
) -> None:
    config = make_config(
        task,
        data_dir / DATA[task],
        tmp_path,
        iterations=iterations,
        num_images=2,
        batch_size=2,
        image_size=128,
        val_interval=iterations,
    )
    metric, _ = GOALS[task]

    hook, metrics = train(config, metric)

    assert len(hook.losses) == iterations
    assert_loss_falls(hook.losses, share)
    assert 0.0 < metrics[metric] <= 100.0


def test_classifier_learns(data_dir: Path, tmp_path: Path) -> None:
    config = read_config(
        str(CONFIG_DIR / "cyclemlp-b1_8xb128_in1k.py"),
        {
            "data_root": str(data_dir / "cls_mini"),
            "model.backbone.drop_path_rate": 0.0,
            "model.head.in_channels": SMALL_ARCH["embed_dims"][-1],
        },
    )
    config.model.backbone.arch = SMALL_ARCH
    steps, size = 90, 64
    for loader in (config.train_dataloader, config.val_dataloader):
        loader.update(batch_size=16, num_workers=0, persistent_workers=False)
        pipeline = loader.dataset.pipeline
        pipeline[1]["scale"] = size
        if loader is config.val_dataloader:
            pipeline[2]["crop_size"] = size
    # Every 40th: the list is sorted by class. The same two of each are seen again.
    dataset = config.train_dataloader.dataset
    dataset.indices = list(range(0, 800, 40))
    config.val_dataloader.dataset.update(
        {key: dataset[key] for key in dataset if key != "pipeline"}
    )
    config.train_dataloader.sampler = dict(type="InfiniteSampler", shuffle=True)
    config.test_dataloader = config.val_dataloader
    config.train_cfg = dict(
        type="IterBasedTrainLoop", max_iters=steps, val_interval=steps
    )
    config.param_scheduler = []
    config.log_processor.by_epoch = False
    config.default_hooks.checkpoint = dict(
        type="CheckpointHook", by_epoch=False, interval=steps
    )
    config.randomness = dict(seed=0)
    config.work_dir = str(tmp_path)

    hook, metrics = train(config, "accuracy/top1")

    assert len(hook.losses) == steps
    assert_loss_falls(hook.losses, 0.5)
    # Who only knows which ten of the 1000 classes occur is right in 2 of 20.
    assert metrics["accuracy/top1"] >= 30.0


@pytest.mark.slow
def test_retinanet_learns_eight_images_by_heart(data_dir: Path, tmp_path: Path) -> None:
    config = make_config(
        "retinanet",
        data_dir / "coco_mini",
        tmp_path,
        iterations=300,
        batch_size=2,
        val_interval=50,
    )
    metric, goal = GOALS["retinanet"]
    hook = GoalHook(metric, goal, minutes=None)

    _, metrics = overfit(config, hook)

    assert metrics[metric] > goal, hook.history


def test_images_are_chosen_by_rule(data_dir: Path) -> None:
    file = data_dir / "coco_mini/annotations/instances_train2017.json"

    content = choose_coco_images(file, num_images=8, image_size=320)

    scales = {
        image["id"]: 320 / max(image["width"], image["height"])
        for image in content["images"]
    }
    objects = content["annotations"]
    small = [
        entry
        for entry in objects
        if entry["area"] * scales[entry["image_id"]] ** 2 < 32**2
    ]
    assert len(scales) == 8
    assert {entry["image_id"] for entry in objects} == set(scales)
    assert len(objects) >= 24
    assert len(small) <= 1
    assert not any(entry["iscrowd"] for entry in objects)
