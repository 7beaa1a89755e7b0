"""Results of mmcv's operators, by a compiled mmcv or by ours, in a process of its own.

``python operator_cases.py compiled|ours CASES OUT`` computes the ``operators`` or the
``detectors`` and saves a dictionary of tensors. The same seeds give the same inputs.
"""

import itertools
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Results = dict[str, Any]


def random_boxes(count: int, generator: torch.Generator, size: float = 50) -> Tensor:
    """Return ``count`` boxes, (N, 4), some of them beyond a map of 64 x 64."""
    corners = torch.rand(count, 2, generator=generator) * 60 - 5
    sides = torch.rand(count, 2, generator=generator) * size
    return torch.cat([corners, corners + sides], dim=1)


def suppression_cases() -> Results:
    from mmcv.ops import batched_nms, nms, nms_match, soft_nms

    found: Results = {}
    for count, offset in itertools.product((0, 1, 2, 60, 500), (0, 1)):
        generator = torch.Generator().manual_seed(count)
        boxes = random_boxes(count, generator)
        scores = torch.rand(count, generator=generator)
        rows = torch.cat([boxes, scores[:, None]], dim=1)
        for threshold in (0.3, 0.5, 0.7):
            name = f"{count}/{offset}/{threshold}"
            found[f"nms/{name}"] = nms(boxes, scores, threshold, offset)
            found[f"nms strided/{name}"] = nms(rows[:, :4], rows[:, 4], threshold)
            found[f"nms filtered/{name}"] = nms(
                boxes, scores, threshold, offset, 0.3, 5
            )
            found[f"nms_match/{name}"] = nms_match(rows, threshold)
            for method in ("naive", "linear", "gaussian"):
                found[f"soft_nms {method}/{name}"] = soft_nms(
                    boxes, scores, threshold, 0.5, 0.05, method, offset
                )
        classes = torch.arange(count) % 3
        options = {"type": "nms", "iou_threshold": 0.5}
        if count:  # mmcv's batched_nms refuses empty boxes
            found[f"batched_nms/{count}"] = batched_nms(boxes, scores, classes, options)
    # overlaps of exactly 0.5 and 0.6, which is no float32 number
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [20, 0, 30, 10]])
    boxes = torch.cat([boxes, torch.tensor([[20.0, 0, 30, 6]])])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
    for threshold in (0.5, 0.6):
        found[f"nms exact/{threshold}"] = nms(boxes, scores, threshold)
    # equal scores on equal boxes: which of them is kept is open, not what is kept
    boxes, scores = boxes.repeat(3, 1), scores.repeat(3)
    found["nms ties"] = nms(boxes, scores, 0.55)[0]
    for method in ("naive", "linear", "gaussian"):
        found[f"soft_nms ties {method}"] = soft_nms(boxes, scores, 0.3, method=method)
    return found


def region_cases() -> Results:
    from mmcv.ops import roi_align

    found: Results = {}
    generator = torch.Generator().manual_seed(3)
    images = torch.arange(30)[:, None] % 2
    boxes = torch.cat([images, random_boxes(30, generator) * 4], dim=1)
    boxes[0, 3:] = boxes[0, 1:3]  # no area
    boxes[1, 1:] += 1000  # outside
    maps = torch.randn(2, 5, 16, 21, generator=generator)
    grad = torch.randn(30, 5, 7, 3, generator=generator)
    for dtype, aligned, ratio, count in itertools.product(
        (torch.float32, torch.float64, torch.float16), (False, True), (0, 2), (30, 0)
    ):
        x = maps.to(dtype).requires_grad_()
        rois = boxes[:count].to(dtype)
        pooled = roi_align(x, rois, (7, 3), 0.25, ratio, "avg", aligned)
        pooled.backward(grad[:count].to(dtype))
        found[f"roi_align/{dtype}/{aligned}/{ratio}/{count}"] = (pooled, x.grad)
    return found


def convolution_cases() -> Results:
    from mmcv.ops import deform_conv2d, modulated_deform_conv2d

    found: Results = {}
    forms = {
        "plain": (1, 1, 1, 1, 1, True),
        "groups": (1, 1, 1, 2, 1, False),
        "deform groups": (1, 1, 1, 1, 2, True),
        "strided": ((2, 1), (0, 2), (1, 2), 2, 4, True),
    }
    for (name, form), dtype in itertools.product(
        forms.items(), (torch.float32, torch.float64)
    ):
        stride, padding, dilation, groups, deform_groups, with_bias = form
        generator = torch.Generator().manual_seed(4)

        def leaf(*shape: int, generator=generator, dtype=dtype) -> Tensor:
            return torch.randn(shape, generator=generator).to(dtype).requires_grad_()

        x, weight = leaf(4, 8, 9, 11), leaf(6, 8 // groups, 3, 3)
        sizes = torch.nn.functional.conv2d(
            x.float(), weight.float(), None, stride, padding, dilation, groups
        ).shape
        offset = leaf(4, deform_groups * 18, *sizes[2:])
        mask = leaf(4, deform_groups * 9, *sizes[2:])
        bias = leaf(6) if with_bias else None
        grad = torch.randn(sizes, generator=generator).to(dtype)
        options = (stride, padding, dilation, groups, deform_groups)
        for version in (1, 2):
            if version == 1:
                leaves = [x, offset, weight]
                y = deform_conv2d(*leaves, *options, False, 2)
            else:
                leaves = [x, offset, mask, weight, *([bias] if with_bias else [])]
                y = modulated_deform_conv2d(x, offset, mask, weight, bias, *options)
            grads = torch.autograd.grad(y, leaves, grad)
            found[f"deform_conv {version}/{name}/{dtype}"] = (y, *grads)
    # mmdet's DyHead hands over fields that are larger than the output
    leaves = [leaf(2, 8, 4, 4), leaf(2, 18, 8, 8), leaf(2, 9, 8, 8), leaf(6, 8, 3, 3)]
    y = modulated_deform_conv2d(*leaves, None, 1, 1)
    grads = torch.autograd.grad(y.square().sum(), leaves)
    found["deform_conv 2/large fields"] = (y, *grads)
    return found


def detector_cases() -> Results:
    import small_heads

    found: Results = {}
    for name in ("retinanet", "mask-rcnn"):
        model = small_heads.build("mmdet", name)
        found[f"{name}/losses"] = small_heads.step("mmdet", model)
        found[f"{name}/gradients"] = {
            key: weight.grad for key, weight in model.named_parameters()
        }
        model.zero_grad()
        instances = [s.pred_instances for s in small_heads.predict("mmdet", model)]
        found[f"{name}/detections"] = [
            {"boxes": found.bboxes, "scores": found.scores, "labels": found.labels}
            for found in instances
        ]
    return found


def plain(value: Any) -> Any:
    """Return nested results as lists and dictionaries of tensors without a graph."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.detach() if isinstance(value, Tensor) else value


def main() -> None:
    whose, cases, out = sys.argv[1:]
    import mlp_backbones  # noqa: F401

    if whose == "ours":  # also where the environment has a compiled mmcv
        from mlp_backbones.operators import OperatorFinder

        sys.meta_path.insert(0, OperatorFinder)
    import mmcv._ext

    compiled = bool(getattr(mmcv._ext, "__file__", ""))
    if compiled != (whose == "compiled"):
        raise SystemExit(f"asked for {whose} operators, found {mmcv._ext}")
    torch.set_num_threads(1)
    if cases == "operators":
        found = {**suppression_cases(), **region_cases(), **convolution_cases()}
    else:
        found = detector_cases()
    torch.save(plain(found), Path(out))


if __name__ == "__main__":
    main()
