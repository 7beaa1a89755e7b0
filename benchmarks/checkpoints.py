"""Time and memory of saving a checkpoint, by MMEngine's hook and by ours.

Both write the same run's state (weights and Adam's moments) into a folder, in turn, so
that drift meets both alike. Memory is what the process needs at most beyond the state
itself, measured in a fresh process each.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from timing import describe_machine, time_forms

HOOKS = {"MMEngine": "CheckpointHook", "ours": "mlp_backbones.SafeCheckpointHook"}


class Layers(BaseModel):
    """Square linear layers, of which one is trained by one step."""

    def __init__(self, megabytes):
        super().__init__()
        # 1 MiB of weights each, and twice as much for Adam
        self.layers = nn.ModuleList(nn.Linear(512, 512) for _ in range(megabytes // 3))

    def forward(self, inputs, data_samples=None, mode="tensor"):
        return {"loss": sum(layer.weight.sum() for layer in self.layers)}


def train_once(folder, hook, megabytes):
    """Train one step and return what saves a checkpoint."""
    runner = Runner(
        Layers(megabytes),
        str(folder),
        train_dataloader={
            "dataset": [{"inputs": torch.ones(2)}],
            "batch_size": 1,
            "sampler": {"type": "InfiniteSampler"},
        },
        train_cfg={"by_epoch": False, "max_iters": 1},
        optim_wrapper={"optimizer": {"type": "Adam"}},
        default_hooks={
            "checkpoint": {
                "type": hook,
                "interval": 10,
                "by_epoch": False,
                "save_last": False,
                "max_keep_ckpts": 1,
            },
            "logger": None,
        },
        experiment_name=f"{folder.name}_{hook}",
        log_level="ERROR",
    )
    runner.train()
    (found,) = [each for each in runner.hooks if type(each).__name__ in hook]
    steps = iter(range(10**6))

    def save():
        found._save_checkpoint_with_step(runner, next(steps), {"epoch": 0, "iter": 1})

    return save


def memory_of(work):
    """Return by how many MiB the memory of this process rises above what it has now."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
    before = status("VmRSS")
    work()
    return status("VmHWM") - before


def status(name):
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+) kB", text)[1]) / 1024


def measure_memory(kind, megabytes):
    """Return how much memory saving needs, in a process of its own."""
    command = [sys.executable, __file__, "--megabytes", str(megabytes), "--memory-of"]
    done = subprocess.run([*command, kind], capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=480, help="of the state")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, help="JSON file of the figures")
    parser.add_argument("--memory-of", choices=HOOKS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        if args.memory_of:
            save = train_once(folder, HOOKS[args.memory_of], args.megabytes)
            print(memory_of(save))
            return
        forms = {
            kind: train_once(folder / kind, hook, args.megabytes)
            for kind, hook in HOOKS.items()
        }
        device = torch.device("cpu")
        milliseconds = time_forms(forms, device=device, repeats=args.repeats)
        (file,) = (folder / "ours").glob("iter_*.pth")
        size = file.stat().st_size / 2**20
    figures = {
        **describe_machine(torch.device("cpu")),
        "megabytes_of_file": round(size),
        "seconds": {kind: round(ms / 1000, 3) for kind, ms in milliseconds.items()},
        "extra_megabytes_in_memory": {
            kind: round(measure_memory(kind, args.megabytes)) for kind in HOOKS
        },
    }
    text = json.dumps(figures, indent=2)
    print(text)
    if args.out is not None:
        args.out.write_text(f"{text}\n")


if __name__ == "__main__":
    main()
