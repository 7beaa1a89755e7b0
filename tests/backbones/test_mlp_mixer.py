"""What is special to MLP-Mixer: three sources of weights, and a fixed token grid."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.analysis import get_model_complexity_info
from reference_cases import arguments_from_reference
from sizes import MICRO
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mlp_backbones import get_model
from mlp_backbones.backbones import MlpMixer
from mlp_backbones.checkpoints import load_pretrained
from mlp_backbones.checkpoints.layout import split_flat_blocks
from mlp_backbones.layers import TokenMLP

ARCH = {
    "embed_dim": 16,
    "depth": 5,
    "patch_size": 8,
    "tokens_mlp_dim": 12,
    "channels_mlp_dim": 40,
    "gated": False,
}
GATED_ARCH = {**ARCH, "gated": True}


def randomised(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def gelu(x: float, form: str) -> float:
    if form == "none":
        return x * (1 + math.erf(x / math.sqrt(2))) / 2
    return x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


@pytest.mark.parametrize(
    ("form", "gated"), [("none", False), ("tanh", False), ("none", True)]
)
def test_token_mlp_by_hand(form: str, gated: bool) -> None:
    height, width, hidden_dim = 2, 3, 4
    mixer = randomised(
        TokenMLP((height, width), hidden_dim, gelu=form, gated=gated, grid="window")
    )
    x = torch.randn(1, height, width, 2)
    found = mixer(x)
    w1, b1 = mixer.fc1.weight.tolist(), mixer.fc1.bias.tolist()
    w2, b2 = mixer.fc2.weight.tolist(), mixer.fc2.bias.tolist()
    for channel in range(2):
        tokens = [
            x[0, row, column, channel].item()
            for row in range(height)
            for column in range(width)
        ]
        hidden = [
            b1[d] + sum(w1[d][n] * token for n, token in enumerate(tokens))
            for d in range(hidden_dim)
        ]
        if gated:
            half = hidden_dim // 2
            active = [
                hidden[d] * hidden[half + d] / (1 + math.exp(-hidden[half + d]))
                for d in range(half)
            ]
        else:
            active = [gelu(value, form) for value in hidden]
        for row in range(height):
            for column in range(width):
                n = row * width + column
                mixed = b2[n] + sum(w2[n][d] * value for d, value in enumerate(active))
                assert found[0, row, column, channel].item() == pytest.approx(
                    mixed, abs=1e-5
                )


@pytest.mark.parametrize("size", [(48, 48), (40, 64), (45, 59)])
def test_mmpretrains_network_is_ours(size: tuple[int, int], tmp_path: Path) -> None:
    from mmpretrain.models.backbones import MlpMixer as Neighbour

    neighbour = Neighbour(
        arch={
            "embed_dims": 16,
            "num_layers": 5,
            "tokens_mlp_dims": 12,
            "channels_mlp_dims": 40,
        },
        img_size=size,
        patch_size=8,
        out_indices=[-1],
    )
    randomised(neighbour)
    torch.save({"state_dict": neighbour.state_dict()}, tmp_path / "neighbour.pth")
    options = {"remainder": "corner"} if size == (45, 59) else {}
    backbone = MlpMixer(
        ARCH, pyramid=False, image_size=size, out_indices=(3,), **options
    ).eval()
    load_pretrained(backbone, tmp_path / "neighbour.pth")
    assert (backbone.gelu, backbone.norm_eps) == ("erf", 1e-5)
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        (expected,), (found,) = neighbour(x), backbone(x)
    torch.testing.assert_close(found.flatten(2), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("remainder", "top", "left", "sides"),
    [("same", 1, 2, (48, 64)), ("corner", 0, 0, (48, 64)), ("cut", 0, 0, (40, 56))],
)
def test_pixels_that_fill_no_patch(
    remainder: str, top: int, left: int, sides: tuple[int, int]
) -> None:
    """Flax puts half of the zeros, rounded down, in front; timm drops the pixels."""
    size = (45, 59)
    backbone = randomised(
        MlpMixer(ARCH, pyramid=False, image_size=size, remainder=remainder)
    )
    assert backbone.token_grid.sizes[0] == (sides[0] // 8, sides[1] // 8)
    x = torch.randn(1, 3, *size)
    whole = torch.zeros(1, 3, 48, 64)
    whole[:, :, top : top + size[0], left : left + size[1]] = x
    with torch.no_grad():
        expected = backbone(whole[:, :, : sides[0], : sides[1]])
        torch.testing.assert_close(backbone(x), expected, rtol=0, atol=0)


def test_a_pyramid_fills_images_up_in_its_own_way() -> None:
    x = torch.randn(1, 3, 45, 59)
    maps = []
    for remainder in ("cut", "same", "corner"):
        torch.manual_seed(0)
        backbone = randomised(MlpMixer(ARCH, image_size=64, remainder=remainder))
        with torch.no_grad():
            maps.append(backbone(x))
    torch.testing.assert_close(maps[1], maps[0])
    torch.testing.assert_close(maps[2], maps[0])


@pytest.mark.parametrize(
    ("gelu", "norm_eps", "remainder"),
    [("erf", 1e-6, "cut"), ("tanh", 1e-6, "same"), ("erf", 1e-5, "corner")],
)
def test_a_case_is_computed_as_its_source_does(
    gelu: str, norm_eps: float, remainder: str
) -> None:
    config = {**ARCH, "gelu": gelu, "norm_eps": norm_eps}
    arguments = arguments_from_reference(MlpMixer, config, (45, 59))
    backbone = MlpMixer(pyramid=False, **arguments)
    assert backbone.remainder == remainder
    assert backbone.token_grid.sizes[0] == ((5, 7) if remainder == "cut" else (6, 8))


def official_layouts(reference_dir: Path) -> Iterator[tuple[str, str, dict]]:
    """Yield our name, the layout's, and the shapes by key of each published form."""
    ours = {
        "mlp-mixer-base-p16_mmpretrain": "mixer_b16",
        "mlp-mixer-large-p16_mmpretrain": "mixer_l16",
    }
    for file in ("official_variants", "extra_variants", "other_layouts"):
        variants = json.loads((reference_dir / f"mlp_mixer/{file}.json").read_text())
        for name, facts in variants.items():
            model = ours.get(name, name.removesuffix("_flax"))
            yield model, facts["layout"], facts["keys"]


