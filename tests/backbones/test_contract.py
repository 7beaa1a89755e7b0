"""The contract of every backbone, on the mini size of every registered family."""

import copy
import inspect
import io

import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import mlp_backbones
from mlp_backbones.backbones import MLPBackbone, ResampledBackbone
from mlp_backbones.models import families
from mlp_backbones.registry import MODELS

FAMILIES = sorted(families())
SIZES = [(64, 64), (64, 96), (32, 32), (33, 47), (75, 106), (97, 40)]


def build(family: str, **options: object) -> MLPBackbone:
    torch.manual_seed(0)
    return families()[family]("mini", **options)


def randomise(module: nn.Module) -> nn.Module:
    """Give every parameter a random value, so that nothing hides behind a zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.05 * noise)
    return module


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
    config = Config({"type": f"mlp_backbones.{cls.__name__}"})
    assert type(registry.build(config)) is cls


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
def test_declared_channels_and_strides_are_true(
    family: str, size: tuple[int, int]
) -> None:
    backbone = build(family).eval()
    with torch.no_grad():
        maps = backbone(images(*size))
    assert len(maps) == 4
    assert backbone.out_strides == [4, 8, 16, 32]
    for feature, channels, stride in zip(
        maps, backbone.out_channels, backbone.out_strides, strict=True
    ):
        assert feature.shape[:2] == (2, channels)
        for side, full in zip(feature.shape[2:], size, strict=True):
            if full % 32 == 0:
                assert side == full // stride
            else:
                assert abs(side - -(-full // stride)) <= 1
        assert feature.is_contiguous()
        assert torch.isfinite(feature).all()


def test_checkpointing_counts_a_batch_once(family: str) -> None:
    """Running statistics move once a step, though blocks run twice."""
    plain = build(family).train()
    thrifty = build(family, with_cp=True).train()
    thrifty.load_state_dict(plain.state_dict())
    x = images()
    for backbone in (plain, thrifty):
        sum(feature.square().mean() for feature in backbone(x)).backward()
    torch.testing.assert_close(
        dict(thrifty.named_buffers()), dict(plain.named_buffers())
    )


@pytest.mark.parametrize(
    "out_indices", [(0,), (3,), (1, 2, 3), (-1,), (-3, -1), [0, 2], (3, 0)]
)
def test_out_indices_choose_maps_and_leave_the_argument_alone(
    family: str, out_indices: tuple[int, ...] | list[int]
) -> None:
    given = copy.copy(out_indices)
    chosen = build(family, out_indices=out_indices).eval()
    full = build(family).eval()
    unexpected = chosen.load_state_dict(full.state_dict(), strict=False)
    assert not unexpected.missing_keys
    x = images()
    with torch.no_grad():
        maps, all_maps = chosen(x), full(x)
    assert out_indices == given
    assert len(maps) == len(out_indices)
    for index, feature in zip(out_indices, maps, strict=True):
        torch.testing.assert_close(feature, all_maps[index])


@pytest.mark.parametrize("out_indices", [None, (0,), (1, 2, 3), (3,)])
def test_every_parameter_gets_a_gradient(
    family: str, out_indices: tuple[int, ...] | None
) -> None:
    options = {} if out_indices is None else {"out_indices": out_indices}
    backbone = randomise(build(family, **options)).train()
    loss = sum(feature.square().mean() for feature in backbone(images()))
    loss.backward()
    without = [
        name
        for name, parameter in backbone.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    assert not without


def test_checkpointing_changes_nothing(family: str) -> None:
    plain = randomise(build(family, drop_path_rate=0.2)).train()
    thrifty = build(family, drop_path_rate=0.2, with_cp=True).train()
    thrifty.load_state_dict(plain.state_dict())
    x = images()
    results = []
    for backbone in (plain, thrifty):
        torch.manual_seed(3)
        image = x.clone().requires_grad_()
        maps = backbone(image)
        sum(feature.square().mean() for feature in maps).backward()
        gradients = [parameter.grad for parameter in backbone.parameters()]
        results.append((maps, image.grad, gradients))
    (maps, grad, grads), (maps_cp, grad_cp, grads_cp) = results
    torch.testing.assert_close(maps_cp, maps)
    torch.testing.assert_close(grad_cp, grad)
    torch.testing.assert_close(grads_cp, grads)


def test_stochastic_depth_grows_with_depth_and_only_trains(family: str) -> None:
    backbone = randomise(build(family, drop_path_rate=0.5))
    rates = [
        module.drop_prob
        for name, module in backbone.named_modules()
        if name.endswith("drop_path") and hasattr(module, "drop_prob")
    ]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(0.5)
    x = images()
    backbone.eval()
    torch.testing.assert_close(backbone(x), backbone(x))
    backbone.train()
    assert not torch.equal(backbone(x)[-1], backbone(x)[-1])


@pytest.mark.parametrize("frozen_stages", [-1, 0, 1, 4])
def test_frozen_stages(family: str, frozen_stages: int) -> None:
    backbone = build(family, frozen_stages=frozen_stages)
    assert backbone.train() is backbone
    for name, parameter in backbone.named_parameters():
        part = name.split(".")
        frozen = (part[0] == "stem" and frozen_stages >= 0) or (
            part[0] == "stages" and int(part[1]) < frozen_stages
        )
        assert parameter.requires_grad is not frozen, name
    assert backbone.stem.training is (frozen_stages < 0)
    for index, stage in enumerate(backbone.stages):
        assert stage.training is (index >= frozen_stages)
    before = copy.deepcopy(backbone.state_dict())
    trainable = [p for p in backbone.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=0.1)
    sum(feature.square().mean() for feature in backbone(images())).backward()
    optimizer.step()
    for name, parameter in backbone.named_parameters():
        if not parameter.requires_grad:
            assert torch.equal(parameter, before[name]), name


def test_norm_eval_keeps_batch_norms_in_eval(family: str) -> None:
    backbone = build(family, norm_eval=True).train()
    norms = [m for m in backbone.modules() if isinstance(m, _BatchNorm)]
    assert not any(norm.training for norm in norms)
    assert backbone.training


def test_layer_depths_count_the_blocks(family: str) -> None:
    backbone = build(family)
    num_blocks = sum(backbone.depths)
    depths = {}
    for name, _ in backbone.named_parameters():
        depth, num_layers = backbone.get_layer_depth(f"backbone.{name}", "backbone.")
        assert num_layers == num_blocks + 2
        depths[name] = depth
    assert set(depths.values()) == set(range(num_blocks + 2))
    assert {d for n, d in depths.items() if n.startswith("stem")} == {0}
    ordered = [
        depth
        for name, depth in depths.items()
        if name.startswith("stages") and ".norm1." in name
    ]
    assert ordered == sorted(ordered)
    first_of_stage = next(
        depth for name, depth in depths.items() if name.startswith("stages.1.blocks.0.")
    )
    for name, depth in depths.items():
        if name.startswith("stages.1.downsample"):
            assert depth == first_of_stage


def test_channels_last_input_and_batch_of_one(family: str) -> None:
    backbone = randomise(build(family)).eval()
    x = images(64, 72)
    with torch.no_grad():
        expected = backbone(x)
        swapped = backbone(x.to(memory_format=torch.channels_last))
        single = backbone(x[:1])
    torch.testing.assert_close(swapped, expected)
    torch.testing.assert_close(single, tuple(feature[:1] for feature in expected))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_region_features_are_read_in_the_right_order(
    family: str, layout: torch.memory_format
) -> None:
    """mmcv's RoIAlign reads any memory as NCHW; torchvision's is the judge."""
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_trains(family: str, dtype: torch.dtype) -> None:
    backbone = randomise(build(family)).train()
    with torch.autocast("cpu", dtype=dtype):
        maps = backbone(images())
        loss = sum(feature.float().square().mean() for feature in maps)
    loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


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


def test_pickles_and_copies(family: str) -> None:
    backbone = build(family).eval()
    x = images()
    buffer = io.BytesIO()
    torch.save(backbone, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)  # our own bytes of just now
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), backbone(x))
        torch.testing.assert_close(copy.deepcopy(backbone)(x), backbone(x))


def test_wrong_input_is_named(family: str) -> None:
    backbone = build(family)
    with pytest.raises(ValueError, match=r"31 x 64"):
        backbone(torch.zeros(1, 3, 31, 64))
    with pytest.raises(ValueError, match=r"\(1, 4, 64, 64\)"):
        backbone(torch.zeros(1, 4, 64, 64))
    with pytest.raises(ValueError, match=r"\(3, 64, 64\)"):
        backbone(torch.zeros(3, 64, 64))


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
        families()[family](**options)


@pytest.mark.parametrize("value", [0.0, -1e-5, "1e-5", True])
def test_wrong_epsilons_are_named(family: str, value: object) -> None:
    cls = families()[family]
    for name in inspect.signature(cls).parameters:
        if name.endswith("_eps"):
            with pytest.raises(ValueError, match=f"{name}.*{value!r}"):
                cls("mini", **{name: value})


def test_arch_as_a_mapping_equals_the_name(family: str) -> None:
    cls = families()[family]
    name, fields = next(iter(cls.arch_settings.items()))
    given = Config({"arch": fields}).arch  # the ConfigDict a config file gives
    by_name, by_fields = cls(name), cls(given)
    shapes = [p.shape for p in by_name.parameters()]
    assert [p.shape for p in by_fields.parameters()] == shapes


def test_other_image_channels(family: str) -> None:
    backbone = build(family, in_channels=5)
    assert backbone(torch.zeros(1, 5, 64, 64))[0].shape[1] == backbone.out_channels[0]


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
    model = mlp_backbones.get_model(names[0], num_classes=7).eval()
    assert model(images(batch=1)).shape == (1, 7)
    for arch, name in cls.official_names.items():
        assert arch in cls.arch_settings
        assert name not in names


@pytest.mark.parametrize("size", [(64, 64), (75, 106)])
def test_traces_without_a_graph_break(family: str, size: tuple[int, int]) -> None:
    backbone = randomise(build(family)).eval()
    torch.compiler.reset()  # or the second size becomes symbolic
    compiled = torch.compile(backbone, fullgraph=True, backend="eager")
    x = images(*size)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), backbone(x))


@pytest.mark.slow
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


@pytest.mark.slow
def test_exports(family: str) -> None:
    backbone = randomise(build(family)).eval()
    x = images(64, 72)
    program = torch.export.export(backbone, (x,))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), backbone(x))


@pytest.mark.slow
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
    assert all(cls.mini_arch for cls in registered)
    assert registered == set(families().values())
    assert FAMILIES
