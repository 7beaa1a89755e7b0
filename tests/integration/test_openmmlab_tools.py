"""The tools of mmdet, mmseg and mmpretrain train our backbones, mmcv not compiled.

Each config here is written as their users write theirs: their own bases, a data set,
and a backbone's name with our scope. The ways are those of docs/operators.md.
"""

import math
import subprocess
import sys
from pathlib import Path

import openmmlab_runs
import pytest
import torch
from sizes import MICRO

from mlp_backbones.datasets.digit_scenes import DigitScenesOptions, make_digit_scenes

SCENES = DigitScenesOptions(
    num_train=4, num_val=2, num_train_cls=20, num_val_cls=10, size=64, cls_size=32
)

DETECTION = """
_base_ = [
    '{configs}/_base_/models/retinanet_r50_fpn.py',
    '{configs}/_base_/datasets/coco_detection.py',
    '{configs}/_base_/schedules/schedule_1x.py',
    '{configs}/_base_/default_runtime.py'
]
model = dict(
    backbone=dict(_delete_=True, type='mlp_backbones.CycleMLP', arch={arch}),
    neck=dict(in_channels=[16, 32, 48, 64], out_channels=32),
    bbox_head=dict(
        num_classes=10, in_channels=32, feat_channels=32, stacked_convs=1),
    test_cfg=dict(score_thr=0.0))
data = dict(
    data_root='digits/',
    metainfo=dict(classes=tuple('0123456789')))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='PackDetInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs',
         meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
]
train_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dict(
        **data, ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train/'), pipeline=train_pipeline))
val_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dict(
        **data, ann_file='annotations/instances_val.json',
        data_prefix=dict(img='val/'), pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='digits/annotations/instances_val.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1)
default_hooks = dict(logger=dict(interval=1))
"""

SEGMENTATION = """
_base_ = [
    '{configs}/_base_/models/fpn_r50.py',
    '{configs}/_base_/datasets/ade20k.py',
    '{configs}/_base_/default_runtime.py',
    '{configs}/_base_/schedules/schedule_20k.py'
]
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(_delete_=True, type='mlp_backbones.CycleMLP', arch={arch}),
    neck=dict(in_channels=[16, 32, 48, 64]),
    decode_head=dict(num_classes=11, norm_cfg=norm_cfg))
data = dict(
    type='BaseSegDataset',
    data_root='digits/ade',
    img_suffix='.jpg',
    seg_map_suffix='.png',
    reduce_zero_label=False,
    metainfo=dict(
        classes=('ground', *'0123456789'), palette=[[20 * i] * 3 for i in range(11)]))
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')
]
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False,
    dataset=dict(
        **data, pipeline=pipeline, data_prefix=dict(
            img_path='images/training', seg_map_path='annotations/training')))
val_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dict(
        **data, pipeline=pipeline, data_prefix=dict(
            img_path='images/validation', seg_map_path='annotations/validation')))
test_dataloader = val_dataloader
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks = dict(
    logger=dict(interval=1), checkpoint=dict(interval=2))
"""

CLASSIFICATION = """
_base_ = [
    '{configs}/_base_/models/resnet50.py',
    '{configs}/_base_/datasets/imagenet_bs32.py',
    '{configs}/_base_/schedules/imagenet_bs256.py',
    '{configs}/_base_/default_runtime.py'
]
model = dict(
    backbone=dict(
        _delete_=True, type='mlp_backbones.CycleMLP', arch={arch}, out_indices=(3, )),
    head=dict(num_classes=10, in_channels=64))
data_preprocessor = dict(num_classes=10)
pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
data = dict(_delete_=True, type='CustomDataset', pipeline=pipeline)
train_dataloader = dict(
    batch_size=10, num_workers=0, persistent_workers=False,
    dataset=dict(**data, data_root='digits/cls/train'))
val_dataloader = dict(
    batch_size=10, num_workers=0, persistent_workers=False,
    dataset=dict(**data, data_root='digits/cls/val'))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=1)
default_hooks = dict(logger=dict(interval=1))
"""

