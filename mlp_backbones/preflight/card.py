"""The run card: what a run will do, in a short table and as JSON."""

import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mlp_backbones.version import __version__

_PACKAGES = ("torch", "torchvision", "mmengine", "mmcv", "mmdet", "mmseg", "mmpretrain")
FILE_NAME = "run_card.json"


@dataclass
class RunCard:
    """What a run will do.

    Attributes:
        tool: ``train`` or ``test``.
        config: The config file.
        task: detection, segmentation or classification.
        work_dir: The work folder.
        datasets: What the checks of the data say, one entry for each data set.
        classes: ``number``, ``names`` and ``source`` of the data's classes.
        head_classes: Number of classes of each head, by its place in the config.
        weights: What is taken over from which file.
        learning_rate: ``configured``, ``used`` and how the one comes from the other.
        images_per_step: ``total`` and its factors.
        precision: Number format of the forward pass.
        seed: Of all random numbers; None if it is drawn.
        versions: Of Python and of the packages in use.
        git_commit: Of the checkout that the package runs from; None without one.
        notes: What was left untried and why.
        warnings: What could not be decided.
    """

    tool: str
    config: str
    task: str
    work_dir: str
    datasets: list[dict[str, Any]] = field(default_factory=list)
    classes: dict[str, Any] | None = None
    head_classes: dict[str, int] = field(default_factory=dict)
    weights: list[dict[str, Any]] = field(default_factory=list)
    learning_rate: dict[str, Any] | None = None
    images_per_step: dict[str, int] | None = None
    precision: str = "float32"
    seed: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    git_commit: str | None = None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yield the lines of the table."""
        yield "task", f"{self.task} ({self.tool})"
        yield "config", self.config
        yield "work folder", self.work_dir
        for one in self.datasets:
            yield from _dataset_rows(one)
        if self.classes is not None:
            names = ", ".join(self.classes["names"][:5])
            more = ", ..." if self.classes["number"] > 5 else ""
            source = self.classes["source"]
            yield "classes", f"{self.classes['number']} ({source}): {names}{more}"
        for place, number in self.head_classes.items():
            yield "head", f"{place} = {number}"
        for one in self.weights:
            yield "weights", _weights_line(one)
        if not self.weights and self.tool == "train":
            yield "weights", "random"
        if self.images_per_step is not None:
            factors = self.images_per_step
            yield (
                "images per step",
                f"{factors['total']} = {factors['processes']} processes x "
                f"{factors['batch_size']} x {factors['accumulation']} accumulated",
            )
        if self.learning_rate is not None:
            yield "learning rate", self.learning_rate["arithmetic"]
        yield "precision", self.precision
        yield "seed", "drawn at random" if self.seed is None else str(self.seed)
        yield "versions", ", ".join(f"{n} {v}" for n, v in self.versions.items())
        yield "git commit", self.git_commit or "none"


def _dataset_rows(one: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    objects = one.get("num_objects", one.get("num_annotations"))
    name = f"data, {one['split']}"
    kind = f"{one['type']}, " if one.get("type") else ""
    yield name, f"{kind}{one['num_images']} images, {objects} objects: {one['source']}"
    dropped = one.get("dropped") or {}
    if dropped:
        yield name, "left out: " + ", ".join(f"{n} {why}" for why, n in dropped.items())
    for file in one.get("evaluator_files") or ():
        yield f"evaluator, {one['split']}", str(file)


def _weights_line(one: Mapping[str, Any]) -> str:
    line = f"{one['use']}: {one['file']}"
    if one.get("sha256"):
        line += f" (sha256 {one['sha256'][:12]})"
    if one.get("taken") is not None:
        line += f", {one['taken']} tensors taken over"
        for name, word in (("left", "left aside"), ("missing", "missing")):
            if one.get(name):
                line += f", {one[name]} {word}"
    return line


def print_card(card: RunCard) -> None:
    """Print the card as a table, plain where rich is not installed."""
    if importlib.util.find_spec("rich") is None:
        width = max(len(name) for name, _ in card.rows())
        for name, value in card.rows():
            sys.stdout.write(f"{name:{width}}  {value}\n")
    else:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(title="Run card", show_header=False, title_justify="left")
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in card.rows():
            table.add_row(Text(name), Text(value))
        console = Console()
        if not console.is_terminal:  # a log: lines stay whole
            console.width = 120
        console.print(table)
    for warning in card.warnings:
        sys.stdout.write(f"warning: {warning}\n")
    sys.stdout.flush()


def save_card(card: RunCard) -> Path:
    """Write the card into the work folder; that of an earlier run gets its time.

    Returns:
        The file.
    """
    folder = Path(card.work_dir)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / FILE_NAME
    if file.exists():
        moment = time.localtime(file.stat().st_mtime)
        stamp, number = time.strftime("%Y%m%d_%H%M%S", moment), 1
        earlier = folder / f"run_card_{stamp}.json"
        while earlier.exists():
            number += 1
            earlier = folder / f"run_card_{stamp}_{number}.json"
        file.rename(earlier)
    file.write_text(json.dumps(asdict(card), indent=2, default=str) + "\n")
    return file


def count_processes() -> int:
    """Count the processes of a run before they know each other."""
    for name in ("WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"):
        if os.environ.get(name, "").isdecimal():
            return int(os.environ[name])
    return 1


def step_size(config: Config) -> dict[str, int]:
    """Compute the images of one step of the optimizer and its factors.

    Args:
        config: Of a training.
    """
    processes = count_processes() if config.get("launcher", "none") != "none" else 1
    batch_size = int(config.train_dataloader.get("batch_size", 1))
    accumulation = int((config.optim_wrapper or {}).get("accumulative_counts", 1))
    return {
        "total": processes * batch_size * accumulation,
        "processes": processes,
        "batch_size": batch_size,
        "accumulation": accumulation,
    }


def learning_rate(config: Config, step: Mapping[str, int]) -> dict[str, Any] | None:
    """Compute the learning rate that a training starts from, before its schedule.

    Args:
        config: Of a training, as its file and options have it.
        step: As :func:`step_size` gives it.
    """
    optimizer = config.optim_wrapper.get("optimizer") or {}
    rate = optimizer.get("lr") if isinstance(optimizer, Mapping) else None
    if not isinstance(rate, (int, float)):
        return None
    scaling = config.get("auto_scale_lr") or {}
    base = scaling.get("base_batch_size")
    if not scaling.get("enable") or not base:
        line = f"{rate:g}"
        if base and base != step["total"]:
            line += f" (not scaled; it is meant for {base} images per step)"
        return {"configured": rate, "used": rate, "arithmetic": line}
    used = rate * step["total"] / base
    line = f"{used:g} = {rate:g} x {step['total']} / {base}"
    return {"configured": rate, "used": used, "arithmetic": line}


def precision_of(config: Config, tool: str) -> str:
    """Name the number format that the forward pass computes in."""
    if tool != "train":
        cfg = config.get("test_cfg") or {}
        return "mixed (autocast)" if cfg.get("fp16") else "float32"
    wrapper = config.optim_wrapper
    kind = str(wrapper.get("type", "OptimWrapper"))
    if kind.endswith("AutocastOptimWrapper"):
        return "mixed, bfloat16"
    if kind.endswith("AmpOptimWrapper"):
        return f"mixed, {wrapper.get('dtype') or 'float16'}"
    return "float32" if kind.endswith("OptimWrapper") else kind


def versions() -> dict[str, str]:
    """Read the versions of what is in use."""
    found = {"mlp_backbones": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        version = getattr(sys.modules.get(name), "__version__", None)
        if version is not None:
            found[name] = str(version)
    return found


def git_commit() -> str | None:
    """Name the commit of the checkout that holds this package, if it is one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(
            [*command, "--match="], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
