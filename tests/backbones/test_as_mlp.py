"""What is special to AS-MLP."""

import copy
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.runner import load_checkpoint, save_checkpoint
from safetensors.torch import load_file
from sizes import MICRO
from torch import Tensor, nn

from mlp_backbones.backbones import ASMLP
from mlp_backbones.backbones.as_mlp import (
    AxialShift,
    AxialShiftMixer,
    PatchMerging,
    _shift_by_groups,
    group_steps,
)
from mlp_backbones.checkpoints import CheckpointError, load_pretrained
from mlp_backbones.factory import Classifier
from mlp_backbones.layers import apply_norm

ARCH = {"embed_dims": (8, 12, 16, 20), "depths": (1, 2, 1, 1)}


def randomised(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module.double()


def shift_by_loop(x: Tensor, shift_size: int, axis: int) -> Tensor:
    """Follow the sheet: out[h, w] = v[h, w - d], d = g - S // 2, 0 outside."""
    batch, height, width, dim = x.shape
    out = torch.zeros_like(x)
    length = math.ceil(dim / shift_size)
    for c in range(dim):
        d = c // length - shift_size // 2
        for h in range(height):
            for w in range(width):
                source = (h - d, w) if axis == 1 else (h, w - d)
                if 0 <= source[0] < height and 0 <= source[1] < width:
                    out[:, h, w, c] = x[:, source[0], source[1], c]
    return out


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("size", [(5, 7), (1, 1), (2, 6), (9, 1)])
@pytest.mark.parametrize(("dim", "shift_size"), [(16, 5), (14, 3), (10, 1), (3, 7)])
def test_both_forms_of_the_shift(
    axis: int, size: tuple[int, int], dim: int, shift_size: int
) -> None:
    x = torch.randn(2, *size, dim)
    expected = shift_by_loop(x, shift_size, axis)
    assert torch.equal(AxialShift(axis=axis, shift_size=shift_size)(x), expected)
    assert torch.equal(_shift_by_groups(x, shift_size, axis), expected)


def test_first_group_comes_from_the_right_and_from_below() -> None:
    x = torch.arange(12.0).view(1, 3, 4, 1).repeat(1, 1, 1, 5)
    shifted = AxialShift(axis=2, shift_size=5)(x)
    assert shifted[0, 0, :, 0].tolist() == [2, 3, 0, 0]
    assert shifted[0, 0, :, 4].tolist() == [0, 0, 0, 1]
    shifted = AxialShift(axis=1, shift_size=5)(x)
    assert shifted[0, :, 1, 0].tolist() == [9, 0, 0]


def test_channels_too_few_leave_the_last_group_empty() -> None:
    assert group_steps(16, 5).tolist() == [2] * 4 + [1] * 4 + [0] * 4 + [-1] * 4
    assert [group_steps(96, 5).tolist().count(step) for step in (2, 1, 0, -1, -2)] == [
        20,
        20,
        20,
        20,
        16,
    ]


def test_mixer_is_the_formula() -> None:
    dim, shift_size = 7, 3
    mixer = randomised(AxialShiftMixer(dim, shift_size=shift_size))
    x = torch.randn(2, 4, 5, dim, dtype=torch.float64)

    def norm(x: Tensor, layer: nn.GroupNorm) -> Tensor:
        samples = []
        for sample in x:  # one mean and one variance for the whole map
            variance = sample.var(correction=0)
            samples.append((sample - sample.mean()) / (variance + 1e-5).sqrt())
        return torch.stack(samples) * layer.weight + layer.bias

    def gelu(x: Tensor) -> Tensor:
        return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))

    def fc(x: Tensor, layer: nn.Linear) -> Tensor:
        return x @ layer.weight.t() + layer.bias

    v = gelu(norm(fc(x, mixer.proj_in), mixer.norm_in))
    t = gelu(fc(shift_by_loop(v, shift_size, 2), mixer.along_width))
    t = t + gelu(fc(shift_by_loop(v, shift_size, 1), mixer.along_height))
    expected = fc(norm(t, mixer.norm_out), mixer.proj_out)
    torch.testing.assert_close(mixer(x), expected)