def test_every_published_key_has_its_place(reference_dir: Path) -> None:
    layouts = {layout.name.split()[0]: layout for layout in MlpMixer.checkpoint_layouts}
    seen = set()
    for name, source, shapes in official_layouts(reference_dir):
        tensors = {
            key.removeprefix("backbone."): torch.empty(shape, device="meta")
            for key, shape in shapes.items()
        }
        matching = [key for key, one in layouts.items() if one.matches(tensors)]
        assert [key.lower() for key in matching] == [source]
        layout = layouts[matching[0]]
        with torch.device("meta"):
            model = get_model(name)
        named = layout.rename(tensors)
        if layout.convert is not None:
            named = layout.convert(named, model.backbone)
        named = split_flat_blocks(named, model.backbone.depths)
        found = {
            key.replace("norm.", "out_norms.3.") if key.startswith("norm.") else key: (
                tuple(tensor.shape)
            )
            for key, tensor in named.items()
        }
        expected = {
            key.removeprefix("backbone."): tuple(tensor.shape)
            for key, tensor in model.state_dict().items()
        }
        assert found == expected, name
        seen.add(source)
    assert seen == {"timm", "flax", "mmpretrain"}


def test_gated_sizes_have_timms_number_of_parameters(reference_dir: Path) -> None:
    file = reference_dir / "mlp_mixer/extra_variants.json"
    for name, facts in json.loads(file.read_text()).items():
        with torch.device("meta"):
            model = get_model(name)
        assert sum(p.numel() for p in model.parameters()) == facts["params"], name


GMACS = {
    "mixer_s32": 1.00,
    "mixer_s16": 3.78,
    "mixer_b32": 3.24,
    "mixer_b16": 12.60,
    "mixer_l32": 11.25,
    "mixer_l16": 44.55,
    "mixer_h14": 120.99,
}


@pytest.mark.parametrize("name", GMACS)
def test_multiply_adds_are_the_stated_ones(name: str) -> None:
    with torch.device("meta"):
        model = get_model(name).eval()
        x = torch.empty(1, 3, 224, 224)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    gmacs = counter.get_total_flops() / 2e9
    assert gmacs == pytest.approx(GMACS[name], rel=0.006)


def test_mmengine_counts_them_too() -> None:
    counted = get_model_complexity_info(
        get_model("mlp_mixer_s32").eval(), (3, 224, 224), show_table=False
    )
    assert counted["flops"] / 1e9 == pytest.approx(GMACS["mixer_s32"], rel=0.02)


