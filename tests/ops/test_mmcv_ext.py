"""mmcv's operators by torchvision: against compiled ones, formulas, and in use.

The compiled ones are those of the wheel in ``../shared/wheels``, unpacked into a
folder of its own and loaded in a process of its own.
"""

import itertools
import math
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmcv.ops
import numpy as np
import operator_cases
import pytest
import torch
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction
from torch import Tensor

import mlp_backbones
from mlp_backbones.operators import OperatorFinder

ROOT = Path(mlp_backbones.__file__).resolve().parents[1]
WHEELS = os.environ.get("MLP_BACKBONES_WHEELS") or ROOT.parent / "shared" / "wheels"
# What differs by the order of a sum alone: some ulps of the largest term, which is
# below 100 in the convolutions. Whatever is not listed is equal bit for bit.
SUMS = {"soft_nms gaussian": 1e-6, "deform_conv": 1e-4}


@pytest.fixture(autouse=True)
def _ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute by our operators also where mmcv is compiled."""
    ours = our_module()
    for name, module in list(sys.modules.items()):
        if name.startswith("mmcv.ops.") and hasattr(module, "ext_module"):
            monkeypatch.setattr(module, "ext_module", ours)


def our_module() -> Any:
    module = type(sys)("mmcv._ext")
    OperatorFinder.exec_module(module)
    return module


@pytest.fixture(scope="session")
def compiled_mmcv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a compiled mmcv in it; in CI its absence is a failure."""
    if sys.version_info[:2] != (3, 11) or sys.platform != "linux":
        pytest.skip("the compiled mmcv is for CPython 3.11 on Linux")
    if not torch.__version__.startswith("2.12."):
        pytest.skip(f"the compiled mmcv is for torch 2.12, not {torch.__version__}")
    wheels = sorted(Path(WHEELS).glob("onedl_mmcv-*-cp311-cp311-linux_x86_64.whl"))
    if not wheels:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI needs a wheel of the compiled mmcv in {WHEELS}")
        pytest.skip(f"no wheel of a compiled mmcv in {WHEELS}")
    folder = tmp_path_factory.mktemp("compiled")
    with zipfile.ZipFile(wheels[-1]) as wheel:
        wheel.extractall(folder, [n for n in wheel.namelist() if "/csrc/" not in n])
    return folder


