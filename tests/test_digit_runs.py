"""Each task on digit scenes as users run it: train, stop, resume, evaluate."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mlp_backbones.datasets.digit_scenes import DigitScenesOptions, make_digit_scenes
from mlp_backbones.testing.configs import find_config_dir

TOOLS = Path(__file__).parents[1] / "tools"
BATCH = 4
RUNS = {  # head, schedule, and the metric that tells how well it went
    "retinanet_cycle-mlp-mini_fpn_1xb8-8e": "coco/bbox_mAP_50",
    "mask-rcnn_cycle-mlp-mini_fpn_1xb8-6e": "coco/segm_mAP_50",
    "fpn_cycle-mlp-mini_1xb32-3k": "mIoU",
    "cycle-mlp-mini_1xb32-10e": "accuracy/top1",
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "scenes"
    options = DigitScenesOptions(
        num_train=BATCH, num_val=2, num_train_cls=10, num_val_cls=10
    )
    make_digit_scenes(folder, options)
    return folder


def _run(tool: str, *arguments: object) -> None:
    path = os.pathsep.join([str(TOOLS.parent), os.environ.get("PYTHONPATH", "")])
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, TOOLS / tool, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def _numbers(work_dir: Path) -> dict[str, float]:
    """Read what the newest run of a work folder has noted last, by name."""
    log = max(work_dir.glob("*/vis_data/scalars.json"))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return {name: value for line in lines for name, value in line.items()}


@pytest.mark.parametrize("run", RUNS)
def test_train_resume_evaluate(run: str, scenes: Path, tmp_path: Path) -> None:
    config_file = find_config_dir() / "cycle_mlp" / f"{run}_digit-scenes.py"
    config = Config.fromfile(config_file)
    part = Path(config.data_root).name
    by_epoch = config.train_cfg.get("type", "EpochBasedTrainLoop") != (
        "IterBasedTrainLoop"
    )
    length = "max_epochs" if by_epoch else "max_iters"
    loaders = [f"{split}_dataloader" for split in ("train", "val", "test")]
    options = [
        f"data_root={scenes / (part if part in ('ade', 'cls') else '')}",
        "default_hooks.checkpoint.interval=1",
        "default_hooks.checkpoint.max_keep_ckpts=2",
        "default_hooks.logger.interval=1",
        "train_cfg.val_interval=1",
        *(f"{loader}.batch_size={BATCH}" for loader in loaders),
        *(f"{loader}.num_workers=0" for loader in loaders),
        *(f"{loader}.persistent_workers=False" for loader in loaders),
    ]
    if config.model.type == "RetinaNet":  # so early it detects nothing confidently
        options.append("model.test_cfg.score_thr=0.0")
    command = ["train.py", config_file, "--work-dir", tmp_path, "--cfg-options"]
    _run(*command, *options, f"train_cfg.{length}=1")
    first = _numbers(tmp_path)
    # `--cfg-options` takes all words that follow
    _run("train.py", config_file, "--resume", *command[2:], *options,
         f"train_cfg.{length}=2")  # fmt: skip
    second = _numbers(tmp_path)
    for numbers in (first, second):
        assert numbers["loss"] > 0
        assert 0 <= numbers[RUNS[run]] <= 100
    unit = "epoch" if by_epoch else "iter"
    states = [
        torch.load(tmp_path / f"{unit}_{count}.pth", weights_only=False)
        for count in (1, 2)
    ]
    assert [state["meta"][unit] for state in states] == [1, 2]
    assert states[1]["meta"]["iter"] == 2 * states[0]["meta"]["iter"], "it went on"