@pytest.mark.parametrize("arch", [ARCH, GATED_ARCH])
def test_windows_are_the_network_on_each_tile_alone(arch: dict) -> None:
    backbone = randomised(MlpMixer(arch, pyramid=False, image_size=(48, 32)))
    x = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        whole = backbone.forward_stages(x)[-1]
        for row in range(2):
            for column in range(2):
                rows = slice(48 * row, 48 * row + 48)
                columns = slice(32 * column, 32 * column + 32)
                tile = backbone.forward_stages(x[:, :, rows, columns])[-1]
                place = whole[:, 6 * row : 6 * row + 6, 4 * column : 4 * column + 4]
                torch.testing.assert_close(place, tile, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shift_windows", [False, True])
def test_shifted_windows_exchange(shift_windows: bool) -> None:
    backbone = randomised(
        MlpMixer(ARCH, pyramid=False, image_size=32, shift_windows=shift_windows)
    )
    x = torch.randn(1, 3, 32, 64)
    other = x.clone()
    other[..., :32] += 1  # the left tile only
    with torch.no_grad():
        right, same = (backbone.forward_stages(y)[-1][:, :, 4:] for y in (x, other))
    assert torch.equal(right, same) is not shift_windows


@pytest.mark.parametrize("gated", [False, True])
def test_resized_weights_keep_the_response_to_a_constant_map(gated: bool) -> None:
    mixer = randomised(
        TokenMLP((3, 4), 10, gelu="none", gated=gated, grid="interpolate")
    )
    channels = torch.randn(5)
    with torch.no_grad():
        small = mixer(channels.expand(1, 3, 4, 5)).permute(0, 3, 1, 2)
        large = mixer(channels.expand(1, 6, 8, 5)).permute(0, 3, 1, 2)
    resized = F.interpolate(small, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(large, resized)


def test_gelu_and_epsilon_can_be_chosen() -> None:
    forms = {
        (gelu, eps): MlpMixer(MICRO["mlp_mixer"], gelu=gelu, norm_eps=eps).eval()
        for gelu in ("erf", "tanh")
        for eps in (1e-6, 1e-5)
    }
    for (gelu, eps), backbone in forms.items():
        activations = [m for m in backbone.stages.modules() if isinstance(m, nn.GELU)]
        assert {m.approximate for m in activations} == {
            {"erf": "none", "tanh": "tanh"}[gelu]
        }
        assert len(activations) == 8
        norms = [*backbone.stages.modules(), *backbone.out_norms.modules()]
        assert {m.eps for m in norms if isinstance(m, nn.LayerNorm)} == {eps}


def test_initialisation_is_timms() -> None:
    backbone = MlpMixer("gmixer_12", image_size=224)
    for block in (block for stage in backbone.stages for block in stage.blocks):
        for mlp in (block.mixer, block.mlp):
            half = len(mlp.fc1.weight) // 2
            bound = (6 / (mlp.fc1.in_features + mlp.fc1.out_features)) ** 0.5
            value, gate = mlp.fc1.weight[:half], mlp.fc1.weight[half:]
            assert value.abs().max() <= bound
            assert value.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
            assert gate.abs().max() < 1e-5
            assert torch.equal(mlp.fc1.bias[half:], torch.ones(half))
            assert 0 < mlp.fc1.bias[:half].abs().max() < 1e-5
            assert 0 < mlp.fc2.bias.abs().max() < 1e-5
    stem = backbone.stem.proj
    assert stem.weight.std().item() == pytest.approx((3 * 16 * 16) ** -0.5, rel=0.02)
    assert not stem.bias.any()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"gelu": "relu"}, ValueError, "'relu'"),
        ({"gelu": "none"}, ValueError, "'erf', 'tanh'"),
        ({"norm_eps": 0.0}, ValueError, "norm_eps.*0.0"),
        ({"remainder": "valid"}, ValueError, "'cut', 'same', 'corner'.*'valid'"),
        ({"norm_eps": "1e-6"}, ValueError, "norm_eps.*'1e-6'"),
        ({"image_size": 7}, ValueError, "image_size.*7"),
        ({"image_size": (48,)}, ValueError, r"image_size.*\(48,\)"),
        ({"image_size": 48.0}, TypeError, "image_size.*48.0"),
        ({"grid": "tiles"}, ValueError, "'window', 'interpolate'.*'tiles'"),
        ({"shift_windows": 1}, TypeError, "shift_windows.*1"),
        ({"arch": {**GATED_ARCH, "tokens_mlp_dim": 5}}, ValueError, "tokens_mlp_dim"),
        ({"arch": {**ARCH, "gated": 1}}, TypeError, "gated.*True or False"),
        ({"arch": {**ARCH, "embed_dim": 0}}, ValueError, "embed_dim"),
    ],
)
def test_wrong_values_are_named(
    options: dict, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        MlpMixer(**{"arch": ARCH, **options})


def test_cases_with_other_stages_are_refused() -> None:
    config = {**ARCH, "stage_ends": [1, 2, 3, 5], "gelu": "erf", "norm_eps": 1e-6}
    arguments = arguments_from_reference(MlpMixer, config, (40, 48))
    assert arguments["image_size"] == (40, 48)
    assert arguments["arch"] == ARCH
    with pytest.raises(ValueError, match=r"\[1, 2, 3, 5\]"):
        arguments_from_reference(
            MlpMixer, {**config, "stage_ends": [2, 3, 4, 5]}, (8, 8)
        )


def test_a_gate_cuts_its_axis_in_order() -> None:
    """The second half is the gate: with it far below zero nothing passes."""
    backbone = MlpMixer(GATED_ARCH)
    block = backbone.stages[3].blocks[0]
    x: Tensor = torch.randn(1, 28, 28, 16)
    with torch.no_grad():
        for mlp in (block.mixer, block.mlp):
            half = len(mlp.fc1.bias) // 2
            mlp.fc1.bias[half:] = -200.0
            mlp.fc2.bias.zero_()
            assert not mlp(x).abs().max() > 1e-6
            mlp.fc1.bias[half:] = 1.0
            mlp.fc1.bias[:half] = -200.0
            assert mlp(x).abs().max() > 1
