"""Maps cut into windows."""

import pytest
import torch

from mlp_backbones.layers import join_windows, partition_windows


@pytest.mark.parametrize("offset", [(0, 0), (1, 2), (2, 0)])
@pytest.mark.parametrize("size", [(6, 8), (7, 9), (2, 3), (3, 4)])
def test_windows_come_back_as_the_map(
    size: tuple[int, int], offset: tuple[int, int]
) -> None:
    x = torch.randn(2, *size, 5)
    windows, mask = partition_windows(x, (3, 4), offset)
    assert windows.shape[1:] == (3, 4, 5)
    assert torch.equal(join_windows(windows, size, offset), x)
    if mask is None:
        assert size[0] % 3 == 0 and size[1] % 4 == 0 and offset == (0, 0)
    else:
        assert int(mask.sum()) == 2 * size[0] * size[1]
        assert torch.equal(windows * mask, windows)


def test_windows_are_the_squares_of_the_map() -> None:
    rows, columns = torch.arange(6)[:, None], torch.arange(8)[None]
    x = torch.stack([rows.expand(6, 8), columns.expand(6, 8)], -1)[None]
    windows, _ = partition_windows(x, (3, 4))
    assert windows[0].flatten(0, 1).amax(0).tolist() == [2, 3]
    assert windows[1].flatten(0, 1).amin(0).tolist() == [0, 4]
    assert windows[2].flatten(0, 1).amin(0).tolist() == [3, 0]


def test_an_offset_window_begins_where_it_should() -> None:
    x = torch.arange(10.0).reshape(1, 1, 10, 1)
    windows, mask = partition_windows(x, (1, 4), (0, 2))
    assert mask is not None
    assert windows[..., 0].tolist() == [
        [[0, 0, 0, 1]],
        [[2, 3, 4, 5]],
        [[6, 7, 8, 9]],
    ]
    assert mask[0, 0, :, 0].tolist() == [False, False, True, True]
