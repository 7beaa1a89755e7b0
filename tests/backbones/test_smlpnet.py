"""What is special to sMLPNet."""

import argparse
from pathlib import Path

import pytest
import torch
from reference_cases import find_reference_folder, load_reference_case
from safetensors.torch import load_file
from torch import Tensor, nn

from mlp_backbones.backbones import SMLPNet
from mlp_backbones.backbones.smlpnet import SparseMixer
from mlp_backbones.checkpoints import load_pretrained

ARCH = {
    "embed_dims": (8, 12, 16, 20),
    "depths": (1, 2, 2, 1),
    "mlp_ratios": (3, 3, 2, 2),
}


def randomised(module: nn.Module) -> nn.Module:
    """Give parameters and running statistics values of their own."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2.0)
    return module


def activated(mixer: SparseMixer, x: Tensor) -> Tensor:
    """Return the map that the three paths read, (B, C, H, W)."""
    gelu = nn.functional.gelu
    return gelu(mixer.norm(mixer.dwconv(gelu(x.permute(0, 3, 1, 2)))))


def mix_by_the_sheet(mixer: SparseMixer, x: Tensor) -> Tensor:
    """Mix maps of the training grid in loops over tokens."""
    z = activated(mixer, x)
    height, width = z.shape[2:]
    rows, columns = torch.empty_like(z), torch.empty_like(z)
    for v in range(width):
        rows[..., v] = mixer.along_width.bias[v]
        for w in range(width):
            rows[..., v] += mixer.along_width.weight[v, w] * z[..., w]
    for u in range(height):
        columns[:, :, u] = mixer.along_height.bias[u]
        for h in range(height):
            columns[:, :, u] += mixer.along_height.weight[u, h] * z[:, :, h]
    parts = torch.cat((z, rows, columns), dim=1)
    fused = nn.functional.conv2d(parts, mixer.fuse.weight[:, :, None, None])
    return fused.permute(0, 2, 3, 1)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("grid", ["window", "interpolate"])
def test_mixer_is_the_sheets_formula(grid: str, training: bool) -> None:
    mixer = randomised(SparseMixer(6, (3, 5), grid=grid)).train(training)
    x = torch.randn(2, 3, 5, 6)
    with torch.no_grad():
        torch.testing.assert_close(
            mixer(x), mix_by_the_sheet(mixer, x), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("offset", [(0, 0), (1, 3), (2, 0)])
@pytest.mark.parametrize("size", [(3, 5), (7, 12), (2, 4), (9, 4), (2, 11), (6, 10)])
def test_runs_at_the_border_are_those_filled_up_with_zeros(
    size: tuple[int, int], offset: tuple[int, int]
) -> None:
    mixer = SparseMixer(4, (3, 5), window_offset=offset)
    randomised(mixer).eval()
    x = torch.randn(2, *size, 4)
    with torch.no_grad():
        z = activated(mixer, x)
        mixed = []
        for axis, linear, start in (
            (3, mixer.along_width, 1),
            (2, mixer.along_height, 0),
        ):
            length, first = linear.in_features, offset[start]
            line = z.movedim(axis, -1)
            before = -first % length if line.shape[-1] > length else 0
            after = -(before + line.shape[-1]) % length
            padded = nn.functional.pad(line, (before, after))
            runs = linear(padded.unflatten(-1, (-1, length))).flatten(-2)
            runs = runs[..., before : before + line.shape[-1]]
            mixed.append(runs.movedim(-1, axis))
        expected = mixer.fuse(torch.cat((z, *mixed), 1).permute(0, 2, 3, 1))
        torch.testing.assert_close(mixer(x), expected, rtol=1e-4, atol=1e-5)


def test_resampled_matrices_keep_the_size_of_their_row_sums() -> None:
    mixer = randomised(SparseMixer(4, (6, 9), grid="interpolate"))
    x = torch.ones(1, 12, 27, 4)
    rows = mixer._mix(mixer.along_width, x, 2)[0, 0, :, 0]
    columns = mixer._mix(mixer.along_height, x, 1)[0, :, 0, 0]
    for found, linear in ((rows, mixer.along_width), (columns, mixer.along_height)):
        response = linear.weight.sum(1) + linear.bias
        size = len(found)
        expected = nn.functional.interpolate(response[None, None], size, mode="linear")
        torch.testing.assert_close(found, expected[0, 0])


def test_rows_are_mixed_along_the_width() -> None:
    """The release's names mislead, and swapped matrices fit as well."""
    (layout,) = SMLPNet.checkpoint_layouts
    official = {f"token_mix.3.1.{key}.weight": None for key in ("proj_h", "proh_w")}
    renamed = [
        "blocks.3.mixer.along_width.weight",
        "blocks.3.mixer.along_height.weight",
    ]
    assert list(layout.rename(official)) == renamed

    mixer = randomised(SparseMixer(4, (8, 8))).eval()
    nn.init.zeros_(mixer.along_height.weight)
    x = torch.zeros(1, 8, 8, 4, requires_grad=True)
    mixer(x)[0, 4, 4].sum().backward()
    touched = x.grad[0].abs().sum(-1) > 0
    assert touched.any(0).tolist() == [True] * 8  # all columns
    assert touched.any(1).nonzero().flatten().tolist() == [3, 4, 5]  # by the 3x3


