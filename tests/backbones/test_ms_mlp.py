"""What is special to MS-MLP."""

import itertools
from pathlib import Path

import pytest
import torch
from reference_cases import arguments_from_reference, load_reference_case
from safetensors.torch import load_file, save_file
from sizes import MICRO
from torch import Tensor, nn

from mlp_backbones.backbones import MSMLP
from mlp_backbones.backbones.ms_mlp import MixShift, split_channels
from mlp_backbones.checkpoints import load_pretrained
from mlp_backbones.factory import Classifier

ARCH = MICRO["ms_mlp"]
MIX_SIZE = MSMLP(MICRO["ms_mlp"]).mix_size


def by_hand(mixer: MixShift, x: Tensor, *, circular: bool) -> Tensor:
    """The sums of the fact sheet, index by index, on (B, H, W, C)."""
    _, height, width, _ = x.shape
    found = torch.zeros_like(x)
    first = 0
    for group, distance in enumerate(mixer.shift_dist):
        for layers, down, right in (
            (mixer.along_width, 0, distance),
            (mixer.along_height, distance, 0),
        ):
            layer = layers[group]
            half = layer.weight.shape[-1] // 2
            for y, x_, channel in itertools.product(
                range(height), range(width), range(mixer.group_dims[group])
            ):
                total = layer.bias[channel].expand(len(x)).clone()
                for u, v in itertools.product(range(-half, half + 1), repeat=2):
                    row, column = y + u, x_ + v  # in the shifted map
                    if not (0 <= row < height and 0 <= column < width):
                        continue
                    row, column = row - down, column - right  # in the map
                    inside = 0 <= row < height and 0 <= column < width
                    if circular or inside:
                        value = x[:, row % height, column % width, first + channel]
                        total += layer.weight[channel, 0, u + half, v + half] * value
                found[:, y, x_, first + channel] += total
        first += mixer.group_dims[group]
    return found


@pytest.mark.parametrize("circular", [True, False])
@pytest.mark.parametrize(
    ("dim", "mix_size", "shift_dist", "size"),
    [
        (9, (1, 1, 3, 5, 7), (-2, -1, 0, 1, 2), (5, 4)),
        (5, (1, 3), (0, 2), (3, 6)),
        (7, (3, 1, 5), (-1, 0, 3), (2, 3)),
        (4, (1, 3), (3, -5), (2, 2)),  # farther than the map is wide
    ],
)
@torch.no_grad()
def test_mixer_is_the_sum_of_the_fact_sheet(
    dim: int,
    mix_size: tuple[int, ...],
    shift_dist: tuple[int, ...],
    size: tuple[int, int],
    circular: bool,
) -> None:
    mixer = MixShift(
        dim, mix_size=mix_size, shift_dist=shift_dist, circular=circular
    ).double()
    x = torch.randn(2, *size, dim, dtype=torch.double)
    torch.testing.assert_close(mixer(x), by_hand(mixer, x, circular=circular))


def test_shifts_come_before_the_filters() -> None:
    """The paper's figure has it the other way; that differs at the borders alone."""
    mixer = MixShift(2, mix_size=(3, 3), shift_dist=(1, -1))
    x = torch.randn(1, 8, 8, 2)
    nchw = x.permute(0, 3, 1, 2)
    parts = []
    for group, distance in enumerate(mixer.shift_dist):
        part = nchw[:, group : group + 1]
        parts.append(
            mixer.along_width[group](part).roll(distance, 3)
            + mixer.along_height[group](part).roll(distance, 2)
        )
    filtered_first = torch.cat(parts, 1).permute(0, 2, 3, 1)
    found = mixer(x)
    inner = (slice(None), slice(2, -2), slice(2, -2))
    torch.testing.assert_close(found[inner], filtered_first[inner])
    assert not torch.allclose(found, filtered_first)


