"""Learn eight real images by heart: can the shipped configs be trained at all?

The shipped COCO and ADE20K configs of CycleMLP-B1, with the depths, widths, number of
proposals and image size that a CPU can bear, are trained on eight images and evaluated
on the same eight. What they reach says nothing about other images.

    python benchmarks/overfit_real_images.py --task retinanet \
        --data data/coco_mini --iterations 900 --batch-size 2 --stop-above 0.95
    python benchmarks/overfit_real_images.py --task mask-rcnn \
        --data data/coco_mini --iterations 500 --learning-rate 1e-3
    python benchmarks/overfit_real_images.py --task semantic-fpn \
        --data data/ade_mini/coco_ade150 --iterations 420 --batch-size 2 \
        --learning-rate 2e-3 --image-size 256

With ``--out benchmarks/results/real_images.json`` the figures are recorded.
"""

import argparse
import json
import sys
import time
from collections import defaultdict
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mlp_backbones.engine.cli import UserError, add_debug_option, run_tool
from mlp_backbones.engine.config import check_data, read_config
from mlp_backbones.engine.launch import build_runner

sys.path.insert(0, str(Path(__file__).parent))
from timing import describe_machine

CONFIG_DIR = Path(__file__).parents[1] / "configs" / "cyclemlp"
CONFIGS = {
    "retinanet": "retinanet_cyclemlp-b1_fpn_8xb2-1x_coco.py",
    "mask-rcnn": "mask-rcnn_cyclemlp-b1_fpn_8xb2-1x_coco.py",
    "semantic-fpn": "fpn_cyclemlp-b1_8xb4-40k_ade20k-512x512.py",
}
# The metric that decides, in the unit of its evaluator, and the value to be passed.
GOALS = {
    "retinanet": ("coco/bbox_mAP_50", 0.9),
    "mask-rcnn": ("coco/bbox_mAP_50", 0.9),
    "semantic-fpn": ("mIoU", 80.0),
}
DIMS = [32, 64, 128, 192]  # mmdet wants lists
CHANNELS = 64
SMALL_AREA = 32**2  # px, COCO's own limit of "small"
MIN_OBJECTS = 3

SMALL_ARCH = {"embed_dims": DIMS, "depths": (1, 1, 2, 1), "mlp_ratios": (4, 4, 4, 4)}
SMALL_NECK = {"model.backbone.init_cfg": None, "model.neck.out_channels": CHANNELS}
SMALL_MODELS = {
    "retinanet": {
        "model.neck.in_channels": DIMS[1:],
        "model.bbox_head.in_channels": CHANNELS,
        "model.bbox_head.feat_channels": CHANNELS,
        "model.bbox_head.stacked_convs": 2,
    },
    "mask-rcnn": {
        "model.neck.in_channels": DIMS,
        "model.rpn_head.in_channels": CHANNELS,
        "model.rpn_head.feat_channels": CHANNELS,
        "model.roi_head.bbox_roi_extractor.out_channels": CHANNELS,
        "model.roi_head.bbox_head.in_channels": CHANNELS,
        "model.roi_head.bbox_head.fc_out_channels": 256,
        "model.roi_head.mask_roi_extractor.out_channels": CHANNELS,
        "model.roi_head.mask_head.in_channels": CHANNELS,
        "model.roi_head.mask_head.conv_out_channels": CHANNELS,
        "model.roi_head.mask_head.num_convs": 2,
        "model.train_cfg.rpn.sampler.num": 64,
        "model.train_cfg.rpn_proposal.nms_pre": 300,
        "model.train_cfg.rpn_proposal.max_per_img": 100,
        "model.train_cfg.rcnn.sampler.num": 64,
        "model.test_cfg.rpn.nms_pre": 300,
        "model.test_cfg.rpn.max_per_img": 100,
    },
    "semantic-fpn": {
        "model.neck.in_channels": DIMS,
        "model.decode_head.in_channels": [CHANNELS] * 4,
        "model.decode_head.channels": CHANNELS,
        "model.decode_head.dropout_ratio": 0.0,
    },
}


