"""Hooks: guards of a run's losses and weights, and pictures on the way."""

import math
from collections.abc import Sequence
from logging import Handler
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor

from mlp_backbones.checkpoints.compare import (
    CheckpointMismatchError,
    compare_state_dicts,
)
from mlp_backbones.engine.pictures import (
    PictureFolder,
    draw_prediction,
    make_visualizer,
)
from mlp_backbones.registry import HOOKS


class InvalidLossError(ValueError):
    """A loss became NaN or infinite."""


@HOOKS.register_module()
class CheckLossHook(Hook):
    """Stop the training when a loss is NaN or infinite.

    Unlike mmdet's ``CheckInvalidLossHook`` it serves all tasks, misses no iteration
    (the values wait on the device until the next check), names the loss component,
    and looks once more before a checkpoint is written, so that damaged weights
    never replace sound ones.

    Args:
        interval: Iterations from check to check; each check waits for the device
            once.

    Raises:
        InvalidLossError: From the check, naming component, value, epoch, iteration
            and learning rate.
    """

    # Before LoggerHook and CheckpointHook, after the values have been recorded.
    priority = "NORMAL"

    def __init__(self, interval: int = 1) -> None:
        if not isinstance(interval, int) or interval < 1:
            raise ValueError(f"interval must be an integer >= 1, got {interval!r}")
        self.interval = interval
        self._iterations: list[int] = []
        self._names: list[list[str]] = []
        self._values: list[Tensor] = []

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | tuple | list | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Remember the losses of this iteration and check when it is time."""
        losses = {
            name: torch.as_tensor(value).detach().float().mean()
            for name, value in (outputs or {}).items()
            if "loss" in name and isinstance(value, (Tensor, float, int))
        }
        if losses:
            self._iterations.append(runner.iter + 1)
            self._names.append(list(losses))
            self._values.append(torch.stack(list(losses.values())))
        if self.every_n_train_iters(runner, self.interval):
            self._check(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse to write the weights that an invalid loss has damaged."""
        self._check(runner)

    def after_train(self, runner: Runner) -> None:
        """Check what came after the last full interval."""
        self._check(runner)

    def _check(self, runner: Runner) -> None:
        if not self._values:
            return
        iterations, names, values = self._iterations, self._names, self._values
        self._iterations, self._names, self._values = [], [], []
        if bool(torch.cat(values).isfinite().all()):  # the one synchronisation
            return
        first = next(
            index for index, row in enumerate(values) if not row.isfinite().all()
        )
        invalid = [
            f"{name} = {value}"
            for name, value in zip(names[first], values[first].tolist(), strict=True)
            if not math.isfinite(value)
        ]
        message = (
            f"invalid loss at epoch {runner.epoch + 1}, iteration {iterations[first]}: "
            f"{', '.join(invalid)} (learning rate {_learning_rates(runner)}). "
            "Checkpoints written so far are kept. A lower learning rate, a longer "
            "warm-up, gradient clipping or a look at the data may help."
        )
        runner.logger.error(message)
        _flush(runner.logger.handlers)
        raise InvalidLossError(message)


def _learning_rates(runner: Runner) -> str:
    """All different learning rates of a run in a few characters."""
    rates = {rate for group in runner.optim_wrapper.get_lr().values() for rate in group}
    return " to ".join(f"{rate:.3g}" for rate in sorted({min(rates), max(rates)}))


def _flush(handlers: Sequence[Handler]) -> None:
    for handler in handlers:
        handler.flush()


@HOOKS.register_module()
class StrictLoadHook(Hook):
    """Load the checkpoint of a test strictly.

    MMEngine loads with ``strict=False``: a checkpoint of another architecture leaves
    the model at its random weights, and the test runs to its end. Here every key and
    shape must match in both directions.

    Args:
        checkpoint: Path or address, as ``load_from`` takes it.

    Raises:
        CheckpointMismatchError: If a key or a shape does not match, listing the
            first of them.
    """

    # After hooks that prepare for loading (EMAHook builds its model in before_run).
    priority = "LOWEST"

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint

    def before_run(self, runner: Runner) -> None:
        """Load the weights; MMEngine then does not load them again."""
        try:
            runner.load_checkpoint(self.checkpoint, strict=True)
        except RuntimeError as error:
            loaded = CheckpointLoader.load_checkpoint(self.checkpoint, "cpu")
            mismatches = compare_state_dicts(runner.model, loaded)
            if not mismatches:
                raise
            raise CheckpointMismatchError(
                mismatches.describe(self.checkpoint)
            ) from error


@HOOKS.register_module()
class PredictionPicturesHook(Hook):
    """Save or show pictures of predictions, in one way for all tasks.

    The visualisation hooks of mmdet, mmseg and mmpretrain differ in their options, in
    where they write, and mmpretrain's fails under test-time augmentation.

    Args:
        out_dir: Folder for the pictures; validations write into
            ``iter_<iteration>`` below it. None shows them only.
        max_val_images: Pictures of each validation.
        score_threshold: Detections below it are left out.
        show: Show each picture in a window.
        wait_time: Seconds that it is shown.
    """

    def __init__(
        self,
        out_dir: str | None = None,
        max_val_images: int = 16,
        score_threshold: float = 0.3,
        show: bool = False,
        wait_time: float = 0.0,
    ) -> None:
        self.out_dir = None if out_dir is None else Path(out_dir)
        self.max_val_images = max_val_images
        self.score_threshold = score_threshold
        self.show = show
        self.wait_time = wait_time
        self._drawn = 0

    def before_val(self, runner: Runner) -> None:
        """Start a folder of its own for each validation."""
        folder = self.out_dir and self.out_dir / f"iter_{runner.iter}"
        self._start(runner.val_dataloader.dataset.metainfo, folder)

    def before_test(self, runner: Runner) -> None:
        """Draw into the folder itself."""
        self._start(runner.test_dataloader.dataset.metainfo, self.out_dir)

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | tuple | list | None = None,
        outputs: Sequence | None = None,
    ) -> None:
        """Draw the first images."""
        if runner.rank == 0:
            self._draw((outputs or ())[: max(0, self.max_val_images - self._drawn)])

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | tuple | list | None = None,
        outputs: Sequence | None = None,
    ) -> None:
        """Draw every image; of a distributed test, those of the first process."""
        self._draw(outputs or ())

    def _start(self, dataset_meta: dict, folder: Path | None) -> None:
        self._visualizer = make_visualizer(dataset_meta)
        self._pictures = None if folder is None else PictureFolder(folder)
        self._drawn = 0

    def _draw(self, samples: Sequence) -> None:
        for sample in samples:
            file = None
            if self._pictures is not None:
                file = self._pictures.file_for(sample.img_path)
            draw_prediction(
                self._visualizer,
                sample,
                file,
                self.score_threshold,
                self.show,
                self.wait_time,
            )
            self._drawn += 1
