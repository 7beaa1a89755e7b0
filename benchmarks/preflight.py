"""Time and memory of the checks of data, on made-up sets of COCO's and ADE20K's size.

The files are links to a few pictures, so what is measured is reading annotations and
headers from memory, not a disk.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from timing import describe_machine

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {
    "coco": "configs/cyclemlp/mask-rcnn_cyclemlp-b1_fpn_8xb2-1x_coco.py",
    "ade20k": "configs/cyclemlp/fpn_cyclemlp-b1_8xb4-40k_ade20k-512x512.py",
}
COCO_SPLITS = {"train": (118_287, 860_001), "val": (5_000, 36_781)}
ADE_SPLITS = {"training": 20_210, "validation": 2_000}
LINKS = 5_000  # to one file; file systems limit them
POINTS = 22  # a polygon: as many as make a file of COCO's size


def link_many(source: bytes, folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        if number % LINKS == 0:
            first = folder / name
            first.write_bytes(source)
        else:
            os.link(first, folder / name)


def picture(width: int, height: int, suffix: str, values: int = 256) -> bytes:
    rng = np.random.default_rng(0)
    shape = (height // 16 + 1, width // 16 + 1) + ((3,) if suffix == ".jpg" else ())
    coarse = rng.integers(0, values, shape).astype(np.uint8)
    full = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST)
    return cv2.imencode(suffix, full)[1].tobytes()


def make_coco(root: Path) -> None:
    from mmdet.datasets import CocoDataset

    classes = CocoDataset.METAINFO["classes"]
    (root / "annotations").mkdir(parents=True)
    for split, (images, objects) in COCO_SPLITS.items():
        names = [f"{number:012d}.jpg" for number in range(1, images + 1)]
        link_many(picture(640, 480, ".jpg"), root / f"{split}2017", names)
        path = root / "annotations" / f"instances_{split}2017.json"
        path.write_text(coco_text(names, objects, classes))


def coco_text(names: list[str], objects: int, classes: tuple[str, ...]) -> str:
    rng = np.random.default_rng(0)
    size = rng.uniform(8, 240, (objects, 2)).round(2)
    corner = (rng.random((objects, 2)) * ([640, 480] - size)).round(2)
    image = rng.integers(1, len(names) + 1, objects)
    category = rng.integers(1, len(classes) + 1, objects)
    shapes = rng.random((500, POINTS, 2))
    lines = []
    for i in range(objects):
        polygon = (shapes[i % 500] * size[i] + corner[i]).ravel().round(2).tolist()
        (x, y), (w, h) = corner[i].tolist(), size[i].tolist()
        lines.append(
            f'{{"segmentation": [{polygon}], "area": {w * h / 2:.3f}, "iscrowd": 0, '
            f'"image_id": {image[i]}, "bbox": [{x}, {y}, {w}, {h}], '
            f'"category_id": {category[i]}, "id": {i + 1}}}'
        )
    head = {
        "images": [
            {"id": i, "file_name": name, "width": 640, "height": 480}
            for i, name in enumerate(names, 1)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes, 1)],
    }
    return f'{json.dumps(head)[:-1]}, "annotations": [{", ".join(lines)}]}}'


def make_ade20k(root: Path) -> None:
    for split, number in ADE_SPLITS.items():
        names = [f"ADE_{split}_{i:08d}" for i in range(number)]
        for folder, suffix, values in (
            ("images", "jpg", 256),
            ("annotations", "png", 151),
        ):
            link_many(
                picture(683, 512, f".{suffix}", values),
                root / folder / split,
                [f"{name}.{suffix}" for name in names],
            )


def check(name: str, root: str) -> dict:
    """Check in this process, on one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from mlp_backbones.datasets.checks import check_data
    from mlp_backbones.engine.config import read_config

    config = read_config(str(ROOT / CONFIGS[name]), {"data_root": root})
    start, begun = time.perf_counter(), time.process_time()
    report = check_data(config)
    # the peak of getrusage would be that of the process that made the set
    status = Path("/proc/self/status").read_text()
    (peak,) = (line.split()[1] for line in status.splitlines() if "VmHWM" in line)
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "seconds of the processor": round(time.process_time() - begun, 1),
        "peak GB of the process": round(int(peak) * 1024 / 1e9, 2),
        "found": [one.line.replace(root, "DATA") for one in report.datasets],
    }


def main() -> None:
    """Make the sets, check each in a process of its own, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sets", nargs="+", choices=CONFIGS, default=[*CONFIGS])
    parser.add_argument("--out", type=Path, help="write the record as JSON")
    parser.add_argument("--check", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.check:
        print(json.dumps(check(*args.check)))
        return
    torch.set_num_threads(1)
    record: dict = {
        "command": " ".join(["python", "benchmarks/preflight.py", *sys.argv[1:]]),
        "machine": describe_machine(torch.device("cpu")),
        "sets": {},
    }
    for name in args.sets:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / name
            {"coco": make_coco, "ade20k": make_ade20k}[name](root)
            run = subprocess.run(
                [sys.executable, "-W", "ignore", __file__, "--check", name, f"{root}/"],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
        record["sets"][name] = json.loads(run.stdout.strip().splitlines()[-1])
        print(name, record["sets"][name])
    if args.out:
        args.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
