"""Pyramids of backbones that have one stride or two."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from sizes import MICRO, build_micro
from torch import Tensor

from mlp_backbones.backbones import ResampledBackbone
from mlp_backbones.checkpoints import load_pretrained
from mlp_backbones.factory import families
from mlp_backbones.layers import resample_patch_kernel

FAMILIES = sorted(
    family for family, cls in families().items() if issubclass(cls, ResampledBackbone)
)
pytestmark = pytest.mark.parametrize("family", FAMILIES)


def build(family: str, **options: object) -> ResampledBackbone:
    torch.manual_seed(0)
    return build_micro(family, **options).eval()


def images(height: int, width: int) -> Tensor:
    return torch.randn(2, 3, height, width)


def test_levels_are_the_taps_resampled(family: str) -> None:
    backbone = build(family)
    x = images(96, 128)
    with torch.no_grad():
        maps = backbone(x)
        stages = backbone.forward_stages(x)
    own = set(backbone.native_strides)
    assert own in ({8, 16}, {4, 8, 16, 32}) or len(own) == 1
    for index, stride in enumerate(backbone.out_strides):
        stage = stages[backbone.taps[index]]
        native = backbone.native_strides[backbone.taps[index]]
        assert stage.shape[1:3] == (96 // native, 128 // native)
        if native == stride:
            expected = backbone.out_norms[str(index)](stage).permute(0, 3, 1, 2)
            torch.testing.assert_close(maps[index], expected)
        elif native < stride:
            size = stride // native
            pooled = F.max_pool2d(stage.permute(0, 3, 1, 2), size)
            expected = backbone.out_norms[str(index)](pooled.permute(0, 2, 3, 1))
            torch.testing.assert_close(maps[index], expected.permute(0, 3, 1, 2))
        else:
            with torch.no_grad():
                raised = backbone.resamplers[str(index)](stage)
                expected = backbone.out_norms[str(index)](raised).permute(0, 3, 1, 2)
            torch.testing.assert_close(maps[index], expected)


def test_finer_levels_are_taken_no_later_than_coarser_ones(family: str) -> None:
    taps = build(family).taps
    assert list(taps) == sorted(taps)
    assert taps[-1] == 3


@pytest.mark.parametrize("size", [(64, 80), (75, 106), (33, 47)])
def test_without_pyramid_maps_keep_the_official_strides(
    family: str, size: tuple[int, int]
) -> None:
    backbone = build(family, pyramid=False)
    cls = families()[family]
    patch = MICRO[cls.family]["patch_size"]
    transitions = getattr(backbone.arch, "transitions", (False,) * 4)
    with torch.no_grad():
        maps = backbone(images(*size))
    stride = patch
    for index, feature in enumerate(maps):
        assert backbone.out_strides[index] == stride
        sides = [side // patch // (stride // patch) for side in size]
        assert list(feature.shape[2:]) == sides
        stride *= 2 if transitions[index] else 1


def test_a_padded_border_is_zeros_of_the_image(family: str) -> None:
    """A pyramid of 75 x 106 pixels is that of the image filled up with zeros."""
    backbone = build(family)
    x = images(75, 106)
    whole = backbone.native_strides[-1]
    filled = F.pad(x, (0, -106 % whole, 0, -75 % whole))
    if not backbone.fills_up_images:  # the official network cuts borders off instead
        patch = backbone.patch_size
        filled = x[:, :, : 75 // patch * patch, : 106 // patch * patch]
    with torch.no_grad():
        for found, larger in zip(backbone(x), backbone(filled), strict=True):
            cropped = larger[:, :, : found.shape[2], : found.shape[3]]
            torch.testing.assert_close(found, cropped)


def test_official_patches_are_resampled_on_load(family: str, tmp_path: Path) -> None:
    official = build(family, pyramid=False, out_indices=(3,))
    with torch.no_grad():
        for parameter in official.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    file = tmp_path / "official.safetensors"
    save_file({k: v.contiguous() for k, v in official.state_dict().items()}, file)
    dense = build(family)
    load_pretrained(dense, file)
    weights, loaded = official.state_dict(), dense.state_dict()
    kernel = resample_patch_kernel(weights["stem.proj.weight"], dense.patch_size)
    assert torch.equal(loaded["stem.proj.weight"], kernel)
    for key, weight in weights.items():
        if key != "stem.proj.weight" and not key.startswith("out_norms."):
            assert torch.equal(loaded[key], weight), key
    # and a pyramid's own weights come back as they are
    again = build(family)
    file = tmp_path / "own.safetensors"
    save_file({k: v.contiguous() for k, v in loaded.items()}, file)
    load_pretrained(again, file)
    for key, weight in again.state_dict().items():
        assert torch.equal(loaded[key], weight), key


def test_levels_added_later_start_fresh(family: str, tmp_path: Path) -> None:
    """A detector of strides 8 to 32 lends its weights to a segmentor of 4 to 32."""
    detector = build(family, out_indices=(1, 2, 3))
    torch.save(detector.state_dict(), tmp_path / "w.pth")
    segmentor = build(family)
    with torch.no_grad():
        for parameter in segmentor.parameters():
            parameter.zero_()
    load_pretrained(segmentor, tmp_path / "w.pth")
    loaded = segmentor.state_dict()
    for key, weight in detector.state_dict().items():
        assert torch.equal(loaded[key], weight), key
    for key in loaded.keys() - detector.state_dict().keys():
        assert key.startswith(("resamplers.0.", "out_norms.0.")), key


def test_impossible_patches_are_named(family: str) -> None:
    cls = families()[family]
    with pytest.raises(ValueError, match="10"):
        cls({**MICRO[cls.family], "patch_size": 10})
    with pytest.raises(TypeError, match="'yes'"):
        cls(MICRO[cls.family], pyramid="yes")
