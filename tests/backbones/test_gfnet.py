"""GFNet: what its formulas, its resizing rules and its layouts promise."""

from dataclasses import asdict
from pathlib import Path

import pytest
import shipped_configs
import torch
from reference_cases import (
    arguments_from_reference,
    find_reference_folder,
    load_reference_case,
)
from safetensors.torch import load_file, save_file
from sizes import MICRO
from torch import nn

from mlp_backbones.backbones import GFNet
from mlp_backbones.backbones.gfnet import GlobalFilter, resize_filter
from mlp_backbones.checkpoints import CheckpointError, load_pretrained
from mlp_backbones.layers import ChainedBlock

# billions of multiply-adds at 224 of the fact sheet, transforms not counted
GMACS = {
    "ti": 1.27,
    "xs": 2.83,
    "s": 4.45,
    "b": 7.89,
    "h_ti": 2.04,
    "h_s": 4.58,
    "h_b": 8.51,
}


ISOTROPIC = {
    "embed_dims": (16,) * 4,
    "depths": (1, 1, 1, 1),
    "mlp_ratios": (2,) * 4,
    "patch_size": 16,
    "hierarchical": False,
}


def randomise(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return module


@pytest.mark.parametrize("arch", GMACS)
def test_flops(arch: str) -> None:
    stated = shipped_configs.stated_multiply_adds()[f"gfnet_{arch}"]
    assert stated / 1e9 == pytest.approx(GMACS[arch], rel=0.02)


@pytest.mark.parametrize("size", [(4, 4), (5, 3), (3, 6), (7, 7)])
def test_filter_is_a_circular_depthwise_convolution(size: tuple[int, int]) -> None:
    """y[i, j] = sum over p, q of k[p, q] x[i - p, j - q], indices modulo the grid."""
    height, width = size
    torch.manual_seed(0)
    mixer = GlobalFilter(3, size, resize="spectrum").double()
    with torch.no_grad():
        mixer.complex_weight.normal_()
    x = torch.randn(2, height, width, 3)
    spectrum = torch.view_as_complex(mixer.complex_weight.detach())
    kernel = torch.fft.irfft2(spectrum, s=size, dim=(0, 1)).float()
    expected = torch.zeros_like(x)
    for i in range(height):
        for j in range(width):
            for p in range(height):
                for q in range(width):
                    value = x[:, (i - p) % height, (j - q) % width]
                    expected[:, i, j] += kernel[p, q] * value
    torch.testing.assert_close(mixer(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", ["iso_resize_64_to_112", "pyramid_resize_64_to_96"])
def test_official_resize(case: str, reference_dir: Path) -> None:
    file = find_reference_folder("gfnet") / f"{case}.safetensors"
    recorded = load_file(file)
    backbone = load_reference_case(file).model.backbone
    found = 0
    for key, weight in recorded.items():
        if not key.startswith("resized."):
            continue
        name = key.removeprefix("resized.")
        original = recorded[f"sd.{name}"]
        if name.endswith("complex_weight"):
            old = (original.shape[0],) * 2
            new = (weight.shape[0],) * 2
            resized = resize_filter(original, old, new, "spectrum")
            torch.testing.assert_close(resized, weight, rtol=0, atol=1e-6)
            found += 1
    assert found == sum(backbone.depths)


def test_kernel_resize_keeps_the_reach() -> None:
    """A kernel grown into a larger grid acts alike far from the borders."""
    torch.manual_seed(0)
    small = GlobalFilter(4, (9, 8), resize="kernel")
    kernel = torch.zeros(9, 8, 4)
    for row in (-2, -1, 0, 1, 2):
        for column in (-2, -1, 0, 1, 2):
            kernel[row % 9, column % 8] = torch.randn(4)
    with torch.no_grad():
        spectrum = torch.fft.rfft2(kernel, dim=(0, 1))
        small.complex_weight.copy_(torch.view_as_real(spectrum))
    x = torch.zeros(1, 9, 8, 4)
    x[:, 2:7, 2:6] = torch.randn(1, 5, 4, 4)
    larger = torch.zeros(1, 15, 18, 4)
    larger[:, 3:12, 5:13] = x
    with torch.no_grad():
        expected, found = small(x), small(larger)
    torch.testing.assert_close(found[:, 3:12, 5:13], expected, rtol=1e-4, atol=1e-5)
    shrunk = resize_filter(
        resize_filter(small.complex_weight, (9, 8), (15, 18), "kernel"),
        (15, 18),
        (9, 8),
        "kernel",
    )
    torch.testing.assert_close(shrunk, small.complex_weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", ["spectrum", "kernel"])
def test_resize_to_the_same_grid_changes_nothing(how: str) -> None:
    weight = torch.randn(6, 4, 3, 2)
    assert resize_filter(weight, (6, 7), (6, 7), how) is weight


def test_block_has_one_skip() -> None:
    block = next(
        m for m in GFNet(MICRO["gfnet"]).modules() if isinstance(m, ChainedBlock)
    )
    with torch.no_grad():
        block.mlp.fc2.weight.zero_()
        block.mlp.fc2.bias.zero_()
    x = torch.randn(1, 4, 4, 16)
    torch.testing.assert_close(block(x), x)  # two skips would still add the filter


def test_layer_scale_belongs_to_the_hierarchical_form() -> None:
    for arch, start in (("h_ti", 1e-3), ("h_s", 1e-5), ("h_b", 1e-6)):
        with torch.device("meta"):
            assert GFNet(arch).layer_scale == start
    with torch.device("meta"):
        assert GFNet("ti").layer_scale == 0
    assert (
        GFNet(MICRO["gfnet"], layer_scale=0.5)
        .stages[0]
        .blocks[0]
        .layer_scale.gamma.unique()
        == 0.5
    )
    bare = GFNet(MICRO["gfnet"], layer_scale=0)
    assert isinstance(bare.stages[0].blocks[0].layer_scale, nn.Identity)


def test_filters_stay_float32_under_autocast() -> None:
    mixer = GlobalFilter(4, (7, 7), resize="spectrum")
    x = torch.randn(1, 7, 7, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = mixer(x.bfloat16())
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(
        out.float(), mixer(x.bfloat16().float()), rtol=0.01, atol=0.01
    )


@pytest.mark.parametrize("arch", [MICRO["gfnet"], ISOTROPIC], ids=["four", "one"])
@pytest.mark.parametrize("how", ["spectrum", "kernel"])
def test_weights_of_another_training_size_are_resampled_on_load(
    arch: str | dict, how: str, tmp_path: Path
) -> None:
    options = {"pyramid": False, "out_indices": (3,), "filter_resize": how}
    small = randomise(GFNet(arch, image_size=(64, 96), **options)).eval()
    file = tmp_path / "small.safetensors"
    save_file({k: v.contiguous() for k, v in small.state_dict().items()}, file)
    large = GFNet(arch, image_size=(112, 80), **options).eval()
    load_pretrained(large, file)
    x = torch.randn(1, 3, 112, 80)
    with torch.no_grad():
        # resampled once and for all, and on the fly
        torch.testing.assert_close(large(x), small(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", ["spectrum", "kernel"])
@pytest.mark.parametrize("image_size", [(64, 256), (64, 68), (68, 64)])
def test_own_weights_come_back_as_they_are(
    image_size: tuple[int, int], how: str, tmp_path: Path
) -> None:
    """16 x 64 tokens are as many as 32 x 32; 16 and 17 columns have as many bins."""
    options = {"image_size": image_size, "filter_resize": how}
    saved = randomise(GFNet(MICRO["gfnet"], **options))
    file = tmp_path / "own.safetensors"
    save_file({k: v.contiguous() for k, v in saved.state_dict().items()}, file)
    loaded = GFNet(MICRO["gfnet"], **options)
    load_pretrained(loaded, file)
    for key, weight in loaded.state_dict().items():
        assert torch.equal(weight, saved.state_dict()[key]), key


def test_weights_of_the_other_form_are_refused(tmp_path: Path) -> None:
    official = {
        f"blocks.{block}.filter.complex_weight": torch.zeros(14, 8, 16, 2)
        for block in range(12)
    }
    torch.save(official, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"GFNet; \d+ of another shape"):
        load_pretrained(GFNet(MICRO["gfnet"]), tmp_path / "w.pth")


@pytest.mark.parametrize("pyramid", [False, True])
def test_four_stages_drop_borders_as_the_official_code_does(pyramid: bool) -> None:
    backbone = randomise(GFNet(MICRO["gfnet"], image_size=80, pyramid=pyramid)).eval()
    x = torch.randn(1, 3, 83, 81)
    with torch.no_grad():
        maps = backbone(x)
        assert [feature.shape[2:] for feature in maps] == [
            (n, n) for n in (20, 10, 5, 2)
        ]
        torch.testing.assert_close(backbone(x[:, :, :80, :80]), maps)


@pytest.mark.parametrize("size", [(64, 96), (33, 47), (75, 106)])
def test_one_stride_makes_a_pyramid(size: tuple[int, int]) -> None:
    backbone = randomise(GFNet(ISOTROPIC, image_size=64))
    maps = backbone(torch.randn(2, 3, *size))
    for index, feature in enumerate(maps):
        channels, stride = backbone.out_channels[index], 4 * 2**index
        assert feature.shape == (2, channels, *(-(-side // stride) for side in size))
    assert backbone.out_channels == [4, 8, 16, 16]
    sum(feature.square().mean() for feature in maps).backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_cases_may_end_stages_anywhere() -> None:
    config = {
        "variant": "isotropic",
        "patch_size": 8,
        "embed_dim": 16,
        "depth": 6,
        "mlp_ratio": 4,
        "norm_eps": 1e-6,
        "gelu": "erf",
        "layer_scale": False,
    }
    for ends, depths in ((None, (1, 2, 1, 2)), ([2, 3, 5, 6], (2, 1, 2, 1))):
        arguments = arguments_from_reference(
            GFNet, {**config, "stage_ends": ends}, (40, 40)
        )
        backbone = GFNet(**arguments)
        assert backbone.depths == depths
        assert backbone.token_grid.sizes[0] == (5, 5)
        assert isinstance(backbone.stages[0].blocks[0].layer_scale, nn.Identity)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"filter_resize": "nearest"}, "nearest"),
        ({"layer_scale": -1.0}, "-1"),
        ({"image_size": 3}, "3"),
        ({"image_size": 31}, "at least 32 pixels, got 31"),
        (
            {
                "arch": {
                    **asdict(GFNet.arch_settings["ti"]),
                    "embed_dims": (8, 16, 8, 8),
                }
            },
            "16",
        ),
    ],
)
def test_wrong_arguments_are_named(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GFNet(**{"arch": MICRO["gfnet"], **options})
