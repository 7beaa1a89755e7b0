"""mmcv's operators by torchvision's kernels, or by plain torch where it has none.

Each function takes what ``mmcv.ops`` hands to the function of the same name in its
compiled module ``mmcv._ext``, and fills the output tensors in place as that does. The
kernels run on the CPU and on CUDA. Memory of any layout is read right. A floating type
that a kernel lacks, or a mixture of types, is computed in float32.

Where results differ from a compiled mmcv's:

- ``nms`` and ``nms_match``: of equal scores the lower index comes first; mmcv leaves
  their order open.
- ``sigmoid_focal_loss``: the logarithm stays exact for logits beyond 16, where mmcv's
  saturates at 87; a target that is no class has weight 1, where mmcv reads memory
  behind the weights.
- ``roi_align`` pools by averages only.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from torch import Tensor

__all__ = [
    "deform_conv_backward_input",
    "deform_conv_backward_parameters",
    "deform_conv_forward",
    "get_compiler_version",
    "get_compiling_cuda_version",
    "modulated_deform_conv_backward",
    "modulated_deform_conv_forward",
    "ms_deform_attn_backward",
    "ms_deform_attn_forward",
    "nms",
    "nms_match",
    "roi_align_backward",
    "roi_align_forward",
    "roi_pool_backward",
    "roi_pool_forward",
    "sigmoid_focal_loss_backward",
    "sigmoid_focal_loss_forward",
    "softmax_focal_loss_backward",
    "softmax_focal_loss_forward",
    "softnms",
]


def get_compiler_version() -> str:
    """Return what stands in for the compiler's version."""
    return "not compiled (operators of torchvision)"


def get_compiling_cuda_version() -> str:
    """Return what stands in for the version of CUDA that mmcv is compiled with."""
    return "not available"


def _cast(*tensors: Tensor, half: bool) -> list[Tensor]:
    """Return tensors of one type that a kernel has: float64, float32 or float16."""
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    if dtype != torch.float64 and not (half and dtype == torch.float16):
        dtype = torch.float32
    return [tensor.to(dtype) for tensor in tensors]


def _overlaps(box: Tensor, boxes: Tensor, offset: int) -> Tensor:
    """Return the IoU of one box, (4,), with boxes, (N, 4)."""
    size = (
        torch.minimum(box[2:], boxes[:, 2:])
        - torch.maximum(box[:2], boxes[:, :2])
        + offset
    ).clamp(min=0)
    inter = size[:, 0] * size[:, 1]
    area = (box[2] - box[0] + offset) * (box[3] - box[1] + offset)
    sides = boxes[:, 2:] - boxes[:, :2] + offset
    return inter / (area + sides[:, 0] * sides[:, 1] - inter)


def nms(boxes: Tensor, scores: Tensor, *, iou_threshold: float, offset: int) -> Tensor:
    """Return the indices that non-maximum suppression keeps, best score first.

    Args:
        boxes: Corners, (N, 4).
        scores: One for each box, (N,).
        iou_threshold: A box that overlaps a better one by more is dropped.
        offset: 1 where the right and lower edges belong to a box, else 0.
    """
    boxes, scores = _cast(boxes, scores, half=False)
    if offset:  # in float64, where the sum rounds nothing
        boxes = boxes.double() + boxes.new_tensor([0, 0, offset, offset]).double()
    # mmcv compares in the type of the boxes, torchvision in float64
    threshold = torch.tensor(iou_threshold, dtype=boxes.dtype).item()
    return torch.ops.torchvision.nms(boxes, scores.to(boxes.dtype), threshold)


