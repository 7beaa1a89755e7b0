"""What is special to gMLP: one branch a block, and a gate that mixes all tokens."""

import math

import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from reference_cases import arguments_from_reference
from sizes import MICRO
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mlp_backbones import get_model
from mlp_backbones.backbones import GMLP

ARCH = {"embed_dim": 4, "depth": 5, "patch_size": 8, "mlp_ratio": 2.5}


def randomised(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def normed(values: list[float], norm: nn.LayerNorm, eps: float) -> list[float]:
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / len(values)
    return [
        (value - mean) / math.sqrt(variance + eps) * weight + bias
        for value, weight, bias in zip(
            values, norm.weight.tolist(), norm.bias.tolist(), strict=True
        )
    ]


def linear(values: list[float], layer: nn.Linear) -> list[float]:
    return [
        bias + sum(w * value for w, value in zip(row, values, strict=True))
        for row, bias in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    ]


def test_a_block_by_hand() -> None:
    """Norm, widen, GELU, split, norm, mix, gate, lead back; the outer epsilon tells."""
    backbone = randomised(GMLP(ARCH, image_size=(16, 24)))
    block = backbone.stages[1].blocks[0]
    x = 3e-3 * torch.randn(1, 2, 3, 4)
    tokens = [x[0, row, column].tolist() for row in range(2) for column in range(3)]
    mixer, gate = block.mixer, block.mixer.gate
    kept, gates = [], []
    for token in tokens:
        hidden = linear(normed(token, block.norm1, 1e-6), mixer.fc1)
        hidden = [h * (1 + math.erf(h / math.sqrt(2))) / 2 for h in hidden]
        kept.append(hidden[:5])
        gates.append(normed(hidden[5:], gate.norm, 1e-5))
    weight, bias = gate.proj.weight.tolist(), gate.proj.bias.tolist()
    for n, token in enumerate(tokens):
        gated = [
            kept[n][k] * (bias[n] + sum(weight[n][m] * gates[m][k] for m in range(6)))
            for k in range(5)
        ]
        expected = [t + b for t, b in zip(token, linear(gated, mixer.fc2), strict=True)]
        found = block(x)[0, n // 3, n % 3].tolist()
        assert found == pytest.approx(expected, abs=1e-5)


def test_both_epsilons_have_their_places() -> None:
    backbone = GMLP(ARCH, norm_eps=0.5, gate_norm_eps=0.25)
    for name, module in backbone.named_modules():
        if isinstance(module, nn.LayerNorm) and "resamplers" not in name:
            assert module.eps == (0.25 if ".gate." in name else 0.5), name
    default = GMLP(ARCH).stages[1].blocks[0]
    assert (default.norm1.eps, default.mixer.gate.norm.eps) == (1e-6, 1e-5)


def test_gates_begin_as_the_identity() -> None:
    backbone = GMLP(MICRO["gmlp"])
    block = backbone.stages[0].blocks[0]
    x = torch.randn(2, 14, 14, 32)
    u, _ = block.mixer.act(block.mixer.fc1(x)).chunk(2, dim=-1)
    torch.testing.assert_close(block.mixer(x), block.mixer.fc2(u), atol=1e-4, rtol=0)
    proj = block.mixer.gate.proj
    assert proj.weight.std().item() == pytest.approx(1e-6, rel=0.05)
    assert torch.equal(proj.bias, torch.ones(196))
    bound = (6 / (32 + 192)) ** 0.5
    assert bound * 0.98 < block.mixer.fc1.weight.abs().max() <= bound
    assert 0 < block.mixer.fc1.bias.abs().max() < 1e-5


@pytest.mark.parametrize(
    ("name", "gmacs"),
    [("gmlp_ti16_224", 1.33), ("gmlp_s16_224", 4.39), ("gmlp_b16_224", 15.72)],
)
def test_multiply_adds_are_the_stated_ones(name: str, gmacs: float) -> None:
    with torch.device("meta"):
        model = get_model(name).eval()
        x = torch.empty(1, 3, 224, 224)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, rel=0.006)


def test_mmengine_counts_them_too() -> None:
    counted = get_model_complexity_info(
        get_model("gmlp_ti16").eval(), (3, 224, 224), show_table=False
    )
    assert counted["flops"] / 1e9 == pytest.approx(1.33, rel=0.02)


def test_windows_are_the_network_on_each_tile_alone() -> None:
    backbone = randomised(GMLP(ARCH, pyramid=False, image_size=(32, 48)))
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        whole = backbone.forward_stages(x)[-1]
        tile = backbone.forward_stages(x[:, :, 32:, 48:])[-1]
    torch.testing.assert_close(whole[:, 4:, 6:], tile, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shift_windows", [False, True])
def test_shifted_windows_exchange(shift_windows: bool) -> None:
    backbone = randomised(
        GMLP(ARCH, pyramid=False, image_size=32, shift_windows=shift_windows)
    )
    x = torch.randn(1, 3, 32, 64)
    other = x.clone()
    other[..., :32] += 1  # the left tile only
    with torch.no_grad():
        right, same = (backbone.forward_stages(y)[-1][:, :, 4:] for y in (x, other))
    assert torch.equal(right, same) is not shift_windows


def test_blocks_have_one_branch() -> None:
    block = GMLP(ARCH, drop_path_rate=0.5).stages[3].blocks[-1]
    assert {name for name, _ in block.named_children()} == {
        "norm1",
        "mixer",
        "drop_path",
    }
    block.drop_path.drop_prob = 1 - 1e-9
    block.train()
    x = torch.randn(2, 28, 28, 4)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"image_size": (8, 7)}, ValueError, r"image_size.*\(8, 7\)"),
        ({"grid": "fold"}, ValueError, "'fold'"),
        ({"shift_windows": "yes"}, TypeError, "shift_windows.*'yes'"),
        ({"arch": {**ARCH, "mlp_ratio": 1.3}}, ValueError, "even.*1.3"),
        ({"arch": {**ARCH, "depth": 2.0}}, ValueError, "depth"),
    ],
)
def test_wrong_values_are_named(
    options: dict, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        GMLP(**{"arch": ARCH, **options})


def test_a_case_that_contradicts_itself_is_refused() -> None:
    config = {**ARCH, "hidden_dim": 10, "gelu": "erf"}
    assert arguments_from_reference(GMLP, config, (16, 24))["arch"] == ARCH
    with pytest.raises(ValueError, match="hidden_dim 10.*12"):
        arguments_from_reference(GMLP, {**config, "hidden_dim": 12}, (16, 24))
    with pytest.raises(ValueError, match="'erf'.*'tanh'"):
        arguments_from_reference(GMLP, {**config, "gelu": "tanh"}, (16, 24))
