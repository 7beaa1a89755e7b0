"""Levels out of maps of other strides, and patch kernels of other sizes."""

import pytest
import torch
import torch.nn.functional as F

from mlp_backbones.layers import PyramidResample, resample_patch_kernel


@pytest.mark.parametrize(
    ("factor", "channels", "size"),
    [
        (4, 8, (20, 28)),
        (2, 16, (10, 14)),
        (1, 32, (5, 7)),
        (0.5, 32, (3, 4)),
        (0.25, 32, (2, 2)),
        (8, 4, (40, 56)),
    ],
)
def test_sizes_and_channels(
    factor: float, channels: int, size: tuple[int, int]
) -> None:
    resample = PyramidResample(32, factor)
    out = resample(torch.randn(2, 5, 7, 32))
    assert out.shape == (2, *size, channels)
    assert resample.out_channels == channels


def test_each_cell_becomes_a_square_of_its_own() -> None:
    """Source: a transposed convolution of kernel and stride 2 has no overlap."""
    resample = PyramidResample(8, 2).eval()
    x = torch.zeros(1, 3, 4, 8)
    with torch.no_grad():
        background = resample(x)
        x[0, 1, 2] = torch.randn(8)
        changed = (resample(x) != background).any(-1)[0]
    expected = torch.zeros(6, 8, dtype=torch.bool)
    expected[2:4, 4:6] = True
    assert torch.equal(changed, expected)


def test_down_takes_the_largest_of_each_square_and_drops_no_border() -> None:
    x = torch.randn(1, 5, 7, 3)
    out = PyramidResample(3, 0.5)(x)
    for row in range(3):
        for column in range(4):
            square = x[0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert torch.equal(out[0, row, column], square.amax((0, 1)))


@pytest.mark.parametrize("factor", [3, 0, -1, 0.3])
def test_other_factors_are_refused(factor: float) -> None:
    with pytest.raises(ValueError, match=str(factor)):
        PyramidResample(32, factor)


def test_channels_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(ValueError, match="6 channels"):
        PyramidResample(6, 4)


@pytest.mark.parametrize(("old", "new"), [(7, 8), (14, 16), (16, 32)])
def test_grown_kernel_sees_in_grown_patches_what_the_old_saw(
    old: int, new: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 3, old, old, generator=generator)
    patches = torch.randn(4, 3, old, old, generator=generator)
    grown = F.interpolate(patches, (new, new), mode="bilinear", align_corners=False)
    torch.testing.assert_close(
        F.conv2d(grown, resample_patch_kernel(weight, new)),
        F.conv2d(patches, weight),
        rtol=1e-4,
        atol=1e-4,
    )


def smooth_image(height: int, width: int) -> torch.Tensor:
    """Sample slow waves at pixel centres of an image of any resolution."""
    rows = (torch.arange(height) + 0.5) / height
    columns = (torch.arange(width) + 0.5) / width
    waves = [
        torch.cos(2 * torch.pi * (a * rows[:, None] + b * columns[None] + a / 3))
        for a, b in ((1, 0), (0, 2), (1, 1))
    ]
    return torch.stack(waves)[None]


@pytest.mark.parametrize(("old", "new"), [(7, 8), (14, 16)])
def test_resampled_embedding_of_a_smooth_image_agrees(old: int, new: int) -> None:
    """The same scene at 7 and at 8 pixels a patch gives the same tokens."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 3, old, old, generator=generator) / old
    tokens = 16
    before = F.conv2d(smooth_image(old * tokens, old * tokens), weight, stride=old)
    kernel = resample_patch_kernel(weight, new)
    after = F.conv2d(smooth_image(new * tokens, new * tokens), kernel, stride=new)
    naive = F.conv2d(
        smooth_image(new * tokens, new * tokens),
        F.interpolate(weight, (new, new), mode="bilinear", align_corners=False),
        stride=new,
    )
    error = (after - before).std() / before.std()
    # what is left is the bilinear error of waves of 100 and more pixels; a kernel
    # resampled as if it were an image is off by the factor (8 / 7) ** 2
    assert error < 0.02
    assert error < 0.2 * (naive - before).std() / before.std()


def test_same_size_keeps_the_kernel() -> None:
    weight = torch.randn(2, 3, 8, 8)
    assert resample_patch_kernel(weight, 8) is weight