RUNS = {
    "mmdet": (DETECTION, "epoch_1.pth", "coco/bbox_mAP:"),
    "mmseg": (SEGMENTATION, "iter_2.pth", "mIoU:"),
    "mmpretrain": (CLASSIFICATION, "epoch_1.pth", "accuracy/top1:"),
}
# What stands before the script, and what the config says besides the backbone's name.
WAYS = {
    "import": ([], 'custom_imports = dict(imports=["mlp_backbones"])\n'),
    "module": (["-m", "mlp_backbones"], ""),
    "name": ([], ""),
}
# Each way and each package by day; the other pairs differ in neither.
TRAININGS = [
    *(pytest.param(scope, "import", marks=pytest.mark.slow) for scope in RUNS),
    pytest.param("mmdet", "module"),
    pytest.param("mmseg", "module", marks=pytest.mark.nightly),
    pytest.param("mmpretrain", "module", marks=pytest.mark.nightly),
    pytest.param("mmseg", "name", marks=pytest.mark.nightly),
    pytest.param("mmpretrain", "name", marks=pytest.mark.slow),
]
# mmdet's test.py imports its models before it reads the config.
TESTS = [
    pytest.param("mmdet", "module", marks=pytest.mark.slow),
    pytest.param("mmseg", "import", marks=pytest.mark.slow),
    pytest.param("mmseg", "module", marks=pytest.mark.nightly),
    pytest.param("mmpretrain", "import", marks=pytest.mark.slow),
    pytest.param("mmpretrain", "module", marks=pytest.mark.nightly),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with data in it and nothing else."""
    folder = tmp_path_factory.mktemp("user")
    make_digit_scenes(folder / "digits", SCENES)
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return openmmlab_runs.bare_environment(tmp_path_factory.mktemp("environment"))


def train(scope: str, way: str, folder: Path, environment: dict[str, str]) -> Path:
    """Train once for each scope and way, by its own tool; return the work folder."""
    work_dir = folder / "work_dirs" / f"{scope}_{way}"
    if not work_dir.exists():
        before, line = WAYS[way]
        configs = openmmlab_runs.package_folder(scope) / ".mim" / "configs"
        config = folder / f"{scope}_{way}.py"
        text = RUNS[scope][0].replace("{configs}", str(configs))
        config.write_text(line + text.replace("{arch}", repr(MICRO["cyclemlp"])))
        script = openmmlab_runs.tool(scope, "train.py")
        openmmlab_runs.run(*before, script, config.name, cwd=folder, env=environment)
    return work_dir


@pytest.mark.parametrize(("scope", "way"), TRAININGS)
def test_their_tool_trains_our_backbone(
    scope: str, way: str, folder: Path, environment: dict[str, str]
) -> None:
    work_dir = train(scope, way, folder, environment)
    text, checkpoint, metric = RUNS[scope]
    assert text.count("mlp_backbones") == 1  # the backbone's name, and no import

    found = openmmlab_runs.losses(work_dir)
    assert len(found) == 2
    assert all(math.isfinite(loss) and loss > 0 for loss in found)

    state = torch.load(work_dir / checkpoint, weights_only=False)
    assert state["meta"]["iter"] == 2
    mixer = "backbone.stages.0.blocks.0.mixer"
    weight = state["state_dict"][f"{mixer}.along_width.weight"]
    assert weight.shape == (16, 16)
    assert torch.isfinite(weight).all()

    (log,) = work_dir.glob("*/*.log")
    assert metric in log.read_text()  # the evaluation behind the two steps


@pytest.mark.parametrize(("scope", "way"), TESTS)
def test_their_tool_tests_our_backbone(
    scope: str, way: str, folder: Path, environment: dict[str, str]
) -> None:
    work_dir = train(scope, way, folder, environment)
    _, checkpoint, metric = RUNS[scope]
    said = openmmlab_runs.run(
        *WAYS[way][0],
        openmmlab_runs.tool(scope, "test.py"),
        f"{scope}_{way}.py",
        work_dir / checkpoint,
        cwd=folder,
        env=environment,
    )
    assert metric in said
    assert "Load checkpoint from" in said
    assert "unexpected key" not in said and "missing keys" not in said


def test_the_module_runs_a_script_as_python_does(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "beside.py").write_text("VALUE = 7\n")
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, beside, mlp_backbones\n"
        "if __name__ == '__main__':\n"
        "    print(sys.argv[1:], sys.argv[0] == __file__, beside.VALUE)\n"
        "    sys.exit(int(sys.argv[-1]))\n"
    )
    command = [sys.executable, "-m", "mlp_backbones", str(script), "--help", "-x", "3"]
    options = {"cwd": tmp_path.parent, "env": environment, "check": False}
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.stdout == "['--help', '-x', '3'] True 7\n"
    assert done.returncode == 3
    launch = ["-m", "torch.distributed.run", "--nproc_per_node=1", "--standalone"]
    command = [sys.executable, *launch, "-m", "mlp_backbones", str(script), "0"]
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "['0'] True 7\n"


@pytest.mark.parametrize(
    ("args", "words"), [([], "usage: python -m"), (["no.py"], "no such script: no.py")]
)
def test_the_module_says_how_to_call_it(
    args: list[str], words: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    command = [sys.executable, "-m", "mlp_backbones", *args]
    options = {"cwd": tmp_path, "env": environment, "check": False}
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 2
    assert words in done.stderr and "Traceback" not in done.stderr
