"""Maps brought to the grid of weights and back, against resampled weights."""

import pytest
import torch
import torch.nn.functional as F

from mlp_backbones.layers import grid_to_map, map_to_grid

SIZES = [(3, 8), (8, 3), (4, 12), (1, 5), (5, 1), (7, 6)]


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_one_side_is_interpolated(old: int, new: int) -> None:
    x = torch.randn(2, old, 3, 5, dtype=torch.float64)
    expected = F.interpolate(
        x.permute(0, 3, 1, 2), (new, 3), mode="bilinear", align_corners=False
    ).permute(0, 2, 3, 1)
    torch.testing.assert_close(grid_to_map(x, 1, new), expected)
    found = grid_to_map(x.transpose(1, 2), 2, new)
    torch.testing.assert_close(found, expected.transpose(1, 2))


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_a_layer_on_its_grid_is_the_resampled_layer_on_the_map(
    old: int, new: int
) -> None:
    weight = torch.randn(4, old, dtype=torch.float64)
    resampled = F.interpolate(weight[None], new, mode="linear")[0] * old / new
    x = torch.randn(2, new, 3, 5, dtype=torch.float64)
    expected = torch.einsum("ml,blwc->bmwc", resampled, x)
    found = torch.einsum("ml,blwc->bmwc", weight, map_to_grid(x, 1, old))
    torch.testing.assert_close(found, expected)
    turned = map_to_grid(x.transpose(1, 2), 2, old).transpose(1, 2)
    torch.testing.assert_close(turned, map_to_grid(x, 1, old))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_type_stays(dtype: torch.dtype) -> None:
    x = torch.ones(1, 4, 6, 2, dtype=dtype)
    assert torch.equal(grid_to_map(x, 2, 9), torch.ones(1, 4, 9, 2, dtype=dtype))
    assert map_to_grid(x, 1, 3).dtype is dtype


def test_equal_sizes_give_the_map_itself() -> None:
    x = torch.randn(1, 4, 6, 2)
    assert grid_to_map(x, 1, 4) is x
    assert map_to_grid(x, 2, 6) is x
