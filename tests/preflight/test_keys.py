"""Mistakes in configs, through the reader that every tool uses."""

import math

import pytest
import tiny_runs
from mmengine.config import Config

from mlp_backbones.config_names import config_dir
from mlp_backbones.engine.config import read_config
from mlp_backbones.engine.errors import UserError
from mlp_backbones.preflight.flight import check_config
from mlp_backbones.preflight.keys import find_mistakes
from mlp_backbones.preflight.schedule import metrics_of

CYCLE = config_dir() / "cyclemlp"
RETINANET = min(CYCLE.glob("retinanet_*_coco.py"))
MASK_RCNN = min(CYCLE.glob("mask-rcnn_*_coco.py"))
UPERNET = min(CYCLE.glob("upernet_*_ade20k-*.py"))
CLASSIFIER = min(CYCLE.glob("*_in1k.py"))


def derive(folder, base, text):
    file = folder / "c.py"
    file.write_text(f"_base_ = {str(base)!r}\n{text}\n")
    return file


@pytest.mark.parametrize(
    ("base", "text", "words"),
    [
        # the top level and the runner's keys
        (RETINANET, "trian_cfg = dict(max_epochs=1)", "'trian_cfg'.*'train_cfg'"),
        (RETINANET, "optim_wraper = dict(clip_grad=None)", "'optim_wrapper'"),
        (RETINANET, "lode_from = 'x.pth'", "'lode_from'.*'load_from'"),
        (
            RETINANET,
            "default_hook = dict(checkpoint=dict(interval=2))",
            "default_hooks",
        ),
        (RETINANET, "resume = 'yes'", "resume must be bool, got 'yes'"),
        (RETINANET, "randomness = dict(sead=1)", "randomness.*'sead'.*'seed'"),
        (RETINANET, "auto_scale_lr = dict(enabled=True)", "'enabled'.*'enable'"),
        (RETINANET, "env_cfg = dict(cudn_benchmark=True)", "'cudnn_benchmark'"),
        (RETINANET, "env_cfg = dict(mp_cfg=dict(mp_start='fork'))", "mp_start_method"),
        (RETINANET, "env_cfg = dict(dist_cfg=dict(backnd='gloo'))", "'backend'"),
        # the model
        (RETINANET, "model = dict(backbone=dict(with_pc=True))", "'with_cp'"),
        (RETINANET, "model = dict(nek=dict(num_outs=5))", "'nek'.*'neck'"),
        (RETINANET, "model = dict(neck=dict(out_chanels=8))", "'out_channels'"),
        (RETINANET, "model = dict(bbox_head=dict(loss_clss=dict()))", "'loss_cls'"),
        (
            RETINANET,
            "model = dict(bbox_head=dict(loss_cls=dict(gama=1.0)))",
            r"model\.bbox_head\.loss_cls \(FocalLoss\).*'gama'.*'gamma'",
        ),
        (
            RETINANET,
            "model = dict(bbox_head=dict(anchor_generator=dict(ratio=[1.0])))",
            "anchor_generator.*'ratio'",
        ),
        (RETINANET, "model = dict(test_cfg=dict(score_tr=0.1))", "'score_thr'"),
        (RETINANET, "model = dict(train_cfg=dict(pos_wieght=1))", "'pos_weight'"),
        (
            MASK_RCNN,
            "model = dict(test_cfg=dict(rcnn=dict(mask_thr_binari=0.4)))",
            r"model\.test_cfg\.rcnn.*'mask_thr_binary'",
        ),
        (
            MASK_RCNN,
            "model = dict(roi_head=dict(bbox_head=dict(num_class=3)))",
            r"model\.roi_head\.bbox_head .*'num_class'.*'num_classes'",
        ),
        (UPERNET, "model = dict(decode_head=dict(dropout=0.1))", "'dropout_ratio'"),
        (UPERNET, "model = dict(data_preprocessor=dict(sizes=(8, 8)))", "'size'"),
        (CLASSIFIER, "model = dict(head=dict(top_k=(1,)))", "'top_k'.*'topk'"),
        (CLASSIFIER, "data_preprocessor = dict(num_class=10)", "'num_classes'"),
        (RETINANET, "model = dict(type='RetinaNett')", "'RetinaNett'.*'RetinaNet'"),
        # the data
        (RETINANET, "train_dataloader = dict(batchsize=2)", "'batch_size'"),
        (RETINANET, "train_dataloader = dict(dataset=dict(annfile='x'))", "'ann_file'"),
        (
            RETINANET,
            "train_dataloader = dict(dataset=dict(filter_cfg=dict(min_sise=3)))",
            "filter_cfg.*'min_sise'.*'min_size'",
        ),
        (
            UPERNET,
            "train_dataloader = dict(sampler=dict(suffle=True))",
            "sampler.*'suffle'.*'shuffle'",
        ),
        (RETINANET, "val_evaluator = dict(clas_wise=True)", "'classwise'"),
        # optimizer, schedule, hooks
        (RETINANET, "optim_wrapper = dict(clip_gard=dict(max_norm=1))", "'clip_grad'"),
        (
            RETINANET,
            "optim_wrapper = dict(clip_grad=dict(max_nrom=1))",
            r"clip_grad.*'max_nrom'.*'max_norm'",
        ),
        (
            RETINANET,
            "optim_wrapper = dict(optimizer=dict(weight_deacy=1))",
            r"optim_wrapper\.optimizer \(AdamW\).*'weight_decay'",
        ),
        (RETINANET, "optim_wrapper = dict(optimizer=dict(lr='1e-4x'))", "lr.*float"),
        (
            RETINANET,
            "optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mul=0.0))",
            "paramwise_cfg.*'norm_decay_mul'.*'norm_decay_mult'",
        ),
        (
            RETINANET,
            "optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict("
            "neck=dict(lr_mul=0.1))))",
            "custom_keys.*'neck'.*'lr_mul'.*'lr_mult'",
        ),
        (
            RETINANET,
            "param_scheduler = [dict(type='LinearLR', begin=0, edn=5)]",
            r"param_scheduler\.0 \(LinearLR\).*'edn'.*'end'",
        ),
        (
            RETINANET,
            "param_scheduler = [dict(type='LinearLR', begin=9, end=5)]",
            "ends at 5, before it begins at 9",
        ),
        (
            RETINANET,
            "default_hooks = dict(checkpoint=dict(intervall=1))",
            r"default_hooks\.checkpoint \(CheckpointHook\).*'interval'",
        ),
        (
            RETINANET,
            "default_hooks = dict(checkpiont=dict(type='CheckpointHook'))",
            "'checkpiont'.*'checkpoint'",
        ),
        (
            RETINANET,
            "custom_hooks = [dict(type='EMAHook', momentun=0.1)]",
            r"custom_hooks\.0 \(EMAHook\).*'momentun'",
        ),
        (RETINANET, "custom_hooks = [dict(type='EMAHok')]", "'EMAHok'.*'EMAHook'"),
        (RETINANET, "visualizer = dict(vis_backend=[])", "'vis_backends'"),
        (RETINANET, "log_processor = dict(window_sizes=5)", "'window_size'"),
        (RETINANET, "model_wrapper_cfg = dict(find_unused=True)", None),
        # loops
        (RETINANET, "train_cfg = dict(max_epoch=3)", "'max_epoch'.*'max_epochs'"),
        (RETINANET, "train_cfg = dict(max_epochs=0)", r"max_epochs must.*got 0"),
        (RETINANET, "train_cfg = dict(val_interval=-1)", "val_interval must.*-1"),
        (RETINANET, "train_dataloader = dict(batch_size=0)", "batch_size must.*0"),
        (RETINANET, "train_dataloader = dict(num_workers=-1)", "num_workers must.*-1"),
        (RETINANET, "optim_wrapper = dict(accumulative_counts=0)", "accumulative.*0"),
        (
            RETINANET,
            "default_hooks = dict(checkpoint=dict(interval=0))",
            "checkpoint.interval must.*got 0",
        ),
        (
            RETINANET,
            "default_hooks = dict(checkpoint=dict(save_best='coco/bbox_map'))",
            "save_best.*'coco/bbox_map'.*'coco/bbox_mAP'",
        ),
        (
            RETINANET,
            "default_hooks = dict(checkpoint=dict(save_best='coco/segm_mAP'))",
            "computes no 'coco/segm_mAP'",
        ),
        (
            UPERNET,
            "default_hooks = dict(checkpoint=dict(save_best='miou'))",
            "'miou'.*'mIoU'",
        ),
        (
            CLASSIFIER,
            "custom_hooks = [dict(type='EarlyStoppingHook', monitor='top1')]",
            "monitor.*computes no 'top1'",
        ),
    ],
)
def test_a_mistake_is_refused_before_anything_is_built(tmp_path, base, text, words):
    file = derive(tmp_path, base, text)
    if words is None:
        read_config(str(file))
        return
    with pytest.raises(UserError, match=words) as error:
        read_config(str(file))
    assert str(error.value).startswith(f"{file}: ")
    assert error.value.exit_code == 1


