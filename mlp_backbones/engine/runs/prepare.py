"""Making a config's training one that can be killed and resumed."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from mlp_backbones.engine.errors import UserError
from mlp_backbones.engine.runs.checkpoint_hook import DISK_FAULTS, describe_disk_fault
from mlp_backbones.engine.runs.stopping import StoppedBySignal

LOOPS = {
    "EpochBasedTrainLoop": "mlp_backbones.ResumableEpochLoop",
    "IterBasedTrainLoop": "mlp_backbones.ResumableIterLoop",
}
HOOK = "mlp_backbones.SafeCheckpointHook"
SIGNAL_HOOK = "mlp_backbones.SaveOnSignalHook"


def make_resumable(config: Config) -> None:
    """Exchange MMEngine's loop and checkpoint hook for ours, and listen to signals.

    A loop or a hook of another kind is left alone and named in a warning.

    Args:
        config: The config, changed in place.
    """
    loop = config.train_cfg
    kind = loop.get("type")
    if kind is None and "by_epoch" in loop:
        by_epoch = loop.pop("by_epoch")
        kind = "EpochBasedTrainLoop" if by_epoch else "IterBasedTrainLoop"
    known = _bare(kind) in LOOPS
    if known:
        # upstream's MMEngine lacks it, ours always goes to the batch that is next
        loop.pop("fast_forward_on_resume", None)
        loop.type = LOOPS[_bare(kind)]
    elif kind not in LOOPS.values():
        print_log(
            f"train_cfg.type={kind} is no loop that resumes exactly: a resumed run may "
            "differ from an uninterrupted one",
            level=30,
        )
    hooks = config.setdefault("default_hooks", ConfigDict())
    checkpoint = hooks.setdefault("checkpoint", ConfigDict(type="CheckpointHook"))
    if checkpoint is not None:
        if _bare(checkpoint.get("type", "CheckpointHook")) == "CheckpointHook":
            checkpoint.type = HOOK
        elif checkpoint.type != HOOK:
            print_log(
                f"default_hooks.checkpoint.type={checkpoint.type} does not protect "
                "checkpoints from a kill while they are saved",
                level=30,
            )
    custom = config.get("custom_hooks") or []
    if not any(hook.get("type") == SIGNAL_HOOK for hook in custom):
        config.custom_hooks = [*custom, ConfigDict(type=SIGNAL_HOOK)]


def _bare(kind: Any) -> str:
    """Return the name of a type of MMEngine's without its scope."""
    name = kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))
    return name.removeprefix("mmengine.")


def run_training(train: Callable[[], object], work_dir: str) -> int:
    """Train until the end or a signal.

    Args:
        train: Builds the runner and trains.
        work_dir: The work folder.

    Returns:
        The exit code: 0, or 128 plus the number of the signal.

    Raises:
        UserError: As :func:`accidents_in_one_line` does.
    """
    try:
        with accidents_in_one_line(work_dir):
            train()
    except StoppedBySignal as stopped:
        return int(stopped.code or 0)
    return 0


@contextmanager
def accidents_in_one_line(work_dir: str) -> Iterator[None]:
    """Turn what happens to a machine while it trains into one line with a remedy.

    Args:
        work_dir: The work folder; other folders may be closed for other reasons.

    Raises:
        UserError: If a data loading process was killed, or the disk is full or cannot
            be written.
    """
    try:
        yield
    except OSError as error:
        path = str(error.filename or work_dir)
        ours = Path(path).absolute().is_relative_to(Path(work_dir).absolute())
        if error.errno in DISK_FAULTS and ours:
            raise UserError(describe_disk_fault(error, path), 1) from error
        raise
    except RuntimeError as error:
        killed = re.search(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\)", str(error))
        if killed is None:
            raise
        raise UserError(
            f"data loading process {killed[1]} was killed, as systems do that run out "
            "of memory; lower train_dataloader.num_workers or prefetch_factor, then "
            "--resume goes on; checkpoints saved before are intact",
            1,
        ) from error
