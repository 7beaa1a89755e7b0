"""Backbones whose mixing weights belong to a token grid, at any image size."""

import copy

import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from sizes import MICRO, build_micro
from torch import Tensor

import mlp_backbones.layers.grid_mixer as grid_module
from mlp_backbones.backbones import MLPBackbone, ResampledBackbone
from mlp_backbones.factory import families
from mlp_backbones.layers import CachingModule, GridMixer

IMAGE_SIZE = (64, 96)
MODES = [
    (family, mode)
    for family, cls in sorted(families().items())
    for mode in cls.grid_modes
]
# larger, smaller, and neither a multiple of windows nor square
SIZES = [(128, 192), (48, 40), (119, 83)]


def build(
    family: str, mode: str, *, shift: bool = False, **options: object
) -> MLPBackbone:
    torch.manual_seed(0)
    cls = families()[family]
    if "window" in cls.grid_modes:
        options["shift_windows"] = shift
    arguments = {**cls.classifier_arguments, "image_size": IMAGE_SIZE, **options}
    backbone = cls(MICRO[cls.family], grid=mode, **arguments)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return backbone


def images(height: int, width: int, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, 3, height, width, generator=generator)


def caches(backbone: MLPBackbone) -> list[CachingModule]:
    return [m for m in backbone.modules() if isinstance(m, CachingModule)]


def families_with(mode: str) -> list[str]:
    return [family for family, one in MODES if one == mode]


@pytest.fixture(params=MODES, ids="-".join)
def family_and_mode(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.mark.parametrize("shift", [False, True])
def test_modes_agree_at_the_training_size(
    family_and_mode: tuple[str, str], shift: bool
) -> None:
    family, mode = family_and_mode
    first = build(family, families()[family].grid_modes[0]).eval()
    other = build(family, mode, shift=shift).eval()
    other.load_state_dict(first.state_dict())
    x = images(*IMAGE_SIZE)
    with torch.no_grad():
        torch.testing.assert_close(other(x), first(x))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
@pytest.mark.parametrize("pyramid", [False, True])
def test_any_size_trains(
    family_and_mode: tuple[str, str], size: tuple[int, int], pyramid: bool
) -> None:
    family, mode = family_and_mode
    options = {}
    if issubclass(families()[family], ResampledBackbone):
        options = {"pyramid": pyramid, "out_norm": True}
    elif pyramid:
        options = {"shift": True}
    backbone = build(family, mode, **options).train()
    maps = backbone(images(*size))
    sum(feature.square().mean() for feature in maps).backward()
    assert all(torch.isfinite(feature).all() for feature in maps)
    for name, parameter in backbone.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("family", families_with("window"))
def test_padding_does_not_reach_the_real_tokens(
    family: str, shift: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = build(family, "window", shift=shift).eval()
    mixers = [m for m in backbone.modules() if isinstance(m, GridMixer)]
    if all(type(m).forward is not GridMixer.forward for m in mixers):
        return  # nothing is padded; a mixer that cuts in its own way has its own test
    x = images(119, 83)
    with torch.no_grad():
        expected = backbone(x)
    partition, filled = grid_module.partition_windows, []

    def with_rubbish(x: Tensor, *args: object) -> tuple[Tensor, Tensor | None]:
        windows, mask = partition(x, *args)
        if mask is not None:
            filled.append(mask)
            windows = torch.where(mask, windows, torch.full_like(windows, 50.0))
        return windows, mask

    monkeypatch.setattr(grid_module, "partition_windows", with_rubbish)
    with torch.no_grad():
        found = backbone(x)
    assert filled, "no window was filled up: this test shows nothing"
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("family", families_with("window"))
def test_the_cost_of_windows_grows_with_the_area(family: str) -> None:
    # attention over the whole map is no matter of the grid
    options = {"attention_window": 4} if family == "spach" else {}
    backbone = build(family, "window", **options).eval()
    flops = [
        get_model_complexity_info(backbone, (3, height, width), show_table=False)[
            "flops"
        ]
        for height, width in (IMAGE_SIZE, (2 * IMAGE_SIZE[0], 2 * IMAGE_SIZE[1]))
    ]
    assert flops[1] <= 4.2 * flops[0]


@pytest.mark.parametrize("family", families_with("interpolate"))
def test_what_is_kept_is_used_and_never_stale(family: str) -> None:
    mode = "interpolate"
    backbone = build(family, mode).eval()
    x = images(*SIZES[0])

    def expected() -> tuple[Tensor, ...]:
        """What a copy that has kept nothing says."""
        fresh = build(family, mode).eval()
        fresh.load_state_dict(backbone.state_dict())
        return fresh(x)

    with torch.no_grad():
        torch.testing.assert_close(backbone(x), expected())
        kept = [len(module.cache) for module in caches(backbone)]
        assert sum(kept) > 0
        torch.testing.assert_close(backbone(x), expected())

    # a step of an optimizer, in evaluation mode
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.1)
    sum(feature.square().mean() for feature in backbone(x)).backward()
    optimizer.step()
    with torch.no_grad():
        torch.testing.assert_close(backbone(x), expected())

    # weights loaded
    other = build(family, mode)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    backbone.load_state_dict(other.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(backbone(x), expected())

    # averaged weights swapped in behind autograd's back, as MMEngine's EMAHook does
    # before its validation loop switches to evaluation
    for parameter in backbone.parameters():
        parameter.data.copy_(parameter.data * 0.5)
    backbone.eval()
    with torch.no_grad():
        torch.testing.assert_close(backbone(x), expected())

    # cast and back
    with torch.no_grad():
        backbone.double()(x.double())
        torch.testing.assert_close(backbone.float()(x), expected())


def test_what_is_kept_stays_small(family_and_mode: tuple[str, str]) -> None:
    family, mode = family_and_mode
    backbone = build(family, mode).eval()
    with torch.no_grad():
        for step in range(5):
            backbone(images(64 + 16 * step, 64))
    assert all(len(module.cache) <= module.cache.size for module in caches(backbone))
    assert all(len(module.cache) == 0 for module in caches(copy.deepcopy(backbone)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"grid": "stretch"}, "stretch"),
        ({"image_size": 0}, "0"),
        ({"image_size": (64,)}, r"\(64,\)"),
        ({"image_size": "big"}, "big"),
    ],
)
def test_wrong_arguments_are_named(
    family_and_mode: tuple[str, str], options: dict, words: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        build_micro(family_and_mode[0], **options)
