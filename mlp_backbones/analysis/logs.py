"""Times and best results of trainings, from the scalars that MMEngine writes."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from mlp_backbones.analysis.curves import Curves, find_scalars, read_curves

# Of these the lowest value is the best one.
_LOWER_IS_BETTER = ("loss", "error", "mae", "rmse")


@dataclass(frozen=True)
class Best:
    """The best value of a metric.

    Attributes:
        value: The value.
        iteration: When it was measured.
        last: The value measured last.
    """

    value: float
    iteration: int
    last: float


@dataclass(frozen=True)
class Timing:
    """How long the iterations of a training took.

    What MMEngine logs is a mean over some iterations (``log_processor.window_size``),
    so single slow ones are levelled out.

    Attributes:
        mean: Seconds an iteration.
        fastest: The least of the logged means.
        slowest: The greatest.
        data: Seconds of each iteration spent waiting for data.
        epochs: Mean of each epoch by its number; empty where the run counts none.
    """

    mean: float
    fastest: float
    slowest: float
    data: float
    epochs: dict[int, float]

    @property
    def deviation(self) -> float:
        """The standard deviation of the epochs' means."""
        return pstdev(self.epochs.values()) if self.epochs else 0.0


def read_training_rows(files: Iterable[Path]) -> list[dict[str, Any]]:
    """Read what was logged of training, in the order of iterations.

    As in :func:`mlp_backbones.analysis.curves.read_curves` a later file replaces what
    an earlier one has from its first iteration on.

    Args:
        files: Scalar files in the order of their starts.
    """
    rows: list[dict[str, Any]] = []
    for file in files:
        found = [json.loads(line) for line in file.read_text().splitlines()]
        found = [row for row in found if "time" in row and "iter" in row]
        if found:
            rows = [row for row in rows if row["iter"] < found[0]["iter"]] + found
    return rows


def measure_times(run: Path, include_outliers: bool = False) -> Timing:
    """Measure the iterations of a run from its log.

    Args:
        run: A work folder or a scalar file.
        include_outliers: Count the first row of each epoch too (of the run, where it
            counts none), in which processes start and caches fill.

    Raises:
        FileNotFoundError: If the run has no scalars.
        ValueError: If a line is no JSON, or too few iterations are logged.
    """
    files = find_scalars(run)
    read_curves(files)  # names the line that is no JSON
    groups: dict[int | None, list[dict[str, Any]]] = {}
    for row in read_training_rows(files):
        groups.setdefault(row.get("epoch"), []).append(row)
    if not include_outliers:
        groups = {epoch: rows[1:] for epoch, rows in groups.items()}
    rows = [row for group in groups.values() for row in group]
    if not rows:
        raise ValueError(
            f"{run}: too few iterations are logged; a lower interval of LoggerHook, "
            "or the first ones with --include-outliers"
        )
    times = [row["time"] for row in rows]
    return Timing(
        mean=fmean(times),
        fastest=min(times),
        slowest=max(times),
        data=fmean(row.get("data_time", 0.0) for row in rows),
        epochs={
            epoch: fmean(row["time"] for row in group)
            for epoch, group in groups.items()
            if epoch is not None and group
        },
    )


def find_best(curves: Curves) -> dict[str, Best]:
    """Find the best value of each metric; metrics never measured (-1) are left out.

    Args:
        curves: As :func:`mlp_backbones.analysis.curves.read_curves` gives them.
    """
    best = {}
    for name, points in curves.groups()["metrics"].items():
        lower = any(word in name.lower() for word in _LOWER_IS_BETTER)
        choose = min if lower else max
        step, value = choose(points, key=lambda point: point[1])
        best[name] = Best(value, step, points[-1][1])
    return best


def print_summary(runs: Sequence[Path]) -> None:
    """Print times, losses and best metrics of runs, one table each.

    Args:
        runs: Work folders or scalar files.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    for run in runs:
        files = find_scalars(run)
        curves = read_curves(files)
        rows = read_training_rows(files)
        table = Table("", "best", "at iteration", "last", title=Text(str(run)))
        for column in table.columns[1:]:
            column.justify = "right"
        losses = [(row["iter"], row["loss"]) for row in rows if "loss" in row]
        if losses:
            step, value = min(losses, key=lambda point: point[1])
            table.add_row("loss", f"{value:.4f}", str(step), f"{losses[-1][1]:.4f}")
        for name, found in find_best(curves).items():
            table.add_row(
                name, f"{found.value:.3f}", str(found.iteration), f"{found.last:.3f}"
            )
        console = Console(soft_wrap=True)
        console.print(table)
        memory = max((row.get("memory", 0) for row in rows), default=0)
        if memory:
            console.print(f"GPU memory: {memory} MiB")
        if rows:
            print_times(run, include_outliers=len(rows) < 2)


def print_times(run: Path, include_outliers: bool = False) -> None:
    """Print how long the iterations of a run took.

    Args:
        run: A work folder or a scalar file.
        include_outliers: As :func:`measure_times` has it.
    """
    from rich.console import Console

    timing = measure_times(run, include_outliers)
    lines = [
        f"{run}: {timing.mean:.4f} s/iter (fastest {timing.fastest:.4f}, slowest "
        f"{timing.slowest:.4f}), {100 * timing.data / timing.mean:.1f} % of it "
        "waiting for data"
    ]
    if len(timing.epochs) > 1:
        fastest = min(timing.epochs, key=lambda epoch: timing.epochs[epoch])
        slowest = max(timing.epochs, key=lambda epoch: timing.epochs[epoch])
        lines += [
            f"slowest epoch {slowest}, average {timing.epochs[slowest]:.4f} s/iter",
            f"fastest epoch {fastest}, average {timing.epochs[fastest]:.4f} s/iter",
            f"standard deviation over epochs {timing.deviation:.4f} s/iter",
        ]
    for line in lines:
        Console(soft_wrap=True).print(line, markup=False, highlight=False)
