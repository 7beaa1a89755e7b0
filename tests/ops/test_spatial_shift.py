"""Shifts with replicated borders against loops over every cell, and a convolution."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mlp_backbones.ops import (
    blend_shifted,
    shifted_means,
    spatial_shift,
)
from mlp_backbones.ops.spatial_shift import DIRECTIONS, _shift_by_concatenation

FIRST = ("down", "up", "right", "left")
SECOND = ("right", "left", "down", "up")
BRANCHES = (FIRST, SECOND, ("stay",))
SIZES = [(5, 7), (1, 1), (2, 9), (8, 1), (1, 2)]

# row and column that a cell is read from, seen from the cell
SOURCES = {
    "down": (-1, 0),
    "up": (1, 0),
    "right": (0, -1),
    "left": (0, 1),
    "stay": (0, 0),
}


def shift_by_loop(x: Tensor, directions: tuple[str, ...]) -> Tensor:
    _, height, width, dim = x.shape
    bounds = [dim * index // len(directions) for index in range(len(directions) + 1)]
    shifted = torch.empty_like(x)
    for channel in range(dim):
        group = max(g for g in range(len(directions)) if bounds[g] <= channel)
        down, right = SOURCES[directions[group]]
        for row in range(height):
            for column in range(width):
                source_row = min(max(row + down, 0), height - 1)
                source_column = min(max(column + right, 0), width - 1)
                source = x[:, source_row, source_column, channel]
                shifted[:, row, column, channel] = source
    return shifted


@pytest.mark.parametrize("form", [spatial_shift, _shift_by_concatenation])
@pytest.mark.parametrize("directions", [*BRANCHES, DIRECTIONS])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_moves_exactly(form, directions, size, dtype) -> None:
    x = torch.randint(-1000, 1000, (2, *size, 14)).to(dtype)
    assert torch.equal(form(x, directions), shift_by_loop(x, directions))


@pytest.mark.parametrize("dim", [4, 6, 30, 3, 2])
def test_groups_of_channels_that_do_not_divide(dim: int) -> None:
    x = torch.randn(1, 4, 5, dim)
    assert torch.equal(spatial_shift(x, FIRST), shift_by_loop(x, FIRST))


@pytest.mark.parametrize("directions", [FIRST, SECOND])
def test_is_the_convolution_with_replicated_padding(directions) -> None:
    dim = 8
    kernel = torch.zeros(dim, 1, 3, 3)
    for index, direction in enumerate(directions):
        row, column = SOURCES[direction]
        kernel[2 * index : 2 * index + 2, 0, 1 + row, 1 + column] = 1
    x = torch.randn(2, 6, 5, dim)
    padded = F.pad(x.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate")
    expected = F.conv2d(padded, kernel, groups=dim).permute(0, 2, 3, 1)
    assert torch.equal(spatial_shift(x, directions), expected)


def test_the_first_row_is_not_smeared_over_the_map() -> None:
    x = torch.arange(4.0).view(1, 4, 1, 1).expand(1, 4, 3, 4).contiguous()
    assert spatial_shift(x, FIRST)[0, :, 0, 0].tolist() == [0, 0, 1, 2]
    columns = x.transpose(1, 2).contiguous()
    assert spatial_shift(columns, FIRST)[0, 0, :, 2].tolist() == [0, 0, 1, 2]


def test_input_and_its_layout_are_left_alone() -> None:
    x = torch.randn(2, 8, 4, 5)
    view = x.permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C), not contiguous
    before = x.clone()
    shifted = spatial_shift(view, FIRST)
    assert torch.equal(x, before)
    assert torch.equal(shifted, shift_by_loop(view, FIRST))
    assert shifted.is_contiguous()


@pytest.mark.parametrize("directions", [FIRST, SECOND, ("up", "stay", "left")])
@pytest.mark.parametrize("size", SIZES)
def test_gradients_of_the_shift(directions, size) -> None:
    x = torch.randn(2, *size, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: spatial_shift(x, directions), (x,))


@pytest.mark.parametrize("size", SIZES)
def test_means_need_no_shifted_map(size: tuple[int, int]) -> None:
    x = torch.randn(2, *size, 18, dtype=torch.float64, requires_grad=True)
    expected = torch.cat(
        [
            shift_by_loop(branch, directions).mean((1, 2))
            for branch, directions in zip(x.chunk(3, -1), BRANCHES, strict=True)
        ],
        1,
    )
    torch.testing.assert_close(shifted_means(x, BRANCHES), expected)
    assert torch.autograd.gradcheck(lambda x: shifted_means(x, BRANCHES), (x,))


def test_gradients_can_be_differentiated_again() -> None:
    """Also where one input of an operation was computed from another."""
    x = torch.randn(1, 3, 2, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(everything, (x,))
    loss = sum(result.square().sum() for result in everything(x))
    (plain,) = torch.autograd.grad(loss, x, retain_graph=True)
    (again,) = torch.autograd.grad(loss, x, create_graph=True)
    torch.testing.assert_close(again, plain)
    (found,) = torch.func.vjp(everything, x)[1](
        tuple(2 * result for result in everything(x))
    )
    torch.testing.assert_close(found, plain)


@pytest.mark.parametrize("size", SIZES)
def test_blend_shifts_then_weighs(size: tuple[int, int]) -> None:
    x = torch.randn(2, *size, 18, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 18, dtype=torch.float64, requires_grad=True)
    expected = sum(
        shift_by_loop(branch, directions) * factor[:, None, None]
        for branch, factor, directions in zip(
            x.chunk(3, -1), weights.chunk(3, -1), BRANCHES, strict=True
        )
    )
    torch.testing.assert_close(blend_shifted(x, weights, BRANCHES), expected)
    assert torch.autograd.gradcheck(
        lambda x, weights: blend_shifted(x, weights, BRANCHES), (x, weights)
    )


def test_blend_follows_the_precision_of_the_map() -> None:
    x = torch.randn(2, 4, 5, 12, dtype=torch.bfloat16, requires_grad=True)
    weights = torch.rand(2, 12, requires_grad=True)
    blended = blend_shifted(x, weights, BRANCHES)
    blended.sum().backward()
    assert blended.dtype is torch.bfloat16
    assert x.grad.dtype is torch.bfloat16
    assert weights.grad.dtype is torch.float32


def everything(x: Tensor) -> tuple[Tensor, ...]:
    """Use all operations in one function."""
    means = shifted_means(x, BRANCHES)
    weights = means.tanh()
    shifted = spatial_shift(x, SECOND)
    return shifted, means, blend_shifted(x, weights, BRANCHES)


def test_a_compiled_graph_computes_the_same() -> None:
    eager = torch.randn(2, 4, 5, 12, requires_grad=True)
    traced = eager.detach().clone().requires_grad_()
    expected = everything(eager)
    found = torch.compile(everything, fullgraph=True, backend="eager")(traced)
    torch.testing.assert_close(found, expected)
    for results in (expected, found):
        sum(result.square().sum() for result in results).backward()
    torch.testing.assert_close(traced.grad, eager.grad)


@pytest.mark.skipif(
    not hasattr(torch.export, "Dim"), reason="torch 2.2 brought sizes that vary"
)
def test_exports_for_any_size() -> None:
    class Everything(torch.nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return everything(x)

    sides = {1: torch.export.Dim("height", min=3), 2: torch.export.Dim("width", min=3)}
    x = torch.randn(2, 4, 5, 12)
    program = torch.export.export(Everything(), (x,), dynamic_shapes={"x": sides})
    other = torch.randn(2, 7, 3, 12)
    torch.testing.assert_close(program.module()(other), everything(other))


def test_wrong_arguments_are_named() -> None:
    x = torch.zeros(1, 2, 2, 6)
    with pytest.raises(ValueError, match=r"down, up.*'north'"):
        spatial_shift(x, ("north",))
    with pytest.raises(ValueError, match=r"\(\)"):
        spatial_shift(x, ())
    with pytest.raises(ValueError, match="'north'"):
        shifted_means(x, (("north",),))
    with pytest.raises(ValueError, match="'north'"):
        blend_shifted(x, torch.ones(1, 6), (FIRST, ("north",)))
    with pytest.raises(ValueError, match="6 channels cannot hold 4"):
        blend_shifted(x, torch.ones(1, 6), (FIRST,) * 4)
