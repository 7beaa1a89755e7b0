"""What the finite guard costs: its share of a step, and steps with and without it.

The share is the time spent in the guard over that of the whole step, in the same step;
on a CPU drift meets both alike. The ratio compares steps with and
without the guard that take turns; it holds the wait for a GPU, too, and the noise of
the machine.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from timing import describe_machine, time_forms

from mlp_backbones.building import build_model
from mlp_backbones.config_names import config_dir
from mlp_backbones.engine.finite_guard import FiniteGuardHook
from mlp_backbones.testing.configs import build_optimizer, make_batch, shrink_config

CASES = {
    "classification": ("cyclemlp/cyclemlp-b1_8xb128_in1k.py", 8, 224),
    "classification, small batch": ("cyclemlp/cyclemlp-b1_8xb128_in1k.py", 2, 224),
    "detection": ("cyclemlp/retinanet_cyclemlp-b1_fpn_8xb2-1x_coco.py", 2, 256),
    "segmentation": ("cyclemlp/fpn_cyclemlp-b1_8xb4-40k_ade20k-512x512.py", 2, 256),
}


def make_step(
    config: Config, batch_size: int, image_size: int, device: torch.device
) -> Callable[[bool], float]:
    """Return a step, with the guard or without, that gives the guard's time."""
    config = shrink_config(config, image_size)
    model = build_model(config, device=device.type).train()
    wrapper = build_optimizer(config, model)
    batch: Any = make_batch(config, batch_size, image_size)
    runner: Any = SimpleNamespace(model=model, optim_wrapper=wrapper, iter=0)
    guard = FiniteGuardHook()
    spent = 0.0

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal spent
            begun = time.perf_counter()
            result = function(*args, **kwargs)
            spent += time.perf_counter() - begun
            return result

        return call

    def not_counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal spent
            begun = time.perf_counter()
            function(*args, **kwargs)
            spent -= time.perf_counter() - begun

        return call

    plain_step = wrapper.step
    guard.__dict__["_note_losses"] = timed(guard._note_losses)

    def step(guarded: bool) -> float:
        nonlocal spent
        spent = 0.0
        if guarded:
            wrapper.step = not_counted(plain_step)
            guard.before_train(runner)
            wrapper.step = timed(wrapper.step)
            timed(guard.before_train_iter)(runner, 0, batch)
        model.train_step(batch, wrapper)
        guard._let_go()
        vars(wrapper).pop("step", None)
        return spent

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--out", type=Path, help="record, as JSON")
    args = parser.parse_args()
    device = torch.device(args.device)
    MMLogger.get_instance("finite_guard", log_level="WARNING")
    measured = {}
    for case in args.cases:
        name, batch_size, image_size = CASES[case]
        config = Config.fromfile(config_dir() / name)
        step = make_step(config, batch_size, image_size, device)
        shares = []
        for repeat in range(args.repeats + 2):
            begun = time.perf_counter()
            spent = step(True)
            if repeat >= 2:
                shares.append(spent / (time.perf_counter() - begun))
        forms = {"guarded": partial(step, True), "plain": partial(step, False)}
        times = time_forms(forms, device=device, repeats=args.repeats)
        measured[case] = {
            "config": name,
            "batch_size": batch_size,
            "image_size": image_size,
            "guard_share_median": round(median(shares), 5),
            "guard_share_max": round(max(shares), 5),
            "ratio_of_medians": round(times["guarded"] / times["plain"], 4),
            "milliseconds": {name: round(value, 2) for name, value in times.items()},
        }
        print(case, json.dumps(measured[case]))
    if args.out is not None:
        record = {**describe_machine(device), "cases": measured}
        args.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