@pytest.mark.parametrize(
    ("base", "text"),
    [
        (RETINANET, "my_own = dict(anything=3)\nlr_mult = 2\nmodels = 3"),
        (RETINANET, "train_pipelines = [1, 2]"),
        (RETINANET, "train_cfg = dict(max_epochs=24, val_interval=2, val_begin=3)"),
        (RETINANET, "default_hooks = dict(checkpoint=dict(save_best='auto'))"),
        (
            MASK_RCNN,
            "default_hooks = dict(checkpoint=dict(save_best=['coco/segm_mAP_50']))",
        ),
        (RETINANET, "custom_hooks = [dict(type='EMAHook', priority='LOW')]"),
        (RETINANET, "default_hooks = dict(own=dict(type='EMAHook'))"),
        (RETINANET, "optim_wrapper = dict(clip_grad=dict(type='value', clip_value=1))"),
        (
            RETINANET,
            "param_scheduler = [dict(type='OneCycleLR', eta_max=1., total_steps=9, "
            "convert_to_iter_based=True)]",
        ),
        (RETINANET, "model = dict(backbone=dict(init_cfg=None))"),
        (UPERNET, "model = dict(decode_head=dict(norm_cfg=dict(type='BN', eps=1e-3)))"),
        (RETINANET, "env_cfg = dict(dist_cfg=dict(backend='gloo', timeout=90))"),
    ],
)
def test_what_someone_reads_is_no_mistake(tmp_path, base, text):
    read_config(str(derive(tmp_path, base, text)))


