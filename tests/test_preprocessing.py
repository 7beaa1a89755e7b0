"""What normalisation the weights want, and configs that disagree."""

import pytest
import torch
from mmengine.config import Config
from sizes import build_micro

from mlp_backbones import get_backbone, get_model
from mlp_backbones.backbones import MlpMixer
from mlp_backbones.checkpoints.preprocessing import CENTERED, IMAGENET
from mlp_backbones.preprocessing import check_preprocessing

BYTES = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
HALVES = {"mean": [127.5] * 3, "std": [127.5] * 3}


def make_config(preprocessor: dict, top: bool = False, **backbone) -> Config:
    model = {"type": "RetinaNet", "backbone": {"type": "mlp_backbones.MlpMixer"}}
    model["backbone"].update({"arch": "b16", **backbone})
    preprocessor = {**preprocessor, "to_rgb" if top else "bgr_to_rgb": True}
    if top:
        return Config({"model": model, "data_preprocessor": preprocessor})
    return Config({"model": {**model, "data_preprocessor": preprocessor}})


def pretrained(checkpoint: object) -> dict:
    return {"init_cfg": {"type": "Pretrained", "checkpoint": str(checkpoint)}}


def test_facts_are_those_of_the_sheets() -> None:
    with torch.device("meta"):
        for name in ("mixer_b16_224", "mixer_l16_224", "gmlp_s16_224", "gmlp_b16"):
            assert get_backbone(name).preprocessing is CENTERED
        for name in ("gmixer_24_224", "mlp_mixer_mini", "resmlp_12_224", "cyclemlp_b1"):
            assert get_model(name).preprocessing is IMAGENET
    assert IMAGENET.data_preprocessor() == BYTES
    assert CENTERED.data_preprocessor() == HALVES


def test_images_are_normalised() -> None:
    pixels = torch.tensor([0, 255, 51], dtype=torch.uint8)[None, :, None, None]
    expected = torch.tensor([-1.0, 1.0, -0.6])
    torch.testing.assert_close(CENTERED.normalize(pixels).flatten(), expected)
    torch.testing.assert_close(CENTERED.normalize(pixels / 255).flatten(), expected)
    with pytest.raises(ValueError, match="0 to 1, got 255"):
        IMAGENET.normalize(pixels.float())
    with pytest.raises(TypeError, match="int64"):
        IMAGENET.normalize(pixels.long())
    assert IMAGENET.normalize(torch.empty(0, 3, 4, 4)).shape == (0, 3, 4, 4)


@pytest.mark.parametrize(
    ("channels", "mean"), [(1, (0.449,)), (4, (0.485, 0.456, 0.406, 0.485))]
)
def test_other_numbers_of_channels(channels: int, mean: tuple[float, ...]) -> None:
    found = build_micro("cyclemlp", in_channels=channels).preprocessing
    assert found.mean == pytest.approx(mean)
    assert found.normalize(torch.rand(1, channels, 2, 2)).shape == (1, channels, 2, 2)


@pytest.mark.parametrize("top", [False, True])
def test_official_weights_want_their_own(top: bool) -> None:
    name = "elsewhere/jx_mixer_b16_224-76587d61.pth"
    for source in ("official", name, f"https://host/{name}"):
        assert (
            check_preprocessing(make_config(HALVES, top, **pretrained(source))) is None
        )
        with pytest.raises(ValueError, match=r"MlpMixer b16.*127\.5, 127\.5, 127\.5"):
            check_preprocessing(make_config(BYTES, top, **pretrained(source)))
    config = make_config(HALVES, top, **pretrained("official"))
    settings = config.data_preprocessor if top else config.model.data_preprocessor
    settings["to_rgb" if top else "bgr_to_rgb"] = False
    with pytest.raises(ValueError, match="BGR"):
        check_preprocessing(config)


def test_weights_of_unknown_origin_are_a_warning() -> None:
    assert "right only if own.pth" in check_preprocessing(
        make_config(BYTES, **pretrained("own.pth"))
    )
    assert check_preprocessing(make_config(HALVES, **pretrained("own.pth"))) is None
    none = make_config({}, **pretrained("official"))
    del none.model["data_preprocessor"]
    with pytest.raises(ValueError, match="mean=None"):
        check_preprocessing(none)
    by_class = make_config(BYTES, type=MlpMixer, **pretrained("official"))
    with pytest.raises(ValueError, match="MlpMixer b16"):
        check_preprocessing(by_class)
    listed = make_config(BYTES, init_cfg=[{"type": "Constant"}, {"type": "Pretrained"}])
    listed.model.backbone.init_cfg[1].checkpoint = "official"
    with pytest.raises(ValueError, match="b16"):
        check_preprocessing(listed)


@pytest.mark.parametrize(
    "config",
    [
        make_config(BYTES),  # from random weights
        make_config(BYTES, arch="gmixer_24", **pretrained("official")),
        make_config(BYTES, in_channels=4, **pretrained("official")),
        make_config(BYTES, type="ResNet", **pretrained("official")),
    ],
)
def test_no_false_alarm(config: Config) -> None:
    assert check_preprocessing(config) is None


def test_a_checkpoint_says_what_it_was_trained_with(tmp_path) -> None:
    file = tmp_path / "epoch_1.pth"
    for top in (False, True):
        text = make_config(BYTES, top).pretty_text
        torch.save({"meta": {"cfg": text}, "state_dict": {}}, file)
        own = make_config(BYTES, top)  # a Mixer trained with ImageNet's mean
        assert check_preprocessing(own, str(file)) is None
        for config in (
            make_config(HALVES, top, **pretrained(file)),
            make_config(HALVES, top),
        ):
            with pytest.raises(ValueError, match="epoch_1.pth was trained with mean"):
                check_preprocessing(config, str(file))
        turned = make_config(BYTES, top)
        del (turned if top else turned.model)["data_preprocessor"][
            "to_rgb" if top else "bgr_to_rgb"
        ]
        with pytest.raises(ValueError, match="rgb=True, the config has rgb=False"):
            check_preprocessing(turned, str(file))
    bare = make_config({})
    with pytest.raises(ValueError, match=r"the config has mean=\[\]"):
        check_preprocessing(bare, str(file))
    loading = make_config(HALVES)
    loading.load_from = str(file)
    with pytest.raises(ValueError, match="was trained with"):
        check_preprocessing(loading)


def test_the_config_in_a_checkpoint_is_never_executed(tmp_path) -> None:
    file = tmp_path / "w.pth"
    trace = tmp_path / "trace"
    text = f"import os\nmodel = dict(data_preprocessor=open({str(trace)!r}, 'w'))\n"
    for cfg in (text, "model = (", 3):
        torch.save({"meta": {"cfg": cfg}, "state_dict": {}}, file)
        assert check_preprocessing(make_config(HALVES), str(file)) is None
    assert not trace.exists()
