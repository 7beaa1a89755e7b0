"""Loading: what is accepted, what is refused, and what is said."""

import argparse
import hashlib
import inspect
import re
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from reference_cases import find_reference_folder, load_reference_case
from safetensors.torch import load_file, save_file
from sizes import build_micro
from torch import Tensor
from torch.nn import Module, Sequential

from mlp_backbones import get_backbone, get_model
from mlp_backbones.backbones import CycleMLP
from mlp_backbones.checkpoints import CheckpointError, load_pretrained, read_checkpoint
from mlp_backbones.checkpoints.compare import compare_state_dicts
from mlp_backbones.factory import Classifier, families
from mlp_backbones.registry import MODELS
from mlp_backbones.testing.contract import randomise

CASE = "b_like_square"


@pytest.fixture
def case(reference_dir: Path):
    return load_reference_case(find_reference_folder("cyclemlp") / f"{CASE}.json")


@pytest.fixture
def official(reference_dir: Path) -> dict[str, Tensor]:
    tensors = load_file(find_reference_folder("cyclemlp") / f"{CASE}.safetensors")
    return {k[3:]: v.clone() for k, v in tensors.items() if k.startswith("sd.")}


@pytest.fixture
def classifier(case) -> Callable[..., Classifier]:
    """Build fresh classifiers of the case's size."""

    def build(num_classes: int = 10, **options) -> Classifier:
        backbone = CycleMLP(case.model.backbone.arch, out_indices=(3,), **options)
        return Classifier(backbone, num_classes).eval()

    return build


@pytest.mark.parametrize("form", ["plain", "model", "state_dict", "safetensors", "ddp"])
def test_file_forms(form: str, case, official, classifier, tmp_path: Path) -> None:
    file = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        save_file(official, file)
    elif form == "plain":
        torch.save(official, file)
    elif form == "ddp":
        torch.save({f"module.{k}": v for k, v in official.items()}, file)
    else:  # what official scripts store beside the weights must not stand in the way
        extras = {"args": argparse.Namespace(lr=0.1), "epoch": 3}
        torch.save({form: official, **extras}, file)
    model = classifier()
    load_pretrained(model, file)
    torch.testing.assert_close(
        model(case.input), case.expected["out.logits"], rtol=0, atol=1e-5
    )


