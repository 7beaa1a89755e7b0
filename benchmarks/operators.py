"""mmcv's operators by torchvision (this package) against compiled ones.

One process for each form: ``compiled`` has the folder of an unpacked mmcv wheel first
on its path. The processes take turns, so that drift meets both alike.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from timing import describe_machine, time_forms
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
Runs = dict[str, Callable[[], object]]


def operators(device: torch.device) -> Runs:
    """Return the operators at sizes of a detector on an image of 800 x 1344."""
    from mmcv.ops import (
        deform_conv2d,
        modulated_deform_conv2d,
        nms,
        roi_align,
        soft_nms,
    )

    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator).to(device)

    corners = random(1000, 2) * 800
    boxes = torch.cat([corners, corners + random(1000, 2) * 200 + 1], dim=1)
    scores, images = random(1000), torch.zeros(256, 1, device=device)
    rois = torch.cat([images, boxes[:256]], dim=1)
    maps = random(1, 256, 100, 168).requires_grad_()
    x, weight = random(1, 64, 50, 84).requires_grad_(), random(64, 64, 3, 3)
    weight.requires_grad_()
    offset, mask = random(1, 18, 50, 84).requires_grad_(), random(1, 9, 50, 84)

    def trained(run: Callable[[], Tensor]) -> Callable[[], object]:
        grad = torch.ones_like(run())
        return lambda: run().backward(grad)

    def align() -> Tensor:
        return roi_align(maps, rois, 7, 0.125, 0, "avg", True)

    def version_1() -> Tensor:
        return deform_conv2d(x, offset, weight, 1, 1)

    def version_2() -> Tensor:
        return modulated_deform_conv2d(x, offset, mask, weight, None, 1, 1)

    return {
        "nms, 1000 boxes": lambda: nms(boxes, scores, 0.5),
        "soft_nms, 1000 boxes": lambda: soft_nms(boxes, scores, 0.5),
        "roi_align, 256 regions": align,
        "roi_align, forward+backward": trained(align),
        "deform_conv2d, 64 channels": version_1,
        "deform_conv2d, forward+backward": trained(version_1),
        "modulated_deform_conv2d, 64 channels": version_2,
        "modulated_deform_conv2d, forward+backward": trained(version_2),
    }


def in_this_process(device: torch.device, repeats: int) -> dict[str, float]:
    """Return the median of each operator, in milliseconds."""
    import mlp_backbones  # noqa: F401

    found: dict[str, float] = {}
    for name, run in operators(device).items():
        found.update(time_forms({name: run}, device=device, repeats=repeats))
    return found


def in_own_process(args: argparse.Namespace, compiled: bool) -> dict[str, float]:
    """Run :func:`in_this_process` with or without the compiled mmcv."""
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    path = [str(args.compiled.resolve()), *path] if compiled else path
    command = [sys.executable, "-W", "ignore", __file__, "--one", str(args.compiled)]
    for name in ("device", "threads", "repeats"):
        command += [f"--{name}", str(getattr(args, name))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    run = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment
    )
    found = json.loads(run.stdout.strip().splitlines()[-1])
    if found.pop("compiled") != compiled:
        raise RuntimeError(f"no compiled mmcv in {args.compiled}, or one besides")
    return found


def measure(args: argparse.Namespace) -> dict:
    """Return medians over the processes, with the spread of each, as one record."""
    rounds: dict[str, list[dict[str, float]]] = {"compiled": [], "ours": []}
    for _ in range(args.rounds):
        for form, results in rounds.items():
            results.append(in_own_process(args, form == "compiled"))
    record: dict = {
        "command": " ".join(["python", "benchmarks/operators.py", *sys.argv[1:]]),
        "machine": describe_machine(torch.device(args.device)),
        "device": args.device,
        "unit": "ms: median, smallest and largest of the processes' medians",
        "operators": {},
    }
    for name in rounds["ours"][0]:
        row: dict = {}
        for form, results in rounds.items():
            values = [result[name] for result in results]
            row[form] = [round(f(values), 3) for f in (median, min, max)]
        row["ours/compiled"] = round(row["ours"][0] / row["compiled"][0], 2)
        record["operators"][name] = row
    return record


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("compiled", type=Path, help="folder of an unpacked mmcv wheel")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5, help="counted, a process")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each form")
    parser.add_argument("--out", type=Path, help="write the record as JSON")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.one:
        found: dict = in_this_process(torch.device(args.device), args.repeats)
        found["compiled"] = bool(getattr(sys.modules["mmcv._ext"], "__file__", ""))
        print(json.dumps(found))
        return
    record = measure(args)
    for name, row in record["operators"].items():
        print(f"{name:45s} {row}")
    if args.out:
        args.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
