"""Fair timings of several forms of one computation in one run."""

import platform
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import torch

WARM_UP_SECONDS = 1.0


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return what a recorded figure must be read with."""
    facts = {
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": _processor(),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def time_forms(
    forms: Mapping[str, Callable[[], object]],
    *,
    device: torch.device,
    repeats: int,
) -> dict[str, float]:
    """Time each form in turn, round after round, so that drift meets all alike.

    Args:
        forms: What to run, by name.
        device: Where the work is done; CUDA is waited for.
        repeats: Counted rounds, after two and at least a second that are not.

    Returns:
        The median of each form, in milliseconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    begun, warm_rounds, counted = time.perf_counter(), 0, 0
    while counted < repeats:
        # the first rounds of a process pay for memory that later ones find in place
        warm = warm_rounds >= 2 and time.perf_counter() - begun > WARM_UP_SECONDS
        warm_rounds += not warm
        counted += warm
        for name, run in forms.items():
            _wait(device)
            start = time.perf_counter()
            run()
            _wait(device)
            if warm:
                seconds[name].append(time.perf_counter() - start)
    return {name: 1000 * median(values) for name, values in seconds.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
