"""Layouts that stand for arguments, and arrays of Flax: MLP-Mixer has both."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.runner import load_checkpoint, save_checkpoint
from reference_cases import load_reference_case
from safetensors.torch import load_file
from sizes import MICRO
from torch import Tensor, nn

from mlp_backbones.backbones import GMLP, MlpMixer
from mlp_backbones.checkpoints import CheckpointError, load_pretrained, read_checkpoint
from mlp_backbones.factory import Classifier

LAYOUTS = {
    "timm_square": ("erf", 1e-6),
    "flax_square": ("tanh", 1e-6),
    "mmpretrain_square": ("erf", 1e-5),
}


def official(reference_dir: Path, name: str) -> dict[str, Tensor]:
    tensors = load_file(reference_dir / f"mlp_mixer/{name}.safetensors")
    return {k[3:]: v.clone() for k, v in tensors.items() if k.startswith("sd.")}


def save_arrays(weights: dict[str, Tensor], file: Path) -> Path:
    """Write what the authors publish: arrays by their joined names."""
    np.savez(file, **{key: tensor.numpy() for key, tensor in weights.items()})
    return file


def build(case, num_classes: int = 10, **options) -> Classifier:
    """Build the case's classifier without a word on GELU and epsilon."""
    options = {"pyramid": False, "out_indices": (-1,), **options}
    backbone = MlpMixer(
        case.model.backbone.arch,
        image_size=tuple(case.description["input_size"]),
        **options,
    )
    return Classifier(backbone, num_classes).eval()


@pytest.mark.parametrize("name", LAYOUTS)
def test_weights_bring_their_arithmetic(
    name: str, reference_dir: Path, tmp_path: Path, said: list[str]
) -> None:
    case = load_reference_case(reference_dir / f"mlp_mixer/{name}.json")
    weights = official(reference_dir, name)
    torch.save(weights, tmp_path / "w.pth")
    model = build(case)
    load_pretrained(model, tmp_path / "w.pth")
    gelu, norm_eps = LAYOUTS[name]
    assert (model.backbone.gelu, model.backbone.norm_eps) == (gelu, norm_eps)
    torch.testing.assert_close(
        model(case.input), case.expected["out.logits"], rtol=0, atol=1e-5
    )
    if gelu != "erf":
        assert any(f"gelu is now {gelu!r}" in line for line in said)
    if norm_eps != 1e-6:
        assert any(f"norm_eps is now {norm_eps!r}" in line for line in said)


@pytest.mark.parametrize("prefix", ["", "params/"])
def test_flax_arrays(prefix: str, reference_dir: Path, tmp_path: Path) -> None:
    case = load_reference_case(reference_dir / "mlp_mixer/flax_square.json")
    weights = official(reference_dir, "flax_square")
    file = save_arrays(
        {f"{prefix}{key}": tensor for key, tensor in weights.items()},
        tmp_path / "Mixer.npz",
    )
    read = read_checkpoint(file)
    assert read.keys() == {f"{prefix}{key}" for key in weights}
    assert torch.equal(read[f"{prefix}stem/kernel"], weights["stem/kernel"])
    model = build(case)
    load_pretrained(model, file)
    torch.testing.assert_close(
        model(case.input), case.expected["out.logits"], rtol=0, atol=1e-5
    )
    pyramid = MlpMixer(
        case.model.backbone.arch,
        image_size=48,
        init_cfg={"type": "Pretrained", "checkpoint": str(file)},
    )
    pyramid.init_weights()
    assert pyramid.gelu == "tanh"
    assert torch.equal(pyramid.stem.proj.bias, weights["stem/bias"])


def test_heads_of_imagenet_21k_load_or_are_dropped(
    reference_dir: Path, tmp_path: Path, said: list[str]
) -> None:
    case = load_reference_case(reference_dir / "mlp_mixer/flax_square.json")
    weights = official(reference_dir, "flax_square")
    weights["head/kernel"] = torch.randn(32, 21843)
    weights["head/bias"] = torch.randn(21843)
    file = save_arrays(weights, tmp_path / "imagenet21k.npz")
    model = build(case, num_classes=21843)
    load_pretrained(model, file)
    assert torch.equal(model.head.fc.weight, weights["head/kernel"].t())
    model = build(case)
    load_pretrained(model, file)
    assert any("head of 21843 classes is dropped" in line for line in said)
    with torch.no_grad():
        last = model.backbone.forward_stages(case.input)[-1].permute(0, 3, 1, 2)
    torch.testing.assert_close(last, case.expected["out.stage3"], rtol=0, atol=1e-5)


