"""Models by name, and what importing the package costs."""

import subprocess
import sys

import pytest
import torch
from sizes import MICRO

import mlp_backbones
from mlp_backbones.factory import Classifier, families


def test_importing_is_silent_and_needs_nothing() -> None:
    code = (
        "import sys, mlp_backbones; mlp_backbones.__version__; "
        "heavy = {'torch', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or None)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_models_need_neither_mmcv_nor_torchvision() -> None:
    code = (
        "import sys\n"
        "for name in ('mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'torchvision'):\n"
        "    sys.modules[name] = None\n"
        "import mlp_backbones, torch\n"
        "maps = mlp_backbones.get_backbone('cyclemlp_b1')(torch.zeros(1, 3, 32, 32))\n"
        "print(len(maps))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout.strip()) == (0, "4"), run.stderr


def test_patterns() -> None:
    assert mlp_backbones.list_models("cycle*") == [
        *(f"cyclemlp_b{i}" for i in range(1, 6)),
        *(f"cyclemlp_{size}" for size in ("tiny", "small", "base")),
    ]
    assert mlp_backbones.list_models("nothing*") == []
    assert set(mlp_backbones.list_models("*_b1")) <= set(mlp_backbones.list_models())


def test_backbone_options_reach_the_class() -> None:
    backbone = mlp_backbones.get_backbone(
        "cyclemlp_b1", out_indices=(2, 3), drop_path_rate=0.1, with_cp=True
    )
    assert backbone.out_channels == [320, 512]
    assert backbone.with_cp
    with pytest.raises(TypeError, match="no_such"):
        mlp_backbones.get_backbone("cyclemlp_b1", no_such=1)


@pytest.mark.parametrize("key", ["arch", "init_cfg"])
def test_options_that_would_be_ignored_are_refused(key: str) -> None:
    for build in (mlp_backbones.get_backbone, mlp_backbones.get_model):
        with pytest.raises(ValueError, match=key):
            build("cyclemlp_b1", **{key: "b2"})


def test_classifier() -> None:
    model = mlp_backbones.get_model("cyclemlp_b1", num_classes=10).eval()
    assert model(torch.zeros(2, 3, 64, 48)).shape == (2, 10)


@pytest.mark.parametrize("name", ["cyclemlp_b9", "resnet50", ""])
def test_unknown_names_are_named(name: str) -> None:
    with pytest.raises(ValueError, match="cyclemlp_b1"):
        mlp_backbones.get_model(name)


def test_wrong_class_count_is_named() -> None:
    with pytest.raises(ValueError, match="-3"):
        mlp_backbones.get_model("cyclemlp_b1", num_classes=-3)


def test_unknown_attribute() -> None:
    with pytest.raises(AttributeError, match="nothing_here"):
        mlp_backbones.nothing_here  # noqa: B018
    assert "get_model" in dir(mlp_backbones)


def test_heads_start_at_zero_where_the_official_ones_do() -> None:
    zero = {name for name, cls in families().items() if cls.zero_head}
    assert zero == {"gmlp", "mlp_mixer", "spach"}  # their fact sheets say so
    for family, cls in families().items():
        backbone = cls(MICRO[cls.family], out_indices=(-1,), **cls.classifier_arguments)
        head = Classifier(backbone, 5).head.fc
        assert bool((head.weight == 0).all()) is (family in zero)
        assert (head.bias == 0).all()
