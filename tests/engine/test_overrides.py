"""Options that override a config, through the door that users take."""

from itertools import islice
from typing import TypedDict

import pytest
import tiny_runs
import torch
from mmengine.config import Config
from typing_extensions import Unpack

from mlp_backbones.config_names import config_dir, find_configs, parse_config_name
from mlp_backbones.engine import launch
from mlp_backbones.engine import options as engine_options
from mlp_backbones.engine.config import load_config
from mlp_backbones.engine.errors import UserError
from mlp_backbones.engine.overrides import check_options, parse_options
from mlp_backbones.registry import MODELS

CONFIG_DIR = config_dir()
CYCLE = next((CONFIG_DIR).glob("cycle*mlp"))
RETINANET = min(CYCLE.glob("retinanet_*_coco.py"))
MASK_RCNN = min(CYCLE.glob("mask-rcnn_*_coco.py"))
UPERNET = min(CYCLE.glob("upernet_*_ade20k-*.py"))
CLASSIFIER = min(CYCLE.glob("*_in1k.py"))


def dense_configs():
    """The last size of each family, head and data set: most have no weights."""
    last = {}
    for path in find_configs(CONFIG_DIR):
        name = parse_config_name(path)
        if name.head is not None:
            last[name.family, name.head, name.dataset] = path
    assert len(last) > 70
    return list(last.values())


def prepare(config, *options):
    """Read a config as tools/train.py does."""
    command = [str(config), "--no-check-data", "--cfg-options", *options]
    return load_config(engine_options.train_parser().parse_args(command))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("path", dense_configs(), ids=lambda path: path.stem)
def test_weights_can_be_named_for_every_dense_config(path):
    config = prepare(
        path,
        "model.backbone.init_cfg.type=Pretrained",
        "model.backbone.init_cfg.checkpoint=own.pth",
    )
    expected = {"type": "Pretrained", "checkpoint": "own.pth"}
    assert config.model.backbone.init_cfg == expected


@pytest.mark.parametrize("before", ["None", "dict()"])
def test_weights_can_be_named_where_the_config_says_there_are_none(tmp_path, before):
    file = tmp_path / "c.py"
    model = f"dict(backbone=dict(init_cfg={before}))"
    file.write_text(f"_base_ = {str(RETINANET)!r}\nmodel = {model}\n")
    option = "model.backbone.init_cfg.checkpoint=own.pth"
    config = prepare(file, "model.backbone.init_cfg.type=Pretrained", option)
    assert config.model.backbone.init_cfg.checkpoint == "own.pth"


@pytest.mark.parametrize(
    ("path", "option"),
    [
        (RETINANET, "model.backbone.with_cp=True"),
        (RETINANET, "model.bbox_head.loss_cls.reduction=sum"),
        (RETINANET, "model.neck.norm_cfg.type=BN"),
        (RETINANET, "model.test_cfg.nms.max_num=7"),
        (RETINANET, "model_wrapper_cfg.type=MMDistributedDataParallel"),
        (RETINANET, "optim_wrapper.clip_grad.max_norm=1.0"),
        (RETINANET, "optim_wrapper.accumulative_counts=2"),
        (RETINANET, "optim_wrapper.optimizer.fused=True"),
        (RETINANET, "optim_wrapper.paramwise_cfg.custom_keys.neck.lr_mult=0.1"),
        (RETINANET, "optim_wrapper.constructor=X"),
        (RETINANET, "param_scheduler.0.convert_to_iter_based=True"),
        (RETINANET, "train_dataloader.prefetch_factor=4"),
        (RETINANET, "train_dataloader.dataset.indices=8"),
        (RETINANET, "train_dataloader.dataset.pipeline.2.backend=pillow"),
        (RETINANET, "val_evaluator.classwise=True"),
        (RETINANET, "train_cfg.dynamic_intervals=[(1,1)]"),
        (RETINANET, "default_hooks.checkpoint.max_keep_ckpts=2"),
        (RETINANET, "default_hooks.early.type=EarlyStoppingHook"),
        (RETINANET, "randomness.seed=3"),
        (RETINANET, "compile=True"),
        (MASK_RCNN, "model.roi_head.mask_head.norm_cfg.requires_grad=False"),
        (UPERNET, "model.decode_head.sampler.type=OHEMPixelSampler"),
        (UPERNET, "model.data_preprocessor.test_cfg.size_divisor=32"),
        (CLASSIFIER, "model.head.cal_acc=True"),
        (CLASSIFIER, "model.backbone.init_cfg=None"),
        (RETINANET, "model.backbone.init_cfg=None"),
    ],
)
def test_arguments_that_the_config_leaves_to_their_defaults(path, option):
    config = prepare(path, option)
    ((key, value),) = parse_options([option]).items()
    node = config
    for name in key.split("."):
        node = node[int(name)] if name.isdigit() else node[name]
    assert node == value


