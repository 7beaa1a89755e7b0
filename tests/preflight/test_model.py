"""The model is tried on a picture of zeros before any data are read."""

import pytest
import tiny_runs
from mmengine.config import Config

from mlp_backbones.config_names import config_dir
from mlp_backbones.engine.config import read_config
from mlp_backbones.preflight.model import class_mistakes, classes_of, try_model

CYCLE = config_dir() / "cyclemlp"
MASK_RCNN = min(CYCLE.glob("mask-rcnn_*mini*.py"))
UPERNET = min(CYCLE.glob("upernet_*mini*.py"))
FPN = min(CYCLE.glob("fpn_*mini*.py"))
RETINANET = min(CYCLE.glob("retinanet_*mini*.py"))
CLASSIFIER = min(CYCLE.glob("cyclemlp-mini*.py"))


def mistakes_of(path, **options):
    config = read_config(str(path), options)
    facts = try_model(config)
    found = list(facts.mistakes)
    for split in ("train", "val", "test"):
        dataset = config[f"{split}_dataloader"].dataset
        names = classes_of(dataset, config.default_scope)
        if names is not None:
            found += class_mistakes(
                facts.num_classes, *names, scope=config.default_scope
            )
    return [one.message for one in found if one.is_certain]


@pytest.mark.parametrize(
    "path", [MASK_RCNN, UPERNET, FPN, RETINANET, CLASSIFIER], ids=lambda path: path.stem
)
def test_a_shipped_model_is_tried_without_a_word(path):
    config = read_config(str(path))
    facts = try_model(config)
    assert facts.mistakes == []
    assert [note for note in facts.notes if "not tried" in note] == []
    assert all(p.device.type == "meta" for p in facts.model.parameters())
    assert set(facts.num_classes.values()) <= {10, 11}


@pytest.mark.parametrize(
    ("path", "key", "value", "words"),
    [
        (RETINANET, "neck.in_channels", [1, 2, 3], "the backbone gives [64, 128, 192]"),
        (MASK_RCNN, "backbone.out_indices", (1, 2, 3), "model.neck.in_channels is"),
        (RETINANET, "bbox_head.in_channels", 7, "is 7, the neck gives"),
        (MASK_RCNN, "rpn_head.in_channels", 7, "model.rpn_head.in_channels is 7"),
        (MASK_RCNN, "roi_head.bbox_head.in_channels", 7, "roi_head.bbox_head.in_ch"),
        (MASK_RCNN, "roi_head.mask_head.in_channels", 7, "roi_head.mask_head.in_ch"),
        (MASK_RCNN, "roi_head.bbox_head.roi_feat_size", 3, "roi_feat_size=3"),
        (UPERNET, "decode_head.in_channels", [1] * 4, "decode_head.in_channels is [1,"),
        (UPERNET, "decode_head.in_index", [0, 1, 2, 4], "reads map 4"),
        (UPERNET, "auxiliary_head.in_channels", 7, "auxiliary_head.in_channels is 7"),
        (UPERNET, "auxiliary_head.in_index", 9, "auxiliary_head.in_index reads map 9"),
        (FPN, "neck.out_channels", 8, "decode_head.in_channels is"),
        (CLASSIFIER, "head.in_channels", 7, "model.head.in_channels is 7"),
        (RETINANET, "bbox_head.num_classes", 9, "bbox_head.num_classes is 9"),
        (MASK_RCNN, "roi_head.bbox_head.num_classes", 9, "bbox_head.num_classes is 9"),
        (MASK_RCNN, "roi_head.mask_head.num_classes", 9, "mask_head.num_classes is 9"),
        (UPERNET, "decode_head.num_classes", 9, "decode_head.num_classes is 9"),
        (UPERNET, "auxiliary_head.num_classes", 9, "auxiliary_head.num_classes is 9"),
        (RETINANET, "backbone.arch", "b9", "the model cannot be built: .*b9"),
    ],
)
def test_a_misfit_is_told_by_its_key(path, key, value, words):
    found = mistakes_of(path, **{f"model.{key}": value})
    if ".*" in words:
        words = words.rpartition(".*")[2]
    assert any(words in line for line in found), found


def test_a_rule_that_misspells_a_parameter(tmp_path):
    file = tmp_path / "c.py"
    keys = "{'bakcbone': dict(lr_mult=0.1), 'pos_embed': dict(decay_mult=0.0)}"
    rules = f"dict(paramwise_cfg=dict(custom_keys={keys}))"
    file.write_text(f"_base_ = {str(RETINANET)!r}\noptim_wrapper = {rules}\n")
    facts = try_model(read_config(str(file)))
    (mistake,) = facts.mistakes
    assert "did you mean 'backbone'" in mistake.message
    assert any("'pos_embed'" in note for note in facts.notes)


@pytest.mark.parametrize("task", tiny_runs.TASKS)
def test_models_of_openmmlab_are_tried_too(task, tmp_path):
    config = Config.fromfile(tiny_runs.write_config(task, tmp_path))
    assert try_model(config).mistakes == []
    config.model.backbone.base_channels = 16
    assert len(try_model(config).mistakes) == 1
