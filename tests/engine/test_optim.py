import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from mlp_backbones.engine.optim import AutocastOptimWrapper


def settings(model, wrapper):
    """Learning rate and weight decay of each parameter by name."""
    names = {id(value): name for name, value in model.named_parameters()}
    found = {}
    for group in wrapper.optimizer.param_groups:
        for parameter in group["params"]:
            assert names[id(parameter)] not in found
            found[names[id(parameter)]] = (group["lr"], group["weight_decay"])
    return found


def build(model, constructor, **paramwise):
    return build_optim_wrapper(
        model,
        {
            "type": "OptimWrapper",
            "constructor": constructor,
            "optimizer": {"type": "AdamW", "lr": 0.01, "weight_decay": 0.1},
            "paramwise_cfg": paramwise,
        },
    )


def own(model, **paramwise):
    name = "mlp_backbones.LayerDecayOptimWrapperConstructor"
    return settings(model, build(model, name, **paramwise))


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(2, 2)
        self.stage = nn.Sequential(nn.LayerNorm(2), nn.Linear(2, 2))

    def get_layer_depth(self, name, prefix=""):
        name = name.removeprefix(prefix)
        return (0 if name.startswith("stem") else 1), 3


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = Backbone()
        self.head = nn.Linear(2, 2)


def test_rates_equal_those_of_mmpretrain_on_a_classifier():
    from mmengine.registry import init_default_scope
    from mmpretrain.registry import MODELS

    init_default_scope("mmpretrain")
    model = MODELS.build(
        {
            "type": "ImageClassifier",
            "backbone": {
                "type": "VisionTransformer",
                "arch": {
                    "embed_dims": 8,
                    "num_layers": 3,
                    "num_heads": 2,
                    "feedforward_channels": 16,
                },
                "img_size": 32,
            },
            "head": {"type": "LinearClsHead", "num_classes": 2, "in_channels": 8},
        }
    )
    rules = {"layer_decay_rate": 0.5, "norm_decay_mult": 0.0, "bias_decay_mult": 0.0}
    theirs = build(model, "LearningRateDecayOptimWrapperConstructor", **rules)
    expected = settings(model, theirs)
    found = own(model, **rules)
    assert found.keys() == expected.keys()
    for name, (rate, decay) in expected.items():
        assert found[name] == pytest.approx((rate, decay)), name
    assert len({rate for rate, _ in expected.values()}) == 5


def test_rates_fall_towards_the_stem_and_heads_keep_theirs():
    found = own(Model(), layer_decay_rate=0.5)
    assert found["head.weight"][0] == pytest.approx(0.01)
    assert found["backbone.stage.1.weight"][0] == pytest.approx(0.005)
    assert found["backbone.stem.weight"][0] == pytest.approx(0.0025)


def test_decay_rules_and_custom_keys():
    model = Model()
    model.backbone.stem.bias.requires_grad_(False)
    found = own(
        model,
        norm_decay_mult=0.0,
        bias_decay_mult=0.5,
        custom_keys={"head": {"lr_mult": 10.0}, "head.bias": {"decay_mult": 0.0}},
    )
    assert "backbone.stem.bias" not in found
    assert found["backbone.stage.0.weight"] == pytest.approx((0.01, 0.0))
    assert found["backbone.stage.0.bias"] == pytest.approx((0.01, 0.0))
    assert found["backbone.stage.1.bias"] == pytest.approx((0.01, 0.05))
    assert found["head.weight"] == pytest.approx((0.1, 0.1))
    assert found["head.bias"] == pytest.approx((0.01, 0.0))


def test_a_shared_parameter_is_optimised_once():
    model = Model()
    model.head.weight = model.backbone.stem.weight
    assert own(model).keys() == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize(
    ("paramwise", "word"),
    [({"layer_decay": 0.5}, "layer_decay_rate"), ({"layer_decay_rate": 1.5}, "1.5")],
)
def test_wrong_settings_are_refused(paramwise, word):
    with pytest.raises(ValueError, match=word):
        own(Model(), **paramwise)


def test_a_backbone_without_depths_is_refused():
    model = nn.Module()
    model.backbone = nn.Linear(2, 2)
    with pytest.raises(TypeError, match="get_layer_depth"):
        own(model, layer_decay_rate=0.5)


def test_autocast_runs_the_forward_pass_in_bfloat16_and_keeps_float32_weights():
    model = nn.Linear(64, 64)
    wrapper = AutocastOptimWrapper(
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1)
    )
    images = torch.randn(8, 64)
    before, bias = model.weight.detach().clone(), model.bias.detach().clone()
    with wrapper.optim_context(model):
        out = model(images)
    assert out.dtype == torch.bfloat16
    wrapper.update_params(out.float().square().mean())

    reference = before.clone().requires_grad_()
    exact = (images @ reference.T + bias).square().mean()
    exact.backward()
    step = before - model.weight.detach()
    assert model.weight.dtype == torch.float32
    torch.testing.assert_close(step, 0.1 * reference.grad, rtol=0.1, atol=1e-4)