def nms_match(dets: Tensor, *, iou_threshold: float) -> list[list[int]]:
    """Return groups of indices: a box that NMS keeps, then those it suppresses.

    Args:
        dets: Corners and score, (N, 5).
        iou_threshold: A box that overlaps a better one by so much joins its group.
    """
    (dets,) = _cast(dets, half=False)
    threshold = torch.tensor(iou_threshold, dtype=dets.dtype)
    left = dets[:, 4].sort(descending=True, stable=True).indices
    groups = []
    while len(left):
        matches = _overlaps(dets[left[0], :4], dets[left, :4], 0) >= threshold
        matches[0] = True
        groups.append(left[matches].tolist())
        left = left[~matches]
    return groups


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    *,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Return the indices that soft NMS keeps and fill the rows of ``dets`` for them.

    Ties are resolved as mmcv's loop does, which moves boxes while it goes.

    Args:
        boxes: Corners, (N, 4).
        scores: One for each box, (N,).
        dets: Filled with corners and new score, (N, 5).
        iou_threshold: Overlap from which methods 0 and 1 lower a score.
        sigma: Width of method 2.
        min_score: A box whose score falls below is dropped.
        method: 0 drops, 1 lowers by the overlap, 2 by a Gaussian of it.
        offset: 1 where the right and lower edges belong to a box, else 0.
    """
    boxes, scores = _cast(boxes, scores, half=False)
    # NumPy takes a tenth of PyTorch's time for each of these many small steps
    rows = torch.cat([boxes, scores[:, None]], dim=1).numpy()
    sides = rows[:, 2:4] - rows[:, :2] + offset
    # corners, score, area and index
    columns = [*rows.T.copy(), sides[:, 0] * sides[:, 1], np.arange(len(rows))]
    threshold, done = rows.dtype.type(iou_threshold), 0
    while done < len(columns[4]):
        best = done + int(columns[4][done:].argmax())
        for column in columns:
            column[[done, best]] = column[[best, done]]
        left, top, right, bottom, _, area, _ = (column[done] for column in columns)
        x1, y1, x2, y2, score, areas, _ = (column[done + 1 :] for column in columns)
        width = np.minimum(right, x2) - np.maximum(left, x1) + offset
        height = np.minimum(bottom, y2) - np.maximum(top, y1) + offset
        inter = width.clip(0) * height.clip(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            overlaps = inter / (area + areas - inter)
        if method == 2:
            score *= np.exp(-(overlaps * overlaps) / rows.dtype.type(sigma))
        else:
            near = overlaps >= threshold
            score[near] *= 1 - overlaps[near] if method == 1 else 0
        done += 1
        alive = ~(score < rows.dtype.type(min_score))
        if not alive.all():
            # the last boxes move, one by one, into the places of dropped ones
            places = np.arange(alive.sum())
            holes = places[~alive[: len(places)]]
            places[holes] = alive[len(places) :].nonzero()[0][::-1] + len(places)
            columns = [
                np.concatenate([column[:done], column[done:][places]])
                for column in columns
            ]
    kept = torch.from_numpy(np.stack(columns[:5], axis=1))
    dets[: len(kept)] = kept.to(dets.dtype)
    return torch.from_numpy(columns[6])


def _pooling(options: dict[str, Any]) -> tuple[Any, ...]:
    """Return scale, height and width of RoIAlign."""
    return tuple(
        options[key] for key in ("spatial_scale", "aligned_height", "aligned_width")
    )


def roi_align_forward(*tensors: Tensor, pool_mode: int, **options: Any) -> None:
    """Pool regions, (K, 5), of maps, (B, C, H, W), into ``output``.

    Raises:
        NotImplementedError: If ``pool_mode`` is 0, which is by maxima.
    """
    input, rois, output, _, _ = tensors
    if pool_mode != 1:
        raise NotImplementedError(
            "mmcv is not compiled, and torchvision's RoIAlign has no pool_mode='max': "
            "use pool_mode='avg'"
        )
    values, rois = _cast(input, rois, half=True)
    output.copy_(
        torch.ops.torchvision.roi_align(
            values,
            rois,
            *_pooling(options),
            options["sampling_ratio"],
            options["aligned"],
        )
    )


def roi_align_backward(*tensors: Tensor, pool_mode: int, **options: Any) -> None:
    """Fill ``grad_input``, (B, C, H, W), from ``grad_output``, (K, C, h, w)."""
    grad_output, rois, _, _, grad_input = tensors
    grad, rois = _cast(grad_output, rois, half=True)
    grad_input.copy_(
        torch.ops.torchvision._roi_align_backward(
            grad,
            rois,
            *_pooling(options),
            *grad_input.shape,
            options["sampling_ratio"],
            options["aligned"],
        )
    )


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    *,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Fill ``output`` and ``argmax``, (K, C, h, w), with the maximum of each bin.

    torchvision's kernel rounds regions to whole cells, mmcv's bins do not: this is
    mmcv's form, one region after the other. Empty bins have maximum 0 and argmax -1.
    """
    height, width = input.shape[2:]
    (corners,) = _cast(rois[:, 1:].cpu(), half=False)
    low = corners[:, :2] * spatial_scale
    size = (corners[:, 2:] + 1) * spatial_scale - low
    images = rois[:, 0].long().tolist()
    spans = []  # first and last cell of each bin, along y and along x
    for axis, bins, cells in ((1, pooled_height, height), (0, pooled_width, width)):
        step, start = size[:, axis, None] / bins, low[:, axis, None]
        edge = torch.arange(bins + 1, dtype=low.dtype) * step
        spans.append((edge[:, :-1] + start).floor().clamp(0, cells).long())
        spans.append((edge[:, 1:] + start).ceil().clamp(0, cells).long())
    flat = input.flatten(2)  # (B, C, H, W) -> (B, C, H*W)
    output.zero_()
    argmax.fill_(-1)
    for k, (top, bottom, left, right) in enumerate(zip(*spans, strict=True)):
        # (h, w, rows, columns): the cells of each bin
        y = torch.arange(max(int((bottom - top).max()), 0)) + top[:, None]
        x = torch.arange(max(int((right - left).max()), 0)) + left[:, None]
        inside = (y < bottom[:, None])[:, None, :, None]
        inside = inside & (x < right[:, None])[None, :, None, :]
        if not bool((size[k] > 0).all()) or not inside.any():
            continue
        cells = y.clamp(max=height - 1)[:, None, :, None] * width
        cells = (cells + x.clamp(max=width - 1)[None, :, None, :]).flatten(2)
        cells, inside = cells.to(flat.device), inside.flatten(2).to(flat.device)
        # (C, h, w, rows*columns)
        values = flat[images[k]][:, cells].masked_fill(~inside, -torch.inf)
        best, place = values.max(dim=3)
        index = cells.expand_as(values).gather(3, place[..., None])[..., 0]
        empty = ~inside.any(dim=2)
        output[k] = best.masked_fill(empty, 0)
        argmax[k] = index.masked_fill(empty, -1).to(argmax.dtype)