def run(code: str, *folders: Path, flags: tuple[str, ...] = ()) -> str:
    """Run code that must succeed in a process of its own; return what it printed."""
    path = os.pathsep.join(map(str, [*folders, ROOT, ROOT / "tests"]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *flags, "-c", code]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def results(
    compiled_mmcv: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[dict[str, Any], dict[str, Any]]]:
    """Return what computes cases by both mmcvs, once."""
    folder, known = tmp_path_factory.mktemp("results"), {}

    def compute(cases: str) -> tuple[dict[str, Any], dict[str, Any]]:
        for whose in ("compiled", "ours"):
            if (whose, cases) not in known:
                out = folder / f"{whose}-{cases}.pt"
                arguments = ["operator_cases.py", whose, cases, str(out)]
                code = f"import sys; sys.argv = {arguments!r}; import operator_cases"
                before = [compiled_mmcv] if whose == "compiled" else []
                run(f"{code}; operator_cases.main()", *before)
                known[whose, cases] = torch.load(out)
        return known["ours", cases], known["compiled", cases]

    return compute


def test_operators_equal_compiled_ones(results) -> None:
    ours, compiled = results("operators")
    assert ours.keys() == compiled.keys()
    assert len(ours) > 250
    faults = []
    for name, expected in compiled.items():
        bound = next((SUMS[key] for key in SUMS if name.startswith(key)), 0)
        if "float64" in name:
            bound = min(bound, 1e-12)
        try:
            torch.testing.assert_close(ours[name], expected, rtol=0, atol=bound)
        except AssertionError as error:
            faults.append(f"{name}: {error}")
    assert not faults, "\n".join(faults)


@pytest.mark.slow
def test_detectors_equal_those_of_a_compiled_mmcv(results) -> None:
    ours, compiled = results("detectors")
    for detector in ("retinanet", "mask-rcnn"):
        for what in ("losses", "gradients", "detections"):
            name = f"{detector}/{what}"
            torch.testing.assert_close(
                ours[name], compiled[name], rtol=1e-6, atol=1e-6, msg=name
            )
        assert any(len(found["boxes"]) for found in ours[f"{detector}/detections"])


def iou(a: Tensor, b: Tensor, offset: int) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0]) + offset
    height = min(a[3], b[3]) - max(a[1], b[1]) + offset
    shared = max(float(width), 0) * max(float(height), 0)
    areas = [
        (float(x[2] - x[0]) + offset) * (float(x[3] - x[1]) + offset) for x in (a, b)
    ]
    return shared / (sum(areas) - shared)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_nms_is_the_formula_and_the_lower_index_wins_ties(offset, dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = operator_cases.random_boxes(80, generator).to(dtype)
    scores = (torch.rand(80, generator=generator) * 10).round().to(dtype)
    left = sorted(range(80), key=lambda i: (-float(scores[i]), i))
    expected, groups = [], []
    while left:
        best, *rest = left
        expected.append(best)
        left = [i for i in rest if iou(boxes[best], boxes[i], offset) <= 0.4]
        groups.append([best, *(i for i in rest if i not in left)])
    assert mmcv.ops.nms(boxes, scores, 0.4, offset)[1].tolist() == expected
    if offset == 0:
        found = mmcv.ops.nms_match(torch.cat([boxes, scores[:, None]], 1), 0.4)
        assert [group.tolist() for group in found] == groups


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms_is_the_formula(method: str) -> None:
    generator = torch.Generator().manual_seed(1)
    boxes = operator_cases.random_boxes(40, generator)
    scores = torch.rand(40, generator=generator)
    left, expected = dict(enumerate(scores.tolist())), {}
    while left:
        best = max(left, key=left.__getitem__)
        expected[best] = left.pop(best)
        for i in list(left):
            overlap = iou(boxes[best], boxes[i], 0)
            if method == "gaussian":
                left[i] *= math.exp(-(overlap**2) / 0.4)
            elif overlap >= 0.3:
                left[i] *= 0 if method == "naive" else 1 - overlap
            if left[i] < 0.1:
                del left[i]
    dets, kept = mmcv.ops.soft_nms(boxes, scores, 0.3, 0.4, 0.1, method)
    assert kept.tolist() == list(expected)
    torch.testing.assert_close(dets[:, 4], torch.tensor(list(expected.values())))
    assert torch.equal(dets[:, :4], boxes[kept])


def bilinear(plane: Tensor, y: float, x: float) -> Tensor:
    """Return the value of a map, (H, W), between its cells; outside it is zero."""
    low_y, low_x = int(np.floor(y)), int(np.floor(x))
    total = plane.new_zeros(())
    for row, column in itertools.product((low_y, low_y + 1), (low_x, low_x + 1)):
        if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
            share = (1 - abs(y - row)) * (1 - abs(x - column))
            total = total + share * plane[row, column]
    return total


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
def test_roi_align_is_the_formula_in_any_memory(aligned, ratio, layout) -> None:
    x = torch.randn(2, 3, 8, 9, dtype=torch.float64)
    rois = torch.tensor([[0, 1.0, 2, 9, 12], [1, 4, 0, 17, 7], [1, -6, 9, 30, 20]])
    rois, scale, size = rois.double(), 0.5, (2, 3)
    expected = torch.zeros(3, 3, *size, dtype=torch.float64)
    for k, channel in itertools.product(range(3), range(3)):
        shift = 0.5 if aligned else 0
        x1, y1, x2, y2 = (rois[k, 1:] * scale - shift).tolist()
        sides = [y2 - y1, x2 - x1] if aligned else [max(y2 - y1, 1), max(x2 - x1, 1)]
        steps = [side / bins for side, bins in zip(sides, size, strict=True)]
        counts = [ratio or int(np.ceil(step)) for step in steps]
        for i, j in itertools.product(*map(range, size)):
            for p, q in itertools.product(*map(range, counts)):
                y = y1 + (i + (p + 0.5) / counts[0]) * steps[0]
                z = x1 + (j + (q + 0.5) / counts[1]) * steps[1]
                if -1 <= y <= 8 and -1 <= z <= 9:
                    y, z = min(max(y, 0), 7), min(max(z, 0), 8)
                    value = bilinear(x[int(rois[k, 0]), channel], y, z)
                    expected[k, channel, i, j] += value / np.prod(counts)
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    elif layout == "strided":
        x = x.repeat_interleave(2, dim=3)[..., ::2]
    x.requires_grad_()
    pooled = mmcv.ops.roi_align(x, rois, size, scale, ratio, "avg", aligned)
    torch.testing.assert_close(pooled, expected)
    assert torch.autograd.gradcheck(
        lambda x: mmcv.ops.roi_align(x, rois, size, scale, ratio, "avg", aligned), (x,)
    )


def test_roi_align_in_half_precision_and_in_mixed_types() -> None:
    x, rois = torch.randn(1, 2, 8, 8), torch.tensor([[0, 1.0, 1, 6, 6]])
    exact = mmcv.ops.roi_align(x, rois, 3)
    for dtype, epsilon in ((torch.bfloat16, 2**-8), (torch.float16, 2**-11)):
        for boxes in (rois, rois.to(dtype)):
            leaf = x.to(dtype).requires_grad_()
            pooled = mmcv.ops.roi_align(leaf, boxes, 3)
            pooled.sum().backward()
            assert pooled.dtype == leaf.grad.dtype == dtype
            # the input and the output are rounded, values are below 4
            torch.testing.assert_close(pooled.float(), exact, rtol=0, atol=16 * epsilon)


def test_pooling_regions_by_maxima_of_samples_is_refused() -> None:
    x, rois = torch.randn(1, 2, 8, 8), torch.tensor([[0, 1.0, 1, 6, 6]])
    with pytest.raises(NotImplementedError, match="pool_mode='max'.*'avg'"):
        mmcv.ops.roi_align(x, rois, 3, 1.0, 0, "max", True)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_roi_pool_is_the_formula(layout: torch.memory_format) -> None:
    x = torch.randn(2, 3, 8, 9).to(memory_format=layout).requires_grad_()
    rois = [
        [0, 1.0, 2, 9, 12],
        [1, 4, 0, 17, 7],
        [1, -6, 9, 30, 20],
        [0, 90, 90, 95, 99],
    ]
    rois = torch.tensor([*rois, [0, 8, 8, 2, 2], [0, 6, 6, 6, 6]])
    height, width = 3, 2
    expected = torch.zeros(len(rois), 3, height, width)
    gradient = torch.zeros(x.shape)
    weights = torch.rand(expected.shape)
    for k, roi in enumerate(rois.tolist()):
        x1, y1, x2, y2 = roi[1] / 2, roi[2] / 2, (roi[3] + 1) / 2, (roi[4] + 1) / 2
        if x2 <= x1 or y2 <= y1:
            continue
        for i, j in itertools.product(range(height), range(width)):
            rows = [np.floor(y1 + i * (y2 - y1) / height)]
            rows += [np.ceil(y1 + (i + 1) * (y2 - y1) / height)]
            columns = [np.floor(x1 + j * (x2 - x1) / width)]
            columns += [np.ceil(x1 + (j + 1) * (x2 - x1) / width)]
            top, bottom = (int(min(max(r, 0), 8)) for r in rows)
            left, right = (int(min(max(c, 0), 9)) for c in columns)
            for c in range(3):
                part = x.detach()[int(roi[0]), c, top:bottom, left:right]
                if part.numel():
                    expected[k, c, i, j] = part.max()
                    place = part.flatten().argmax().item()
                    row, column = divmod(place, part.shape[1])
                    cell = (int(roi[0]), c, top + row, left + column)
                    gradient[cell] += weights[k, c, i, j]
    pooled = mmcv.ops.roi_pool(x, rois, (height, width), 0.5)
    assert torch.equal(pooled, expected)
    pooled.backward(weights)
    torch.testing.assert_close(x.grad, gradient)
    assert mmcv.ops.roi_pool(x, rois[:0], 2, 0.5).shape == (0, 3, 2, 2)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("form", ["sigmoid", "softmax"])
def test_focal_losses_are_the_formulas(form, reduction, weighted) -> None:
    classes = 4
    x = torch.randn(7, classes, dtype=torch.float64) * 3
    background = classes if form == "sigmoid" else -1
    target = torch.tensor([0, 3, background, 2, 1, background, 3])
    weight = torch.rand(classes, dtype=torch.float64) if weighted else None
    alpha, gamma = 0.3, 1.7

    def formula(x: Tensor) -> Tensor:
        rows = []
        for i, t in enumerate(target.tolist()):
            factor = weight[t] if weighted and 0 <= t < classes else 1.0
            if form == "softmax":
                p = x[i].softmax(0)[t]
                loss = -alpha * (1 - p) ** gamma * p.log()
                rows.append(loss * factor if t >= 0 else loss * 0)
                continue
            p = x[i].sigmoid()
            yes = -alpha * (1 - p) ** gamma * p.log()
            no = -(1 - alpha) * p**gamma * (1 - p).log()
            is_class = torch.arange(classes) == t
            rows.append(torch.where(is_class, yes, no) * factor)
        loss = torch.stack(rows)
        return {"none": loss, "mean": loss.sum() / 7, "sum": loss.sum()}[reduction]

    operator = getattr(mmcv.ops, f"{form}_focal_loss")
    leaf, judge = x.clone().requires_grad_(), x.clone().requires_grad_()
    loss, expected = (
        operator(leaf, target, gamma, alpha, weight, reduction),
        formula(judge),
    )
    torch.testing.assert_close(loss, expected)
    if reduction != "none" or form == "sigmoid":
        loss.sum().backward()
        expected.sum().backward()
        torch.testing.assert_close(leaf.grad, judge.grad)
    half = operator(x.half(), target, gamma, alpha, None, "none")
    exact = operator(x.half().double(), target, gamma, alpha, None, "none")
    torch.testing.assert_close(half, exact.half(), rtol=2**-10, atol=1e-3)


def test_sigmoid_focal_loss_is_exact_for_large_logits() -> None:
    x = torch.tensor([[40.0], [-40.0]], requires_grad=True)
    loss = mmcv.ops.sigmoid_focal_loss(x, torch.tensor([1, 0]), 2.0, 0.25, None, "none")
    torch.testing.assert_close(loss, torch.tensor([[30.0], [10.0]]))
    loss.sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([[0.75], [-0.25]]))


