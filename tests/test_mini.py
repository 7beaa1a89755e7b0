"""The size called mini is one network: what the digit-scenes configs train."""

import inspect
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import Tensor

from mlp_backbones import get_backbone, get_model, list_models
from mlp_backbones.building import build_model
from mlp_backbones.config_names import config_dir
from mlp_backbones.factory import families
from mlp_backbones.registry import MODELS

FAMILIES = sorted(families())


def read_config(family: str, start: str) -> Config:
    pattern = f"{start}{family.replace('_', '-')}-mini_*_digit-scenes.py"
    (path,) = (config_dir() / family).glob(pattern)
    return Config.fromfile(path)


def save(weights: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Save weights that no other network has."""
    weights = {
        name: value + 0.1 * torch.rand_like(value)
        if value.is_floating_point()
        else value
        for name, value in weights.items()
    }
    torch.save({"state_dict": weights}, file)
    return weights


def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    """Return the arguments of a class, with what it passes on to its parents."""
    own: dict[str, inspect.Parameter] = {}
    for base in reversed(cls.__mro__):
        own |= inspect.signature(base.__init__).parameters
    return own


@pytest.mark.parametrize("family", FAMILIES)
def test_classifiers_load_what_the_config_trains(family: str, tmp_path: Path) -> None:
    config = read_config(family, "")
    network = build_model(config)
    trained = save(network.state_dict(), tmp_path / "epoch_10.pth")
    network.load_state_dict(trained)
    model = get_model(
        f"{family}_mini",
        pretrained=tmp_path / "epoch_10.pth",
        num_classes=config.model.head.num_classes,
    )
    loaded = model.state_dict()
    assert loaded.keys() == trained.keys()
    for name, value in loaded.items():
        assert torch.equal(value, trained[name]), name
    images = torch.randn(1, 3, 72, 56)  # by weights that belong to 64 x 64 pixels
    with torch.no_grad():
        logits = network.eval()(images)
        assert logits.isfinite().all()
        torch.testing.assert_close(model.eval()(images), logits, rtol=0, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_backbones_load_what_the_detector_trains(family: str, tmp_path: Path) -> None:
    settings = read_config(family, "retinanet_").model.backbone.to_dict()
    trained = save(MODELS.build(settings).state_dict(), tmp_path / "alone.pth")
    detector = {f"backbone.{name}": value for name, value in trained.items()}
    detector["neck.lateral_convs.0.conv.weight"] = torch.zeros(1)
    torch.save({"state_dict": detector}, tmp_path / "epoch_8.pth")
    # What the classifier sets and the detector leaves as it is has to be named.
    parameters = _parameters(families()[family])
    options = {
        name: parameters[name].default for name in families()[family].mini_options
    }
    options |= settings
    del options["type"], options["arch"]
    backbone = get_backbone(
        f"{family}_mini", pretrained=tmp_path / "epoch_8.pth", **options
    )
    loaded = backbone.state_dict()
    assert loaded.keys() == trained.keys()
    for name, value in loaded.items():
        assert torch.equal(value, trained[name]), name


@pytest.mark.parametrize("family", FAMILIES)
def test_options_are_those_of_the_config_unless_named(family: str) -> None:
    cls = families()[family]
    settings = read_config(family, "").model.backbone.to_dict()
    assert settings.pop("type") == f"mlp_backbones.{cls.__name__}"
    assert cls.resolve_arch(settings.pop("arch")) == cls.mini_arch
    del settings["out_indices"]
    assert settings == {**cls.classifier_arguments, **cls.mini_options}


def test_an_option_that_is_named_goes_first() -> None:
    assert get_backbone("smlpnet_mini").token_grid.sizes[0] == (16, 16)
    assert get_backbone("smlpnet_mini", image_size=96).token_grid.sizes[0] == (24, 24)
    assert get_model("smlpnet_mini", image_size=96).backbone.token_grid.sizes[0] == (
        24,
        24,
    )


def test_minis_are_listed_on_request() -> None:
    names = [f"{family}_mini" for family in FAMILIES]
    assert list_models("*_mini") == names
    assert list_models("cyclemlp_mini") == ["cyclemlp_mini"]
    assert not set(names) & set(list_models())
    assert not set(names) & set(list_models("cycle*"))
