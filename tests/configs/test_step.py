"""Each config is built; the first of each kind takes a step and makes a prediction.

The first size of each family, head and data set is built in memory, steps and
predicts. All configs are built on the meta device, where what sizes differ in is
compared: widths, strides, names, numbers of parameters, groups of the optimizer.
"""

import copy
import logging
import math
from functools import cache

import pytest
import shipped_configs
import torch
from mmengine.config import Config
from torch import nn

from dev.zoo.checking import PARAMETER_TOLERANCE
from dev.zoo.metafile import read_metafile
from mlp_backbones.backbones import ResampledBackbone
from mlp_backbones.building import build_model
from mlp_backbones.config_names import TASKS, config_dir
from mlp_backbones.layers import Affine
from mlp_backbones.testing.configs import (
    build_optimizer,
    make_batch,
    shrink_config,
    take_step,
)

IMAGE_SIZE = 64
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d, Affine)


@pytest.fixture(autouse=True)
def _quiet():
    """MMEngine logs each parameter that a rule touches."""
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


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


def _group_faults(groups, model, settings):
    """Every parameter is optimised, none twice; the recipe's are spared from decay."""
    owned = [parameter for group in groups for parameter in group["params"]]
    if len({id(parameter) for parameter in owned}) != len(owned):
        yield "a parameter is optimised twice"
    if {id(p) for p in owned} != {id(p) for p in model.parameters()}:
        yield "not the model's parameters are optimised"
        return
    usual = settings.optimizer.weight_decay
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    names = {name for name, p in model.named_parameters() if decay[id(p)] == 0}
    everything = {name for name, _ in model.named_parameters()}
    norms = {name for name in everything if "norm" in name}
    positions = {name for name in everything if "pos_embed" in name}
    rules = settings.get("paramwise_cfg") or {}
    if not rules:
        spared = set()  # PVT's recipes decay everything
    elif "flat_decay_mult" in rules:  # DeiT's spare norms, biases, scales, positions
        spared = {name for name, p in model.named_parameters() if p.ndim == 1}
        spared |= positions
    else:
        spared = norms | positions  # Swin's spare those of the backbone
    if names != spared:
        yield f"spared from decay by mistake: {sorted(names ^ spared)}"
    if set(decay.values()) - {0} != {usual}:
        yield f"decay {set(decay.values())} instead of {usual}"


def _kind_faults(groups, model, settings):
    """What the rules spare by name is right by the kind of module, too."""
    rules = settings.get("paramwise_cfg") or {}
    if not rules:
        return
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    if not any(isinstance(module, NORMS) for module in model.backbone.modules()):
        yield "the backbone has no norm that this test knows"
    for name, module in model.backbone.named_modules():
        if isinstance(module, NORMS):
            if {decay[id(p)] for p in module.parameters(recurse=False)} - {0}:
                yield f"the norm {name} is decayed"
        elif type(module) is nn.Linear and decay[id(module.weight)] == 0:
            yield f"the weight of {name} is not decayed"


def _width_faults(model, backbone):
    """Neck and heads take the maps of the backbone, all of them, at their strides."""
    maps, strides = backbone.out_channels, backbone.out_strides
    neck = model.get("neck") or {}
    is_pyramid = neck.get("type", "").endswith("FPN")
    if is_pyramid:
        if list(neck.in_channels) != maps:
            yield f"the neck takes {neck.in_channels}, the backbone gives {maps}"
        if neck.get("start_level", 0) != 0:
            yield f"start_level={neck.start_level} leaves maps of the backbone unread"
        if neck.num_outs < len(maps):
            yield f"{neck.num_outs} maps of the neck for {len(maps)} of the backbone"
        maps = [neck.out_channels] * neck.num_outs
    elif neck.get("norm") is not None and neck.norm != maps[-1]:
        yield f"the neck norms {neck.norm} channels, the backbone gives {maps}"
    for name, head in _heads(model):
        wanted = head.in_channels
        indices = head.get("in_index", -1)
        if isinstance(wanted, (list, tuple)):
            if list(indices) != list(range(len(maps))):
                yield f"{name} reads the maps {indices} of {len(maps)}"
            found = [maps[index] for index in indices if index < len(maps)]
        else:
            found = maps[indices]
        if (list(wanted) if isinstance(wanted, (list, tuple)) else wanted) != found:
            yield f"{name} takes {wanted}, it is given {found}"
        anchors = (head.get("anchor_generator") or {}).get("strides")
        if anchors and list(anchors[: len(strides)]) != strides:
            yield f"{name} has anchors of strides {anchors}, the maps are {strides}"
    for name, part in (model.get("roi_head") or {}).items():
        if name.endswith("roi_extractor"):
            if part.out_channels != neck.out_channels:
                yield f"{name} takes {part.out_channels}, not {neck.out_channels}"
            if list(part.featmap_strides) != strides:
                yield f"{name} has the strides {part.featmap_strides}, not {strides}"


def _heads(model):
    roi_head = model.get("roi_head") or {}
    for part in (model, roi_head):
        for key in (
            "head",
            "rpn_head",
            "bbox_head",
            "mask_head",
            "decode_head",
            "auxiliary_head",
        ):
            if part.get(key):
                yield key, part[key]


def _name_faults(model):
    """Layout of a checkpoint: nothing beside what all families have."""
    parts = {name.split(".")[0] for name, _ in model.backbone.named_parameters()}
    known = {"stem", "stages", "out_norms"}
    if isinstance(model.backbone, ResampledBackbone):
        known |= {"resamplers"}
    if parts - known:
        yield f"parts {sorted(parts - known)} of the backbone in checkpoints"


