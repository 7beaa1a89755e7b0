"""The parts in `_base_` belong to no family."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mlp_backbones.building import build_model
from mlp_backbones.config_names import config_dir

BASES = config_dir() / "_base_"
MODELS = sorted(BASES.rglob("models/*.py"))
RUNTIMES = {
    "EncoderDecoder": "default_runtime_seg.py",
    "ImageClassifier": "default_runtime_cls.py",
    "MaskRCNN": "default_runtime_det.py",
    "RetinaNet": "default_runtime_det.py",
}
WIDTHS = {
    "retinanet_fpn": {"neck": [128, 320, 512]},
    "mask-rcnn_fpn": {"neck": [64, 128, 320, 512]},
    "semantic-fpn": {"neck": [64, 128, 320, 512]},
    "upernet": {"decode_head": [64, 128, 320, 512], "auxiliary_head": 320},
    "image-classifier": {"head": 512},
}
"""What reads the maps of CycleMLP-B1 in each model, with their widths."""


def _parts(base: Path) -> dict[str, object]:
    return WIDTHS[base.stem]


# mmseg says at each build that its loss averages over all pixels.
pytestmark = pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore``")


@pytest.fixture(params=MODELS, ids=lambda path: str(path.relative_to(BASES)))
def base(request):
    return request.param


def test_no_model_knows_the_widths_of_a_backbone(base):
    model = Config.fromfile(base).model
    assert {part: model[part].get("in_channels") for part in _parts(base)} == (
        dict.fromkeys(_parts(base))
    )


def _derived(base: Path, folder: Path, widths: dict[str, object]) -> Config:
    """Read a config that adds to the bases a backbone and these widths."""
    runtime = BASES / RUNTIMES[Config.fromfile(base).model.type]
    parts = {part: {"in_channels": width} for part, width in widths.items()}
    parts["backbone"] = {"type": "mlp_backbones.CycleMLP", "arch": "b1"}
    path = folder / "new.py"
    path.write_text(f"_base_ = {[str(base), str(runtime)]}\nmodel = {parts}\n")
    return Config.fromfile(path)


def test_a_config_without_widths_is_refused_by_the_arguments_name(base, tmp_path):
    for missing in _parts(base):
        widths = {
            part: width for part, width in _parts(base).items() if part != missing
        }
        config = _derived(base, tmp_path, widths)
        with pytest.raises(TypeError, match="missing 1 required .*'in_channels'"):
            build_model(config, device="meta")


def test_a_config_with_widths_is_built(base, tmp_path):
    model = build_model(_derived(base, tmp_path, _parts(base)), device="meta")
    assert isinstance(model, torch.nn.Module)