@pytest.mark.parametrize("version", [1, 2])
def test_deformable_convolution_is_the_formula(version: int) -> None:
    stride, padding, dilation, groups, deform_groups = (2, 1), (1, 0), (1, 2), 2, 2
    x = torch.randn(2, 4, 7, 8, dtype=torch.float64)
    weight = torch.randn(6, 2, 3, 2, dtype=torch.float64)
    like = torch.nn.functional.conv2d(
        x, weight, None, stride, padding, dilation, groups
    )
    offset = torch.randn(2, deform_groups * 12, *like.shape[2:], dtype=torch.float64)
    mask = torch.rand(2, deform_groups * 6, *like.shape[2:], dtype=torch.float64)
    bias = torch.randn(6, dtype=torch.float64)
    expected = torch.zeros_like(like)
    for b, d, i, j in itertools.product(*map(range, like.shape)):
        for c, p, q in itertools.product(range(2), range(3), range(2)):
            channel, tap = d // 3 * 2 + c, p * 2 + q
            field = channel // 2 * 6 + tap
            y = (
                i * stride[0]
                - padding[0]
                + p * dilation[0]
                + offset[b, 2 * field, i, j]
            )
            z = j * stride[1] - padding[1] + q * dilation[1]
            z = z + offset[b, 2 * field + 1, i, j]
            value = weight[d, c, p, q] * bilinear(x[b, channel], float(y), float(z))
            expected[b, d, i, j] += value * (
                mask[b, field, i, j] if version == 2 else 1
            )
    sizes = (stride, padding, dilation, groups, deform_groups)
    if version == 1:
        fields = (x, offset, weight)

        def operator(*leaves: Tensor) -> Tensor:
            return mmcv.ops.deform_conv2d(*leaves, *sizes, False, 1)
    else:
        expected += bias[:, None, None]
        fields = (x, offset, mask, weight, bias)

        def operator(*leaves: Tensor) -> Tensor:
            return mmcv.ops.modulated_deform_conv2d(*leaves, *sizes)

    torch.testing.assert_close(operator(*fields), expected)
    leaves = [field.clone().requires_grad_() for field in fields]
    assert torch.autograd.gradcheck(operator, leaves, fast_mode=True)
    # only the weight is trained: its gradient does not wait for the input's
    alone = [*fields[:-1], leaves[-1]]
    full = torch.autograd.grad(operator(*leaves).square().sum(), leaves[-1])
    part = torch.autograd.grad(operator(*alone).square().sum(), leaves[-1])
    torch.testing.assert_close(part, full)
    for dtype, epsilon in ((torch.float16, 2**-11), (torch.bfloat16, 2**-8)):
        rounded = [field.to(dtype) for field in fields]
        exact = operator(*(field.double() for field in rounded))
        torch.testing.assert_close(  # computed in float32, rounded once
            operator(*rounded).double(), exact, rtol=epsilon, atol=1e-5
        )


