"""Every config is built once, takes one optimisation step and makes one prediction."""

import math

import pytest
import torch
from mmengine.config import Config

from mlp_backbones.building import build_model
from mlp_backbones.config_names import TASKS, config_dir
from mlp_backbones.testing.configs import (
    build_optimizer,
    make_batch,
    shrink_config,
    take_step,
)

IMAGE_SIZE = 64


def _check_detection(sample, model):
    instances = sample.pred_instances
    assert len(instances) > 0
    assert torch.isfinite(instances.bboxes).all()
    assert ((instances.bboxes >= 0) & (instances.bboxes <= IMAGE_SIZE)).all()
    assert ((instances.scores >= 0) & (instances.scores <= 1)).all()
    if "mask_head" in (model.get("roi_head") or {}):
        assert instances.masks.shape == (len(instances), IMAGE_SIZE, IMAGE_SIZE)


def _check_segmentation(sample, model):
    classes = sample.pred_sem_seg.data
    assert classes.shape == (1, IMAGE_SIZE, IMAGE_SIZE)
    assert torch.isfinite(sample.seg_logits.data).all()
    assert sample.seg_logits.data.shape[0] == model.decode_head.num_classes
    assert classes.min() >= 0 and classes.max() < model.decode_head.num_classes


def _check_classification(sample, model):
    assert sample.pred_score.shape == (model.head.num_classes,)
    torch.testing.assert_close(sample.pred_score.sum(), torch.tensor(1.0))


CHECKS = {
    "detection": _check_detection,
    "segmentation": _check_segmentation,
    "classification": _check_classification,
}


def _check_parameter_groups(wrapper, model):
    """Every parameter is optimised, and none twice."""
    groups = wrapper.optimizer.param_groups
    owned = [parameter for group in groups for parameter in group["params"]]
    assert len({id(parameter) for parameter in owned}) == len(owned)
    assert {id(p) for p in owned} == {id(p) for p in model.parameters()}


def _check_decay(wrapper, model, settings):
    """Read from the optimizer itself: are those not decayed whom the recipe spares?"""
    groups = wrapper.optimizer.param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    names = {name for name, p in model.named_parameters() if decay[id(p)] == 0}
    everything = {name for name, _ in model.named_parameters()}
    norms = {name for name in everything if "norm" in name}
    positions = {name for name in everything if "pos_embed" in name}
    rules = settings.get("paramwise_cfg") or {}
    if not rules:
        assert names == set()  # PVT's recipes decay everything
    elif "flat_decay_mult" in rules:  # DeiT's spare norms, biases, scales, positions
        small_ones = {name for name, p in model.named_parameters() if p.ndim == 1}
        assert names == small_ones | positions
    else:
        assert names == norms | positions  # Swin's spare those of the backbone
    assert set(decay.values()) - {0} == {settings.optimizer.weight_decay}


# mmseg says at each build that its loss averages over all pixels.
@pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore``")
def test_one_step_and_one_prediction(heavy_path, config):
    small = shrink_config(config, IMAGE_SIZE)
    model = build_model(small, init=True)
    optimizer = build_optimizer(small, model)
    _check_parameter_groups(optimizer, model)
    _check_decay(optimizer, model, small.optim_wrapper)

    report = take_step(model, make_batch(small, image_size=IMAGE_SIZE), optimizer)
    assert all(math.isfinite(loss) for loss in report.losses.values()), report.losses
    assert report.losses["loss"] > 0
    assert report.without_gradient == []
    assert report.zero_gradient == []
    assert report.unchanged == []
    assert all(parameter.isfinite().all() for parameter in model.parameters())

    model.eval()
    batch = make_batch(small, image_size=IMAGE_SIZE)
    with torch.no_grad():
        samples = model.test_step(batch)
    assert len(samples) == len(batch["inputs"])
    for sample in samples:
        CHECKS[TASKS[config.default_scope]](sample, small.model)


def test_an_output_norm_that_no_head_reads_is_found():
    """The step's report can fail: the usual `start_level=1` leaves a norm unused."""
    stem = "retinanet_cycle-mlp-b1_fpn_8xb2-1x_coco"
    config = Config.fromfile(config_dir() / "cycle_mlp" / f"{stem}.py")
    small = shrink_config(config)
    small.model.backbone.out_indices = (0, 1, 2, 3)
    small.model.neck.update(in_channels=[64, 128, 320, 512], start_level=1)
    model = build_model(small, init=True)
    report = take_step(model, make_batch(small), build_optimizer(small, model))
    assert report.without_gradient == [
        "backbone.out_norms.0.weight",
        "backbone.out_norms.0.bias",
    ]