def test_what_was_asked_for_stays_and_is_said(
    reference_dir: Path, tmp_path: Path, said: list[str]
) -> None:
    case = load_reference_case(reference_dir / "mlp_mixer/flax_square.json")
    file = save_arrays(official(reference_dir, "flax_square"), tmp_path / "w.npz")
    model = build(case, gelu="erf")
    load_pretrained(model, file)
    assert model.backbone.gelu == "erf"
    assert any(
        line.startswith("WARNING")
        and "gelu='tanh'" in line
        and "asked for gelu='erf'" in line
        for line in said
    )
    difference = (model(case.input) - case.expected["out.logits"]).abs().max()
    assert difference > 5e-5


def test_a_refused_file_leaves_the_arithmetic_alone(
    reference_dir: Path, tmp_path: Path
) -> None:
    case = load_reference_case(reference_dir / "mlp_mixer/flax_square.json")
    weights = official(reference_dir, "flax_square")
    del weights["MixerBlock_2/LayerNorm_0/scale"]
    file = save_arrays(weights, tmp_path / "w.npz")
    model = build(case)
    with pytest.raises(CheckpointError, match=r"1 missing.*stages.2.blocks.0.norm1"):
        load_pretrained(model, file)
    assert model.backbone.gelu == "erf"


class Detector(nn.Module):
    """Anything that holds a backbone."""

    def __init__(self, backbone: MlpMixer) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = nn.Linear(2, 2)


def test_own_checkpoints_remember_what_they_were_trained_with(
    reference_dir: Path, tmp_path: Path
) -> None:
    """A detector is built anew for testing, and never sees the official file."""
    arrays = save_arrays(official(reference_dir, "flax_square"), tmp_path / "w.npz")
    case = load_reference_case(reference_dir / "mlp_mixer/flax_square.json")
    options = {"arch": case.model.backbone.arch, "image_size": 48}
    trained = Detector(MlpMixer(**options)).eval()
    load_pretrained(trained.backbone, arrays)
    file = str(tmp_path / "epoch_1.pth")
    save_checkpoint({"state_dict": trained.state_dict(), "meta": {}}, file)

    by_mmengine = Detector(MlpMixer(**options)).eval()
    load_checkpoint(by_mmengine, file)
    by_torch = Detector(MlpMixer(**options)).eval()
    by_torch.load_state_dict(trained.state_dict())
    by_loader = MlpMixer(**options).eval()
    load_pretrained(by_loader, file)
    with torch.no_grad():
        expected = trained.backbone(case.input)
        for backbone in (by_mmengine.backbone, by_torch.backbone, by_loader):
            assert backbone.gelu == "tanh"
            torch.testing.assert_close(backbone(case.input), expected)
    assert (
        trained.state_dict().keys() == Detector(MlpMixer(**options)).state_dict().keys()
    )


def test_arguments_of_nonsense_are_refused() -> None:
    backbone = MlpMixer(MICRO["mlp_mixer"])
    for arguments in ({"gelu": "relu"}, {"norm_eps": -1.0}, {"depth": 3}):
        with pytest.raises(ValueError, match=str(next(iter(arguments)))):
            backbone.apply_noted_arguments(arguments)
    assert (backbone.gelu, backbone.norm_eps) == ("erf", 1e-6)


def test_arrays_that_are_no_weights(tmp_path: Path) -> None:
    objects = tmp_path / "objects.npz"
    np.savez(objects, a=np.array([{"x": 1}], dtype=object))
    with pytest.raises(CheckpointError, match=r"objects\.npz.*allow_pickle"):
        read_checkpoint(objects)
    words = tmp_path / "words.npz"
    np.savez(words, a=np.array(["x", "y"]))
    with pytest.raises(CheckpointError, match=r"words\.npz"):
        read_checkpoint(words)
    (tmp_path / "text.npz").write_text("no arrays here")
    with pytest.raises(CheckpointError, match=r"text\.npz"):
        read_checkpoint(tmp_path / "text.npz")
    with pytest.raises(CheckpointError, match="download .* yourself"):
        read_checkpoint("https://example.org/Mixer-B_16.npz")


def test_another_family_of_timm_is_named(reference_dir: Path, tmp_path: Path) -> None:
    torch.save(official(reference_dir, "timm_square"), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"no GMLP.*layouts known \(timm\)"):
        load_pretrained(GMLP(MICRO["gmlp"]), tmp_path / "w.pth")
