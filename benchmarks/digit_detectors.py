"""RetinaNet on the digit scenes with several families, for a fixed time each.

Shows that the pyramids carry a signal, and nothing finer: the schedule is cut to what
the machine does in that time, so figures of two machines do not compare.

    python benchmarks/digit_detectors.py cyclemlp s2_mlp --minutes 5 --threads 2 \
        --data data/digit_scenes --out benchmarks/results/digit_detectors.json
"""

import argparse
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import Runner

sys.path.insert(0, str(Path(__file__).parent))
from timing import describe_machine

CONFIGS = Path(__file__).parents[1] / "configs"
NUM_TRIED = 12
WARM_UP = 0.1  # of all iterations
METRICS = {"AP50": "val/coco/bbox_mAP_50", "AP": "val/coco/bbox_mAP"}


def find_config(family: str) -> Path:
    """Return the RetinaNet config of a family for the digit scenes."""
    (file,) = (CONFIGS / family).glob("retinanet_*_digit-scenes.py")
    return file


def set_length(config: Config, iterations: int) -> None:
    """Cut a config to so many iterations, with one evaluation at the end."""
    warm_up = max(int(WARM_UP * iterations), 1)
    config.train_cfg = {
        "type": "IterBasedTrainLoop",
        "max_iters": iterations,
        "val_interval": iterations,
    }
    config.param_scheduler = [
        {"type": "LinearLR", "start_factor": 0.05, "by_epoch": False, "end": warm_up},
        {
            "type": "CosineAnnealingLR",
            "eta_min": 2e-5,
            "T_max": max(iterations - warm_up, 1),
            "by_epoch": False,
            "begin": warm_up,
            "end": iterations,
        },
    ]
    config.train_dataloader.sampler = {"type": "InfiniteSampler", "shuffle": True}
    config.default_hooks.checkpoint = {
        "type": "CheckpointHook",
        "by_epoch": False,
        "interval": iterations,
    }
    config.log_processor = {
        "type": "LogProcessor",
        "window_size": 50,
        "by_epoch": False,
    }


def load_config(family: str, args: argparse.Namespace, folder: str) -> Config:
    """Read a family's config for the data at hand."""
    text = Config.fromfile(find_config(family)).pretty_text
    text = text.replace("data/digit_scenes", str(args.data.resolve()))
    config = Config.fromstring(text, ".py")
    config.work_dir = folder
    config.launcher = "none"
    config.visualizer.name = f"{family}_{time.monotonic_ns()}"
    return config


def seconds_per_iteration(family: str, args: argparse.Namespace) -> float:
    """Train a little and throw it away."""
    with TemporaryDirectory() as folder:
        config = load_config(family, args, folder)
        set_length(config, NUM_TRIED)
        config.train_cfg.val_begin = NUM_TRIED + 1  # without evaluation
        runner = Runner.from_cfg(config)
        runner.train()
        times = runner.message_hub.get_scalar("train/time").data[0]
    return float(sorted(times[2:])[len(times[2:]) // 2])


def measure(family: str, args: argparse.Namespace) -> dict:
    """Train and evaluate one family for the given time."""
    seconds = seconds_per_iteration(family, args)
    iterations = max(int(args.minutes * 60 / seconds), NUM_TRIED)
    print_log(f"{family}: {seconds:.2f} s a step, {iterations} steps", "current")
    with TemporaryDirectory() as folder:
        config = load_config(family, args, folder)
        set_length(config, iterations)
        runner = Runner.from_cfg(config)
        start = time.monotonic()
        runner.train()
        minutes = (time.monotonic() - start) / 60
        scalars = runner.message_hub.log_scalars
        return {
            "family": family,
            "config": str(find_config(family).relative_to(CONFIGS.parent)),
            "parameters": sum(p.numel() for p in runner.model.parameters()),
            "iterations": iterations,
            "minutes_with_evaluation": round(minutes, 1),
            # no entry where nothing at all was detected
            **{
                name: scalars[key].current() if key in scalars else 0.0
                for name, key in METRICS.items()
            },
        }


def main() -> None:
    """Measure, print, and write after each family."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("families", nargs="+")
    parser.add_argument("--data", type=Path, default=Path("data/digit_scenes"))
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the record as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    record = {
        "command": " ".join(["python", *sys.argv]),
        "machine": describe_machine(torch.device("cpu")),
        "families": [],
    }
    for family in args.families:
        found = measure(family, args)
        record["families"].append(found)
        print(json.dumps(found, indent=2), flush=True)
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
