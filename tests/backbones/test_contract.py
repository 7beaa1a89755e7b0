"""The contract of every backbone, on the mini size of every registered family."""

import inspect
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from mmengine.config import Config
from sizes import MICRO, build_micro
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import mlp_backbones
from mlp_backbones.backbones import MLPBackbone, ResampledBackbone
from mlp_backbones.factory import families
from mlp_backbones.registry import MODELS
from mlp_backbones.testing.contract import CHECKS, OLD_COMPILER, randomise

FAMILIES = sorted(families())

needs_torch_2_5 = pytest.mark.skipif(
    OLD_COMPILER, reason="its compiler knows no strict zip, its export no dynamo"
)
# One of each skeleton: four stages, one grid of tokens, axes, spectra. That graphs
# are whole is part of the contract of all; kernels of the others are tested nightly.
SKELETONS = ("cyclemlp", "mlp_mixer", "vip", "gfnet")
DEPLOYED = [
    pytest.param(
        family,
        marks=pytest.mark.slow if family in SKELETONS else pytest.mark.nightly,
    )
    for family in FAMILIES
]


def build(family: str, **options: object) -> MLPBackbone:
    torch.manual_seed(0)
    return build_micro(family, **options)


def images(height: int = 64, width: int = 96, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, height, width)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("scope", ["mmengine", "mmdet", "mmseg", "mmpretrain"])
def test_builds_from_a_config_in_every_scope(family: str, scope: str) -> None:
    import importlib

    registry = importlib.import_module(f"{scope}.registry").MODELS
    cls = families()[family]
    config = Config({"type": f"mlp_backbones.{cls.__name__}", "arch": "mini"})
    assert type(registry.build(config)) is cls


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(family: str, check: Callable[..., None]) -> None:
    check(partial(build_micro, family))


def test_the_whole_pyramid_by_default(family: str) -> None:
    """That the maps are as declared, at any size, is part of the contract."""
    backbone = build(family)
    assert len(backbone.out_channels) == 4
    assert backbone.out_strides == [4, 8, 16, 32]


def batch_norms(backbone: MLPBackbone) -> list[_BatchNorm]:
    return [m for m in backbone.modules() if isinstance(m, _BatchNorm)]


def with_batch_norms() -> list[str]:
    with torch.device("meta"):
        return [family for family in FAMILIES if batch_norms(build(family))]


@pytest.mark.parametrize("family", with_batch_norms())
def test_norm_eval_keeps_batch_norms_in_eval(family: str) -> None:
    backbone = build(family, norm_eval=True).train()
    assert not any(norm.training for norm in batch_norms(backbone))
    assert backbone.training
    assert all(norm.training for norm in batch_norms(build(family).train()))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_region_features_are_read_in_the_right_order(
    family: str, layout: torch.memory_format
) -> None:
    """A compiled mmcv reads any memory as NCHW; torchvision's RoIAlign is the judge.

    Where mmcv is not compiled, its RoIAlign is torchvision's, and this holds by itself.
    """
    from mmcv.ops import roi_align
    from torchvision.ops import roi_align as judge

    backbone = build(family).eval()
    neck = nn.Conv2d(backbone.out_channels[0], 4, 3, padding=1)
    boxes = torch.tensor([[0, 3.0, 5.0, 50.0, 40.0], [1, 10.0, 2.0, 90.0, 60.0]])
    with torch.no_grad():
        feature = neck(backbone(images().to(memory_format=layout))[0])
        pooled = roi_align(feature, boxes, 7, 0.25, 2, "avg", True)
        expected = judge(feature, boxes, 7, 0.25, 2, aligned=True)
    torch.testing.assert_close(pooled, expected, rtol=1e-4, atol=1e-4)


