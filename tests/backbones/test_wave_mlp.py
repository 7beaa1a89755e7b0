"""What is special to Wave-MLP."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from reference_cases import arguments_from_reference, load_reference_case
from safetensors.torch import load_file, save_file
from sizes import MICRO
from torch import Tensor, nn

from mlp_backbones.backbones import WaveMLP
from mlp_backbones.backbones.wave_mlp import (
    PhaseAwareMixer,
    PhaseEstimator,
    WaveMix,
    unfold_waves,
)
from mlp_backbones.checkpoints import load_pretrained
from mlp_backbones.layers import SampleNorm

ARCH = {**MICRO["wave_mlp"], "embed_dims": (8, 12, 16, 20)}
KINDS = list(
    itertools.product(
        ("pointwise", "depthwise"), ("batch_norm", "group_norm_1"), (True, False)
    )
)


def arch(phase: str, norm: str, downsample_norm: bool) -> dict:
    return {**ARCH, "phase": phase, "norm": norm, "downsample_norm": downsample_norm}


def randomise(module: nn.Module) -> nn.Module:
    """Random weights, and statistics as after some training."""
    for parameter in module.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(std=0.2)
            part.running_var.uniform_(0.5, 2)
    return module


def mix_waves(mix: WaveMix, amplitude: Tensor, phase: Tensor) -> Tensor:
    """Mix waves (B, H, W, C)."""
    return mix(unfold_waves(amplitude, phase)).permute(0, 2, 3, 1)


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize(("dim", "window"), [(4, 7), (5, 3), (2, 5)])
def test_windows_are_the_sum_of_the_fact_sheet(
    axis: int, dim: int, window: int
) -> None:
    mix = WaveMix(dim, axis=axis, window=window)
    amplitude, phase = torch.randn(2, 1, 3, 4, dim)
    found = mix_waves(mix, amplitude, phase)
    stack = torch.cat((amplitude * phase.cos(), amplitude * phase.sin()), -1)[0]
    size = stack.shape[axis - 1]
    for y, x, channel in itertools.product(range(3), range(4), range(dim)):
        total = 0.0
        for part, tap in itertools.product(range(2), range(window)):
            position = [y, x]
            position[axis - 1] += tap - window // 2
            if 0 <= position[axis - 1] < size:
                weight = mix.weight[channel, part].flatten()[tap]
                total += weight * stack[position[0], position[1], 2 * channel + part]
        torch.testing.assert_close(found[0, y, x, channel], total)


def test_neighbouring_channels_are_paired_and_not_cosine_with_sine() -> None:
    mix = WaveMix(4, axis=2, window=3)
    amplitude, phase = torch.randn(2, 1, 3, 5, 4)
    silent = amplitude.clone()
    silent[..., 2:] = 0
    found, expected = (mix_waves(mix, a, phase) for a in (amplitude, silent))
    # outputs 0 and 2 read the cosines and the sines of channels 0 and 1 alone
    torch.testing.assert_close(found[..., 0::2], expected[..., 0::2])
    assert not expected[..., 1::2].any()


@pytest.mark.parametrize("phase", ["pointwise", "depthwise"])
@pytest.mark.parametrize("qkv_bias", [False, True])
def test_mixer_is_the_formula_of_the_release(phase: str, qkv_bias: bool) -> None:
    """The release's own steps, channels first, one after the other."""
    dim = 8
    mixer = PhaseAwareMixer(dim, phase=phase, qkv_bias=qkv_bias)
    randomise(mixer).double().eval()
    u = torch.randn(2, 8, 5, 6, dtype=torch.double)

    def fc(layer: nn.Linear, x: Tensor) -> Tensor:
        return torch.einsum("oc,bchw->bohw", layer.weight, x) + (
            0 if layer.bias is None else layer.bias[:, None, None]
        )

    def theta(estimator: PhaseEstimator) -> Tensor:
        raw = estimator.fc(u) if phase == "depthwise" else fc(estimator.fc, u)
        return torch.relu(estimator.norm(raw))

    def branch(amplitude: Tensor, angle: Tensor, mix: WaveMix) -> Tensor:
        stack = torch.cat((amplitude * angle.cos(), amplitude * angle.sin()), 1)
        return nn.Conv2d.forward(mix, stack)  # grouped, as the layer is declared

    h = branch(
        fc(mixer.amplitude_along_width, u),
        theta(mixer.phase_along_width),
        mixer.mix_along_width,
    )
    w = branch(
        fc(mixer.amplitude_along_height, u),
        theta(mixer.phase_along_height),
        mixer.mix_along_height,
    )
    c = fc(mixer.channel, u)
    pooled = (h + w + c).mean((2, 3))
    reweight = mixer.reweight
    logits = reweight.fc2(nn.functional.gelu(reweight.fc1(pooled)))
    weights = logits.view(2, dim, 3).softmax(-1)
    blended = sum(
        weights[:, :, k, None, None] * part for k, part in enumerate((h, w, c))
    )
    expected = fc(mixer.proj, blended).permute(0, 2, 3, 1)
    torch.testing.assert_close(mixer(u.permute(0, 2, 3, 1)), expected)