@pytest.mark.parametrize(
    ("dim", "groups"),
    [
        (96, [20, 20, 20, 20, 16]),
        (192, [39, 39, 39, 39, 36]),
        (384, [77, 77, 77, 77, 76]),
        (768, [154, 154, 154, 154, 152]),
        (128, [26, 26, 26, 26, 24]),
        (1024, [205, 205, 205, 205, 204]),
    ],
)
def test_groups_are_those_of_the_fact_sheet(dim: int, groups: list[int]) -> None:
    assert split_channels(dim, 5) == groups
    parts = torch.zeros(1, dim).chunk(5, dim=1)
    assert [part.shape[1] for part in parts] == groups


@pytest.mark.parametrize("dim", [12, 16, 4])
def test_widths_that_leave_a_group_empty_are_refused(dim: int) -> None:
    with pytest.raises(ValueError, match=f"embed_dims holds {dim}"):
        MSMLP({**ARCH, "embed_dims": (dim, 30, 40, 60)})


def test_kernels_of_one_cell_are_scales() -> None:
    """Of ten convolutions six are left where two groups have kernels of one cell."""
    from torch.utils.flop_counter import FlopCounterMode

    mixer = MixShift(96, mix_size=(1, 1, 3, 5, 7), shift_dist=(-2, -1, 0, 1, 2))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        mixer(torch.zeros(1, 8, 8, 96))
    counts = counter.get_flop_counts()["Global"]
    # 20 channels of 9 taps, 20 of 25 and 16 of 49, along both axes, 2 operations each
    assert sum(counts.values()) == 2 * 2 * 64 * (20 * 9 + 20 * 25 + 16 * 49)


def test_one_residual_runs_around_the_block() -> None:
    block = MSMLP(MICRO["ms_mlp"]).stages[0].blocks[0]
    nn.init.uniform_(block.layer_scale.gamma)
    x = torch.randn(2, 8, 9, 20)
    expected = x + block.layer_scale.gamma * block.mlp(block.norm2(block.mixer(x)))
    torch.testing.assert_close(block(x), expected)


def test_the_classifier_pools_first_and_norms_then() -> None:
    model = Classifier(
        MSMLP(MICRO["ms_mlp"], out_norm=False, out_indices=(3,)), 7
    ).eval()
    nn.init.normal_(model.neck.norm.weight)
    x = torch.randn(2, 3, 64, 96)
    pooled = model.backbone.forward_stages(x)[-1].mean((1, 2))
    logits = model.head.fc(
        nn.functional.layer_norm(
            pooled, (60,), model.neck.norm.weight, model.neck.norm.bias, 1e-6
        )
    )
    torch.testing.assert_close(model(x), logits)


@pytest.mark.parametrize("own", [False, True])
def test_a_norm_of_averages_is_no_norm_of_maps(
    own: bool, reference_dir: Path, tmp_path: Path
) -> None:
    file = reference_dir / "ms_mlp" / "base_64.safetensors"
    case = load_reference_case(file)
    if own:
        weights = tmp_path / "classifier.pth"
        torch.save({"state_dict": case.model.state_dict()}, weights)
    else:
        weights = tmp_path / "official.safetensors"
        official = {k[3:]: v for k, v in load_file(file).items() if k[:3] == "sd."}
        save_file(official, weights)
    arguments = arguments_from_reference(MSMLP, case.description["config"], (64, 64))
    backbone = MSMLP(**arguments, out_indices=(3,))
    load_pretrained(backbone, weights)
    assert (backbone.out_norms["3"].weight == 1).all()
    nn.init.normal_(backbone.out_norms["3"].weight)
    torch.save(backbone.state_dict(), tmp_path / "backbone.pth")
    again = MSMLP(**arguments, out_indices=(3,))
    load_pretrained(again, tmp_path / "backbone.pth")
    torch.testing.assert_close(again.state_dict(), backbone.state_dict())