def test_autocast_stays_close(family: str) -> None:
    backbone = randomise(build(family)).eval()
    x = images()
    with torch.no_grad():
        exact = backbone(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = backbone(x)
    for a, b in zip(exact, rounded, strict=True):
        # bfloat16 keeps 8 bits: errors of some percent of the map's spread
        assert (a - b.float()).std() < 0.1 * a.std()


def test_nan_stays_visible(family: str) -> None:
    backbone = build(family).eval()
    x = images()
    x[0, 0, 5, 5] = float("nan")
    with torch.no_grad():
        maps = backbone(x)
    assert all(feature[0].isnan().any() for feature in maps)
    assert not any(feature[1].isnan().any() for feature in maps)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"arch": "b99"}, ValueError, "b99"),
        ({"arch": 7}, TypeError, "7"),
        ({"with_cp": "yes"}, TypeError, "with_cp.*'yes'"),
        ({"out_norm": 1}, TypeError, "out_norm.*1"),
        ({"norm_eval": None}, TypeError, "norm_eval.*None"),
        ({"drop_path_rate": "0.1"}, ValueError, "drop_path_rate.*'0.1'"),
        ({"arch": {"widths": (8, 8, 8, 8)}}, ValueError, "widths"),
        ({"out_indices": (0, 4)}, ValueError, "4"),
        ({"out_indices": (-5,)}, ValueError, "-5"),
        ({"out_indices": (1, 1)}, ValueError, r"\(1, 1\)"),
        ({"out_indices": (1, -3)}, ValueError, r"\(1, -3\)"),
        ({"out_indices": ()}, ValueError, r"\(\)"),
        ({"out_indices": 3}, TypeError, "3"),
        ({"out_indices": ("1",)}, ValueError, "'1'"),
        ({"frozen_stages": 5}, ValueError, "5"),
        ({"frozen_stages": -2}, ValueError, "-2"),
        ({"drop_path_rate": 1.0}, ValueError, "1.0"),
        ({"drop_path_rate": -0.1}, ValueError, "-0.1"),
        ({"in_channels": 0}, ValueError, "0"),
        ({"drop_path": 0.1}, TypeError, "drop_path"),
    ],
)
def test_wrong_arguments_are_named(
    family: str, options: dict, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        families()[family](**{"arch": "mini", **options})


@pytest.mark.parametrize("value", [0.0, -1e-5, "1e-5", True])
def test_wrong_epsilons_are_named(family: str, value: object) -> None:
    cls = families()[family]
    for name in inspect.signature(cls).parameters:
        if name.endswith("_eps"):
            with pytest.raises(ValueError, match=f"{name}.*{value!r}"):
                cls(MICRO[cls.family], **{name: value})


def test_arch_as_a_mapping_equals_the_name(family: str) -> None:
    cls = families()[family]
    name, fields = next(iter(cls.arch_settings.items()))
    given = Config({"arch": fields}).arch  # the ConfigDict a config file gives
    with torch.device("meta"):
        by_name, by_fields = cls(name), cls(given)
    shapes = [p.shape for p in by_name.parameters()]
    assert [p.shape for p in by_fields.parameters()] == shapes


def test_names_of_parts(family: str) -> None:
    backbone = build(family)
    own = {name.split(".")[0] for name in backbone.state_dict()}
    if isinstance(backbone, ResampledBackbone):
        own -= {"resamplers"}
    assert own == {"stem", "stages", "out_norms"}


def test_listed_models_build_and_repeat_nothing(family: str) -> None:
    cls = families()[family]
    names = mlp_backbones.list_models(f"{family}_*")
    assert set(names) >= {f"{family}_{arch}" for arch in cls.arch_settings}
    with torch.device("meta"):
        model = mlp_backbones.get_model(names[0], num_classes=7).eval()
        assert model(images(batch=1)).shape == (1, 7)
    for arch, name in cls.official_names.items():
        assert arch in cls.arch_settings
        assert name not in names


@needs_torch_2_5
@pytest.mark.parametrize("family", DEPLOYED)
def test_compiles(family: str) -> None:
    backbone = randomise(build(family)).train()
    torch.compiler.reset()  # or sizes seen by other tests become symbolic
    compiled = torch.compile(backbone, fullgraph=True, dynamic=False)
    x = images()
    maps, gradients = [], []
    for module in (backbone, compiled):
        image = x.clone().requires_grad_()
        maps.append(module(image))
        sum(feature.square().mean() for feature in maps[-1]).backward()
        gradients.append(image.grad)
    torch.testing.assert_close(maps[1], maps[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-6)


@needs_torch_2_5
@pytest.mark.parametrize("family", DEPLOYED)
def test_exports(family: str) -> None:
    backbone = randomise(build(family)).eval()
    x = images(64, 72)
    program = torch.export.export(backbone, (x,))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), backbone(x))


@needs_torch_2_5
@pytest.mark.parametrize("family", DEPLOYED)
def test_onnx_agrees(family: str, tmp_path) -> None:
    import onnxruntime

    backbone = randomise(build(family)).eval()
    x = images(64, 72)
    file = str(tmp_path / "backbone.onnx")
    torch.onnx.export(backbone, (x,), file, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        expected = backbone(x)
    for output, feature in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(output, feature.numpy(), rtol=1e-3, atol=1e-4)


def test_registry_holds_only_backbones_that_are_tested() -> None:
    registered = {
        cls for cls in MODELS.module_dict.values() if issubclass(cls, MLPBackbone)
    }
    assert {cls.family for cls in registered} == set(MICRO)
    assert registered == set(families().values())
    assert FAMILIES
