"""Times and best results of trainings, from the scalars that MMEngine writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlp_backbones.analysis import curves as scalars

# Of these the lowest value is the best one.
_LOWER_IS_BETTER = ("loss", "error", "mae", "rmse")


@dataclass(frozen=True)
class Timing:
    """How long the iterations of a training took, in seconds.

    What MMEngine logs is a mean over some iterations (``log_processor.window_size``),
    so single slow ones are levelled out.

    Attributes:
        times: The logged means, in order.
        data: Mean time of an iteration spent waiting for data.
        epochs: Mean of each epoch by its number; empty where the run counts none.
    """

    times: list[float]
    data: float
    epochs: dict[int, float]


def _timed_rows(run: Path) -> list[dict[str, Any]]:
    rows = scalars.read_rows(scalars.find_scalars(run))
    return [row for row in rows if scalars.is_training(row) and "time" in row]


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
    groups: dict[int | None, list[dict[str, Any]]] = {}
    for row in _timed_rows(run):
        groups.setdefault(row.get("epoch"), []).append(row)
    if not include_outliers:
        groups = {epoch: rows[1:] for epoch, rows in groups.items()}
    rows = [row for group in groups.values() for row in group]
    if not rows:
        raise ValueError(
            f"{run}: too few iterations are logged; a lower interval of LoggerHook, "
            "or the first ones with --include-outliers"
        )
    epochs = {
        epoch: fmean(row["time"] for row in group)
        for epoch, group in groups.items()
        if epoch is not None and group
    }
    data = fmean(row.get("data_time", 0.0) for row in rows)
    return Timing([row["time"] for row in rows], data, epochs)


def print_summary(runs: Sequence[Path]) -> None:
    """Print times, losses and best metrics of runs, one table each.

    Args:
        runs: Work folders or scalar files.
    """
    for run in runs:
        curves = scalars.read_curves(scalars.find_scalars(run))
        rows = _timed_rows(run)
        table = Table("", "best", "at iteration", "last", title=Text(str(run)))
        for column in table.columns[1:]:
            column.justify = "right"
        loss = {n: p for n, p in curves.training.items() if n == "loss"}
        for name, points in {**loss, **curves.groups()["metrics"]}.items():
            lower = any(word in name.lower() for word in _LOWER_IS_BETTER)
            choose = min if lower else max
            step, value = choose(points, key=lambda point: point[1])
            digits = 4 if name == "loss" else 3
            last = points[-1][1]
            table.add_row(name, f"{value:.{digits}f}", str(step), f"{last:.{digits}f}")
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
    timing = measure_times(run, include_outliers)
    mean = fmean(timing.times)
    lines = [
        f"{run}: {mean:.4f} s/iter (fastest {min(timing.times):.4f}, slowest "
        f"{max(timing.times):.4f}), {100 * timing.data / mean:.1f} % of it "
        "waiting for data"
    ]
    epochs = timing.epochs
    if len(epochs) > 1:
        for word, choose in (("slowest", max), ("fastest", min)):
            epoch = choose(epochs, key=epochs.__getitem__)
            lines.append(f"{word} epoch {epoch}, average {epochs[epoch]:.4f} s/iter")
        deviation = pstdev(epochs.values())
        lines.append(f"standard deviation over epochs {deviation:.4f} s/iter")
    for line in lines:
        Console(soft_wrap=True).print(line, markup=False, highlight=False)
