"""Models as functions of an image batch, for the analysis tools."""

from typing import Any

import torch
from torch import Tensor, nn


class TensorForward(nn.Module):
    """A model, or its backbone alone, as a function of an image batch.

    What the network computes is run; the decoding of its outputs into boxes is not,
    except for the proposals that the second stage of a detector needs.

    Args:
        model: Classifier, detector or segmentor.
        backbone_only: Leave out neck and heads.
    """

    def __init__(self, model: nn.Module, backbone_only: bool = False) -> None:
        super().__init__()
        self.model: Any = model.backbone if backbone_only else model
        self.is_detector = (
            not backbone_only and type(model).__module__.split(".")[0] == "mmdet"
        )

    def forward(self, images: Tensor) -> Any:
        """Run on normalised images, (B, 3, H, W)."""
        if not self.is_detector:
            return self.model(images)
        from mmdet.structures import DetDataSample

        size = tuple(images.shape[-2:])
        meta = {
            "img_shape": size,
            "ori_shape": size,
            "pad_shape": size,
            "batch_input_shape": size,
            "scale_factor": (1.0, 1.0),
        }
        samples = [DetDataSample(metainfo=meta) for _ in range(len(images))]
        return self.model(images, samples, mode="tensor")


def tensors_in(outputs: Any) -> list[Tensor]:
    """All floating-point tensors in nested outputs, in order."""
    if isinstance(outputs, Tensor):
        return [outputs] if torch.is_floating_point(outputs) else []
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    if isinstance(outputs, (list, tuple)):
        return [tensor for item in outputs for tensor in tensors_in(item)]
    return []
