"""Every registered family in every dense model: one training step, one prediction."""

import pytest
import torch
from mmengine.config import Config
from sizes import MICRO

from mlp_backbones.building import build_model
from mlp_backbones.config_names import config_dir
from mlp_backbones.factory import families
from mlp_backbones.testing.configs import (
    build_optimizer,
    make_batch,
    shrink_config,
    take_step,
)

PARTS = {
    "retinanet": ("retinanet_fpn", "det"),
    "mask-rcnn": ("mask-rcnn_fpn", "det"),
    "semantic-fpn": ("semantic-fpn", "seg"),
    "upernet": ("upernet", "seg"),
}


def make_config(family: str, head: str, arch: str | dict) -> Config:
    """Put the backbone of a family into the small model of a task."""
    base = config_dir() / "_base_" / "digit_scenes"
    model, runtime = PARTS[head]
    config = Config.fromfile(base / "models" / f"{model}.py")
    config.merge_from_dict(
        Config.fromfile(base / "runtimes" / f"{runtime}.py").to_dict()
    )
    config.optim_wrapper = {
        "type": "OptimWrapper",
        "optimizer": {"type": "AdamW", "lr": 1e-4},
    }
    cls = families()[family]
    indices = tuple(config.model.backbone.out_indices)
    channels = cls(arch, out_indices=indices).out_channels
    config.model.backbone = {
        "type": f"mlp_backbones.{cls.__name__}",
        "arch": arch,
        "out_indices": indices,
    }
    if "neck" in config.model:
        config.model.neck.in_channels = channels
    else:
        config.model.decode_head.in_channels = channels
        config.model.auxiliary_head.in_channels = channels[2]
    return config


def check(config: Config, image_size: int) -> None:
    small = shrink_config(config, image_size)
    model = build_model(small, init=True)
    batch = make_batch(small, image_size=image_size)
    report = take_step(model, batch, build_optimizer(small, model))
    assert report.losses["loss"] > 0
    assert all(loss < float("inf") for loss in report.losses.values()), report.losses
    assert report.without_gradient == []
    assert report.zero_gradient == []
    assert report.unchanged == []
    model.eval()
    with torch.no_grad():
        samples = model.test_step(make_batch(small, image_size=image_size))
    assert len(samples) == len(batch["inputs"])


# mmseg says at each build that its loss averages over all pixels.
@pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore``")
@pytest.mark.parametrize("head", PARTS)
@pytest.mark.parametrize("family", sorted(families()))
def test_micro_size_trains_and_predicts(family: str, head: str) -> None:
    """At 96 pixels; configs/test_step.py takes steps at 64, at sizes of the papers."""
    check(make_config(family, head, MICRO[family]), image_size=96)
