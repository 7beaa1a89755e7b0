"""The demo: data, training, evaluation and pictures from one call."""

import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.logging import print_log

from mlp_backbones.config_names import config_dir as find_config_dir
from mlp_backbones.engine.cli import UserError

# Beginnings of the names of the configs, and the metrics that say how good a run is.
DEMO_TASKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "retinanet": ("retinanet_", ("coco/bbox_mAP_50", "coco/bbox_mAP")),
    "mask-rcnn": (
        "mask-rcnn_",
        ("coco/bbox_mAP_50", "coco/bbox_mAP", "coco/segm_mAP_50", "coco/segm_mAP"),
    ),
    "semantic-fpn": ("fpn_", ("mIoU", "aAcc")),
    "upernet": ("upernet_", ("mIoU", "aAcc")),
    "classification": ("cycle-mlp-", ("accuracy/top1", "accuracy/top5")),
}


@dataclass(frozen=True)
class DemoResult:
    """What a demo has reached.

    Attributes:
        task: a key of `DEMO_TASKS`.
        metrics: all metrics of the evaluation on held-out data.
        minutes: from the start to the end of the evaluation, data included.
        out_dir: folder with everything.
        pictures: pictures of predictions.
        curves: pictures of curves.
    """

    task: str
    metrics: dict[str, float]
    minutes: float
    out_dir: Path
    pictures: list[Path]
    curves: list[Path]


def find_demo_config(task: str, config_dir: Path | None = None) -> Path:
    """Find the config of a demo task by its name.

    Args:
        task: a key of `DEMO_TASKS`.
        config_dir: folder with the configs of a family; None takes CycleMLP's.

    Raises:
        UserError: on an unknown task, or when there is not exactly one such config.
    """
    if task not in DEMO_TASKS:
        raise UserError(f"no demo {task!r}, there are: {', '.join(DEMO_TASKS)}")
    if config_dir is None:
        config_dir = find_config_dir() / "cycle_mlp"
    pattern = f"{DEMO_TASKS[task][0]}*_digit-scenes.py"
    files = sorted(config_dir.glob(pattern))
    if len(files) != 1:
        raise UserError(
            f"{len(files)} configs match {config_dir / pattern}, name one by --config"
        )
    return files[0]


def run_demo(
    out_dir: Path,
    task: str = "retinanet",
    config: Path | None = None,
    data_root: Path | None = None,
    num_pictures: int = 12,
    options: Sequence[str] = (),
) -> DemoResult:
    """Make the digit scenes if need be, train, evaluate, and leave what can be seen.

    Args:
        out_dir: folder for `metrics.json`, `curves/`, `pictures/` and `run/` (logs and
            checkpoints). An earlier demo that lies there is moved aside.
        task: a key of `DEMO_TASKS`.
        config: config file; None takes that of the task.
        data_root: folder of the digit scenes, made where it does not exist; None
            takes the one in the config.
        num_pictures: pictures of predictions.
        options: `key=value` settings that override the config.

    Raises:
        UserError: on what tools/train.py refuses.
    """
    import torch

    from mlp_backbones.analysis.curves import save_curves
    from mlp_backbones.analysis.pictures import save_prediction_pictures
    from mlp_backbones.datasets.digit_scenes import MARKER_FILE, make_digit_scenes
    from mlp_backbones.engine.launch import (
        build_runner,
        prepare_training,
        read_config,
        train_parser,
    )
    from mlp_backbones.engine.overrides import parse_options

    start = time.monotonic()
    config = config or find_demo_config(task)
    if num_pictures < 1:
        raise UserError(f"num_pictures must be at least 1, got {num_pictures}")
    # A mistake in the options must show before anything is made or moved.
    own_root = Path(read_config(str(config)).data_root)
    read_config(str(config), parse_options(list(options)))
    # Segmentation and classification have a folder of their own below the scenes.
    part = own_root.name if own_root.name in ("ade", "cls") else ""
    root = data_root or (own_root.parent if part else own_root)
    if not (root / MARKER_FILE).is_file():
        print_log(f"Making the digit scenes in {root}")
        make_digit_scenes(root, progress=True)
    _move_aside(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)

    arguments = [str(config), "--work-dir", str(out_dir / "run")]
    if data_root is not None:
        options = [f"data_root={root / part}", *options]
    if options:
        arguments += ["--cfg-options", *options]
    full_config = prepare_training(train_parser().parse_args(arguments))
    runner = build_runner(full_config)
    runner.train()
    metrics = {name: float(value) for name, value in runner.test().items()}
    checkpoint = (out_dir / "run" / "last_checkpoint").read_text().strip()
    minutes = (time.monotonic() - start) / 60
    record = {
        "task": task,
        "config": config.name,
        "metrics": metrics,
        "minutes": round(minutes, 2),
        "checkpoint": Path(checkpoint).name,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    (out_dir / "metrics.json").write_text(json.dumps(record, indent=2) + "\n")
    return DemoResult(
        task=task,
        metrics=metrics,
        minutes=minutes,
        out_dir=out_dir,
        curves=save_curves([out_dir / "run"], out_dir / "curves"),
        pictures=save_prediction_pictures(
            full_config, checkpoint, out_dir / "pictures", num_pictures
        ),
    )


def _move_aside(out_dir: Path) -> None:
    """Move an earlier demo out of the way, since nobody asked to lose it."""
    record = out_dir / "metrics.json"
    if record.is_file():
        stamp = time.strftime("%Y%m%d_%H%M%S", time.localtime(record.stat().st_mtime))
        target = out_dir.with_name(f"{out_dir.name}_{stamp}")
        out_dir.rename(target)
        print_log(f"The earlier demo was moved to {target}")


def print_result(result: DemoResult) -> None:
    """Print what a demo has reached and where to look."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Demo {result.task}: held-out digit scenes")
    table.add_column("metric")
    table.add_column("reached", justify="right")
    for name in DEMO_TASKS[result.task][1]:
        if name in result.metrics:
            table.add_row(name, f"{result.metrics[name]:.3f}")
    if not result.metrics:  # mmdet, where nothing was detected
        table.add_row("no metrics", "nothing detected")
    table.add_row("minutes, data and evaluation included", f"{result.minutes:.1f}")
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(f"Pictures of predictions: {result.pictures[0].parent}")
    console.print(f"Curves:                  {result.curves[0].parent}")
    console.print(f"All metrics:             {result.out_dir / 'metrics.json'}")
