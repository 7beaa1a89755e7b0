"""What Vision Permutator and DynaMixer have in common: frame, grids and numbering."""

import pytest
import shipped_configs
import torch
from sizes import MICRO
from torch import Tensor, nn

from mlp_backbones.backbones import DynaMixer, ResampledBackbone, VisionPermutator
from mlp_backbones.checkpoints.renames import tell_downsamplings
from mlp_backbones.layers import AxialMixer, join_windows, partition_windows

FAMILIES = [DynaMixer, VisionPermutator]


@pytest.fixture(params=FAMILIES, ids=lambda cls: cls.family)
def cls(request: pytest.FixtureRequest) -> type[ResampledBackbone]:
    return request.param


GRID_FIELDS = {"dynamixer": "resolutions", "vip": "segment_dims"}


def randomise(module: nn.Module, scale: float = 0.3) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return module


def make_mixer(cls: type[ResampledBackbone], **options: object) -> AxialMixer:
    backbone = cls(MICRO[cls.family], **options)
    return randomise(backbone.stages[0].blocks[0].mixer).double().eval()


def maps(height: int, width: int, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, height, width, 24, generator=generator).double()


def test_windows_are_the_mixer_on_each_crop(cls: type[ResampledBackbone]) -> None:
    """Nothing is shared between windows, not even the pooling for the blend."""
    mixer = make_mixer(cls)
    x = maps(12, 18)
    with torch.no_grad():
        found = mixer(x)
        for top in range(0, 12, 6):
            for left in range(0, 18, 6):
                crop = (slice(None), slice(top, top + 6), slice(left, left + 6))
                torch.testing.assert_close(found[crop], mixer(x[crop]))


def test_shifted_windows_begin_half_a_window_later(
    cls: type[ResampledBackbone],
) -> None:
    backbone = cls(MICRO[cls.family], shift_windows=True)
    blocks = [block for stage in backbone.stages for block in stage.blocks]
    offsets = [block.mixer.window_offset for block in blocks]
    assert offsets == [(0, 0), (1, 1), (0, 0), (1, 1), (0, 0)]
    mixer = make_mixer(cls)
    mixer.window_offset = (3, 3)
    x = maps(12, 15)
    with torch.no_grad():
        found = mixer(x)
        inner = (slice(None), slice(3, 9), slice(3, 9))
        torch.testing.assert_close(found[inner], mixer(x[inner]))


def test_padding_has_no_part_in_the_pooling(cls: type[ResampledBackbone]) -> None:
    """Zeros beyond the border would change the mean; the blend must not see them."""
    mixer = make_mixer(cls)
    x = maps(4, 5)
    windows, mask = partition_windows(x, (6, 6))
    seen = []
    mixer.reweight.fc1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        mixer(x)
        height, width = mixer.mix_lines(windows, mask)
        branches = (height, width, mixer.channel(windows))
        expected = sum(
            join_windows(branch, (4, 5)).sum((1, 2)) / 20 for branch in branches
        )
    torch.testing.assert_close(seen[0][:, 0, 0], expected)


def test_lines_of_padding_alone_leave_no_trace(cls: type[ResampledBackbone]) -> None:
    mixer = make_mixer(cls)
    mask = torch.zeros(2, 6, 6, 1, dtype=torch.bool)
    mask[:, :2, :5] = True
    x = torch.where(mask, maps(6, 6), 0).requires_grad_()
    real = torch.where(mask, mixer.mix(x, mask), 0)
    assert torch.isfinite(real).all()
    real.square().sum().backward()
    assert x.grad[mask.expand_as(x)].all()
    for name, parameter in mixer.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


def test_the_grid_follows_the_training_size(cls: type[ResampledBackbone]) -> None:
    """Remainders are dropped patch by patch and again where the stride doubles."""
    arch = {**MICRO[cls.family], "patch_size": 7}
    backbone = cls(arch, image_size=(65, 100))
    assert backbone.token_grid.sizes == ((9, 14), (4, 7), (4, 7), (4, 7))
    assert cls(arch).token_grid.sizes == ((6, 6), (3, 3), (3, 3), (3, 3))
    for image_size in (224, 227, 230):
        name = next(iter(cls.arch_settings))
        with torch.device("meta"):
            sides = cls(name, image_size=image_size).token_grid.sizes
        expected = getattr(cls.arch_settings[name], GRID_FIELDS[cls.family])
        assert sides == tuple((side, side) for side in expected)
    with pytest.raises(ValueError, match="13"):
        cls(arch, image_size=13)


