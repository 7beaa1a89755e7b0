"""tools/model_converters/convert.py: every form in, three forms out."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from reference_cases import find_reference_folder
from sizes import build_micro
from tool_calls import fail

from mlp_backbones import get_backbone, get_model
from mlp_backbones.building import build_model
from mlp_backbones.config_names import config_dir
from mlp_backbones.engine.convert import _families_of, find_model
from mlp_backbones.factory import families
from mlp_backbones.testing.contract import randomise

TOOL = "model_converters/convert.py"
TIMM = {
    "gmlp_mini": ((".norm1.", ".norm."), (".mixer.", ".mlp_channels.")),
    "mlp_mixer_mini": ((".mixer.", ".mlp_tokens."), (".mlp.", ".mlp_channels.")),
}


def make(name: str, num_classes: int = 10) -> torch.nn.Module:
    return randomise(get_model(name, num_classes=num_classes)).eval()


def to_timm(model: torch.nn.Module, name: str) -> dict[str, torch.Tensor]:
    """Return a classifier's weights under timm's names."""
    starts = np.cumsum([0, *model.backbone.depths])
    weights = {}
    for key, value in model.state_dict().items():
        key = re.sub(
            r"^backbone\.stages\.(\d+)\.blocks\.(\d+)",
            lambda m: f"blocks.{starts[int(m[1])] + int(m[2])}",
            key,
        )
        key = key.removeprefix("backbone.").replace("out_norms.3.", "norm.")
        for own, theirs in TIMM[name]:
            key = key.replace(own, theirs)
        weights[key.replace("head.fc.", "head.")] = value.clone()
    return weights


def to_flax(weights: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Return a Mixer's weights in timm's names as the authors' arrays."""
    arrays = {}
    for key, value in weights.items():
        key = re.sub(r"^blocks\.(\d+)\.", r"MixerBlock_\1/", key)
        for theirs, flax in (
            ("norm1.", "LayerNorm_0/"),
            ("norm2.", "LayerNorm_1/"),
            ("mlp_tokens.", "token_mixing/"),
            ("mlp_channels.", "channel_mixing/"),
            ("fc1.", "Dense_0/"),
            ("fc2.", "Dense_1/"),
            ("stem.proj.", "stem/"),
            ("head.", "head/"),
        ):
            key = key.replace(theirs, flax)
        if key.startswith("norm."):
            key = key.replace("norm.", "pre_head_layer_norm/")
        is_norm = "norm" in key.lower()
        key = key.replace("weight", "scale" if is_norm else "kernel")
        if value.ndim == 4:
            value = value.permute(2, 3, 1, 0)
        elif value.ndim == 2:
            value = value.T
        arrays[key] = value.contiguous().numpy()
    return arrays


def convert(call, *arguments) -> Path:
    code, out, err = call(TOOL, *arguments)
    assert code == 0, err
    file = Path(out.strip().splitlines()[-1].partition(":")[0])
    digits = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    assert file.stem.endswith(f"-{digits}")
    return file


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("gmlp_mini", ".pth"),
        ("gmlp_mini", ".safetensors"),
        pytest.param("mlp_mixer_mini", ".safetensors", marks=pytest.mark.slow),
    ],
)
def test_official_weights_become_a_classifier(call, name, suffix, tmp_path):
    source = make(name)
    x = torch.rand(1, 3, 64, 64)
    torch.save({"model": to_timm(source, name)}, tmp_path / "timm.pth")
    file = convert(call, tmp_path / "timm.pth", f"model{suffix}")
    again = convert(call, tmp_path / "timm.pth", f"again{suffix}")
    assert file.read_bytes() == again.read_bytes()
    with torch.no_grad():
        found = get_model(name, num_classes=10, pretrained=file).eval()
        assert torch.equal(found(x), source(x))
    # the same bytes once more, by way of the other form
    other = {".pth": ".safetensors", ".safetensors": ".pth"}[suffix]
    back = convert(call, convert(call, file, f"other{other}"), f"back{suffix}")
    with torch.no_grad():
        found = get_model(name, num_classes=10, pretrained=back).eval()
        assert torch.equal(found(x), source(x))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_weights_go_with_is_kept(call, suffix, tmp_path):
    """Flax's GELU is another one: a form that forgot it would compute otherwise."""
    arrays = to_flax(to_timm(make("mlp_mixer_mini"), "mlp_mixer_mini"))
    np.savez(tmp_path / "flax.npz", **arrays)
    x = torch.rand(1, 3, 64, 64)
    file = convert(call, tmp_path / "flax.npz", f"model{suffix}")
    bare = convert(call, file, f"bare{suffix}", "--backbone-only")
    with torch.no_grad():
        models = [
            get_model("mlp_mixer_mini", num_classes=10, pretrained=source).eval()
            for source in (tmp_path / "flax.npz", file)
        ]
        assert {model.backbone.gelu for model in models} == {"tanh"}
        assert torch.equal(models[0](x), models[1](x))
        backbone = get_backbone("mlp_mixer_mini", pretrained=bare)
        assert backbone.gelu == "tanh"