def test_configurations_of_yacs_do_not_stand_in_the_way(
    case, official, classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Swin-style scripts pickle theirs, nested; yacs need not be installed to read."""
    package, module = ModuleType("yacs"), ModuleType("yacs.config")

    class CfgNode(dict):
        def __init__(self, init: dict | None = None) -> None:
            super().__init__(init or {})
            self.__dict__["__immutable__"] = True

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    module.CfgNode = CfgNode
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "yacs", package)
        patch.setitem(sys.modules, "yacs.config", module)
        config = CfgNode({"MODEL": CfgNode({"DEPTHS": [2, 2]}), "SEED": 0})
        torch.save({"model": official, "config": config}, tmp_path / "w.pth")
    model = classifier()
    load_pretrained(model, tmp_path / "w.pth")
    with torch.no_grad():
        difference = model(case.input) - case.expected["out.logits"]
    assert difference.abs().max() < 1e-5


def test_backbone_by_init_cfg(case, official, tmp_path: Path, said) -> None:
    file = tmp_path / "w.pth"
    torch.save({"model": official}, file)
    backbone = MODELS.build(
        {
            "type": "mlp_backbones.CycleMLP",
            "arch": case.model.backbone.arch,
            "init_cfg": {"type": "Pretrained", "checkpoint": str(file)},
        }
    ).eval()
    backbone.init_weights()
    with torch.no_grad():
        for index, feature in enumerate(backbone(case.input)):
            raw = case.expected[f"out.stage{index}"].permute(0, 2, 3, 1)
            fresh = torch.nn.functional.layer_norm(raw, raw.shape[-1:], eps=1e-5)
            torch.testing.assert_close(
                feature, fresh.permute(0, 3, 1, 2), rtol=0, atol=1e-5
            )
    assert any("final norm is left aside" in line for line in said)
    assert any("output norms start fresh" in line for line in said)


def test_init_cfg_in_a_list_is_strict_too(case, official, tmp_path: Path) -> None:
    torch.save(official, tmp_path / "w.pth")
    config = [
        {"type": "Constant", "layer": "LayerNorm", "val": 0.5},
        {"type": "Pretrained", "checkpoint": str(tmp_path / "w.pth")},
    ]
    backbone = CycleMLP(case.model.backbone.arch, init_cfg=config)
    backbone.init_weights()
    stem = backbone.stem.proj.weight
    assert torch.equal(stem, official["patch_embed.proj.weight"])
    assert (backbone.out_norms["0"].weight == 0.5).all()
    with pytest.raises(CheckpointError, match="CycleMLP b1"):
        CycleMLP("b1", init_cfg=config).init_weights()
    wrong = {"type": "Pretrained", "checkpoint": "a.pth", "strict": False}
    with pytest.raises(ValueError, match="strict"):
        CycleMLP("b1", init_cfg=wrong).init_weights()


def test_official_names_below_a_backbone(case, official, tmp_path: Path) -> None:
    weights = {f"backbone.{k}": v for k, v in official.items()}
    torch.save(weights, tmp_path / "w.pth")
    backbone = CycleMLP(case.model.backbone.arch)
    load_pretrained(backbone, tmp_path / "w.pth")
    stem = backbone.stem.proj.weight
    assert torch.equal(stem, official["patch_embed.proj.weight"])


def test_init_cfg_inside_a_detector(case, official, tmp_path: Path) -> None:
    from mmdet.registry import MODELS as DETECTORS
    from mmengine.registry import DefaultScope

    file = tmp_path / "w.pth"
    torch.save(official, file)
    dims = case.model.backbone.embed_dims
    with DefaultScope.overwrite_default_scope("mmdet"):
        detector = DETECTORS.build(
            {
                "type": "RetinaNet",
                "backbone": {
                    "type": "mlp_backbones.CycleMLP",
                    "arch": case.model.backbone.arch,
                    "init_cfg": {"type": "Pretrained", "checkpoint": str(file)},
                },
                "neck": {
                    "type": "FPN",
                    "in_channels": list(dims),
                    "out_channels": 8,
                    "num_outs": 5,
                },
                "bbox_head": {
                    "type": "RetinaHead",
                    "num_classes": 3,
                    "in_channels": 8,
                    "feat_channels": 8,
                },
            }
        )
        detector.init_weights()
    stem = detector.backbone.stem.proj.weight
    assert torch.equal(stem, official["patch_embed.proj.weight"])


def test_dense_checkpoints_bring_their_norms(case, official, tmp_path: Path) -> None:
    dims = case.model.backbone.embed_dims
    for index in range(4):
        official[f"norm{2 * index}.weight"] = torch.rand(dims[index])
        official[f"norm{2 * index}.bias"] = torch.rand(dims[index])
    for key in ("norm.weight", "norm.bias", "head.weight", "head.bias"):
        del official[key]
    torch.save(official, tmp_path / "w.pth")
    backbone = CycleMLP(case.model.backbone.arch)
    load_pretrained(backbone, tmp_path / "w.pth")
    for index in range(4):
        norm = backbone.out_norms[str(index)]
        assert torch.equal(norm.weight, official[f"norm{2 * index}.weight"])


def test_head_of_other_classes_is_dropped_and_said(
    official, classifier, tmp_path: Path, said
) -> None:
    torch.save(official, tmp_path / "w.pth")
    model = classifier(num_classes=7)
    head = model.head.fc.weight.clone()
    load_pretrained(model, tmp_path / "w.pth")
    assert torch.equal(model.head.fc.weight, head)
    assert torch.equal(model.backbone.stem.proj.bias, official["patch_embed.proj.bias"])
    assert [s for s in said if "is dropped" in s] == [
        "WARNING the head of 10 classes is dropped, the model has 7"
    ]
    wider = get_model("cyclemlp_b1", num_classes=7)
    said.clear()
    with pytest.raises(CheckpointError):
        load_pretrained(wider, tmp_path / "w.pth")
    assert said == []  # nothing was dropped


def test_own_checkpoints_go_round(case, classifier, tmp_path: Path) -> None:
    content = {
        "state_dict": case.model.state_dict(),
        # what MMEngine's runner stores besides
        "message_hub": {"log_scalars": {"loss": HistoryBuffer([1.0, 2.0], [1, 1])}},
        "meta": {"epoch": 1, "numpy": np.float64(0.5)},
    }
    torch.save(content, tmp_path / "epoch_1.pth")
    model = classifier()
    load_pretrained(model, tmp_path / "epoch_1.pth")
    # reading a history must leave the class of all histories as it was
    assert HistoryBuffer([1.0, 3.0], [1, 1]).mean() == 2.0
    assert HistoryBuffer([1.0, 3.0], [1, 1]).statistics("mean") == 2.0
    load_pretrained(model, tmp_path / "epoch_1.pth")
    torch.testing.assert_close(model(case.input), case.model(case.input))
    pyramid = CycleMLP(case.model.backbone.arch)
    load_pretrained(pyramid, tmp_path / "epoch_1.pth")
    assert torch.equal(pyramid.out_norms["3"].weight, torch.ones(44))


def test_backbone_out_of_a_detector(case, tmp_path: Path) -> None:
    source = CycleMLP(case.model.backbone.arch, out_indices=(1, 2, 3))
    weights = {f"backbone.{k}": v for k, v in source.state_dict().items()}
    weights["bbox_head.retina_cls.weight"] = torch.zeros(3)
    torch.save({"state_dict": weights}, tmp_path / "w.pth")
    for options in ({"prefix": "backbone."}, {}):
        backbone = CycleMLP(case.model.backbone.arch, out_indices=(1, 2, 3))
        load_pretrained(backbone, tmp_path / "w.pth", **options)
        for key, tensor in backbone.state_dict().items():
            assert torch.equal(tensor, source.state_dict()[key])


def test_stages_not_built_are_left_aside(case, official, tmp_path: Path) -> None:
    torch.save(official, tmp_path / "w.pth")
    backbone = CycleMLP(case.model.backbone.arch, out_indices=(0, 1)).eval()
    load_pretrained(backbone, tmp_path / "w.pth")
    with torch.no_grad():
        stage = backbone.forward_stages(case.input)[1].permute(0, 3, 1, 2)
    torch.testing.assert_close(stage, case.expected["out.stage1"], rtol=0, atol=1e-5)


def _lose_a_key(weights: dict[str, Tensor]) -> str:
    del weights["network.2.0.mlp.fc1.bias"]
    return "1 missing in the file: stages.1.blocks.0.mlp.fc1.bias"


def _lose_half_a_head(weights: dict[str, Tensor]) -> str:
    del weights["head.bias"]
    return "1 missing in the file: head.fc.bias"


def _lose_the_head(weights: dict[str, Tensor]) -> str:
    del weights["head.bias"], weights["head.weight"]
    return "2 missing in the file: head.fc.weight, head.fc.bias"


def _lose_half_a_norm(weights: dict[str, Tensor]) -> str:
    del weights["norm.bias"]
    return "1 missing in the file: out_norms.3.bias"


def _add_a_key(weights: dict[str, Tensor]) -> str:
    weights["network.0.9.mlp.fc1.bias"] = torch.zeros(64)
    return "1 unknown to the model: stages.0.blocks.9.mlp.fc1.bias"


def _change_a_shape(weights: dict[str, Tensor]) -> str:
    weights["network.0.0.norm1.bias"] = torch.zeros(3)
    return r"1 of another shape: stages.0.blocks.0.norm1.bias \(3,\) instead of \(16,\)"


def _change_a_step(weights: dict[str, Tensor]) -> str:
    weights["network.0.0.attn.sfc_h.offset"][0, 3] = 2.0
    return "network.0.0.attn.sfc_h.offset holds other steps"


@pytest.mark.parametrize(
    "damage",
    [
        _lose_a_key,
        _lose_half_a_head,
        _lose_the_head,
        _lose_half_a_norm,
        _add_a_key,
        _change_a_shape,
        _change_a_step,
    ],
)
def test_damage_is_named(damage, official, classifier, tmp_path: Path) -> None:
    message = damage(official)
    torch.save(official, tmp_path / "w.pth")
    model = classifier()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(model, tmp_path / "w.pth")
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key]), "a refused file must change nothing"


def test_another_size_lists_the_first_mismatches(official, tmp_path: Path) -> None:
    torch.save(official, tmp_path / "w.pth")
    with pytest.raises(
        CheckpointError, match=r"CycleMLP b1; \d+ of another shape"
    ) as e:
        get_model("cyclemlp_b1", pretrained=tmp_path / "w.pth")
    assert len(re.findall(r"instead of", str(e.value))) == 5
    assert str(tmp_path / "w.pth") in str(e.value)


def test_another_family_is_named(tmp_path: Path) -> None:
    torch.save({"layer1.0.conv1.weight": torch.zeros(4)}, tmp_path / "resnet.pth")
    with pytest.raises(CheckpointError, match=r"no CycleMLP.*layer1.0.conv1.weight"):
        get_backbone("cyclemlp_b1", pretrained=tmp_path / "resnet.pth")


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        read_checkpoint(tmp_path / "nowhere.pth")
    for name in ("text.pth", "text.safetensors"):
        (tmp_path / name).write_text("no weights here")
        with pytest.raises(CheckpointError, match=name):
            read_checkpoint(tmp_path / name)
    torch.save({"model": {}, "epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(CheckpointError, match="no state dict"):
        read_checkpoint(tmp_path / "empty.pth")


class _Trap:
    def __reduce__(self):
        return (Path.touch, (Path(self.target),))


def test_code_in_a_file_is_never_run(tmp_path: Path) -> None:
    trap = _Trap()
    trap.target = str(tmp_path / "sprung")
    torch.save({"model": {"a": torch.zeros(1)}, "x": trap}, tmp_path / "trap.pth")
    with pytest.raises(CheckpointError, match=r"trap\.pth"):
        read_checkpoint(tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


def test_addresses_are_asked_only_when_told(monkeypatch, tmp_path: Path) -> None:
    asked = []

    def download(url, file, hash_prefix=None):
        asked.append((url, Path(file), hash_prefix))
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", download)
    get_model("cyclemlp_b1")
    assert not asked
    with pytest.raises(CheckpointError, match=r"CycleMLP_B1\.pth: no network"):
        get_model("cyclemlp_b1", pretrained="official")
    with pytest.raises(CheckpointError, match="no network"):
        read_checkpoint("https://example.org/a.pth", sha256="0123abcd")
    (first, _, digits), (_, file, hashed) = asked
    assert first == CycleMLP.released_weights["b1"] and digits is None
    assert hashed == "0123abcd"
    assert file == tmp_path / "hub" / "checkpoints" / "a-0123abcd.pth"


def test_downloads_are_kept_and_read_like_files(
    monkeypatch, tmp_path: Path, official
) -> None:
    """A real download, from a folder: torch's downloader takes file addresses, too."""
    asked, download = [], torch.hub.download_url_to_file

    def from_disk(url, file, hash_prefix=None):
        asked.append(url)
        local = tmp_path / url.rsplit("/", 1)[-1]
        download(local.as_uri(), file, hash_prefix, progress=False)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", from_disk)
    torch.save(official, tmp_path / "a.pth")
    digits = hashlib.sha256((tmp_path / "a.pth").read_bytes()).hexdigest()[:8]
    for _ in range(2):
        tensors = read_checkpoint("https://example.org/a.pth", sha256=digits)
        assert tensors.keys() == official.keys()
    assert len(asked) == 1
    with pytest.raises(CheckpointError, match=r"cannot download .*invalid hash value"):
        read_checkpoint("https://example.org/a.pth", sha256="0" * 8)
    (tmp_path / "page.pth").write_text("<html>sign in</html>")
    for _ in range(2):
        with pytest.raises(CheckpointError, match="is damaged, or no file.*delete it"):
            read_checkpoint("https://example.org/page.pth")
    trap = _Trap()
    trap.target = str(tmp_path / "sprung")
    torch.save({"model": {}, "x": trap}, tmp_path / "trap.pth")
    with pytest.raises(CheckpointError, match="nothing but plain data is admitted"):
        read_checkpoint("https://example.org/trap.pth")
    assert not (tmp_path / "sprung").exists()


def test_sizes_without_official_weights_say_so() -> None:
    with pytest.raises(CheckpointError, match=r"CycleMLP tiny.*b1, b2"):
        get_model("cyclemlp_tiny", pretrained="official")


WRAPPED = {
    "compiled": lambda k: f"_orig_mod.{k}",
    "ddp of compiled": lambda k: f"module._orig_mod.{k}",
    "compiled ddp": lambda k: f"_orig_mod.module.{k}",
    "compiled stages": lambda k: re.sub(r"^(stages\.\d+)\.", r"\1._orig_mod.", k),
    "ddp twice": lambda k: f"module.module.{k}",
    "fsdp": lambda k: f"_fsdp_wrapped_module.{k}".replace(
        "blocks.0.", "blocks.0._checkpoint_wrapped_module."
    ),
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_names_of_wrappers_are_dropped(wrapper: str, tmp_path: Path) -> None:
    source = build_micro("cyclemlp")
    weights = {WRAPPED[wrapper](k): v for k, v in source.state_dict().items()}
    assert weights.keys() != source.state_dict().keys()
    for content in (weights, {"state_dict": weights}, {"state_dict_ema": weights}):
        torch.save(content, tmp_path / "w.pth")
        backbone = build_micro("cyclemlp")
        load_pretrained(backbone, tmp_path / "w.pth")
        for name, value in source.state_dict().items():
            assert torch.equal(backbone.state_dict()[name], value)
    weights |= source.state_dict()  # which of both would be meant?
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="twice"):
        load_pretrained(build_micro("cyclemlp"), tmp_path / "w.pth")


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema", "ema_state_dict"])
def test_averaged_weights_alone(key: str, tmp_path: Path, said: list[str]) -> None:
    source = build_micro("cyclemlp")
    weights = {f"module.{k}": v for k, v in source.state_dict().items()}
    counters = {"steps": torch.tensor(5), "n_averaged": torch.tensor(5)}
    torch.save({key: weights | counters, "epoch": 1}, tmp_path / "w.pth")
    backbone = build_micro("cyclemlp")
    load_pretrained(backbone, tmp_path / "w.pth")
    assert torch.equal(backbone.stem.proj.weight, source.stem.proj.weight)
    assert any(f"the weights are those of {key}" in line for line in said)


def test_which_of_several_is_read_is_said(tmp_path: Path, said: list[str]) -> None:
    plain, averaged = build_micro("cyclemlp"), build_micro("cyclemlp")
    both = {"state_dict_ema": averaged.state_dict(), "state_dict": plain.state_dict()}
    torch.save(both, tmp_path / "w.pth")
    backbone = build_micro("cyclemlp")
    load_pretrained(backbone, tmp_path / "w.pth")
    assert torch.equal(backbone.stem.proj.weight, plain.stem.proj.weight)
    (line,) = (line for line in said if "also holds" in line)
    assert "those of state_dict; it also holds state_dict_ema" in line
    other = {"model": {"name": "b1"}, "state_dict": {}}
    other["state_dict_ema"] = averaged.state_dict()
    torch.save(other, tmp_path / "w.pth")  # what the model is called is no weight
    load_pretrained(backbone, tmp_path / "w.pth")
    assert torch.equal(backbone.stem.proj.weight, averaged.stem.proj.weight)
    torch.save({"state_dict": plain.state_dict()}, tmp_path / "w.pth")
    said.clear()
    load_pretrained(backbone, tmp_path / "w.pth")
    assert not any("the weights are those" in line for line in said)


@pytest.mark.parametrize("family", sorted(families()))
def test_a_stem_for_rgb_serves_other_channels(
    family: str, tmp_path: Path, said: list[str]
) -> None:
    source = build_micro(family).eval()
    randomise(source)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    x = torch.rand(2, 3, 64, 64)

    def load(channels: int) -> Module:
        backbone = build_micro(family, in_channels=channels).eval()
        load_pretrained(backbone, tmp_path / "w.pth")
        return backbone

    with torch.no_grad():
        gray = x[:, :1]
        for images, same in ((gray, gray.expand(x.shape)), (x.repeat(1, 2, 1, 1), x)):
            maps = load(images.shape[1])(images)
            for found, expected in zip(maps, source(same), strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert any("summed for one channel" in line for line in said)
    four, weights = load(4).state_dict(), source.state_dict()
    keys = [key for key in four if four[key].shape != weights[key].shape]
    assert keys and all(key.startswith("stem.") for key in keys)
    for key in keys:
        torch.testing.assert_close(four[key], weights[key][:, [0, 1, 2, 0]] * 3 / 4)


def test_a_stem_for_other_channels_serves_no_rgb(tmp_path: Path) -> None:
    torch.save(build_micro("cyclemlp", in_channels=4).state_dict(), tmp_path / "w.pth")
    for channels in (1, 3, 5):
        with pytest.raises(CheckpointError, match="stem.proj.weight"):
            load_pretrained(
                build_micro("cyclemlp", in_channels=channels), tmp_path / "w.pth"
            )


SIZED = [
    family
    for family, cls in sorted(families().items())
    if "image_size" in inspect.signature(cls.__init__).parameters
    and family not in ("cs_mixer", "gfnet")  # weights of any size, or resampled
]


@pytest.mark.parametrize("family", SIZED)
def test_weights_of_another_image_size_name_the_argument(
    family: str, tmp_path: Path
) -> None:
    file = tmp_path / "w.pth"
    model = build_micro(family, image_size=64)
    other = build_micro(family, image_size=128)
    torch.save(other.state_dict(), file)
    with pytest.raises(CheckpointError, match="give image_size=128,") as error:
        load_pretrained(model, file)
    assert "\n" not in str(error.value)
    load_pretrained(build_micro(family, image_size=128), file)
    whole = {f"backbone.{k}": v for k, v in other.state_dict().items()}
    detector = Sequential(OrderedDict(backbone=model))
    assert "give image_size=128," in compare_state_dicts(detector, whole).describe("w")
    torch.save(build_micro(family, image_size=(96, 128)).state_dict(), file)
    with pytest.raises(CheckpointError, match=r"give image_size=\(height, width\)"):
        load_pretrained(model, file)


def test_weights_of_another_arch_do_not_name_the_image_size(tmp_path: Path) -> None:
    torch.save(get_backbone("mlp_mixer_mini").state_dict(), tmp_path / "w.pth")
    with pytest.raises(CheckpointError) as error:
        load_pretrained(build_micro("mlp_mixer", image_size=64), tmp_path / "w.pth")
    assert "image_size" not in str(error.value)
