"""Axial shifts against a loop and against torchvision's deformable convolution."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import deform_conv2d

from mlp_backbones.backbones.cyclemlp import CycleFC, cycle_steps
from mlp_backbones.ops import axial_shift
from mlp_backbones.ops.shift import _shift_by_convolution, _shift_by_selection

STEPS = [0, 1, -1, 2, -3, 0, 1]
TAPS = torch.tensor(STEPS)[:, None] == torch.arange(-3, 4)


def shift_by_loop(x: Tensor, steps: list[int], dim: int) -> Tensor:
    shifted = torch.zeros_like(x)
    for channel, step in enumerate(steps):
        for cell in range(x.shape[dim]):
            if 0 <= cell + step < x.shape[dim]:
                source = x.select(dim, cell + step)[..., channel]
                shifted.select(dim, cell)[..., channel] = source
    return shifted


@pytest.mark.parametrize("form", [_shift_by_convolution, _shift_by_selection])
@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("size", [(5, 7), (1, 1), (2, 9), (8, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_both_forms_move_exactly(form, dim, size, dtype) -> None:
    x = torch.randn(2, *size, len(STEPS), dtype=dtype)
    assert torch.equal(form(x, TAPS, dim), shift_by_loop(x, STEPS, dim))


@pytest.mark.parametrize("form", [_shift_by_convolution, _shift_by_selection])
@pytest.mark.parametrize("dim", [1, 2])
def test_gradients(form, dim) -> None:
    x = torch.randn(2, 4, 5, len(STEPS), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: form(x, TAPS, dim), (x,))


def test_input_is_left_alone() -> None:
    x = torch.randn(1, 3, 4, len(STEPS))
    before = x.clone()
    axial_shift(x, torch.tensor(STEPS), 1, reach=3)
    assert torch.equal(x, before)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="dim .* got 3"):
        axial_shift(torch.zeros(1, 2, 2, 7), torch.tensor(STEPS), 3, reach=3)


@pytest.mark.parametrize("cycle", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("axis", [1, 2])
def test_cycle_fc_is_the_deformable_convolution(cycle: int, axis: int) -> None:
    dim = 11
    layer = CycleFC(dim, axis=axis, cycle=cycle).double()
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 6, 9, dim, dtype=torch.float64)
    offset = torch.zeros(1, 2 * dim, 1, 1, dtype=torch.float64)
    offset[0, axis - 1 :: 2, 0, 0] = cycle_steps(dim, cycle).double()
    expected = deform_conv2d(
        x.permute(0, 3, 1, 2),
        offset.expand(2, -1, 6, 9),
        layer.weight[:, :, None, None],
        layer.bias,
    )
    torch.testing.assert_close(layer(x), expected.permute(0, 2, 3, 1))


def test_cycle_of_three_is_the_trained_one() -> None:
    assert cycle_steps(7, 3).tolist() == [0, 1, -1, 0, 1, -1, 0]
    assert cycle_steps(6, 5).tolist() == [0, 1, 2, -2, -1, 0]