@cache
def _stated_parameters(folder):
    return {m.name: m.parameters for m in read_metafile(folder / "metafile.yml").models}


def _count_faults(path, model):
    """The metafile states as many parameters as the model has."""
    stated = _stated_parameters(path.parent)[path.stem]
    counted = sum(parameter.numel() for parameter in model.parameters())
    if abs(stated - counted) > PARAMETER_TOLERANCE * counted:
        yield f"the metafile states {stated} parameters, counted are {counted}"


def find_faults(path, config):
    """Build a config on the meta device and find what does not fit together."""
    small = shrink_config(config)
    model = build_model(small, device="meta")
    groups = build_optimizer(small, model).optimizer.param_groups
    return [
        *_width_faults(small.model, model.backbone),
        *_name_faults(model),
        *_count_faults(path, model),
        *_group_faults(groups, model, small.optim_wrapper),
        *_kind_faults(groups, model, small.optim_wrapper),
    ]


@pytest.fixture
def _unchecked_groups(monkeypatch):
    """PyTorch compares each group with all before, in O(n^2); `_group_faults` in O(n).

    Rules for single parameters make a group of each.
    """

    def add_param_group(optimizer, group):
        params = group["params"]
        params = [params] if isinstance(params, torch.Tensor) else list(params)
        optimizer.param_groups.append({**optimizer.defaults, **group, "params": params})

    monkeypatch.setattr(torch.optim.Optimizer, "add_param_group", add_param_group)


# mmseg says at each build that its loss averages over all pixels.
@pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore``")
@pytest.mark.usefixtures("_unchecked_groups")
def test_parts_fit_together(config_path, config):
    assert find_faults(config_path, config) == []


DETECTOR = "mask-rcnn_cyclemlp-b1_fpn_8xb2-1x_coco"
RETINANET = "retinanet_cyclemlp-b1_fpn_8xb2-1x_coco"
SEGMENTOR = "upernet_cyclemlp-tiny_8xb2-160k_ade20k-512x512"
CLASSIFIER = "cyclemlp-b1_8xb128_in1k"


@pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore``")
@pytest.mark.usefixtures("_unchecked_groups")
@pytest.mark.parametrize(
    ("stem", "options", "fault"),
    [
        (DETECTOR, {"model.neck.in_channels": [64, 128, 256, 512]}, "the neck takes"),
        (DETECTOR, {"model.neck.start_level": 1}, "start_level=1"),
        (DETECTOR, {"model.rpn_head.in_channels": 128}, "rpn_head takes 128"),
        (
            DETECTOR,
            {"model.rpn_head.anchor_generator.strides": [8, 16, 32, 64, 128]},
            "anchors of strides",
        ),
        (
            DETECTOR,
            {"model.roi_head.bbox_roi_extractor.featmap_strides": [8, 16, 32, 64]},
            "bbox_roi_extractor has the strides",
        ),
        (DETECTOR, {"model.roi_head.mask_head.in_channels": 8}, "mask_head takes 8"),
        (RETINANET, {"model.backbone.out_indices": (0, 1, 2)}, "the neck takes"),
        (SEGMENTOR, {"model.decode_head.in_channels": [8] * 4}, "decode_head takes"),
        (SEGMENTOR, {"model.decode_head.in_index": [0, 1, 2, 2]}, "reads the maps"),
        (SEGMENTOR, {"model.auxiliary_head.in_channels": 8}, "auxiliary_head takes 8"),
        (SEGMENTOR, {"model.auxiliary_head.in_index": 1}, "auxiliary_head takes"),
        (CLASSIFIER, {"model.head.in_channels": 8}, "head takes 8"),
        (CLASSIFIER, {"model.backbone.arch": "b2"}, "the metafile states"),
        (
            CLASSIFIER,
            {"optim_wrapper.paramwise_cfg.flat_decay_mult": 1.0},
            "spared from decay by mistake",
        ),
        (
            SEGMENTOR,
            {"optim_wrapper.paramwise_cfg.custom_keys": {"mixer": {"decay_mult": 0}}},
            "the weight of stages.0.blocks.0.mixer",
        ),
    ],
)
def test_each_misfit_is_found(stem, options, fault):
    path = shipped_configs.CONFIG_DIR / "cyclemlp" / f"{stem}.py"
    config = copy.deepcopy(shipped_configs.read(path))
    config.merge_from_dict(options)
    faults = find_faults(path, config)
    assert any(fault in line for line in faults), faults


# mmseg says at each build that its loss averages over all pixels.
@pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore``")
def test_one_step_and_one_prediction(step_path, config):
    small = shrink_config(config, IMAGE_SIZE)
    model = build_model(small, init=True)
    optimizer = build_optimizer(small, model)
    groups = optimizer.optimizer.param_groups
    assert [*_group_faults(groups, model, small.optim_wrapper)] == []

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
    stem = "retinanet_cyclemlp-b1_fpn_8xb2-1x_coco"
    config = Config.fromfile(config_dir() / "cyclemlp" / f"{stem}.py")
    small = shrink_config(config)
    small.model.backbone.out_indices = (0, 1, 2, 3)
    small.model.neck.update(in_channels=[64, 128, 320, 512], start_level=1)
    model = build_model(small, init=True)
    report = take_step(model, make_batch(small), build_optimizer(small, model))
    assert report.without_gradient == [
        "backbone.out_norms.0.weight",
        "backbone.out_norms.0.bias",
    ]
