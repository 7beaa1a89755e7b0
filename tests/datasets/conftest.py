"""A small set of digit scenes, and configs of data sets that read it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from mlp_backbones.datasets.digit_scenes import (
    CLASSES,
    SEG_CLASSES,
    DigitScenesOptions,
    make_digit_scenes,
)

OPTIONS = DigitScenesOptions(
    num_train=12, num_val=6, num_train_cls=40, num_val_cls=20, size=96, seed=3
)


@pytest.fixture(scope="session")
def scene_options() -> DigitScenesOptions:
    """Return what ``scenes`` was made with."""
    return OPTIONS


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set that no test may change."""
    return make_digit_scenes(tmp_path_factory.mktemp("data") / "scenes", OPTIONS)


@pytest.fixture
def own_scenes(scenes: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may break."""
    return Path(shutil.copytree(scenes, tmp_path / "scenes"))


def _dataset_config(
    root: Path, scope: str, skip_bad: bool = False, split: str = "train"
) -> dict:
    """Config of a data set with our loading transforms and that scope's packing."""
    image = dict(type="mlp_backbones.LoadImage", skip_bad=skip_bad)
    check = dict(type="mlp_backbones.CheckAnnotations", skip_bad=skip_bad)
    test_mode = split != "train"
    if scope == "mmdet":
        load = dict(type="mmdet.LoadAnnotations", with_bbox=True, with_mask=True)
        return dict(
            type="mmdet.CocoDataset",
            metainfo=dict(classes=CLASSES),
            data_root=str(root),
            ann_file=f"annotations/instances_{split}.json",
            data_prefix=dict(img=f"{split}/"),
            pipeline=[image, dict(check, load=load), dict(type="mmdet.PackDetInputs")],
            test_mode=test_mode,
        )
    if scope == "mmseg":
        folder = {"train": "training", "val": "validation"}[split]
        load = dict(type="mmseg.LoadAnnotations")
        return dict(
            type="mmseg.BaseSegDataset",
            metainfo=dict(classes=SEG_CLASSES),
            data_root=str(root / "ade"),
            data_prefix=dict(
                img_path=f"images/{folder}", seg_map_path=f"annotations/{folder}"
            ),
            pipeline=[
                image,
                dict(check, load=load, num_classes=11),
                dict(type="mmseg.PackSegInputs"),
            ],
            test_mode=test_mode,
        )
    assert scope == "mmpretrain"
    return dict(
        type="mmpretrain.CustomDataset",
        data_root=str(root / "cls"),
        data_prefix=split,
        pipeline=[
            image,
            dict(check, num_classes=10),
            dict(type="mmpretrain.PackInputs"),
        ],
        test_mode=test_mode,
    )


def _image_files(root: Path, scope: str, split: str = "train") -> list[Path]:
    """Images that the config of this scope reads, in its order."""
    if scope == "mmdet":
        folder = root / split
    elif scope == "mmseg":
        folder = (
            root / "ade" / "images" / {"train": "training"}.get(split, "validation")
        )
    else:
        folder = root / "cls" / split
    return sorted(folder.rglob("*.jpg"))


@pytest.fixture
def dataset_config() -> Callable[..., dict]:
    """Return a function that makes a config; see ``_dataset_config``."""
    return _dataset_config


@pytest.fixture
def image_files() -> Callable[..., list[Path]]:
    """Return a function that lists images; see ``_image_files``."""
    return _image_files


@pytest.fixture
def config_of(dataset_config: Callable[..., dict]) -> Callable[[Path, str], Config]:
    """Return a function that makes a whole config for one of the three packages."""

    def make(root: Path, scope: str = "mmdet") -> Config:
        metric: dict[str, Any] = dict(
            mmdet=dict(
                type="CocoMetric",
                ann_file=str(root / "annotations" / "instances_val.json"),
                metric=["bbox", "segm"],
            ),
            mmseg=dict(type="IoUMetric"),
            mmpretrain=dict(type="Accuracy", topk=(1,)),
        )[scope]
        val = dict(dataset=dataset_config(root, scope, split="val"))
        return Config(
            dict(
                default_scope=scope,
                train_dataloader=dict(dataset=dataset_config(root, scope)),
                val_dataloader=val,
                test_dataloader=val,
                val_evaluator=metric,
                test_evaluator=metric,
            )
        )

    return make
