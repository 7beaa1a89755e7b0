"""Stopping a training by a signal, without losing a step."""

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook

from mlp_backbones.engine.runs import accumulation
from mlp_backbones.engine.runs.checkpoint_hook import SafeCheckpointHook
from mlp_backbones.registry import HOOKS

# What shells, schedulers and terminals send; Slurm sends what `--signal` names.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class StoppedBySignal(SystemExit):
    """The end of a training that was told to stop and has saved its state."""


@HOOKS.register_module()
class SaveOnSignalHook(Hook):
    """Save after the current step and exit when the run is told to stop.

    SIGTERM, SIGINT (Ctrl-C), SIGUSR1 and SIGUSR2 count; the exit code is 128 plus the
    signal's number. A second signal ends the process at once. Of several processes it
    is enough that one gets the signal: they agree after each step.
    """

    # After all hooks that are part of a step, and after CheckpointHook.
    priority = "LOWEST"

    def __init__(self) -> None:
        self._received = 0
        self._before: dict[int, Any] = {}
        self._group: Any = None
        self._agrees_in_validation = False

    def before_train(self, runner: Any) -> None:
        """Begin to listen."""
        if get_world_size() > 1:  # on the CPU, so that no step waits for a GPU
            self._group = torch.distributed.new_group(backend="gloo")
        if threading.current_thread() is not threading.main_thread():
            return  # only the main one may listen
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._receive)

    def after_train(self, runner: Any) -> None:
        """Leave the signals to who had them before."""
        self._end()

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        """Stop after this step, or after the optimizer's if the gradients must wait."""
        if accumulation.is_pending(runner) and not accumulation.can_keep(runner):
            return
        if number := self._agree():
            self._stop(runner, number, {"epoch": runner.epoch, "iter": runner.iter + 1})

    def before_val(self, runner: Any) -> None:
        """See whether all processes take the same number of steps."""
        if self._group is not None:
            length = len(runner.val_dataloader)
            longest = self._largest(length)
            self._agrees_in_validation = self._largest(-length) == -longest

    def after_val_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        """Stop within a validation if its weights are saved; resuming repeats it.

        They cannot be saved now: other hooks, such as EMAHook, lend the model weights
        for the validation.
        """
        if not self._before or (self._group and not self._agrees_in_validation):
            return
        hook = _checkpoint_hook(runner)
        if hook is None or hook.saved_iter != runner.iter:
            return
        if number := self._agree():
            self._exit(number, runner.iter, f"saved as {hook.saved}")

    def after_val(self, runner: Any) -> None:
        """Stop behind a validation."""
        if self._before and (number := self._agree()):
            self._stop(runner, number, {"epoch": runner.epoch, "iter": runner.iter})

    def _end(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        self._group = None  # its threads must end before the process does

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._received = number
        name = signal.Signals(number).name
        # not by sys.stderr, which the signal may have interrupted
        os.write(2, f"{name}: saving after this step; another ends at once\n".encode())

    def _agree(self) -> int:
        """Return the signal that any process has received, 0 if none has."""
        return self._received if self._group is None else self._largest(self._received)

    def _largest(self, value: int) -> int:
        shared = torch.tensor(value)
        torch.distributed.all_reduce(
            shared, torch.distributed.ReduceOp.MAX, group=self._group
        )
        return int(shared)

    def _stop(self, runner: Any, number: int, meta: dict[str, int]) -> None:
        hook = _checkpoint_hook(runner)
        if hook is None:
            saved = (
                "nothing was saved: default_hooks.checkpoint is no SafeCheckpointHook"
            )
        else:
            saved = f"saved as {hook.save_interrupted(runner, meta)}"
        self._exit(number, meta["iter"], saved)

    def _exit(self, number: int, iteration: int, saved: str) -> None:
        if is_main_process():
            sys.stdout.flush()
            name = signal.Signals(number).name
            sys.stderr.write(
                f"stopped by {name} after iteration {iteration}, {saved}; the same "
                "command with --resume goes on\n"
            )
        self._end()
        raise StoppedBySignal(128 + number)


def _checkpoint_hook(runner: Any) -> SafeCheckpointHook | None:
    hooks = [hook for hook in runner.hooks if isinstance(hook, SafeCheckpointHook)]
    return hooks[0] if hooks else None
