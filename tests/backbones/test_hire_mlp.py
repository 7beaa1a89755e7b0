"""What is special to Hire-MLP."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from reference_cases import arguments_from_reference
from safetensors.torch import load_file
from sizes import MICRO
from torch import Tensor, nn

from mlp_backbones.backbones import HireMLP
from mlp_backbones.backbones.hire_mlp import (
    HireMixer,
    RegionMLP,
    _to_convolutions,
    read_around,
)
from mlp_backbones.checkpoints import load_pretrained

ARCH = {
    "embed_dims": (8, 12, 16, 20),
    "depths": (2, 1, 3, 2),
    "mlp_ratios": (4, 4, 2, 2),
    "region_size": (4, 3, 3, 2),
    "shift_cycle": (2, 2, 3, 2),
    "shift_dilation": (2, 2, 1, 1),
}


def randomise(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            nn.init.normal_(buffer)
        elif name.endswith("running_var"):
            nn.init.uniform_(buffer, 0.5, 2.0)
    return module


@pytest.mark.parametrize("start", [0, 2, -1, -7, 11])
@pytest.mark.parametrize("length", [1, 4, 5, 9, 17])
@pytest.mark.parametrize("axis", [1, 2])
def test_reading_around_the_end(start: int, length: int, axis: int) -> None:
    x = torch.randn(2, 5, 5, 3)
    cells = [(start + index) % 5 for index in range(length)]
    expected = x.index_select(axis, torch.tensor(cells))
    assert torch.equal(read_around(x, start, length, axis), expected)


def test_reading_all_copies_nothing() -> None:
    x = torch.randn(1, 4, 5, 3)
    assert read_around(x, 0, 4, 1).data_ptr() == x.data_ptr()


def official_branch(
    x: Tensor, weights: dict[str, Tensor], norm: nn.BatchNorm2d, r: int, s: int
) -> Tensor:
    """Follow the sheet along the height with weights of the official shape."""
    batch, height, width, dim = x.shape
    padded = -(-height // r) * r
    rolled = torch.stack([x[:, (h - s) % height] for h in range(height)], 1)
    rows = [
        rolled[:, n] if n < height else rolled[:, n - height] for n in range(padded)
    ]
    result = [torch.zeros(batch, width, dim, dtype=x.dtype) for _ in range(padded)]
    for q in range(padded // r):
        region = torch.empty(batch, width, dim * r, dtype=x.dtype)
        for c in range(dim):
            for j in range(r):
                region[..., c * r + j] = rows[q * r + j][..., c]
        hidden = region @ weights["reduce.weight"][:, :, 0, 0].t()
        scale = norm.weight / (norm.running_var + 1e-5).sqrt()
        hidden = ((hidden - norm.running_mean) * scale + norm.bias).clamp(min=0)
        out = hidden @ weights["expand.weight"][:, :, 0, 0].t() + weights["bias"]
        for c in range(dim):
            for j in range(r):
                result[q * r + j][..., c] = out[..., c * r + j]
    return torch.stack([result[(y + s) % height] for y in range(height)], 1)


def official_weights(dim: int, region_size: int) -> dict[str, Tensor]:
    wide = dim * region_size
    return {
        "reduce.weight": torch.randn(dim // 2, wide, 1, 1).double(),
        "expand.weight": torch.randn(wide, dim // 2, 1, 1).double(),
        "bias": torch.randn(wide).double(),
    }


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("size", [(6, 7), (5, 4), (2, 3)])
@pytest.mark.parametrize(("region_size", "shift"), [(3, 0), (3, 2), (4, 1), (2, 1)])
def test_branch_is_the_formula(
    axis: int, size: tuple[int, int], region_size: int, shift: int
) -> None:
    class Backbone:
        arch = SimpleNamespace(region_size=(region_size,))

    dim = 6
    branch = RegionMLP(dim, axis=axis, region_size=region_size, shift=shift)
    branch = randomise(branch).double().eval()
    weights = official_weights(dim, region_size)
    prefix = f"stages.0.blocks.0.mixer.along_{'height' if axis == 1 else 'width'}."
    converted = _to_convolutions(
        {prefix + key: tensor for key, tensor in weights.items()}, Backbone
    )
    converted = {key.removeprefix(prefix): v for key, v in converted.items()}
    found = branch.load_state_dict(converted, strict=False)
    assert all(key.startswith("norm.") for key in found.missing_keys)
    x = torch.randn(2, *size, dim, dtype=torch.float64)
    if axis == 1:
        expected = official_branch(x, weights, branch.norm, region_size, shift)
    else:
        expected = official_branch(
            x.transpose(1, 2), weights, branch.norm, region_size, shift
        ).transpose(1, 2)
    torch.testing.assert_close(branch(x), expected)


def test_copies_at_the_end_count_in_the_batch_statistics() -> None:
    """In training the padded rows are normed like the others."""
    branch = RegionMLP(4, axis=1, region_size=3).train()
    x = torch.randn(2, 4, 5, 4)
    branch(x)
    padded = torch.cat((x, x[:, :2]), 1).permute(0, 3, 1, 2)
    hidden = F.conv2d(padded, branch.reduce.weight, stride=(3, 1))
    assert hidden.shape[2] == 2
    torch.testing.assert_close(
        branch.norm.running_mean, 0.1 * hidden.mean((0, 2, 3)), rtol=1e-4, atol=1e-6
    )


def test_branches_act_along_the_axis_of_their_name() -> None:
    mixer = randomise(HireMixer(8, region_size=3, shift=1)).eval()
    x = torch.randn(1, 7, 8, 8)
    other = x.clone()
    other[0, 3, 4] += 1
    with torch.no_grad():
        height = (mixer.along_height(x) - mixer.along_height(other)).abs().sum(-1)[0]
        width = (mixer.along_width(x) - mixer.along_width(other)).abs().sum(-1)[0]
    assert height.nonzero()[:, 1].unique().tolist() == [4]
    assert width.nonzero()[:, 0].unique().tolist() == [3]


def test_fusion_is_a_softmax_over_height_width_and_channel() -> None:
    dim = 8
    mixer = randomise(HireMixer(dim, region_size=2)).eval()
    x = torch.randn(2, 4, 6, dim)
    branches = (mixer.along_height(x), mixer.along_width(x), mixer.channel(x))
    pooled = sum(branches).mean((1, 2))
    logits = mixer.reweight.fc2(F.gelu(mixer.reweight.fc1(pooled)))
    weights = logits.view(2, dim, 3).softmax(-1)
    blended = sum(b * weights[:, None, None, :, k] for k, b in enumerate(branches))
    torch.testing.assert_close(mixer(x), mixer.proj(blended))


def test_rolls_of_the_released_sizes() -> None:
    backbone = HireMLP("small")
    assert [
        [b.mixer.along_height.shift for b in stage.blocks] for stage in backbone.stages
    ] == [
        [0, 2, 0],
        [0, 2, 0, 2],
        [0, 1, 2, 0, 1, 2, 0, 1, 2, 0],
        [0, 1, 0],
    ]
    for stage in backbone.stages:
        for block in stage.blocks:
            assert block.mixer.along_width.shift == block.mixer.along_height.shift


def test_official_arithmetic_of_sizes() -> None:
    backbone = HireMLP(ARCH).eval()
    for height, width in ((75, 106), (32, 32), (33, 34), (224, 225), (63, 161)):
        with torch.no_grad():
            maps = backbone(torch.zeros(1, 3, height, width))
        expected = [((height + 1) // 4, (width + 1) // 4)]
        for _ in range(3):
            expected.append(tuple(-(-side // 2) for side in expected[-1]))
        assert [tuple(feature.shape[2:]) for feature in maps] == expected


def test_regions_larger_than_the_map() -> None:
    """The official code refuses them; going around more than once is no harm."""
    backbone = HireMLP({**ARCH, "region_size": (4, 3, 7, 5)}).eval()
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 32, 40))
    assert all(torch.isfinite(feature).all() for feature in maps)


def test_synchronised_norms_compute_the_same() -> None:
    backbone = randomise(HireMLP(ARCH)).eval()
    x = torch.randn(2, 3, 64, 75)
    with torch.no_grad():
        expected = backbone(x)
        synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(backbone)
        assert not any(type(m) is nn.BatchNorm2d for m in synchronised.modules())
        torch.testing.assert_close(synchronised(x), expected)


def test_weights_of_the_authors_segmentors(reference_dir: Path, tmp_path: Path) -> None:
    file = reference_dir / "hire_mlp/odd_size.safetensors"
    official = {k[3:]: v for k, v in load_file(file).items() if k.startswith("sd.")}
    dims = (16, 20, 32, 36)
    segmentor = {
        f"backbone.{key}": tensor
        for key, tensor in official.items()
        if not key.startswith(("norm.", "head."))
    }
    for index, dim in enumerate(dims):
        norm = randomise(nn.BatchNorm2d(dim))
        for key, tensor in norm.state_dict().items():
            segmentor[f"backbone.norm{2 * index}.{key}"] = tensor
    segmentor["decode_head.conv_seg.weight"] = torch.randn(4, 16, 1, 1)
    torch.save({"state_dict": segmentor}, tmp_path / "segmentor.pth")
    arch = {**ARCH, "embed_dims": dims, "mlp_ratios": (4, 4, 4, 4)}
    backbone = HireMLP(arch)
    load_pretrained(backbone, tmp_path / "segmentor.pth")
    for index in range(4):
        for key, tensor in backbone.out_norms[str(index)].state_dict().items():
            assert torch.equal(tensor, segmentor[f"backbone.norm{2 * index}.{key}"])


def test_a_case_with_other_rolls_is_refused() -> None:
    config = {**ARCH, "block_shift": [[0, 2], [0], [0, 1, 1], [0, 1]]}
    with pytest.raises(ValueError, match=r"\[0, 1, 1\]"):
        arguments_from_reference(HireMLP, config, (64, 64))
    config["block_shift"][2] = [0, 1, 2]
    assert arguments_from_reference(HireMLP, config, (64, 64)) == {"arch": ARCH}
    with pytest.raises(ValueError, match="cross_region_pad"):
        arguments_from_reference(HireMLP, {**config, "cross_region_pad": "0"}, (64, 64))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("region_size", (4, 3, 3, 0)),
        ("region_size", (4, 3, 3, 2.5)),
        ("shift_cycle", (2, 2, 3)),
        ("shift_dilation", 2),
        ("embed_dims", (2, 4, 4, 4)),
    ],
)
def test_wrong_fields_are_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        HireMLP({**ARCH, field: value})


def test_initialisation_is_the_official_one() -> None:
    backbone = HireMLP(MICRO["hire_mlp"])
    for name, parameter in backbone.named_parameters():
        if parameter.ndim == 2 and name.endswith("bias"):
            assert not parameter.any(), name
        elif parameter.ndim > 1:
            # 64 x 32 numbers scatter by some percent
            assert parameter.std().item() == pytest.approx(0.02, rel=0.2), name
        elif name.endswith("bias"):
            assert not parameter.any(), name
