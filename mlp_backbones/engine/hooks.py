"""Hooks: what a run loads and writes, and pictures on the way."""

from collections.abc import Sequence
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader

from mlp_backbones.checkpoints.compare import (
    CheckpointMismatchError,
    compare_state_dicts,
    find_state_dict,
)
from mlp_backbones.checkpoints.plain import check_finite, plain_checkpoint
from mlp_backbones.engine.pictures import (
    PictureFolder,
    draw_prediction,
    make_visualizer,
)
from mlp_backbones.registry import HOOKS


@HOOKS.register_module()
class PlainCheckpointHook(Hook):
    """Write checkpoints that ``torch.load(weights_only=True)`` reads everywhere.

    MMEngine's hold objects of its own and of numpy, for which any loader must admit
    code. See :func:`mlp_backbones.checkpoints.plain.plain_checkpoint`.
    """

    # After hooks that put something into the checkpoint.
    priority = "LOWEST"

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Exchange what is no plain data."""
        checkpoint.update(plain_checkpoint(checkpoint))


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
        CheckpointError: If a weight is NaN or infinite.
    """

    # After hooks that prepare for loading (EMAHook builds its model in before_run).
    priority = "LOWEST"

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint

    def before_run(self, runner: Runner) -> None:
        """Load the weights; MMEngine then does not load them again."""
        try:
            loaded = runner.load_checkpoint(self.checkpoint, strict=True)
        except RuntimeError as error:
            loaded = CheckpointLoader.load_checkpoint(self.checkpoint, "cpu")
            mismatches = compare_state_dicts(runner.model, loaded)
            if not mismatches:
                raise
            raise CheckpointMismatchError(
                mismatches.describe(self.checkpoint)
            ) from error
        check_finite(find_state_dict(loaded), self.checkpoint)


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