def choose_coco_images(ann_file: Path, num_images: int, image_size: int) -> dict:
    """Take the images with the fewest small objects out of a COCO annotation file.

    Only images without crowds and with at least `MIN_OBJECTS` objects are taken; among
    equals the lower id comes first.

    Args:
        ann_file: the file.
        num_images: how many.
        image_size: longer side at which "small" is judged, in pixels.

    Returns:
        The content of the file, cut down to these images.

    Raises:
        UserError: when there are too few such images.
    """
    content = json.loads(ann_file.read_text())
    annotations = defaultdict(list)
    for annotation in content["annotations"]:
        annotations[annotation["image_id"]].append(annotation)

    def rank(image: dict) -> tuple[int, int]:
        scale = image_size / max(image["width"], image["height"])
        areas = [entry["area"] * scale**2 for entry in annotations[image["id"]]]
        return sum(area < SMALL_AREA for area in areas), image["id"]

    fit = [
        image
        for image in content["images"]
        if len(annotations[image["id"]]) >= MIN_OBJECTS
        and not any(entry["iscrowd"] for entry in annotations[image["id"]])
    ]
    if len(fit) < num_images:
        raise UserError(f"{ann_file} has {len(fit)} fitting images, not {num_images}")
    images = sorted(fit, key=rank)[:num_images]
    chosen = [entry for image in images for entry in annotations[image["id"]]]
    return content | {"images": images, "annotations": chosen}