def test_fields_too_small_for_the_output_are_refused() -> None:
    x, weight = torch.randn(1, 4, 8, 8), torch.randn(4, 4, 3, 3)
    offset, mask = torch.zeros(1, 18, 7, 8), torch.ones(1, 9, 7, 8)
    with pytest.raises(ValueError, match=r"\(8, 8\).*\(7, 8\)"):
        mmcv.ops.modulated_deform_conv2d(x, offset, mask, weight, None, 1, 1)


def test_deformable_attention_is_the_formula() -> None:
    shapes = torch.tensor([[3, 4], [2, 2]])
    starts = torch.tensor([0, 12])
    value = torch.randn(2, 16, 2, 3, dtype=torch.float64)
    places = torch.rand(2, 5, 2, 2, 2, 2, dtype=torch.float64) * 1.4 - 0.2
    weights = torch.rand(2, 5, 2, 2, 2, dtype=torch.float64)
    expected = torch.zeros(2, 5, 2, 3, dtype=torch.float64)
    for b, query, head, channel in itertools.product(*map(range, expected.shape)):
        for level, point in itertools.product(range(2), range(2)):
            height, width = shapes[level].tolist()
            cells = value[b, starts[level] :, head, channel][: height * width]
            x, y = places[b, query, head, level, point].tolist()
            found = bilinear(
                cells.view(height, width), y * height - 0.5, x * width - 0.5
            )
            share = weights[b, query, head, level, point]
            expected[b, query, head, channel] += share * found

    def operator(value: Tensor, places: Tensor, weights: Tensor) -> Tensor:
        apply = MultiScaleDeformableAttnFunction.apply
        return apply(value, shapes, starts, places, weights, 64)

    torch.testing.assert_close(operator(value, places, weights), expected.flatten(2))
    leaves = [tensor.requires_grad_() for tensor in (value, places, weights)]
    assert torch.autograd.gradcheck(operator, leaves, fast_mode=True)
    with pytest.raises(ValueError, match=r"level_start_index must be \[0, 12\]"):
        MultiScaleDeformableAttnFunction.apply(
            value, shapes, starts + 1, places, weights, 64
        )


