"""Trainings by the real tool, in processes that are forked, killed and resumed.

A forked process has imported everything already, so that a run takes a second, and its
death is as real as that of any other.
"""

import copy
import hashlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from sizes import MICRO

from mlp_backbones.datasets.digit_scenes import DigitScenesOptions, make_digit_scenes
from mlp_backbones.engine.cli import run_tool
from mlp_backbones.engine.launch import current_log_dir, train
from mlp_backbones.engine.options import train_parser

SCENES = DigitScenesOptions(
    num_train=14, num_val=2, num_train_cls=20, num_val_cls=10, size=64, cls_size=32
)
ARCH = MICRO["cyclemlp"]

COMMON = """
custom_imports = dict(imports=['resumed_runs'])
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=1),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'))
custom_hooks = [
    dict(type='EMAHook', momentum=0.1, priority='ABOVE_NORMAL'),
    dict(type='RecordHook')]
env_cfg = dict(mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
               dist_cfg=dict(backend='gloo'))
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=5),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=3,
         convert_to_iter_based=True)]
backbone = dict(type='mlp_backbones.CycleMLP', arch={arch}, drop_path_rate=0.3)
val_cfg = dict(type='ValLoop')
"""
DETECTION = """
default_scope = 'mmdet'
model = dict(
    type='RetinaNet',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[64.] * 3, std=[64.] * 3,
        pad_size_divisor=32),
    backbone=backbone,
    neck=dict(type='FPN', in_channels=[16, 32, 48, 64], out_channels=16,
              start_level=1, add_extra_convs='on_input', num_outs=5),
    bbox_head=dict(
        type='RetinaHead', num_classes=10, in_channels=16, stacked_convs=1,
        feat_channels=16,
        anchor_generator=dict(
            type='AnchorGenerator', octave_base_scale=4, scales_per_octave=3,
            ratios=[0.5, 1.0, 2.0], strides=[8, 16, 32, 64, 128]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, loss_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=1.0)),
    train_cfg=dict(
        assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4,
                      min_pos_iou=0, ignore_iof_thr=-1),
        sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1),
    test_cfg=dict(nms_pre=100, min_bbox_size=0, score_thr=0.0,
                  nms=dict(type='nms', iou_threshold=0.5), max_per_img=10))
meta = dict(classes=tuple('0123456789'))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomResize', scale=(64, 64), ratio_range=(0.8, 1.2)),
    dict(type='RandomCrop', crop_size=(48, 56), allow_negative_crop=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=(
        'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(
        type='CocoDataset', data_root='{data}/', metainfo=meta,
        ann_file='annotations/instances_train.json', data_prefix=dict(img='train/'),
        filter_cfg=dict(filter_empty_gt=False), pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1, num_workers=0, persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset', data_root='{data}/', metainfo=meta, test_mode=True,
        ann_file='annotations/instances_val.json', data_prefix=dict(img='val/'),
        pipeline=test_pipeline))
val_evaluator = dict(
    type='CocoMetric', ann_file='{data}/annotations/instances_val.json', metric='bbox')
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=3, val_interval=1)
"""
CLASSIFICATION = """
default_scope = 'mmpretrain'
backbone.update(out_indices=(3, ))
model = dict(
    type='ImageClassifier', backbone=backbone,
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64, topk=(1, ),
              loss=dict(type='CrossEntropyLoss', use_soft=True)),
    train_cfg=dict(augments=[
        dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]))
data_preprocessor = dict(num_classes=10, mean=[64.] * 3, std=[64.] * 3, to_rgb=True)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=32),
    dict(type='RandAugment', policies='timm_increasing', num_policies=2,
         total_level=10, magnitude_level=9, magnitude_std=0.5),
    dict(type='RandomErasing', erase_prob=0.5, mode='rand'),
    dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='RepeatAugSampler', shuffle=True),
    dataset=dict(type='CustomDataset', data_root='{data}/cls/train',
                 pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=5, num_workers=0, persistent_workers=False,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='CustomDataset', data_root='{data}/cls/val', pipeline=[
        dict(type='LoadImageFromFile'), dict(type='PackInputs')]))
val_evaluator = dict(type='Accuracy', topk=(1, ))
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=3, val_interval=1)
"""
ITERATIONS = {
    "train_cfg": {
        "_delete_": True,
        "type": "IterBasedTrainLoop",
        "max_iters": 9,
        "val_interval": 3,
    },
    "param_scheduler": [{"type": "PolyLR", "by_epoch": False, "begin": 0, "end": 9}],
    "default_hooks.checkpoint.by_epoch": False,
    "default_hooks.checkpoint.interval": 3,
    "train_dataloader.sampler.type": "InfiniteSampler",
    "log_processor": {"by_epoch": False},
}
TASKS = {"detection": DETECTION, "classification": CLASSIFICATION}


def write_config(folder: Path, task: str, name: str = "", **settings: Any) -> Path:
    """Write a config that trains on the scenes below a folder, made if missing.

    Args:
        folder: Where scenes and configs lie.
        task: Of ``TASKS``.
        name: Of the file.
        settings: Replaced in the config, by full key with ``__`` for dots.
    """
    data = folder / "scenes"
    if not data.exists():
        make_digit_scenes(data, SCENES)
    text = COMMON + TASKS[task]
    for word, value in (("data", data), ("arch", ARCH)):
        text = text.replace(f"{{{word}}}", str(value))
    base = folder / f"_{task}.py"
    base.write_text(text)
    from mmengine.config import Config

    config = Config.fromfile(base)
    config.merge_from_dict(
        {
            key.replace("__", "."): copy.deepcopy(value)
            for key, value in settings.items()
        }
    )
    config._cfg_dict.pop("backbone", None)
    file = folder / f"{name or task}.py"
    config.dump(file)
    return file