def test_a_trained_detector_becomes_a_bare_backbone(call, tmp_path):
    path = next((config_dir() / "as_mlp").glob("retinanet_as-mlp-mini_*.py"))
    config = Config.fromfile(path)
    config.model.backbone.shift_size = 3
    config.model.backbone.out_indices = (0, 1, 2, 3)
    config.model.neck.in_channels = [0, *config.model.neck.in_channels]
    config.model.neck.in_channels[0] = config.model.neck.in_channels[1] // 2
    detector = build_model(config)
    torch.save(
        {
            "state_dict": detector.state_dict(),
            "optimizer": {"state": [torch.zeros(9)]},
            "meta": {"epoch": 1},
        },
        tmp_path / "epoch_1.pth",
    )
    for suffix in (".pth", ".safetensors"):
        file = convert(
            call, tmp_path / "epoch_1.pth", f"bare{suffix}", "--backbone-only"
        )
        backbone = get_backbone("as_mlp_mini", shift_size=3, pretrained=file)
        for key, value in backbone.state_dict().items():
            assert torch.equal(value, detector.backbone.state_dict()[key])
        with pytest.raises(ValueError, match="shift_size=3"):
            get_backbone("as_mlp_mini", pretrained=file)
    whole = convert(call, tmp_path / "epoch_1.pth", "whole.pth")
    content = torch.load(whole, weights_only=True)
    assert content["state_dict"].keys() == detector.state_dict().keys()
    assert content["meta"] == {"epoch": 1}


def test_a_whole_config_takes_what_is_converted(call, tmp_path):
    source = make("gmlp_mini")
    torch.save(to_timm(source, "gmlp_mini"), tmp_path / "timm.pth")
    file = convert(call, tmp_path / "timm.pth", "model.pth")
    path = next((config_dir() / "gmlp").glob("gmlp-mini_*_digit-scenes.py"))
    model = build_model(Config.fromfile(path), checkpoint=str(file)).eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x, mode="tensor")[0], source(x)[0])


def test_names_of_ours_are_no_layout_of_others() -> None:
    for family in families():
        weights = build_micro(family).state_dict()
        assert _families_of(weights) == []


def test_what_is_not_converted(call, tmp_path):
    source = make("gmlp_mini")
    weights = to_timm(source, "gmlp_mini")
    torch.save(weights, tmp_path / "timm.pth")
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "resnet.pth")
    torch.save(source.state_dict(), tmp_path / "own.pth")
    torch.save(
        {k: v for k, v in weights.items() if ".3." not in k}, tmp_path / "less.pth"
    )
    alike = ("conv_stages.conv_blocks.0.0.weight", "stages.0.blocks.0.norm.weight")
    torch.save({name: torch.zeros(1) for name in alike}, tmp_path / "conv.pth")
    before = sorted(tmp_path.iterdir())
    fail(call(TOOL, "no.pth", "out.pth"), "no.pth does not exist")
    fail(call(TOOL, "timm.pth", "out.bin"), ".pth or .safetensors")
    fail(call(TOOL, "resnet.pth", "out.pth"), "starts with conv1.weight")
    fail(call(TOOL, "less.pth", "out.pth"), "names of gmlp")
    # the authors of ConvMLP have names like ours beside others
    fail(call(TOOL, "conv.pth", "out.pth"), "names of convmlp")
    fail(call(TOOL, "timm.pth", "out.pth", "--model", "gmlp_ti16"), "GMLP ti16")
    fail(call(TOOL, "timm.pth", "out.pth", "--model", "gmlp_no"), "gmlp_no")
    size = ("--model", "gmlp_mini", "--image-size", "128")
    fail(call(TOOL, "timm.pth", "out.pth", *size), "image_size=64")
    fail(call(TOOL, "own.pth", "out.pth", "--model", "gmlp_mini"), "leave out --model")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
def test_every_published_size_is_found(reference_dir) -> None:
    """By names and shapes alone, so far as the sheets list the keys of a size."""
    for family in ("as_mlp", "resmlp"):
        sheet = find_reference_folder(family) / "official_variants.json"
        names = set()
        for variant, facts in json.loads(sheet.read_text()).items():
            tensors = {
                key: torch.empty(shape, device="meta")
                for key, shape in facts["keys"].items()
            }
            names.add(find_model(tensors, Path(variant), {}))
        sizes = {f"{family}_{arch}" for arch in families()[family].arch_settings}
        assert names == sizes - {"resmlp_b24"}  # whose weights nobody has published
