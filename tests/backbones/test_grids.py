"""Backbones whose mixing weights belong to a token grid, at any image size."""

import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from sizes import MICRO, build_micro
from torch import Tensor

import mlp_backbones.layers.grid_mixer as grid_module
from mlp_backbones.backbones import MLPBackbone, ResampledBackbone
from mlp_backbones.factory import families
from mlp_backbones.layers import GridMixer

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
def test_zeros_fill_up_windows(
    family: str, shift: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums over a window see nothing of them; means and softmaxes get a mask."""
    backbone = build(family, "window", shift=shift).eval()
    if not any(isinstance(m, GridMixer) for m in backbone.modules()):
        return  # it cuts lines in its own way, and has its own test
    partition, filled = grid_module.partition_windows, []

    def checked(x: Tensor, *args: object) -> tuple[Tensor, Tensor | None]:
        windows, mask = partition(x, *args)
        if mask is not None:
            filled.append(windows[~mask.squeeze(-1)])
        return windows, mask

    monkeypatch.setattr(grid_module, "partition_windows", checked)
    with torch.no_grad():
        backbone(images(119, 83))
    assert filled, "no window was filled up: this test shows nothing"
    assert not any(tokens.any() for tokens in filled)


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