def make_config(
    task: str,
    data_root: Path,
    work_dir: Path,
    *,
    iterations: int,
    num_images: int = 8,
    batch_size: int = 4,
    image_size: int = 320,
    val_interval: int = 100,
    learning_rate: float = 1e-3,
) -> Config:
    """Make the shipped config of a task small and let it see a few images only.

    Args:
        task: a key of `CONFIGS`.
        data_root: what the config's own `data_root` is exchanged for.
        work_dir: folder for logs, checkpoints and the subset of the annotations.
        iterations: length of the schedule, in steps.
        num_images: size of the training set, which is evaluated on too.
        batch_size: images a step.
        image_size: longer side of the images (Semantic FPN: both sides), in pixels.
        val_interval: steps from evaluation to evaluation.
        learning_rate: the highest one, reached after a twentieth of the schedule.

    Raises:
        UserError: on a `data_root` that does not hold the data.
    """
    options = {"data_root": str(data_root), **SMALL_NECK, **SMALL_MODELS[task]}
    config = read_config(str(CONFIG_DIR / CONFIGS[task]), options)
    config.model.backbone.arch = SMALL_ARCH
    dataset = config.train_dataloader.dataset
    work_dir.mkdir(parents=True, exist_ok=True)
    if task == "semantic-fpn":
        dataset.indices = num_images
        config.model.data_preprocessor.size = (image_size, image_size)
    else:
        source = Path(data_root) / dataset.ann_file
        if not source.is_file():
            raise UserError(f"annotation file {source} does not exist")
        subset = work_dir.absolute() / "subset.json"
        subset.write_text(
            json.dumps(choose_coco_images(source, num_images, image_size))
        )
        dataset.ann_file = str(subset)
        config.val_evaluator.ann_file = str(subset)
        # the same padding in training and evaluation
        config.model.data_preprocessor.pad_size_divisor = image_size
    _resize_without_chance(dataset.pipeline, task, image_size)

    seen = config.val_dataloader.dataset
    for name in ("ann_file", "data_prefix", "indices"):
        if name in dataset:
            seen[name] = dataset[name]
    _resize_without_chance(seen.pipeline, task, image_size)
    for loader in (config.train_dataloader, config.val_dataloader):
        loader.update(batch_size=batch_size, num_workers=0, persistent_workers=False)
    config.train_dataloader.sampler = dict(type="InfiniteSampler", shuffle=True)
    config.train_dataloader.pop("batch_sampler", None)
    config.test_dataloader = config.val_dataloader
    config.test_evaluator = config.val_evaluator

    warm_up = max(iterations // 20, 2)  # MMEngine gets stuck in a warm-up of 1
    config.train_cfg = dict(
        type="IterBasedTrainLoop", max_iters=iterations, val_interval=val_interval
    )
    config.optim_wrapper.optimizer.lr = learning_rate
    config.optim_wrapper.clip_grad = dict(max_norm=5.0)
    config.param_scheduler = [
        dict(type="LinearLR", start_factor=0.01, by_epoch=False, end=warm_up),
        dict(
            type="CosineAnnealingLR",
            by_epoch=False,
            begin=warm_up,
            end=iterations,
            T_max=iterations - warm_up,
            eta_min=learning_rate / 100,
        ),
    ]
    config.log_processor = dict(type="LogProcessor", window_size=10, by_epoch=False)
    config.default_hooks.logger = dict(type="LoggerHook", interval=10)
    config.default_hooks.checkpoint = dict(
        type="CheckpointHook",
        by_epoch=False,
        interval=val_interval,
        max_keep_ckpts=1,
        save_optimizer=False,
    )
    config.randomness = dict(seed=0)
    config.work_dir = str(work_dir)
    return config


def _resize_without_chance(pipeline: list, task: str, image_size: int) -> None:
    """Exchange a pipeline's resizing and augmentation for one fixed size, in place."""
    chance = ("RandomResize", "RandomCrop", "RandomFlip", "PhotoMetricDistortion")
    resize = dict(
        type="Resize",
        scale=(image_size, image_size),
        keep_ratio=task != "semantic-fpn",
    )
    kept = [step for step in pipeline if step["type"] not in (*chance, "Resize")]
    # Evaluation compares at the size of the file, so it resizes before the labels.
    at = next(i for i, step in enumerate(kept) if "Annotations" in step["type"])
    is_training = any(step["type"] in chance for step in pipeline)
    kept.insert(at + 1 if is_training else at, resize)
    pipeline[:] = kept


class GoalHook(Hook):
    """Keep each evaluation and stop at a goal or when the time is over."""

    priority = "LOWEST"

    def __init__(self, metric: str, goal: float, minutes: float | None) -> None:
        self.metric = metric
        self.goal = goal
        self.minutes = minutes
        self.start = time.monotonic()
        self.history: list[dict] = []
        self.losses: list[float] = []

    def elapsed(self) -> float:
        return (time.monotonic() - self.start) / 60

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(outputs["loss"].item())
        if self.minutes is not None and self.elapsed() > self.minutes:
            runner.train_loop.stop_training = True

    def after_val_epoch(self, runner, metrics=None):
        value = float((metrics or {}).get(self.metric, 0.0))
        self.history.append(
            {
                "iteration": runner.iter,
                "minutes": round(self.elapsed(), 2),
                self.metric: value,
            }
        )
        if value > self.goal:
            runner.train_loop.stop_training = True


def overfit(config: Config, hook: GoalHook) -> tuple[Runner, dict[str, float]]:
    """Train until the hook says stop, and evaluate once more."""
    check_data(config, ("train", "val"))
    runner = build_runner(config)
    runner.register_hook(hook)
    hook.start = time.monotonic()
    runner.train()
    metrics = {name: float(value) for name, value in runner.test().items()}
    return runner, metrics


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", required=True, choices=CONFIGS)
    parser.add_argument("--data", required=True, type=Path, help="the data_root")
    parser.add_argument("--iterations", type=int, default=600)
    parser.add_argument("--minutes", type=float, help="stop then at the latest")
    parser.add_argument(
        "--stop-above", type=float, help="default: the goal of the task"
    )
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--image-size", type=int, default=320)
    parser.add_argument("--val-interval", type=int, default=100)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--work-dir", type=Path, help="default: work_dirs/overfit_{task}"
    )
    parser.add_argument(
        "--out", type=Path, help="JSON file in which this task's record is replaced"
    )
    add_debug_option(parser)
    args = parser.parse_args()
    return run_tool(lambda: run(args), Path(__file__).name, args.debug)


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    metric, goal = GOALS[args.task]
    stop_above = goal if args.stop_above is None else args.stop_above
    config = make_config(
        args.task,
        args.data,
        args.work_dir or Path("work_dirs") / f"overfit_{args.task}",
        iterations=args.iterations,
        num_images=args.images,
        batch_size=args.batch_size,
        image_size=args.image_size,
        val_interval=args.val_interval,
        learning_rate=args.learning_rate,
    )
    hook = GoalHook(metric, stop_above, args.minutes)
    runner, metrics = overfit(config, hook)
    record = {
        "config": CONFIGS[args.task],
        "command": " ".join(["python", *sys.argv]),
        "machine": describe_machine(next(runner.model.parameters()).device),
        "parameters": sum(p.numel() for p in runner.model.parameters()),
        "images": args.images,
        "batch_size": args.batch_size,
        "image_size": args.image_size,
        "learning_rate": args.learning_rate,
        "scheduled_iterations": args.iterations,
        "iterations": runner.iter,
        "minutes": round(hook.elapsed(), 2),
        "first_loss": round(hook.losses[0], 4),
        "last_loss": round(hook.losses[-1], 4),
        "goal": {metric: goal},
        "stopped_above": stop_above,
        "reached": metrics.get(metric, 0.0) > goal,
        "metrics_on_the_training_images": {k: round(v, 4) for k, v in metrics.items()},
        "history": hook.history,
    }
    print(json.dumps(record, indent=2))
    if args.out is not None:
        records = json.loads(args.out.read_text()) if args.out.is_file() else {}
        records.setdefault("overfit", {})[args.task] = record
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(records, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