def test_parts_mix_along_the_axis_of_their_name() -> None:
    mixer = PhaseAwareMixer(8).eval()
    amplitude, phase = torch.zeros(2, 1, 9, 9, 8)
    amplitude[:, 4, 4] = 1
    for mix, touched in (
        (mixer.mix_along_width, {(4, x) for x in range(1, 8)}),
        (mixer.mix_along_height, {(y, 4) for y in range(1, 8)}),
    ):
        found = mix_waves(mix, amplitude, phase)[0].abs().sum(-1).nonzero()
        assert set(map(tuple, found.tolist())) == touched


@pytest.mark.parametrize("kind", ["pointwise", "depthwise"])
def test_phases_in_eval_are_those_of_the_batch_norm(kind: str) -> None:
    estimator = randomise(PhaseEstimator(6, kind=kind, norm_eps=1e-5)).eval()
    x = torch.randn(2, 4, 5, 6)
    folded = estimator(x)
    estimator.norm.train()
    estimator.norm.momentum = 1.0
    unsettled = estimator(x)
    assert not torch.allclose(folded, unsettled)
    estimator.norm.running_var *= 39 / 40  # torch stores the unbiased estimate
    estimator.norm.eval()
    torch.testing.assert_close(estimator(x), unsettled)
    assert folded.min() == 0
    assert estimator(50 * x).max() > 2 * math.pi  # neither negative nor wrapped