def test_without_wrapping_the_left_border_knows_nothing_of_the_right_one() -> None:
    x = torch.randn(1, 3, 64, 512)
    padded = x.clone()
    padded[..., 480:] = 0
    for circular in (True, False):
        backbone = MSMLP(MICRO["ms_mlp"], circular=circular, out_indices=(0,)).eval()
        nn.init.ones_(backbone.stages[0].blocks[0].layer_scale.gamma)
        with torch.no_grad():
            left, left_of_padded = (backbone(i)[0][..., :4] for i in (x, padded))
        assert torch.equal(left, left_of_padded) is not circular


def test_official_arithmetic_of_sizes() -> None:
    backbone = MSMLP(MICRO["ms_mlp"]).eval()
    for height, width in ((75, 106), (32, 32), (33, 34), (63, 161)):
        with torch.no_grad():
            maps = backbone(torch.zeros(1, 3, height, width))
        expected = [(height // 4, width // 4)]
        for _ in range(3):
            expected.append(tuple(side // 2 for side in expected[-1]))
        assert [tuple(feature.shape[2:]) for feature in maps] == expected


def test_patch_norm_is_the_stems_alone() -> None:
    names = set(MSMLP(MICRO["ms_mlp"]).state_dict())
    without = set(MSMLP(MICRO["ms_mlp"], patch_norm=False).state_dict())
    assert names - without == {"stem.norm.weight", "stem.norm.bias"}


def test_initialisation_is_the_official_one() -> None:
    backbone = MSMLP("tiny", out_indices=(1,))
    for name, parameter in backbone.named_parameters():
        if name.endswith("gamma"):
            assert (parameter == 1e-6).all()
        elif ".mlp." in name and name.endswith("weight"):
            assert parameter.std().item() == pytest.approx(0.02, rel=0.05)
        elif ".mlp." in name:
            assert not parameter.any()
        elif parameter.ndim == 4:
            bound = parameter[0].numel() ** -0.5
            assert parameter.abs().max() <= bound
            assert parameter.abs().max() > 0.8 * bound
    assert {m.eps for m in backbone.modules() if isinstance(m, nn.LayerNorm)} == {1e-6}


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"shift_dist": ()}, ValueError, r"\(\)"),
        ({"shift_dist": (-1, 0.5, 0, 1, 2)}, ValueError, "0.5"),
        ({"shift_dist": 5}, TypeError, "5"),
        ({"shift_dist": (0, 1)}, ValueError, "mix_size must hold 2 odd"),
        ({"mix_size": 3}, TypeError, "3"),
        ({"mix_size": MIX_SIZE[:3]}, ValueError, "each of 4 stages"),
        ({"mix_size": (*MIX_SIZE[:3], (1, 7, 7, 7, 4))}, ValueError, "7, 4"),
        ({"mix_size": (*MIX_SIZE[:3], 7)}, ValueError, "7"),
        ({"circular": "x"}, TypeError, "circular.*'x'"),
        ({"patch_norm": 3}, TypeError, "patch_norm.*3"),
    ],
)
def test_wrong_arguments_are_named(
    options: dict, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        MSMLP(MICRO["ms_mlp"], **options)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shift_size": 4}, "shift_size 5.*4"),
        ({"chunks": [[5, 5, 5, 5]] * 4}, "5, 5"),
        ({"patch_size": 2}, "patch_size"),
    ],
)
def test_cases_that_contradict_themselves_are_refused(change: dict, words: str) -> None:
    config = {
        **ARCH,
        "shift_size": 5,
        "shift_dist": [-2, -1, 0, 1, 2],
        "mix_size": MIX_SIZE,
        "chunks": [split_channels(dim, 5) for dim in ARCH["embed_dims"]],
        "patch_size": 4,
        "norm_eps": 1e-6,
    }
    MSMLP(**arguments_from_reference(MSMLP, config, (64, 64)))
    with pytest.raises(ValueError, match=words):
        arguments_from_reference(MSMLP, {**config, **change}, (64, 64))
