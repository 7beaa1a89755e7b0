"""Curves of a training, from the scalars that MMEngine writes."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Curve = list[tuple[int, float]]

# Keys that say where a value belongs or how long it took, and are no result.
_NO_RESULT = {"epoch", "iter", "step", "time", "data_time", "memory"}


@dataclass(frozen=True)
class Curves:
    """The curves of a run: name to points (iteration, value).

    Attributes:
        training: What is logged of training batches (``loss``, ``lr``, ``grad_norm``).
        evaluation: Results of validations (``coco/bbox_mAP``).
    """

    training: dict[str, Curve] = field(default_factory=dict)
    evaluation: dict[str, Curve] = field(default_factory=dict)

    def groups(self) -> dict[str, dict[str, Curve]]:
        """Sort the curves into ``loss``, ``lr`` and ``metrics``, one for each picture.

        Metrics that were never measured (mmdet's -1) are left out.
        """
        return {
            "loss": {n: p for n, p in self.training.items() if "loss" in n},
            "lr": {n: p for n, p in self.training.items() if n in ("lr", "base_lr")},
            "metrics": {
                n: p for n, p in self.evaluation.items() if any(v != -1 for _, v in p)
            },
        }


def find_scalars(work_dir: Path) -> list[Path]:
    """Find the scalar files of all runs in a work folder, oldest first.

    A run that was resumed leaves one file for each start.

    Args:
        work_dir: A work folder, a run's folder in it, or a scalar file itself.

    Raises:
        FileNotFoundError: If there is none.
    """
    if work_dir.is_file():
        return [work_dir]
    files = [*work_dir.glob("vis_data/scalars.json")]
    files += sorted(work_dir.glob("*/vis_data/scalars.json"))
    if not files:
        raise FileNotFoundError(
            f"no vis_data/scalars.json in {work_dir}: the run needs a "
            "LocalVisBackend in visualizer.vis_backends"
        )
    return files


def read_rows(files: Iterable[Path]) -> list[dict[str, Any]]:
    """Read the rows of scalar files, each with its iteration under ``iter``.

    Evaluations of epoch-based runs are put at the last iteration logged before. A
    later file replaces what an earlier one has from its first iteration on, so a run
    that was resumed gives one sequence.

    Args:
        files: Scalar files in the order of their starts.

    Raises:
        ValueError: Naming file and line where a line is no JSON.
    """
    rows: list[dict[str, Any]] = []
    for file in files:
        found: list[dict[str, Any]] = []
        for number, line in enumerate(file.read_text().splitlines(), 1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{file}, line {number}: no JSON ({error})") from error
            step = int(row.get("iter", row.get("step", 0)))
            if found and not is_training(row):  # it may be counted in epochs
                step = max(step, found[-1]["iter"])
            found.append({**row, "iter": step})
        if found:
            rows = [row for row in rows if row["iter"] < found[0]["iter"]] + found
    return rows


def is_training(row: Mapping[str, Any]) -> bool:
    """Tell rows about training batches from those about evaluations."""
    return "loss" in row or "lr" in row


def read_curves(files: Iterable[Path]) -> Curves:
    """Read scalar files into the curves of one run.

    Args:
        files: As :func:`read_rows` takes them.
    """
    curves = Curves()
    for row in read_rows(files):
        group = curves.training if is_training(row) else curves.evaluation
        for name, value in row.items():
            if name not in _NO_RESULT and isinstance(value, (int, float)):
                group.setdefault(name, []).append((row["iter"], float(value)))
    return curves


def plot_curves(
    runs: dict[str, dict[str, Curve]], title: str, file: Path, smooth: int = 1
) -> None:
    """Draw curves of one or more runs into a PNG.

    Args:
        runs: Name of the run to its curves.
        title: Title of the picture.
        file: The PNG; its folder must exist.
        smooth: Points in the running mean that is drawn.

    Raises:
        ValueError: If ``smooth`` is below 1.
    """
    if smooth < 1:
        raise ValueError(f"smooth must be at least 1, got {smooth}")
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for run, curves in runs.items():
        for name, points in curves.items():
            steps, values = zip(*points, strict=True)
            label = name if len(runs) == 1 else f"{run}: {name}"
            marker = "o" if len(points) < 30 else None
            ends = range(1, len(values) + 1)
            means = [fmean(values[max(0, end - smooth) : end]) for end in ends]
            axes.plot(steps, means, label=label, marker=marker, ms=3)
    axes.set(title=title, xlabel="iteration")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(file, dpi=120)
    plt.close(figure)


def save_curves(
    work_dirs: Sequence[Path],
    out_dir: Path,
    keys: Sequence[str] | None = None,
    smooth: int = 1,
) -> list[Path]:
    """Draw the loss, learning rate and metric curves of runs.

    Args:
        work_dirs: Work folders or scalar files; each is one run in the pictures.
        out_dir: Folder for ``loss.png``, ``lr.png`` and ``metrics.png``, made if need
            be.
        keys: Names of the curves to draw; None draws all.
        smooth: Points in the running mean of the losses.

    Returns:
        The files written.

    Raises:
        FileNotFoundError: If a run has no scalars.
        ValueError: If a key occurs in no run.
    """
    runs = {str(path): read_curves(find_scalars(path)).groups() for path in work_dirs}
    known = {name for run in runs.values() for group in run.values() for name in group}
    for key in keys or ():
        if key not in known:
            raise ValueError(f"no curve {key!r}, there are: {', '.join(sorted(known))}")
    wanted = known if keys is None else set(keys)
    out_dir.mkdir(parents=True, exist_ok=True)
    files = []
    for group in ("loss", "lr", "metrics"):
        chosen = {
            run: found
            for run, groups in runs.items()
            if (found := {n: p for n, p in groups[group].items() if n in wanted})
        }
        if chosen:
            file = out_dir / f"{group}.png"
            plot_curves(chosen, group, file, smooth if group == "loss" else 1)
            files.append(file)
    return files
