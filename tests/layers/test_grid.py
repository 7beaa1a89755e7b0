"""Windows and resampled weights of token grids."""

import pytest
import torch
from torch import Tensor

from mlp_backbones.layers import (
    GridMixer,
    join_windows,
    partition_windows,
    resize_axis,
    resize_tokens,
)


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


class _Sum(GridMixer):
    """Adds to each token the weighted sum of all."""

    def __init__(self, grid_size: tuple[int, int], **options: object) -> None:
        super().__init__(grid_size, **options)
        self.weight = torch.nn.Parameter(torch.ones(grid_size[0] * grid_size[1]))
        self.calls = 0

    def mix(
        self, x: Tensor, weights: tuple[Tensor, ...], mask: Tensor | None
    ) -> Tensor:
        if mask is not None:
            x = x * mask
        total = (x.flatten(1, 2) * weights[0][:, None]).sum(1)
        return x + total[:, None, None]

    def resize_weights(self, size: tuple[int, int]) -> tuple[Tensor, ...]:
        self.calls += 1
        return (resize_tokens(self.weight, 0, self.grid_size, size, scale=True),)


def test_kept_weights_are_computed_once_in_evaluation_only() -> None:
    mixer = _Sum((2, 2), grid="interpolate")
    x = torch.randn(1, 4, 4, 3)
    mixer(x)
    mixer(x)
    assert mixer.calls == 2
    mixer.eval()
    mixer(x)  # gradients are wanted: nothing may be kept
    assert mixer.calls == 3
    with torch.no_grad():
        mixer(x)
        mixer(x)
    assert mixer.calls == 4
    with torch.inference_mode():
        mixer(x)
    assert mixer.calls == 4


def test_windows_see_their_own_tokens_only() -> None:
    mixer = _Sum((2, 2), grid="window")
    x = torch.ones(1, 3, 4, 1)
    out = mixer(x)
    assert out[0, :2].unique().tolist() == [5.0]
    assert out[0, 2].unique().tolist() == [3.0]  # two real tokens in the last windows


def test_an_unknown_mode_is_named() -> None:
    with pytest.raises(ValueError, match="stretch"):
        _Sum((2, 2), grid="stretch")


def test_new_weights_at_an_old_address_do_not_pass_for_the_old_ones() -> None:
    mixer = _Sum((256, 256), grid="interpolate").eval()  # memory that is handed back
    x = torch.ones(1, 128, 128, 1)
    with torch.no_grad():
        for value in range(6):
            weights = {"weight": torch.full((256 * 256,), float(value))}
            out = torch.func.functional_call(mixer, weights, (x,))
            del weights
            assert out.mean().item() == pytest.approx(1 + value * 256**2)


def test_weights_of_inference_mode_are_not_kept() -> None:
    x = torch.ones(1, 4, 4, 1)
    with torch.inference_mode():
        mixer = _Sum((2, 2), grid="interpolate").eval()
        assert mixer(x).unique().tolist() == [5.0]
        mixer.weight.mul_(2)  # nothing counts this change
        assert mixer(x).unique().tolist() == [9.0]


def test_an_ensemble_runs_under_vmap() -> None:
    mixers = [_Sum((2, 2), grid="interpolate").eval() for _ in range(2)]
    with torch.no_grad():
        mixers[1].weight.mul_(2)
        weights, _ = torch.func.stack_module_state(mixers)
        x = torch.ones(1, 4, 4, 1)
        out = torch.func.vmap(
            lambda one: torch.func.functional_call(mixers[0], one, (x,))
        )(weights)
    assert [member.unique().tolist() for member in out] == [[5.0], [9.0]]
