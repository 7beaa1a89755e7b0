"""Metrics that OpenMMLab leaves out or gives a meaning that it does not tell."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mlp_backbones.preflight.schedule import metrics_of
from mlp_backbones.registry import HOOKS


@HOOKS.register_module()
class ExplainMetricsHook(Hook):
    """Give a detector's evaluation its metrics in the two cases that lack them.

    Without one detection mmdet computes nothing at all: no metric is printed, and a
    best checkpoint by one of them is an error. Such an average precision is 0. Without
    annotations COCO's tools give -1, which this hook explains.
    """

    priority = "NORMAL"  # before loggers and checkpoints

    def after_val_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        """Look at the metrics of a validation."""
        self._explain(runner, "val", metrics)

    def after_test_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        """Look at the metrics of a test."""
        self._explain(runner, "test", metrics)

    def _explain(
        self, runner: Runner, split: str, metrics: dict[str, float] | None
    ) -> None:
        names = metrics_of(runner.cfg.get(f"{split}_evaluator"), {})
        if metrics is None or not names:
            return
        if not names & metrics.keys():
            dataset = getattr(runner, f"{split}_dataloader").dataset
            value = 0.0 if _has_objects(dataset) else -1.0
            metrics.update(dict.fromkeys(sorted(names), value))
            runner.logger.warning(
                f"{split}: not one detection above the score threshold of the model "
                "(model.test_cfg.score_thr): "
                + ", ".join(f"{name}: {value:.4f}" for name in sorted(names))
            )
        undefined = [name for name in sorted(names) if metrics.get(name) == -1]
        if undefined:
            runner.logger.warning(
                f"{split}: {', '.join(undefined)} are -1: the annotation file has no "
                "object of the config's classes, or of the size that a name ends with "
                "(s: below 32 x 32 px, m: below 96 x 96 px, l: above)"
            )


def _has_objects(dataset: Any) -> bool:
    """Whether a data set of mmdet has one annotation."""
    return any(
        dataset.get_data_info(index).get("instances") for index in range(len(dataset))
    )
