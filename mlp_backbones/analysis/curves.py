"""Curves of a training, from the scalars that MMEngine writes."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
                name: points
                for name, points in self.evaluation.items()
                if any(value != -1 for _, value in points)
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


def read_curves(files: Iterable[Path]) -> Curves:
    """Read scalar files into the curves of one run.

    Evaluations of epoch-based runs are put at the last iteration logged before. A
    later file replaces what an earlier one has from its first iteration on, so a run
    that was resumed gives one line.

    Args:
        files: Scalar files in the order of their starts.

    Raises:
        ValueError: Naming file and line where a line is no JSON.
    """
    curves = Curves()
    for file in files:
        last = 0
        for number, line in enumerate(file.read_text().splitlines(), 1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{file}, line {number}: no JSON ({error})") from error
            is_training = "loss" in row or "lr" in row
            # An epoch-based run counts its evaluations in epochs.
            step = int(row.get("iter", row.get("step", 0)))
            step = step if is_training else max(step, last)
            if number == 1:
                _cut(curves, step)
            last = step
            group = curves.training if is_training else curves.evaluation
            for name, value in row.items():
                if name not in _NO_RESULT and isinstance(value, (int, float)):
                    group.setdefault(name, []).append((step, float(value)))
    return curves


def _cut(curves: Curves, first: int) -> None:
    """Drop all points from iteration ``first`` on."""
    for group in (curves.training, curves.evaluation):
        for name, points in list(group.items()):
            group[name] = [point for point in points if point[0] < first]
            if not group[name]:
                del group[name]


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
            axes.plot(
                steps, _running_mean(values, smooth), label=label, marker=marker, ms=3
            )
    axes.set(title=title, xlabel="iteration")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(file, dpi=120)
    plt.close(figure)


def _running_mean(values: Sequence[float], width: int) -> list[float]:
    """Mean of each value and the ``width - 1`` values before it."""
    means = []
    for index in range(len(values)):
        window = values[max(0, index - width + 1) : index + 1]
        means.append(sum(window) / len(window))
    return means


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
    if keys is not None:
        known = sorted(
            {
                name
                for groups in runs.values()
                for group in groups.values()
                for name in group
            }
        )
        for key in keys:
            if key not in known:
                raise ValueError(f"no curve {key!r}, there are: {', '.join(known)}")
    out_dir.mkdir(parents=True, exist_ok=True)
    files = []
    for group in ("loss", "lr", "metrics"):
        chosen = {
            run: {
                name: points
                for name, points in groups[group].items()
                if keys is None or name in keys
            }
            for run, groups in runs.items()
        }
        chosen = {run: curves for run, curves in chosen.items() if curves}
        if chosen:
            file = out_dir / f"{group}.png"
            plot_curves(chosen, group, file, smooth if group == "loss" else 1)
            files.append(file)
    return files