def roi_pool_backward(*tensors: Tensor, **sizes: Any) -> None:
    """Add each gradient, (K, C, h, w), at the cell that its maximum came from."""
    grad_output, rois, argmax, grad_input = tensors
    batch, channels, height, width = grad_input.shape
    image = rois[:, 0].long()[:, None]
    maps = image * channels + torch.arange(channels, device=rois.device)
    cells = maps[:, :, None, None] * (height * width) + argmax
    (grad,) = _cast(grad_output, half=False)
    total = grad.new_zeros(batch * channels * height * width)
    total.index_put_((cells[argmax >= 0],), grad[argmax >= 0], accumulate=True)
    grad_input.copy_(total.view_as(grad_input))


def _class_weights(target: Tensor, weight: Tensor) -> Tensor:
    """Return the weight of each target, (N,)."""
    if not weight.numel():
        return weight.new_ones(len(target))
    known = (target >= 0) & (target < len(weight))
    return torch.where(known, weight[target.clamp(0, len(weight) - 1)], 1.0)


def _sigmoid_terms(
    input: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return signed logits, signs and factors, (N, C), of the sigmoid focal loss."""
    logits, weight = _cast(input, weight, half=False)
    is_class = target[:, None] == torch.arange(input.shape[1], device=input.device)
    sign = is_class.to(logits.dtype) * 2 - 1
    factor = torch.full_like(logits, 1 - alpha).masked_fill_(is_class, alpha)
    return logits * sign, sign, factor * _class_weights(target, weight)[:, None]


def sigmoid_focal_loss_forward(*tensors: Tensor, gamma: float, alpha: float) -> None:
    """Fill ``output`` with the focal loss of logits, (N, C), for targets, (N,)."""
    input, target, weight, output = tensors
    logits, _, factor = _sigmoid_terms(input, target, weight, alpha)
    output.copy_(-factor * (-logits).sigmoid() ** gamma * F.logsigmoid(logits))


def sigmoid_focal_loss_backward(*tensors: Tensor, gamma: float, alpha: float) -> None:
    """Fill ``grad_input`` with the loss's derivative by the logits, (N, C)."""
    input, target, weight, grad_input = tensors
    logits, sign, factor = _sigmoid_terms(input, target, weight, alpha)
    p, wrong = logits.sigmoid(), (-logits).sigmoid()
    slope = wrong**gamma * (gamma * p * F.logsigmoid(logits) - wrong)
    grad_input.copy_(sign * factor * slope)


def _softmax_terms(
    softmax: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the probability of the target, its logarithm and factors, each (N,)."""
    softmax, weight = _cast(softmax, weight, half=False)
    p = softmax.gather(1, target.clamp(min=0)[:, None])[:, 0]
    factor = alpha * _class_weights(target, weight) * (target >= 0)
    return p, p.clamp(min=torch.finfo(p.dtype).tiny).log(), factor


def softmax_focal_loss_forward(*tensors: Tensor, gamma: float, alpha: float) -> None:
    """Fill ``output``, (N,), with the focal loss of probabilities, (N, C)."""
    softmax, target, weight, output = tensors
    p, log_p, factor = _softmax_terms(softmax, target, weight, alpha)
    output.copy_(-factor * (1 - p) ** gamma * log_p)


def softmax_focal_loss_backward(*tensors: Tensor, gamma: float, alpha: float) -> None:
    """Fill ``grad_input`` with the loss's derivative by the logits, (N, C)."""
    softmax, target, weight, buff, grad_input = tensors
    p, log_p, factor = _softmax_terms(softmax, target, weight, alpha)
    # 0 ** (gamma - 1) is infinite for gamma below 1, its product with log(1) is not
    wrong = (1 - p).clamp(min=torch.finfo(p.dtype).tiny)
    slope = factor * (gamma * wrong ** (gamma - 1) * p * log_p - (1 - p) ** gamma)
    buff.copy_(slope)
    is_class = target[:, None] == torch.arange(softmax.shape[1], device=softmax.device)
    grad_input.copy_(slope[:, None] * (is_class.to(slope.dtype) - softmax))


def _convolution(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    sizes: tuple[int, ...],
    grad: Tensor | None = None,
) -> Any:
    """Return the deformable convolution, or its gradients where ``grad`` is given.

    Args:
        input: (B, C, H, W).
        weight: (D, C / groups, kernel height, kernel width).
        offset: (B, offset groups * 2 * kernel size, h, w).
        mask: (B, offset groups * kernel size, h, w).
        bias: (D,).
        sizes: Stride, padding and dilation, each for height and width, and the numbers
            of groups and offset groups.
        grad: Gradient of the output, (B, D, h, w).
    """
    use_mask = mask is not None
    mask = input.new_zeros((len(input), 1)) if mask is None else mask
    bias = input.new_zeros(len(weight)) if bias is None else bias
    # matrix products of float16 are missing on the CPU in PyTorch before 2.2
    tensors = _cast(input, weight, offset, mask, bias, half=input.is_cuda)
    if grad is None:
        return torch.ops.torchvision.deform_conv2d(*tensors, *sizes, use_mask)
    return torch.ops.torchvision._deform_conv2d_backward(
        grad.to(tensors[0].dtype), *tensors, *sizes, use_mask
    )


def _sizes(sizes: dict[str, int]) -> tuple[int, ...]:
    """Return what :func:`_convolution` needs, from either form's keywords."""
    if "kernel_h" in sizes:
        names = "stride_h stride_w pad_h pad_w dilation_h dilation_w"
    else:
        names = "dH dW padH padW dilationH dilationW"
    keys = [*names.split(), "group", "deformable_group"]
    return tuple(sizes[key] for key in keys)


def deform_conv_forward(*tensors: Tensor, **sizes: int) -> None:
    """Fill ``output`` with the deformable convolution, version 1."""
    input, weight, offset, output, _, _ = tensors
    output.copy_(_convolution(input, weight, offset, None, None, _sizes(sizes)))


def deform_conv_backward_input(*tensors: Tensor, **sizes: int) -> None:
    """Fill the gradients of the input and of the offsets."""
    input, offset, grad_output, grad_input, grad_offset, weight, columns = tensors
    grads = _convolution(input, weight, offset, None, None, _sizes(sizes), grad_output)
    grad_input.copy_(grads[0])
    grad_offset.copy_(grads[2])
    # one kernel computes all: keep the third for the call that asks for it
    columns.weight_gradient = (grad_output, grads[1])  # type: ignore[attr-defined]


def deform_conv_backward_parameters(
    *tensors: Tensor, scale: float, **sizes: int
) -> None:
    """Add the gradient of the weight, ``scale`` times."""
    input, offset, grad_output, grad_weight, columns, _ = tensors
    of, gradient = columns.__dict__.pop("weight_gradient", (None, None))
    if of is not grad_output:
        call = (input, grad_weight, offset, None, None, _sizes(sizes), grad_output)
        gradient = _convolution(*call)[1]
    grad_weight += scale * gradient


def _as_read(tensor: Tensor, like: Tensor) -> Tensor:
    """Return a field, (B, C, h', w'), as mmcv reads it for an output, (B, D, h, w).

    Its kernel asks for no size: of a field that is larger than the output, as mmdet's
    DyHead has it, it takes the first values in the order of memory.
    """
    shape = (*tensor.shape[:2], *like.shape[2:])
    if tensor.shape == shape:
        return tensor
    count = shape[1] * shape[2] * shape[3]
    if tensor.flatten(1).shape[1] < count:
        raise ValueError(
            f"offset and mask must have the output's size {tuple(like.shape[2:])} or a "
            f"larger one, got {tuple(tensor.shape[2:])}"
        )
    return tensor.flatten(1)[:, :count].reshape(shape)


def modulated_deform_conv_forward(
    *tensors: Tensor, with_bias: bool, **sizes: int
) -> None:
    """Fill ``output`` with the deformable convolution, version 2."""
    input, weight, bias, _, offset, mask, output, _ = tensors
    fields = _as_read(offset, output), _as_read(mask, output)
    given = bias if with_bias else None
    output.copy_(_convolution(input, weight, *fields, given, _sizes(sizes)))


def modulated_deform_conv_backward(
    *tensors: Tensor, with_bias: bool, **sizes: int
) -> None:
    """Fill the gradients of all tensors that the convolution takes."""
    input, weight, _, _, offset, mask, _, *grads, grad_output = tensors
    grad_input, grad_weight, grad_bias, grad_offset, grad_mask = grads
    fields = _as_read(offset, grad_output), _as_read(mask, grad_output)
    call = (input, weight, *fields, None, _sizes(sizes), grad_output)
    results = _convolution(*call)
    grad_input.copy_(results[0])
    grad_weight.copy_(results[1])
    for target, result in ((grad_offset, results[2]), (grad_mask, results[3])):
        flat, rest = result.flatten(1), target[0].numel() - result[0].numel()
        target.copy_(F.pad(flat, (0, rest)).view(target.shape))
    if with_bias:
        grad_bias.copy_(results[4])


def _attention(
    spatial_shapes: Tensor, level_start_index: Tensor, *sampling: Tensor
) -> Tensor:
    """Return the output of mmcv's own torch form, (B, queries, dim)."""
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    shapes = spatial_shapes.tolist()
    starts = [sum(h * w for h, w in shapes[:level]) for level in range(len(shapes))]
    if level_start_index.tolist() != starts:
        raise ValueError(
            f"level_start_index must be {starts} for maps of sizes {shapes}, got "
            f"{level_start_index.tolist()}"
        )
    value, locations, weights = sampling
    return multi_scale_deformable_attn_pytorch(value, shapes, locations, weights)


def ms_deform_attn_forward(*tensors: Tensor, im2col_step: int) -> Tensor:
    """Return multi-scale deformable attention, (B, queries, dim)."""
    value, shapes, starts, *sampling = tensors
    inputs = _cast(value, *sampling, half=False)
    return _attention(shapes, starts, *inputs).to(value.dtype)


def ms_deform_attn_backward(*tensors: Tensor, im2col_step: int) -> None:
    """Fill the gradients of the values, the locations and the weights."""
    value, shapes, starts, locations, weights, grad_output, *targets = tensors
    inputs = _cast(value, locations, weights, half=False)
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        output = _attention(shapes, starts, *leaves)
    grads = torch.autograd.grad(output, leaves, grad_output.to(output.dtype))
    for target, result in zip(targets, grads, strict=True):
        target.copy_(result)