def test_merging_goes_down_before_it_goes_right() -> None:
    merging = PatchMerging(3, 12).double()
    with torch.no_grad():
        merging.reduction.weight.copy_(torch.eye(12))
    x = torch.randn(1, 3, 5, 3, dtype=torch.float64)
    padded = torch.zeros(1, 4, 6, 3, dtype=torch.float64)
    padded[:, :3, :5] = x
    # the padded zeros count in the norm
    padded = (padded - padded.mean()) / (padded.var(correction=0) + 1e-5).sqrt()
    found = merging(x)
    assert found.shape == (1, 2, 3, 12)
    for row in range(2):
        for column in range(3):
            cell = [
                padded[0, 2 * row + down, 2 * column + right]
                for right in (0, 1)
                for down in (0, 1)
            ]
            torch.testing.assert_close(found[0, row, column], torch.cat(cell))


def test_norms_see_the_whole_map() -> None:
    backbone = randomised(ASMLP(ARCH)).eval()
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    other = x.clone()
    other[..., 60:, 60:] = 3.0
    with torch.no_grad():
        difference = (backbone(x)[0] - backbone(other)[0]).abs()
    assert difference[..., 0, 0].min() > 0  # far beyond the reach of one shift


@pytest.mark.parametrize("size", [(7, 9), (1, 1)])
def test_norm_behind_frozen_parts(size: tuple[int, int]) -> None:
    """Gradients of its weights where nobody wants one of its input."""
    norm = nn.GroupNorm(1, 6)
    twin = copy.deepcopy(norm).double()
    x = torch.randn(2, *size, 6)
    factor = torch.randn(2, 6, *size)
    found = apply_norm(norm, x).permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W)
    (found * factor).sum().backward()
    judged = x.permute(0, 3, 1, 2).double().contiguous().requires_grad_()
    expected = F.group_norm(judged, 1, twin.weight, twin.bias)
    (expected * factor).sum().backward()
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
    for parameter, judge in zip(norm.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(
            parameter.grad.double(), judge.grad, rtol=1e-4, atol=1e-4
        )


def test_sides_are_rounded_up() -> None:
    backbone = ASMLP(ARCH).eval()
    for height, width in ((75, 106), (32, 32), (33, 34), (224, 225), (63, 161)):
        with torch.no_grad():
            maps = backbone(torch.randn(1, 3, height, width))
        expected = [(-(-height // 4), -(-width // 4))]
        for _ in range(3):
            expected.append(tuple(-(-side // 2) for side in expected[-1]))
        assert [tuple(feature.shape[2:]) for feature in maps] == expected


def test_incomplete_patches_are_filled_with_zeros() -> None:
    backbone = ASMLP(ARCH).eval()
    x = torch.randn(1, 3, 62, 69)
    with torch.no_grad():
        maps, padded = backbone(x), backbone(F.pad(x, (0, 3, 0, 2)))
    torch.testing.assert_close(maps, padded)


def test_shift_size_changes_the_model_and_not_the_weights() -> None:
    usual, narrow = ASMLP(ARCH).eval(), ASMLP(ARCH, shift_size=3).eval()
    narrow.load_state_dict(dict(usual.state_dict()))  # a plain dict says nothing
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert not torch.allclose(usual(x)[0], narrow(x)[0])


def test_shift_size_is_recorded_with_a_checkpoint(tmp_path: Path) -> None:
    trained = nn.ModuleDict({"backbone": ASMLP(ARCH, shift_size=3)})
    file = str(tmp_path / "epoch_1.pth")
    save_checkpoint({"state_dict": trained.state_dict(), "meta": {}}, file)
    same = nn.ModuleDict({"backbone": ASMLP(ARCH, shift_size=3)})
    load_checkpoint(same, file, strict=True)
    other = nn.ModuleDict({"backbone": ASMLP(ARCH)})
    with pytest.raises(RuntimeError, match="shift_size=3, the model has 5"):
        load_checkpoint(other, file, strict=True)
    with pytest.raises(RuntimeError, match="shift_size=3, the model has 5"):
        other.load_state_dict(trained.state_dict())


@pytest.mark.parametrize("form", ["plain", "state_dict"])
def test_shift_size_of_a_file_is_compared(form: str, tmp_path: Path) -> None:
    """By the way of init_cfg too, which goes through the strict loader."""
    trained = Classifier(ASMLP(ARCH, shift_size=3, out_indices=(3,)), 7)
    weights = trained.state_dict()
    file = tmp_path / "epoch_1.pth"
    torch.save(weights if form == "plain" else {"state_dict": weights}, file)
    load_pretrained(ASMLP(ARCH, shift_size=3), file)
    other = ASMLP(ARCH, init_cfg={"type": "Pretrained", "checkpoint": str(file)})
    with pytest.raises(CheckpointError, match="shift_size=3, the model has 5"):
        other.init_weights()


def test_weights_of_the_authors_detectors(reference_dir: Path, tmp_path: Path) -> None:
    file = reference_dir / "as_mlp/dense_odd_size.safetensors"
    official = {k[3:]: v for k, v in load_file(file).items() if k.startswith("sd.")}
    dims = (14, 28, 56, 112)
    detector = {
        f"backbone.{key}": tensor
        for key, tensor in official.items()
        if not key.startswith(("norm.", "head."))
    }
    for index, dim in enumerate(dims):
        detector[f"backbone.norm{index}.weight"] = torch.randn(dim)
        detector[f"backbone.norm{index}.bias"] = torch.randn(dim)
    detector["neck.lateral_convs.0.conv.weight"] = torch.randn(4, 14, 1, 1)
    torch.save({"state_dict": detector}, tmp_path / "detector.pth")
    backbone = ASMLP({"embed_dims": dims, "depths": (1, 2, 1, 1)}, shift_size=3)
    load_pretrained(backbone, tmp_path / "detector.pth")
    for index in range(4):
        norm = backbone.out_norms[str(index)]
        assert torch.equal(norm.weight, detector[f"backbone.norm{index}.weight"])
        assert torch.equal(norm.bias, detector[f"backbone.norm{index}.bias"])
    merging = "backbone.layers.0.downsample.reduction.weight"
    assert torch.equal(
        backbone.stages[1].downsample.reduction.weight, detector[merging].flatten(1)
    )
    del detector[merging]
    torch.save({"state_dict": detector}, tmp_path / "broken.pth")
    with pytest.raises(CheckpointError, match=r"stages\.1\.downsample\.reduction"):
        load_pretrained(backbone, tmp_path / "broken.pth")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shift_size": 4}, "shift_size .* 4"),
        ({"shift_size": 0}, "shift_size .* 0"),
        ({"shift_size": 5.0}, r"shift_size .* 5\.0"),
        ({"mlp_ratio": 0}, "mlp_ratio .* 0"),
        ({"mlp_ratio": "4"}, "mlp_ratio .* '4'"),
        ({"mixer_bias": 1}, "mixer_bias .* 1"),
        ({"patch_norm": "no"}, "patch_norm .* 'no'"),
    ],
)
def test_wrong_values_are_named(options: dict, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        ASMLP(ARCH, **options)


def test_parts_that_can_be_left_out() -> None:
    backbone = ASMLP(ARCH, mixer_bias=False, patch_norm=False)
    names = backbone.state_dict()
    assert not any("stem.norm" in name for name in names)
    assert "stages.0.blocks.0.mixer.proj_in.bias" not in names
    assert len(backbone(torch.randn(1, 3, 32, 32))) == 4


def test_initialisation_is_the_official_one() -> None:
    """Torch's own for convolutions, which the linear layers stand for."""
    backbone = ASMLP(MICRO["as_mlp"])
    for name, parameter in backbone.named_parameters():
        if parameter.ndim > 1:
            bound = parameter[0].numel() ** -0.5
            assert parameter.abs().max() <= bound * 1.001, name
            assert parameter.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_constants_are_not_parameters() -> None:
    backbone = ASMLP(ARCH)
    assert not any("taps" in name for name in backbone.state_dict())
    twin = copy.deepcopy(backbone).double()
    assert twin(torch.zeros(1, 3, 32, 32, dtype=torch.float64))[0].dtype is torch.double
