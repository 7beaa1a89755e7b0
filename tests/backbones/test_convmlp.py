"""What is special to ConvMLP."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from reference_cases import arguments_from_reference, find_reference_folder
from safetensors.torch import load_file
from sizes import MICRO
from torch import Tensor, nn

from mlp_backbones.backbones import ConvMLP
from mlp_backbones.checkpoints import load_pretrained

ARCH = MICRO["convmlp"]
SUBSETS = [(0, 1, 2, 3), (1, 2, 3), (3, 0), (0,), (1,), (0, 1), (2,), (-2, 0), (3,)]


@dataclass
class Detector:
    """The trunk of a detector of the authors': its file and what it emits."""

    arguments: dict[str, Any]
    file: Path
    image: Tensor
    levels: list[Tensor]
    ends: list[Tensor]


@pytest.fixture(params=["base_64", "wide_ratio_64x96"])
def detector(
    request: pytest.FixtureRequest, reference_dir: Path, tmp_path: Path
) -> Detector:
    stem = find_reference_folder("convmlp") / request.param
    description = json.loads(stem.with_suffix(".json").read_text())
    tensors = load_file(stem.with_suffix(".safetensors"))
    weights = {  # as mmdet 2 wrote them: the wrapper has neither norm nor head
        f"backbone.{key.removeprefix('sd.')}": tensor
        for key, tensor in tensors.items()
        if key.startswith("sd.") and not key.startswith(("sd.norm.", "sd.head."))
    }
    weights["neck.lateral_convs.0.conv.weight"] = torch.zeros(4, 4, 1, 1)
    file = tmp_path / "detector.pth"
    torch.save({"meta": {"epoch": 12}, "state_dict": weights}, file)
    return Detector(
        arguments=arguments_from_reference(
            ConvMLP, description["config"], tuple(description["input_size"])
        ),
        file=file,
        image=tensors["input"],
        levels=[tensors[f"aux.det{index}"] for index in range(4)],
        ends=[tensors[f"out.stage{index}"] for index in range(4)],
    )


@pytest.mark.parametrize("out_indices", SUBSETS, ids=str)
@pytest.mark.parametrize("taps", ["detector", "stages"])
def test_both_taps_are_the_official_maps(
    detector: Detector, taps: str, out_indices: tuple[int, ...]
) -> None:
    backbone = ConvMLP(
        **detector.arguments, taps=taps, out_norm=False, out_indices=out_indices
    ).eval()
    load_pretrained(backbone, detector.file)
    expected = detector.levels if taps == "detector" else detector.ends
    with torch.no_grad():
        maps = backbone(detector.image)
    height, width = detector.image.shape[2:]
    for index, feature, channels, stride in zip(
        out_indices, maps, backbone.out_channels, backbone.out_strides, strict=True
    ):
        assert feature.shape[1:] == (channels, height // stride, width // stride)
        torch.testing.assert_close(feature, expected[index], rtol=0, atol=1e-5)
    other = detector.ends if taps == "detector" else detector.levels
    for index in range(3):  # or this test could not tell the two
        assert (other[index] - expected[index]).abs().max() > 0.1


@pytest.mark.parametrize("out_indices", SUBSETS, ids=str)
@pytest.mark.parametrize("with_cp", [False, True])
def test_detector_taps_leave_no_parameter_without_gradient(
    out_indices: tuple[int, ...], with_cp: bool
) -> None:
    backbone = ConvMLP(
        MICRO["convmlp"], taps="detector", out_indices=out_indices, with_cp=with_cp
    ).train()
    sum(m.square().mean() for m in backbone(torch.randn(2, 3, 64, 64))).backward()
    without = [n for n, p in backbone.named_parameters() if p.grad is None]
    assert not without
    total = backbone.get_layer_depth("out_norms.0.weight")[1]
    depths = {backbone.get_layer_depth(n)[0] for n, _ in backbone.named_parameters()}
    assert max(depths) == total - 1


def test_checkpointing_changes_nothing_behind_detector_taps() -> None:
    plain = ConvMLP(MICRO["convmlp"], taps="detector", drop_path_rate=0.2).train()
    thrifty = ConvMLP(
        MICRO["convmlp"], taps="detector", drop_path_rate=0.2, with_cp=True
    ).train()
    thrifty.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64)
    results = []
    for backbone in (plain, thrifty):
        torch.manual_seed(3)
        image = x.clone().requires_grad_()
        sum(feature.square().mean() for feature in backbone(image)).backward()
        results.append([image.grad, *backbone.state_dict().values()])
    torch.testing.assert_close(results[1], results[0])


def test_the_stems_map_is_emitted_as_the_stem_left_it() -> None:
    backbone = ConvMLP(MICRO["convmlp"], taps="detector", out_norm=False).train()
    x = torch.randn(2, 3, 64, 64)
    first = backbone(x)[0]
    torch.testing.assert_close(first, backbone.stem(x).permute(0, 3, 1, 2))


