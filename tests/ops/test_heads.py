"""The heads of mmdet and mmseg that call mmcv's operators train and predict."""

import pytest
import small_heads
import torch

HEADS = [
    *(("mmdet", name) for name in small_heads.DETECTORS),
    *(("mmseg", name) for name in small_heads.SEGMENTORS),
]


@pytest.mark.parametrize(("scope", "name"), HEADS)
def test_a_head_trains_and_predicts(scope: str, name: str) -> None:
    model = small_heads.build(scope, name)
    losses = small_heads.step(scope, model)
    assert losses["loss"].isfinite() and losses["loss"] > 0
    # the norm of a map that the head leaves aside has no gradient
    assert all(w.grad is not None for w in model.backbone.stages.parameters())
    gradients = [w.grad for w in model.parameters() if w.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    samples = small_heads.predict(scope, model)
    assert len(samples) == 2
    for sample in samples:
        if scope == "mmseg":
            assert sample.pred_sem_seg.data.shape == (1, 64, 64)
        else:
            assert sample.pred_instances.bboxes.shape[1:] == torch.Size([4])
