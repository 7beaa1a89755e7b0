"""Time a CPU training with sleeping and with spinning OpenMP threads.

Each round starts a fresh process for each policy, since OpenMP reads the variable once.
Policies take turns, so that drift meets all alike.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).parent))
from timing import describe_machine

REPOSITORY = Path(__file__).parents[1]
CONFIGS = "configs/*/retinanet_cycle*-mini_fpn_*_digit-scenes.py"
POLICIES = {
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin count 0": {"GOMP_SPINCOUNT": "0"},
    "default": {},
}
# Iterations that pay for memory and for the start of the data loaders.
WARM_UP = 2
# Sets nothing in the environment, which tools/train.py would.
TRAIN = """
import sys
from mlp_backbones.engine.config import read_config
from mlp_backbones.engine.launch import build_runner
config = read_config(sys.argv[1], sys.argv[2:])
config.work_dir = sys.argv[2].partition("=")[2]
build_runner(config).train()
"""


def openmp_libraries():
    """Name the OpenMP libraries that torch has loaded."""
    maps = Path("/proc/self/maps")
    text = maps.read_text() if maps.exists() else ""
    return sorted(set(re.findall(r"lib\w*omp[\w.-]*", text)))


@contextmanager
def busy_processes(number):
    """Keep some cores busy with plain Python loops."""
    loop = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(loop) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def seconds_per_iteration(config, data, steps, threads, variables):
    """Train some steps in a fresh process; return the seconds of each."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    }
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(REPOSITORY), environment.get("PYTHONPATH", "")]
    )
    environment["OMP_NUM_THREADS"] = str(threads)
    with tempfile.TemporaryDirectory() as folder:
        options = [
            f"work_dir={folder}",
            f"data_root={data}",
            "val_dataloader=None",
            "val_cfg=None",
            "val_evaluator=None",
            "train_cfg.max_epochs=1",
            f"train_dataloader.dataset.indices={8 * (steps + WARM_UP)}",
            "default_hooks.logger.interval=1",
            "log_processor.window_size=1",
        ]
        done = subprocess.run(
            [sys.executable, "-c", TRAIN, str(config), *options],
            env={**environment, **variables},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"the training failed:\n{done.stderr[-2000:]}")
        (scalars,) = Path(folder).glob("*/vis_data/scalars.json")
        rows = [json.loads(line) for line in scalars.read_text().splitlines()]
    return [row["time"] for row in rows if "loss" in row][WARM_UP:]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=REPOSITORY / "data/digit_scenes")
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=10, help="counted in each process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="write the record as JSON")
    args = parser.parse_args()
    (config,) = REPOSITORY.glob(CONFIGS)
    record = {
        **describe_machine(torch.device("cpu")),
        "threads": args.threads,
        "cores": os.cpu_count(),
        "openmp": sorted(
            set(re.findall(r"lib\w*omp[\w.-]*", Path("/proc/self/maps").read_text()))
        ),
        "config": config.relative_to(REPOSITORY).as_posix(),
        "steps": args.steps,
        "rounds": args.rounds,
        "unit": "seconds per iteration",
        "runs": [],
    }
    for busy in args.busy:
        seconds = {name: [] for name in POLICIES}
        load = os.getloadavg()[0]
        with busy_processes(busy):
            time.sleep(1)
            for _ in range(args.rounds):
                for name, variables in POLICIES.items():
                    seconds[name] += seconds_per_iteration(
                        config, args.data.resolve(), args.steps, args.threads, variables
                    )
        for name, values in seconds.items():
            run = {
                "busy_processes": busy,
                "policy": name,
                "median": round(median(values), 4),
                "lowest": round(min(values), 4),
                "highest": round(max(values), 4),
                "iterations": len(values),
                "load_before": round(load, 2),
            }
            record["runs"].append(run)
            print(
                f"{busy} busy, {name}: {run['median']:.3f} s per iteration "
                f"({run['lowest']:.3f} to {run['highest']:.3f})",
                flush=True,
            )
    if args.out is not None:
        args.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
