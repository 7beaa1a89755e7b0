"""Hooks that show how a run goes."""

from pathlib import Path

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mlp_backbones.registry import HOOKS


@HOOKS.register_module()
class CurvesHook(Hook):
    """Keep PNGs of the loss, learning rate and metric curves up to date.

    They lie in the work folder and are drawn again after each validation and at the
    end, from what the `LocalVisBackend` has written.

    Args:
        smooth: points in the running mean of the losses.
    """

    # After LoggerHook, which writes the values of the validation.
    priority = "VERY_LOW"

    def __init__(self, smooth: int = 1) -> None:
        if not isinstance(smooth, int) or smooth < 1:
            raise ValueError(f"smooth must be an integer >= 1, got {smooth!r}")
        self.smooth = smooth

    def after_val(self, runner: Runner) -> None:
        """Draw."""
        self._draw(runner)

    def after_train(self, runner: Runner) -> None:
        """Draw."""
        self._draw(runner)

    def _draw(self, runner: Runner) -> None:
        # Not above: it makes matplotlib draw into files, which windows may not want.
        from mlp_backbones.analysis.curves import save_curves

        if runner.rank != 0:
            return
        try:
            save_curves(
                [Path(runner.work_dir)], Path(runner.work_dir), None, self.smooth
            )
        except FileNotFoundError as error:
            runner.logger.warning(f"no curves are drawn: {error}")