def test_other_operators_name_themselves_and_the_remedy() -> None:
    with pytest.raises(
        NotImplementedError, match=r"'psamask_forward'.*compile mmcv by"
    ):
        our_module().psamask_forward()
    with pytest.raises(AttributeError, match="_private"):
        _ = our_module()._private


LIGHT = """
import sys
import mlp_backbones
assert not {"torch", "torchvision", "mmcv", "mmengine"} & set(sys.modules)
import mmcv._ext, mmcv.ops, torch
assert "torchvision" not in sys.modules
mmcv.ops.nms(torch.rand(3, 4), torch.rand(3), 0.5)
assert "torchvision" in sys.modules
"""
QUIET = """
import importlib, importlib.util, pkgutil, sys
import mlp_backbones, mlp_backbones.operators
for _ in range(2):
    importlib.reload(mlp_backbones.operators)
    importlib.reload(mlp_backbones)
names = [getattr(finder, "__name__", "") for finder in sys.meta_path]
assert names.count("OperatorFinder") == 1, names
assert importlib.util.find_spec("mmcv_ext") is None
"""
PROBED = """
import importlib, importlib.util
import mlp_backbones, mmcv
from mmcv.utils import ext_loader
assert importlib.util.find_spec("mmcv._ext") is not None
assert importlib.util.find_spec("mmcv._other") is None
assert ext_loader.check_ops_exist()
import mmcv._ext
importlib.reload(mmcv._ext)
from mmcv.utils import collect_env
print(collect_env()["MMCV Compiler"])
"""
FAILED_BEFORE = """
try:
    import mmcv.ops
except ModuleNotFoundError as error:
    assert error.name == "mmcv._ext"
else:
    raise SystemExit("this mmcv is compiled")
import mlp_backbones.registry
from mmcv.ops import nms
import torch
nms(torch.rand(3, 4), torch.rand(3), 0.5)
"""
IMPORTED_BEFORE = """
import mmseg.models.decode_heads.point_head as point_head
import mmdet.structures
try:
    import mmdet.models
except ModuleNotFoundError as error:
    assert error.name == "mmcv._ext"
else:
    raise SystemExit("mmdet.models needs no operators here")
import mlp_backbones.registry
import mmcv.ops
import mmdet.models
from mmdet.structures.bbox import bbox_overlaps
from mmdet.structures.mask import structures
from mmdet.models.dense_heads import base_dense_head
from mmdet.models.losses import focal_loss
assert structures.roi_align is mmcv.ops.roi_align
assert focal_loss._sigmoid_focal_loss is mmcv.ops.sigmoid_focal_loss
assert base_dense_head.batched_nms is mmcv.ops.batched_nms
assert point_head.point_sample is mmcv.ops.point_sample
assert bbox_overlaps is not mmcv.ops.bbox_overlaps
"""


