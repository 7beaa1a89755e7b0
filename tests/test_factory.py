"""Models by name, and what importing the package costs."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import shipped_configs
import torch
from mmengine.optim import DefaultOptimWrapperConstructor
from sizes import MICRO, build_micro

import mlp_backbones
from mlp_backbones import config_dir
from mlp_backbones.factory import Classifier, families
from mlp_backbones.testing.contract import randomise

MIXERS = ("s32", "s16", "b32", "b16", "l32", "l16")


def micro_classifier(family: str, num_classes: int = 3) -> Classifier:
    options = families()[family].classifier_arguments
    backbone = build_micro(family, out_indices=(-1,), **options)
    return Classifier(backbone, num_classes)


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


@pytest.mark.parametrize("count", [-3, True, 2.0, None])
def test_wrong_class_count_is_named(count: object) -> None:
    model = micro_classifier("cyclemlp")
    for build in (partial(Classifier, model.backbone), model.reset_classifier):
        with pytest.raises(ValueError, match=str(count)):
            build(count)


FAMILIES = sorted(families())
TIMM_NAMES = {
    **{f"mixer_{size}_224": f"mlp_mixer_{size}" for size in MIXERS},
    **{f"gmixer_{depth}_224": f"mlp_mixer_gmixer_{depth}" for depth in (12, 24)},
    **{f"gmlp_{size}_224": f"gmlp_{size}" for size in ("ti16", "s16", "b16")},
    **{f"resmlp_{depth}_224": f"resmlp_s{depth}" for depth in (12, 24, 36)},
    "resmlp_big_24_224": "resmlp_b24_8",
}


def test_timm_names() -> None:
    own = {
        name: f"{family}_{arch}"
        for family, cls in families().items()
        for arch, name in cls.timm_names.items()
    }
    assert own == TIMM_NAMES
    with torch.device("meta"):
        for name, same in TIMM_NAMES.items():
            shapes = [
                {k: v.shape for k, v in mlp_backbones.get_model(n).state_dict().items()}
                for n in (name, same)
            ]
            assert shapes[0] == shapes[1]
    with pytest.raises(ValueError, match=r"leave out '\.fb_distilled_in1k'"):
        mlp_backbones.get_model("resmlp_12_224.fb_distilled_in1k")


def test_models_with_weights_are_listed() -> None:
    found = mlp_backbones.list_models(pretrained=True)
    assert {"cyclemlp_b1", "gmlp_s16", "mlp_mixer_b16", "resmlp_s12"} <= set(found)
    assert not {"cyclemlp_tiny", "gmlp_b16", "as_mlp_tiny"} & set(found)
    assert mlp_backbones.list_models("cyclemlp*", pretrained=True) == [
        f"cyclemlp_b{i}" for i in range(1, 6)
    ]


def test_pretrained_takes_true_and_false(tmp_path: Path, monkeypatch) -> None:
    options = {"num_classes": 3, "drop_path_rate": 0.1}
    source = mlp_backbones.get_model("cyclemlp_mini", pretrained=False, **options)
    file = tmp_path / "w.pth"
    torch.save(source.state_dict(), file)
    released = {"mini": str(file)}
    monkeypatch.setattr(type(source.backbone), "released_weights", released)
    for pretrained in (True, "official", file, str(file)):
        model = mlp_backbones.get_model(
            "cyclemlp_mini", pretrained=pretrained, **options
        )
        backbone = mlp_backbones.get_backbone("cyclemlp_mini", pretrained=pretrained)
        for key, value in source.state_dict().items():
            assert torch.equal(model.state_dict()[key], value)
        assert torch.equal(backbone.stem.proj.weight, source.backbone.stem.proj.weight)
    bare = mlp_backbones.get_model(
        "cyclemlp_mini", pretrained=True, num_classes=0
    ).eval()
    source.eval().reset_classifier(0)
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(bare(x), source(x))
    with pytest.raises(ValueError, match=r"list_models\(pretrained=True\)"):
        mlp_backbones.get_model("mlp_mixer_mini", pretrained=True)
    with pytest.raises(TypeError, match="True or 'official'"):
        mlp_backbones.get_model("cyclemlp_mini", pretrained=1)


@pytest.mark.parametrize(
    ("argument", "word"),
    [
        ({"in_chans": 1}, "in_channels"),
        ({"drop_path": 0.1}, "drop_path_rate"),
        ({"drop_rate": 0.1}, "drop_path_rate"),
        ({"features_only": True}, "get_backbone"),
        ({"global_pool": ""}, "get_backbone"),
        ({"checkpoint_path": "w.pth"}, "pretrained=FILE"),
        ({"img_size": 128}, "any size"),
        ({"no_such": 1}, "no_such"),
    ],
)
def test_words_of_timm_are_translated(argument: dict, word: str) -> None:
    for build in (mlp_backbones.get_model, mlp_backbones.get_backbone):
        with pytest.raises(TypeError, match=word):
            build("cyclemlp_mini", **argument)
    with pytest.raises(TypeError, match="image_size"):
        mlp_backbones.get_model("mlp_mixer_mini", img_size=128)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_plain_training_loops_ask_for(family: str) -> None:
    """Features without a head, recomputation, and parameters without decay."""
    model = micro_classifier(family).eval()
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        logits = model(x)
        head = model.head
        model.reset_classifier(0)
        features = model(x)
        assert features.shape == (2, model.num_features)
        assert torch.equal(head(features), logits)
    model.double().reset_classifier(4)
    assert model(x.double()).shape == (2, 4)
    assert model.num_classes == 4
    model.float().set_grad_checkpointing()
    assert model.backbone.with_cp
    assert all(stage.with_cp for stage in model.backbone.stages)
    model.set_grad_checkpointing(False)
    assert not any(stage.with_cp for stage in model.backbone.stages)

    path = next((config_dir() / family).glob("*_in1k.py"))
    settings = {
        "optimizer": {"type": "AdamW", "lr": 0.1, "weight_decay": 0.5},
    }
    paramwise = shipped_configs.read(path).optim_wrapper.paramwise_cfg
    build = DefaultOptimWrapperConstructor(settings, dict(paramwise))
    names = {id(value): name for name, value in model.named_parameters()}
    without = {
        names[id(value)]
        for group in build(model).optimizer.param_groups
        for value in group["params"]
        if group["weight_decay"] == 0
    }
    assert model.no_weight_decay() == without
    own = {name.removeprefix("backbone.") for name in without if "backbone." in name}
    assert model.backbone.no_weight_decay() == own
    assert {"head.fc.bias"} < without < set(names.values())


@pytest.mark.parametrize("family", ["cs_mixer", "cyclemlp", "hire_mlp"])
def test_checkpointing_set_later_is_that_of_the_argument(family: str) -> None:
    """Also around layers that are recomputed by themselves."""
    x = torch.rand(1, 3, 64, 64)
    backbone = randomise(build_micro(family)).train()
    saved, gradients = [], []

    def count(tensor: torch.Tensor) -> torch.Tensor:
        saved[-1] += tensor.numel()
        return tensor

    for enable in (True, False):
        backbone.zero_grad()
        backbone.set_grad_checkpointing(enable)
        saved.append(0)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            maps = backbone(x)
        sum(m.square().mean() for m in maps).backward()
        gradients.append([p.grad.clone() for p in backbone.parameters()])
    assert saved[0] < saved[1]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    with pytest.raises(TypeError, match="enable"):
        backbone.set_grad_checkpointing("yes")


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
