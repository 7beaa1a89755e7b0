"""Resampled weights of token grids."""

import pytest
import torch

from mlp_backbones.layers import resize_axis, resize_tokens


def test_resized_tokens_keep_the_response_to_a_constant() -> None:
    weight = torch.randn(7, 12)
    for new in ((6, 8), (3, 2), (9, 12)):
        resized = resize_tokens(weight, 1, (3, 4), new, scale=True)
        assert resized.shape == (7, new[0] * new[1])
    # exact where the grid grows by a whole factor
    torch.testing.assert_close(
        resize_tokens(weight, 1, (3, 4), (9, 12), scale=True).sum(1), weight.sum(1)
    )


def test_tokens_are_resized_row_by_row() -> None:
    """A weight that depends on the row alone does so on the new grid."""
    rows = torch.arange(3.0)[:, None].expand(3, 4).reshape(12)
    resized = resize_tokens(rows[None], 1, (3, 4), (6, 5)).reshape(6, 5)
    assert torch.equal(resized, resized[:, :1].expand(6, 5))
    assert resized[:, 0].tolist() == [0.0, 0.25, 0.75, 1.25, 1.75, 2.0]


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_resized_axis_is_linear_interpolation(dim: int) -> None:
    weight = torch.randn(4, 4, 4)
    resized = resize_axis(weight, dim, 8).movedim(dim, 0)
    moved = weight.movedim(dim, 0)
    for position in range(8):
        place = min(max((position + 0.5) / 2 - 0.5, 0.0), 3.0)
        low = min(int(place), 2)
        share = place - low
        expected = (1 - share) * moved[low] + share * moved[low + 1]
        torch.testing.assert_close(resized[position], expected)


def test_equal_sizes_give_the_parameter_itself() -> None:
    weight = torch.nn.Parameter(torch.randn(4, 6))
    assert resize_tokens(weight, 1, (2, 3), (2, 3), scale=True) is weight
    assert resize_axis(weight, 0, 4, scale=True) is weight