@HOOKS.register_module()
class RecordHook(Hook):
    """Note what each step has drawn and computed, and die where it is told to."""

    priority = "VERY_LOW"
    die_at: tuple[str, int] | None = None
    raised = signal.SIGKILL
    victims: Callable[[], list[int]] = staticmethod(lambda: [os.getpid()])
    again = False  # a second time, after the first signal was noticed

    def _note(self, runner: Any, **words: Any) -> None:
        rank = os.environ.get("RANK", "0")
        with (Path(runner.work_dir) / f"record_{rank}.jsonl").open("a") as file:
            file.write(json.dumps(words) + "\n")

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        loss = {key: float(value.detach()).hex() for key, value in outputs.items()}
        self._note(
            runner, iter=runner.iter, data=digest(data_batch), loss=loss,
            index=batch_idx, state=digest(torch.get_rng_state()),
        )  # fmt: skip
        self._die("iter", runner.iter)

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        self._die("batch", runner.iter)

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self._die("val", runner.iter)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        self._die("save", runner.iter)

    def _die(self, moment: str, iteration: int) -> None:
        words = os.environ.get("RESUMED_RUNS_DIE_AT", "").split()
        if words:  # of a process that was not forked
            RecordHook.die_at = words[0], int(words[1])
            RecordHook.raised = signal.Signals(int(words[2]))
        if RecordHook.die_at == (moment, iteration):
            for victim in RecordHook.victims():
                os.kill(victim, RecordHook.raised)
            if RecordHook.again:
                os.kill(os.getpid(), RecordHook.raised)


def digest(content: Any) -> str:
    """Return a few digits that tell nested data apart, bit for bit."""
    found = hashlib.sha256()

    def add(node: Any) -> None:
        if isinstance(node, torch.Tensor):
            found.update(node.detach().cpu().contiguous().numpy().tobytes())
        elif isinstance(node, dict):
            for key in sorted(node, key=str):
                found.update(str(key).encode())
                add(node[key])
        elif isinstance(node, (list, tuple)):
            for each in node:
                add(each)
        elif hasattr(node, "to_dict"):
            add(node.to_dict())
            add({key: str(value) for key, value in node.metainfo.items()})
        elif hasattr(node, "tensor"):
            add(node.tensor)
        else:
            found.update(str(node).encode())

    add(content)
    return found.hexdigest()[:16]


def start_forked(
    *arguments: object,
    die_at: tuple[str, int] | None = None,
    raised: int = signal.SIGKILL,
    prepare: Callable[[], object] = lambda: None,
) -> tuple[int, int]:
    """Start tools/train.py's work in a forked process; see `run_forked`.

    Returns:
        Its id, and a pipe with all that it writes.
    """
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        return child, read
    code = 99
    try:
        os.close(read)
        os.dup2(write, 1)
        os.dup2(write, 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        RecordHook.die_at, RecordHook.raised = die_at, raised
        prepare()
        args = train_parser().parse_args(list(map(str, arguments)))
        code = run_tool(lambda: train(args), "train.py", False, current_log_dir)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 98
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def wait_for(child: int, pipe: int) -> tuple[int, str]:
    """Wait for a forked process; see `run_forked`."""
    with open(pipe, encoding="utf-8", errors="replace") as text:
        said = text.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


def run_forked(*arguments: object, **options: Any) -> tuple[int, str]:
    """Run tools/train.py's work in a forked process.

    Args:
        arguments: The command line.
        options: ``die_at``, moment and iteration in which the process gets a signal;
            ``raised``, that signal; ``prepare``, called in the process before.

    Returns:
        The exit code, negative for a signal that ended it, and all that it wrote.
    """
    return wait_for(*start_forked(*arguments, **options))


def run_two(port: int, *arguments: object, **options: Any) -> list[tuple[int, str]]:
    """Run two processes that train together, as torchrun would start them.

    Only the second gets the signal of ``die_at``.
    """

    def environment(rank: int) -> Callable[[], None]:
        return lambda: os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2",
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
        )  # fmt: skip

    arguments = (*arguments, "--launcher", "pytorch")
    first = start_forked(*arguments, prepare=environment(0))
    second = start_forked(*arguments, prepare=environment(1), **options)
    ends = [wait_for(*second)]
    if ends[0][0] < 0:  # as torchrun does when one has died
        os.kill(first[0], signal.SIGKILL)
    return [wait_for(*first), *ends]


def records(work_dir: Path, rank: int = 0) -> dict[int, dict[str, Any]]:
    """Return what was noted of each iteration; what was done twice must be equal."""
    found: dict[int, dict[str, Any]] = {}
    for line in (work_dir / f"record_{rank}.jsonl").read_text().splitlines():
        words = json.loads(line)
        assert found.setdefault(words["iter"], words) == words, "done twice, otherwise"
    return found


def state_of(file: Path) -> dict[str, Any]:
    """Return what a checkpoint holds, without what the clock has put into it."""
    state = torch.load(file, weights_only=False)
    state.pop("message_hub")
    meta = {key: state["meta"][key] for key in ("iter", "epoch", "seed")}
    return {**copy.copy(state), "meta": meta}