@pytest.mark.parametrize("training", [False, True])
def test_phases_are_taken_in_full_precision(training: bool) -> None:
    mixer = randomise(PhaseAwareMixer(8)).train(training)
    x = torch.randn(2, 6, 6, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        phase = mixer.phase_along_width(x)
        assert phase.dtype is torch.float32
        large = torch.full((1, 2, 9, 8), 1000.3)
        ones = torch.ones(1, 2, 9, 8, dtype=torch.bfloat16)
        found = mix_waves(mixer.mix_along_width, ones, large)
    exact = mix_waves(mixer.mix_along_width, ones.float(), large)
    torch.testing.assert_close(found.float(), exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("kind", KINDS[::3], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision_train(kind: tuple, dtype: torch.dtype) -> None:
    backbone = randomise(WaveMLP(arch(*kind))).to(dtype).train()
    maps = backbone(torch.randn(2, 3, 64, 64, dtype=dtype))
    assert {feature.dtype for feature in maps} == {dtype}
    sum(feature.float().square().mean() for feature in maps).backward()
    assert all(torch.isfinite(p.grad).all() for p in backbone.parameters())


def test_every_size_has_batch_norms_in_its_phases() -> None:
    with torch.device("meta"):
        for name in WaveMLP.arch_settings:
            backbone = WaveMLP(name)
            kinds = {
                (type(module), "phase" in key)
                for key, module in backbone.named_modules()
                if isinstance(module, nn.BatchNorm2d | nn.GroupNorm)
            }
            other = nn.BatchNorm2d if name in ("t", "t_dw") else SampleNorm
            assert kinds == {(nn.BatchNorm2d, True), (other, False)}
            has_norm = any(k.startswith("stem.norm") for k in backbone.state_dict())
            assert has_norm is (name in ("t_dw", "t", "s"))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_all_kinds_train_and_stay_true_to_their_modes(kind: tuple) -> None:
    backbone = randomise(WaveMLP(arch(*kind))).train()
    x = torch.randn(2, 3, 64, 75)
    sum(feature.square().mean() for feature in backbone(x)).backward()
    without = [n for n, p in backbone.named_parameters() if p.grad is None]
    assert not without
    backbone.double().eval()
    with torch.no_grad():
        torch.testing.assert_close(
            backbone(x.double())[-1][:1], backbone(x[:1].double())[-1]
        )


@pytest.mark.parametrize("kind", KINDS[:2], ids=str)
def test_batch_norms_can_be_synchronised_and_folded(kind: tuple) -> None:
    from mmcv.cnn import fuse_conv_bn

    backbone = randomise(WaveMLP(arch(*kind))).double().eval()
    x = torch.randn(1, 3, 64, 64, dtype=torch.double)
    with torch.no_grad():
        expected = backbone(x)
        synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(backbone)
        torch.testing.assert_close(synchronised(x), expected)
        torch.testing.assert_close(fuse_conv_bn(synchronised)(x), expected)


def test_frozen_statistics_make_phases_independent_of_the_batch() -> None:
    backbone = randomise(WaveMLP(arch("pointwise", "group_norm_1", False)))
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    x = torch.randn(2, 3, 64, 64)
    frozen = WaveMLP(arch("pointwise", "group_norm_1", False), norm_eval=True)
    frozen.load_state_dict(before)
    maps = frozen.train()(x)
    assert all(torch.equal(v, before[k]) for k, v in frozen.state_dict().items())
    torch.testing.assert_close(maps, backbone.eval()(x))
    assert not torch.allclose(backbone.train()(x)[-1], maps[-1])


def test_one_group_norms_height_width_and_channels_together() -> None:
    backbone = WaveMLP(arch("pointwise", "group_norm_1", False)).eval()
    for feature in backbone(torch.randn(2, 3, 64, 64)):
        assert feature.mean((1, 2, 3)).abs().max() < 1e-5
        assert feature.mean(1).abs().max() > 1e-3  # a layer norm would make this 0


@pytest.mark.parametrize("case", ["depthwise_bn", "m_like_odd_size"])
def test_files_of_the_dense_mode_load_with_their_norms(
    case: str, reference_dir: Path, tmp_path: Path
) -> None:
    tensors = load_file(reference_dir / "wave_mlp" / f"{case}.safetensors")
    weights = {k[3:]: v for k, v in tensors.items() if k.startswith("sd.")}
    norms = {k: v for k, v in weights.items() if k.startswith("norm.")}
    dense = {k: v for k, v in weights.items() if k not in norms and "head" not in k}
    description = json.loads((reference_dir / "wave_mlp" / f"{case}.json").read_text())
    arguments = arguments_from_reference(
        WaveMLP, description["config"], tuple(description["input_size"])
    )
    for index, dim in enumerate(description["config"]["embed_dims"]):
        for key, value in norms.items():
            fresh = torch.rand(dim) + 0.5 if value.ndim else value.clone()
            dense[key.replace("norm.", f"norm{2 * index}.")] = fresh
    save_file(dense, tmp_path / "dense.safetensors")
    backbone = WaveMLP(**arguments)
    load_pretrained(backbone, tmp_path / "dense.safetensors")
    own = backbone.state_dict()
    assert len(own) == len(dense)
    for index in range(4):
        for key in norms:
            suffix = key.removeprefix("norm.")
            expected = dense[f"norm{2 * index}.{suffix}"]
            assert torch.equal(own[f"out_norms.{index}.{suffix}"], expected)


def test_counters_of_a_profiler_in_the_released_files_are_passed_over(
    reference_dir: Path, tmp_path: Path
) -> None:
    case = load_reference_case(reference_dir / "wave_mlp" / "depthwise_bn.json")
    tensors = load_file(reference_dir / "wave_mlp" / "depthwise_bn.safetensors")
    weights = {k[3:]: v for k, v in tensors.items() if k.startswith("sd.")}
    counted = {key.rpartition(".")[0] for key in weights} | {"network.0.0.attn"}
    for prefix in ("", *(f"{module}." for module in counted)):
        for counter in ("total_ops", "total_params"):
            weights[prefix + counter] = torch.zeros(1, dtype=torch.float64)
    torch.save({"state_dict": weights}, tmp_path / "WaveMLP_T_dw.pth.tar")
    before = {k: v.clone() for k, v in case.model.state_dict().items()}
    nn.init.zeros_(case.model.head.fc.weight)
    load_pretrained(case.model, tmp_path / "WaveMLP_T_dw.pth.tar")
    torch.testing.assert_close(dict(case.model.state_dict()), before)


def test_official_arithmetic_of_sizes() -> None:
    backbone = WaveMLP(ARCH).eval()
    for height, width in ((75, 106), (32, 32), (33, 34), (63, 161)):
        with torch.no_grad():
            maps = backbone(torch.zeros(1, 3, height, width))
        expected = [((height + 1) // 4, (width + 1) // 4)]
        for _ in range(3):
            expected.append(tuple(-(-side // 2) for side in expected[-1]))
        assert [tuple(feature.shape[2:]) for feature in maps] == expected


def test_initialisation_is_torchs_own() -> None:
    backbone = WaveMLP("t_dw", out_indices=(2,))
    norms = {
        f"{name}.{kind}"
        for name, module in backbone.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for kind in ("weight", "bias")
    }
    for name, parameter in backbone.named_parameters():
        if name in norms:
            assert (parameter == (1 if name.endswith("weight") else 0)).all()
        elif name.endswith("weight"):
            bound = parameter[0].numel() ** -0.5
            assert parameter.abs().max() <= bound * 1.001, name
            assert parameter.std().item() == pytest.approx(bound / 3**0.5, rel=0.15)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"phase": "static"}, "static"),
        ({"norm": "layer_norm"}, "layer_norm"),
        ({"window": 6}, "6"),
        ({"downsample_norm": 1}, "1"),
        ({"mlp_ratios": (4, 4, 4)}, r"\(4, 4, 4\)"),
    ],
)
def test_wrong_fields_are_named(fields: dict, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        WaveMLP({**ARCH, **fields})


def test_a_wrong_switch_is_named() -> None:
    with pytest.raises(TypeError, match="qkv_bias.*'no'"):
        WaveMLP(ARCH, qkv_bias="no")