def test_swapped_matrices_are_seen_in_the_case(reference_dir: Path) -> None:
    case = load_reference_case(find_reference_folder("smlpnet") / "base_64.json")
    mixer = case.model.backbone.stages[0].blocks[0].mixer
    mixer.along_width, mixer.along_height = mixer.along_height, mixer.along_width
    with torch.no_grad():
        found = case.stages(case.input)[0]
    assert (found - case.expected["out.stage0"]).abs().max() > 0.1


def test_grids_halve_with_floor_from_the_training_size() -> None:
    backbone = SMLPNet(ARCH, image_size=(60, 224))
    found = [stage.blocks[0].mixer.grid_size for stage in backbone.stages]
    assert found == [(15, 56), (7, 28), (3, 14), (1, 7)]


@pytest.mark.parametrize(
    ("side", "sides"),
    [
        (60, [15, 7, 3, 1]),  # the release's own arithmetic
        (63, [15, 7, 3, 1]),
        (64, [16, 8, 4, 2]),
        (65, [17, 9, 5, 3]),  # nothing is dropped
        (119, [30, 15, 8, 4]),
        (33, [9, 5, 3, 1]),  # the last step begins at the training grid again
    ],
)
def test_remainders_are_dropped_at_the_training_grid_only(
    side: int, sides: list[int]
) -> None:
    backbone = SMLPNet(ARCH, image_size=60).eval()
    with torch.no_grad():
        maps = backbone(torch.zeros(1, 3, side, 96))
    assert [feature.shape[2] for feature in maps] == sides
    assert [feature.shape[3] for feature in maps] == [24, 12, 6, 3]


def test_runs_of_every_second_block_are_shifted() -> None:
    backbone = SMLPNet(ARCH, image_size=(64, 128), shift_windows=True)
    offsets = [
        block.mixer.window_offset for stage in backbone.stages for block in stage.blocks
    ]
    assert offsets == [(0, 0), (4, 8), (0, 0), (2, 4), (0, 0), (1, 2)]


def test_settled_batch_norms_still_learn() -> None:
    backbone = randomised(SMLPNet(ARCH, image_size=64, norm_eval=True)).train()
    block = backbone.stages[0].blocks[0]
    x = torch.randn(2, 3, 64, 64)
    sum(feature.square().mean() for feature in backbone(x)).backward()
    for parameter in (*block.mixer.norm.parameters(), block.mixer.dwconv.weight):
        assert parameter.grad.abs().sum() > 0