@pytest.mark.parametrize(
    ("path", "option", "near"),
    [
        (RETINANET, "trian_cfg.max_epochs=3", "train_cfg"),
        (RETINANET, "model.backbon.arch=b1", "backbone"),
        (RETINANET, "model.backbone.with_pc=True", "with_cp"),
        (RETINANET, "model.backbone.init_cgf.type=Pretrained", "init_cfg"),
        (RETINANET, "model.neck.norm_cgf.type=BN", "norm_cfg"),
        (RETINANET, "model.test_cfg.score_tr=0.1", "score_thr"),
        (RETINANET, "optim_wrapper.clip_gard.max_norm=1", "clip_grad"),
        (RETINANET, "optim_wrapper.optimzer.lr=1", "optimizer"),
        (RETINANET, "optim_wrapper.optimizer.weight_deacy=1", "weight_decay"),
        (RETINANET, "train_dataloader.batchsize=4", "batch_size"),
        (RETINANET, "train_dataloader.datset.ann_file=x", "dataset"),
        (RETINANET, "train_cfg.max_epoch=3", "max_epochs"),
        (RETINANET, "val_evaluator.ann_fil=x", "ann_file"),
        (RETINANET, "default_hooks.checkpont.interval=3", "checkpoint"),
        (RETINANET, "randomness.sead=3", "seed"),
        (RETINANET, "auto_scale_lr.enabled=True", "enable"),
        (RETINANET, "visualizer.vis_backend=None", "vis_backends"),
        (MASK_RCNN, "model.test_cfg.rcn.score_thr=0.1", "rcnn"),
        (UPERNET, "model.auxiliary_heads.num_convs=2", "auxiliary_head"),
        (UPERNET, "train_cfg.max_iter=3", "max_iters"),
        (CLASSIFIER, "model.head.topk_=(1,)", "topk"),
    ],
)
def test_a_misspelt_name_is_refused_with_the_nearest_one(path, option, near):
    with pytest.raises(UserError, match=f"did you mean '{near}'") as error:
        prepare(path, option)
    assert option.partition("=")[0] in str(error.value)


def test_the_type_that_the_same_options_choose_decides():
    wrapper = "optim_wrapper.type=AmpOptimWrapper"
    config = prepare(RETINANET, "optim_wrapper.loss_scale=dynamic", wrapper)
    assert config.optim_wrapper.loss_scale == "dynamic"
    with pytest.raises(UserError, match=r"OptimWrapper\) has no 'loss_scale'"):
        prepare(RETINANET, "optim_wrapper.loss_scale=dynamic")
    kind = "model.backbone.init_cfg.type=Pretrained"
    with pytest.raises(UserError, match=r"Pretrained\).*did you mean 'checkpoint'"):
        prepare(RETINANET, kind, "model.backbone.init_cfg.chekpoint=own.pth")


def test_weights_need_the_way_to_read_them(tmp_path):
    file = tmp_path / "c.py"
    model = "dict(backbone=dict(init_cfg=None))"
    file.write_text(f"_base_ = {str(RETINANET)!r}\nmodel = {model}\n")
    with pytest.raises(UserError, match=r"add model\.backbone\.init_cfg\.type="):
        prepare(file, "model.backbone.init_cfg.checkpoint=own.pth")


def test_options_need_an_equals_sign():
    assert parse_options(["a.b=1", "c=[1,2]"]) == {"a.b": 1, "c": [1, 2]}
    with pytest.raises(UserError, match="'a'"):
        parse_options(["a"])


class Common(TypedDict, total=False):
    shared: int


class Inherited(Common):
    other: int


class PackedBackbone:
    def __init__(self, own: int, **common: Unpack[Inherited]) -> None:
        """Take common arguments by PEP 692."""


class OpenBackbone:
    def __init__(self, **more) -> None:
        """Take anything."""


def test_common_arguments_are_read_from_their_annotation():
    def check(cls, name):
        model = {"backbone": {"type": cls}, "type": "RetinaNet"}
        config = Config({"default_scope": "mmdet", "model": model})
        check_options(config, {f"model.backbone.{name}": 1})

    for name in ("own", "shared", "other"):
        check(PackedBackbone, name)
    with pytest.raises(UserError, match="did you mean 'shared'"):
        check(PackedBackbone, "shred")
    check(OpenBackbone, "anything")


def test_every_backbone_says_which_arguments_it_takes():
    """Otherwise a misspelt one would be seen late."""
    for name in islice(MODELS.module_dict, 40):
        if "Norm" in name:
            continue
        options = {"model.backbone.drop_path_raet": 0.1}
        model = {"backbone": {"type": f"mlp_backbones.{name}"}}
        with pytest.raises(UserError, match="drop_path_rate"):
            check_options(Config({"default_scope": "mmdet", "model": model}), options)


@pytest.mark.parametrize("task", tiny_runs.TASKS)
def test_a_training_starts_from_weights_named_by_options(tmp_path, task):
    """Of a backbone whose config names none."""
    tiny_runs.make_data(tmp_path)
    file = tiny_runs.write_config(task, tmp_path)
    kind = "model.backbone.init_cfg.type=Pretrained"
    name = "model.backbone.init_cfg.checkpoint"
    options = ["optim_wrapper.optimizer.lr=0.0", "train_cfg.max_iters=1"]
    options += [f"visualizer.name=overrides_{task}"]
    options += ["default_hooks.checkpoint.interval=1"]
    shape = (64 if task == "segmentation" else 8, 3, 7, 7)
    torch.save({"conv1.weight": torch.full(shape, 0.125)}, tmp_path / "own.pth")
    command = [str(file), "--work-dir", str(tmp_path / "run"), "--no-validate"]
    command += ["--cfg-options", kind, f"{name}={tmp_path / 'own.pth'}", *options]
    launch.train(engine_options.train_parser().parse_args(command))
    saved = torch.load(tmp_path / "run" / "iter_1.pth", weights_only=False)
    weight = saved["state_dict"]["backbone.conv1.weight"]
    assert torch.equal(weight, torch.full(shape, 0.125))