def test_the_mixer_replaces_the_map() -> None:
    block = ConvMLP(MICRO["convmlp"]).stages[1].blocks[1].double()
    x = torch.randn(2, 5, 6, 32, dtype=torch.double)
    y = x + block.mlp1(block.norm1(x))
    normed = block.mixer.norm(y)
    padded = nn.functional.pad(normed, (0, 0, 1, 1, 1, 1))
    mixed = torch.zeros_like(y)
    for row in range(3):
        for column in range(3):
            window = padded[:, row : row + 5, column : column + 6]
            mixed += window * block.mixer.conv.weight[:, 0, row, column]
    expected = mixed + block.mlp(block.norm2(mixed))
    torch.testing.assert_close(block(x), expected)


def test_the_last_relu_of_the_bottleneck_is_in_the_branch() -> None:
    block = ConvMLP(MICRO["convmlp"]).stages[0].blocks[0].eval()
    x = torch.randn(2, 5, 6, 16)
    branch = block(x) - x
    assert branch.min() > -1e-6
    assert branch.max() > 0
    assert block(x).min() < 0  # nothing follows the sum


def test_an_odd_stem_begins_with_the_smaller_half() -> None:
    backbone = ConvMLP({**ARCH, "embed_dims": (15, 32, 48, 64)})
    assert backbone.stem.conv1.weight.shape == (7, 3, 3, 3)
    assert backbone.stem.conv2.weight.shape == (7, 7, 3, 3)
    assert backbone.stem.conv3.weight.shape == (15, 7, 3, 3)
    assert backbone(torch.randn(2, 3, 33, 40))[0].shape == (2, 15, 9, 10)


def test_stochastic_depth_starts_anew_in_every_stage() -> None:
    backbone = ConvMLP("s", drop_path_rate=0.1)
    rates = [
        [getattr(block.drop_path, "drop_prob", 0.0) for block in stage.blocks]
        for stage in backbone.stages[1:]
    ]
    expected = [[0, 0.1], [0, 0.1 / 3, 0.2 / 3, 0.1], [0, 0.1]]
    for found, wanted in zip(rates, expected, strict=True):
        assert found == pytest.approx(wanted)
    assert not any("drop_path" in n for n, _ in backbone.stages[0].named_modules())


def test_official_arithmetic_of_sizes() -> None:
    backbone = ConvMLP(MICRO["convmlp"]).eval()
    for height, width in ((75, 106), (32, 32), (33, 34), (63, 161)):
        with torch.no_grad():
            maps = backbone(torch.zeros(1, 3, height, width))
        expected = [(-(-height // 4), -(-width // 4))]
        for _ in range(3):
            expected.append(tuple(-(-side // 2) for side in expected[-1]))
        assert [tuple(feature.shape[2:]) for feature in maps] == expected


def test_initialisation_is_the_official_one() -> None:
    backbone = ConvMLP("s")
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.weight.shape[0] * module.weight[0, 0].numel()
            std = (2 / fan_out) ** 0.5
            assert module.weight.std().item() == pytest.approx(std, rel=0.2), name
            if module.bias is not None:
                assert module.bias.any()
        elif isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert not module.bias.any()
    assert {m.eps for m in backbone.modules() if isinstance(m, nn.LayerNorm)} == {1e-5}


def test_batch_norms_can_be_synchronised_and_folded() -> None:
    from mmcv.cnn import fuse_conv_bn

    backbone = ConvMLP(MICRO["convmlp"])
    for norm in backbone.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = backbone.eval()(x)
        synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(backbone)
        torch.testing.assert_close(synchronised(x), expected)
        folded = fuse_conv_bn(synchronised)
        torch.testing.assert_close(folded(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"taps": "neck"}, "neck"),
        ({"arch": {**ARCH, "embed_dims": (1, 32, 48, 64)}}, r"\(1, 32, 48, 64\)"),
        ({"arch": {**ARCH, "mlp_ratios": (2, 2, 2, 2)}}, r"\(2, 2, 2, 2\)"),
    ],
)
def test_wrong_values_are_named(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ConvMLP(**options)


@pytest.mark.parametrize(
    "change",
    [{"stem_channels": 8}, {"conv_hidden_dim": 99}, {"mlp_depths": [1]}, {"bn_eps": 1}],
    ids=str,
)
def test_cases_that_contradict_themselves_are_refused(change: dict) -> None:
    config = {
        **ARCH,
        "stem_channels": 16,
        "conv_hidden_dim": 32,
        "conv_depth": 1,
        "mlp_depths": [2, 2, 2],
        "mlp_dims": [32, 48, 64],
        "ln_eps": 1e-5,
        "bn_eps": 1e-5,
    }
    ConvMLP(**arguments_from_reference(ConvMLP, config, (64, 64)))
    with pytest.raises(ValueError, match=next(iter(change))):
        arguments_from_reference(ConvMLP, {**config, **change}, (64, 64))