@pytest.mark.parametrize("drop_path_rate", [0.0, 0.4])
def test_recomputation_changes_nothing(drop_path_rate: float) -> None:
    options = {"image_size": 64, "drop_path_rate": drop_path_rate}
    stored = SMLPNet(ARCH, recompute=False, **options).train()
    lean = SMLPNet(ARCH, recompute=True, **options).train()
    lean.load_state_dict(stored.state_dict())
    x = torch.randn(2, 3, 64, 96)
    results = []
    for backbone in (stored, lean):
        torch.manual_seed(5)
        image = x.clone().requires_grad_()
        sum(f.square().mean() for f in backbone(image)).backward()
        gradients = [image.grad, *(p.grad for p in backbone.parameters())]
        results.append((gradients, dict(backbone.named_buffers())))
    torch.testing.assert_close(results[1], results[0])
    counted = results[1][1]["stages.1.blocks.0.mixer.norm.num_batches_tracked"]
    assert counted == 1  # no statistics are counted twice


def test_initialisation_is_the_frameworks() -> None:
    backbone = SMLPNet("tiny")
    weights = backbone.state_dict()
    for name, inputs in (
        ("stem.proj", 48),
        ("stages.1.downsample.proj", 320),
        ("stages.1.blocks.0.mixer.along_width", 28),
        ("stages.2.blocks.0.mixer.along_height", 14),
        ("stages.1.blocks.0.mixer.fuse", 480),
        ("stages.1.blocks.0.mixer.dwconv", 9),
        ("stages.0.blocks.0.mlp.fc1", 80),
    ):
        weight, bound = weights[f"{name}.weight"], inputs**-0.5
        assert 0.9 * bound < weight.abs().max() <= bound * 1.0001, name
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1), name
    assert weights["stages.1.blocks.0.mixer.along_width.bias"].any()


def test_what_has_no_bias_and_the_norms_epsilons() -> None:
    backbone = SMLPNet(ARCH)
    names = dict(backbone.named_parameters())
    assert not any(
        name.endswith(("proj.bias", "fuse.bias", "dwconv.bias")) for name in names
    )
    norms = [m for m in backbone.modules() if hasattr(m, "eps")]
    assert {norm.eps for norm in norms} == {1e-5}
    assert sum(isinstance(norm, nn.LayerNorm) for norm in norms) == 6
    assert sum(isinstance(norm, nn.BatchNorm2d) for norm in norms) == 2 * 6 + 4


def test_a_training_checkpoint_with_its_arguments_loads(
    reference_dir: Path, tmp_path: Path
) -> None:
    tensors = load_file(find_reference_folder("smlpnet") / "narrow_96.safetensors")
    weights = {k.removeprefix("sd."): v for k, v in tensors.items() if "sd." in k}
    file = tmp_path / "smlp_s.pth"
    arguments = argparse.Namespace(model="smlpnet_small", lr=5e-4)
    torch.save({"model": weights, "args": arguments, "epoch": 299}, file)
    arch = {
        "embed_dims": (10, 20, 40, 80),
        "depths": (2, 1, 1, 2),
        "mlp_ratios": (2, 2, 2, 2),
    }
    backbone = SMLPNet(arch, image_size=96)
    load_pretrained(backbone, file)
    torch.testing.assert_close(
        backbone.stages[3].blocks[1].mixer.along_height.weight,
        weights["token_mix.5.1.proh_w.weight"].flatten(1),
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"grid": "pad"}, "pad"),
        ({"shift_windows": 1}, "shift_windows.*1"),
        ({"recompute": "yes"}, "recompute.*'yes'"),
        ({"batch_norm_eps": 0}, "batch_norm_eps.*0"),
        ({"image_size": 31}, "31"),
        ({"image_size": (224, "224")}, "224"),
        ({"arch": {**ARCH, "depths": (1, 1, 1)}}, "depths"),
        ({"arch": {**ARCH, "mlp_ratios": (3, 3, 3, 0)}}, "mlp_ratios"),
    ],
)
def test_wrong_values_are_named(options: dict, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        SMLPNet(**{"arch": ARCH, **options})