def is_compiled() -> bool:
    spec = sys.modules["mmcv._ext"].__spec__
    return not (spec.origin or "").startswith("mlp_backbones")


needs_plain_mmcv = pytest.mark.skipif(
    is_compiled(), reason="mmcv is compiled here, and ours would stay aside"
)


@needs_plain_mmcv
def test_importing_is_light_and_torchvision_waits_for_a_call() -> None:
    assert run(LIGHT) == ""


def test_importing_twice_is_silent_and_installs_once() -> None:
    assert run(QUIET, flags=("-W", "error")) == ""


@needs_plain_mmcv
def test_probes_find_the_operators() -> None:
    assert "not compiled" in run(PROBED)


@needs_plain_mmcv
def test_mmcv_ops_that_failed_before_works_afterwards() -> None:
    assert run(FAILED_BEFORE) == ""


@needs_plain_mmcv
def test_packages_imported_before_get_what_they_missed() -> None:
    if not mmdet_is_guarded():
        pytest.skip("this mmdet is not importable without mmcv's operators")
    run(IMPORTED_BEFORE)


def mmdet_is_guarded() -> bool:
    """Say whether mmdet goes on without operators, as the maintained one does."""
    from mmdet.models.layers import bbox_nms

    return "requires mmcv to be compiled" in Path(bbox_nms.__file__).read_text()


def test_a_compiled_mmcv_is_left_alone(compiled_mmcv: Path) -> None:
    code = "import mlp_backbones, mmcv._ext; print(mmcv._ext.__file__)"
    assert run(code, compiled_mmcv).strip().endswith(".so")