def test_an_option_is_named_as_the_option(tmp_path):
    option = {"model.test_cfg.nms.iou_treshold": 0.5}
    with pytest.raises(UserError, match=r"^--cfg-options model\.test_cfg\.nms"):
        read_config(str(RETINANET), option)
    with pytest.raises(UserError, match="max_epochs must.*got 0") as error:
        read_config(str(RETINANET), {"train_cfg.max_epochs": 0})
    assert str(error.value).startswith("--cfg-options train_cfg.max_epochs: ")
    assert error.value.exit_code == 2


def test_keys_of_the_second_generation_are_warned_of(tmp_path):
    file = derive(tmp_path, RETINANET, "lr_config = dict(policy='step')")
    assert check_config(read_config(str(file))) == [
        "nothing reads 'lr_config'; its place is param_scheduler"
    ]


def test_several_mistakes_are_counted(tmp_path):
    text = "train_cfg = dict(max_epochs=0)\nmodel = dict(nek=dict())"
    with pytest.raises(UserError, match=r"'neck'\? \(and 1 more\)"):
        read_config(str(derive(tmp_path, RETINANET, text)))


@pytest.mark.parametrize("task", tiny_runs.TASKS)
def test_metrics_are_those_that_the_evaluator_computes(task, tmp_path):
    """`save_best` is judged by these names; MMEngine's own metrics say them."""
    from mmengine.registry import METRICS, DefaultScope

    config = Config.fromfile(tiny_runs.write_config(task, tmp_path))
    names = metrics_of(config.to_dict()["val_evaluator"], {})
    tiny_runs.make_data(tmp_path)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        metric = METRICS.build(config.val_evaluator)
    metric.dataset_meta = {"classes": ("a", "b")}
    found = {
        "detection": lambda: coco_names(metric),
        "segmentation": lambda: {"aAcc", "mIoU", "mAcc"},
        "classification": lambda: {f"{metric.prefix}/top1"},
    }[task]()
    assert names == found


def coco_names(metric):
    """What mmdet gives for one perfect detection."""
    import numpy as np

    result = {
        "img_id": 0,
        "bboxes": np.array([[8.0, 10, 32, 34]]),
        "scores": np.array([0.9]),
        "labels": np.array([0]),
    }
    truth = {"width": 64, "height": 64, "img_id": 0}
    scores = metric.compute_metrics([(truth, result)])
    assert all(math.isfinite(value) for value in scores.values())
    return {f"{metric.prefix}/{name}" for name in scores}


def test_every_shipped_base_is_free_of_mistakes():
    """A sample; the nightly run reads every config of four packages."""
    for path in (RETINANET, MASK_RCNN, UPERNET, CLASSIFIER):
        config = Config.fromfile(path)
        assert find_mistakes(config) == []
        assert check_config(config) == []