def test_sizes_the_official_code_takes_need_no_window(
    cls: type[ResampledBackbone],
) -> None:
    arch = {**MICRO[cls.family], "patch_size": 7}
    backbone = cls(arch, pyramid=False).eval()
    randomise(backbone, 0.1)
    with torch.no_grad():
        whole = backbone(torch.ones(1, 3, 42, 42))
        for side in (43, 48):
            x = torch.full((1, 3, side, side), 7.0)  # what no patch holds is not read
            x[:, :, :42, :42] = 1
            torch.testing.assert_close(backbone(x), whole)
    assert [tuple(m.shape[2:]) for m in whole] == [(6, 6), (3, 3), (3, 3), (3, 3)]


@pytest.mark.parametrize(
    ("merges", "entries"),
    [
        ((1,), ("0", "+", "1", "2", "3")),  # S/7, L/7
        ((2,), ("0", "1", "+", "2", "3")),  # M/7
        ((), ("0", "1", "2", "3")),  # S/14
        ((1, 3, 5), ("0", "+", "1", "+", "2", "+", "3")),
    ],
)
def test_official_numbers_count_downsamplings(
    merges: tuple[int, ...], entries: tuple[str, ...]
) -> None:
    weights, expected, stage = {}, {}, -1
    for number, entry in enumerate(entries):
        tensor = torch.tensor(float(number))
        if entry == "+":
            assert number in merges
            weights[f"network.{number}.proj.weight"] = tensor
            expected[f"stages.{stage + 1}.downsample.proj.weight"] = tensor
        else:
            stage = int(entry)
            weights[f"network.{number}.1.mixer.proj.weight"] = tensor
            expected[f"stages.{stage}.blocks.1.mixer.proj.weight"] = tensor
    assert tell_downsamplings({**weights, "norm.weight": tensor}, None) == {
        **expected,
        "norm.weight": tensor,
    }


def test_a_change_of_width_alone_is_a_product_per_token(
    cls: type[ResampledBackbone],
) -> None:
    arch = {
        **MICRO[cls.family],
        "transitions": (False,) * 4,
        "embed_dims": (12, 24, 24, 24),
        GRID_FIELDS[cls.family]: (3, 3, 3, 3),
    }
    backbone = cls(arch, pyramid=False)
    assert backbone.stages[1].downsample.proj.weight.shape == (24, 12, 1, 1)
    assert backbone.stages[2].downsample is None
    assert backbone.native_strides == (8, 8, 8, 8)


def test_depths_are_those_of_the_code_not_of_the_papers_table(
    cls: type[ResampledBackbone],
) -> None:
    large = next(name for name in cls.arch_settings if name.startswith("l"))
    assert sum(cls.arch_settings[large].depths[:1]) == 8
    assert sum(cls.arch_settings[large].depths) == 36


def test_skip_lam_divides_both_branches(cls: type[ResampledBackbone]) -> None:
    block = randomise(cls(MICRO[cls.family], skip_lam=2.0)).stages[0].blocks[0].double()
    x = maps(6, 6)
    half = x + block.mixer(block.norm1(x)) / 2
    torch.testing.assert_close(block(x), half + block.mlp(block.norm2(half)) / 2)


def test_initialisation_is_the_official_one(cls: type[ResampledBackbone]) -> None:
    torch.manual_seed(0)
    name = "s7" if cls is VisionPermutator else "s"
    backbone = cls(name, out_indices=(1,))
    for key, parameter in backbone.named_parameters():
        if parameter.ndim == 4 and key.startswith(("stem", "stages")):
            bound = parameter[0].numel() ** -0.5
            assert parameter.abs().max() <= bound * 1.001
            assert parameter.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
        elif parameter.ndim == 2:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), key
        elif key.endswith("bias") and ".blocks." in key:
            assert not parameter.any(), key


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"skip_lam": 0}, "skip_lam"),
        ({"shift_windows": 2}, "2"),
        ({"image_size": (48, 48, 48)}, r"\(48, 48, 48\)"),
    ],
)
def test_wrong_values_are_named(
    cls: type[ResampledBackbone], options: dict, words: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        cls(MICRO[cls.family], **options)


# billions of multiply-adds at 224 as counted by the authors' code
GMACS = {
    "vip_s14": 6.86,
    "vip_s7": 6.90,
    "vip_m7": 16.28,
    "vip_l7": 24.34,
    "dynamixer_s": 7.30,
    "dynamixer_m": 16.98,
    "dynamixer_l": 27.34,
}


@pytest.mark.parametrize("name", GMACS)
def test_flops_are_the_official_ones(name: str) -> None:
    stated = shipped_configs.stated_multiply_adds()[name]
    assert stated / 1e9 == pytest.approx(GMACS[name], rel=0.02)
