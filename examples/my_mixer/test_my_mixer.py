"""Run by `pytest` in this folder; the checks come with mlp_backbones."""

import re
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from my_mixer import KingMixer, MyMixer
from torch import nn
from typing_extensions import Unpack

from mlp_backbones.arguments import positive, positive_int
from mlp_backbones.backbones import CommonArguments, StagedArch
from mlp_backbones.backbones.arch import single
from mlp_backbones.checkpoints import CheckpointLayout
from mlp_backbones.factory import Classifier
from mlp_backbones.layers import ChannelMLP
from mlp_backbones.testing.contract import CHECKS

MICRO = {"embed_dims": (9, 12, 16, 20), "depths": (1, 1, 2, 1)}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check):
    check(partial(MyMixer, MICRO))


def test_channels_step_as_a_king_does():
    mixer = KingMixer(9)
    for layer in (mixer.fc1, mixer.fc2):
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    x = torch.zeros(1, 6, 6, 9)
    x[0, 2, 3] = 100.0  # large enough for the GELU to leave it alone
    moved = mixer(x)[0]
    assert moved.sum(-1)[1:4, 2:5].tolist() == [[100.0] * 3] * 3
    assert moved.sum() == 900.0


def test_classifies():
    model = Classifier(MyMixer("tiny", out_indices=(-1,)), num_classes=10)
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 10)


@pytest.mark.parametrize("scope", ["mmdet", "mmseg", "mmpretrain"])
def test_every_task_knows_the_name(scope):
    registry = pytest.importorskip(f"{scope}.registry").MODELS
    assert isinstance(registry.build(dict(type="MyMixer", arch="tiny")), MyMixer)


class NarrowMixer(MyMixer):
    """MyMixer with an argument of its own."""

    def __init__(self, arch, *, mlp_ratio=4, **common: Unpack[CommonArguments]):
        self.mlp_ratio = positive(
            "mlp_ratio", mlp_ratio
        )  # first: the base class builds
        super().__init__(arch, **common)

    def build_block(self, stage, block, drop_path_rate):
        built = super().build_block(stage, block, drop_path_rate)
        dim = self.embed_dims[stage]
        built.mlp = ChannelMLP(dim, self.mlp_ratio * dim)
        return built


@dataclass(frozen=True, kw_only=True)
class KingArch(StagedArch):
    """Widths, depths, and how far a king walks."""

    reach: int = single(positive_int)


class PublishedMixer(MyMixer):
    """MyMixer that reads the weights of an earlier repository, too."""

    checkpoint_layouts = (
        CheckpointLayout(
            name="MyMixer's first release",
            signature=r"^patch_embed\.",
            renames=(
                (r"^patch_embed\.", "stem."),
                (r"^layers\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
                (r"^merging\.(\d+)\.", r"stages.\1.downsample."),
                (r"^norm(\d)\.", r"out_norms.\1."),
            ),
        ),
    )


def test_an_argument_of_its_own():
    mlp = NarrowMixer("tiny", mlp_ratio=2).stages[0].blocks[0].mlp
    assert mlp.fc1.out_features == 64
    with pytest.raises(TypeError, match="mlp_rato"):
        NarrowMixer("tiny", mlp_rato=2)


def test_fields_of_its_own_are_checked():
    assert KingArch(**MICRO, reach=2).reach == 2
    with pytest.raises(ValueError, match="'reach' must be a positive whole number"):
        KingArch(**MICRO, reach=0)
    with pytest.raises(ValueError, match="mlp_ratio must be a positive number"):
        NarrowMixer("tiny", mlp_ratio=-1)


def test_reads_weights_of_the_first_release(tmp_path):
    trained = MyMixer(MICRO).eval()
    released = {}
    for name, tensor in trained.state_dict().items():
        for pattern, first in (
            (r"^stem\.", "patch_embed."),
            (r"^stages\.(\d)\.blocks\.(\d)\.", r"layers.\1.\2."),
            (r"^stages\.(\d)\.downsample\.", r"merging.\1."),
            (r"^out_norms\.(\d)\.", r"norm\1."),
        ):
            name = re.sub(pattern, first, name)
        released[name] = tensor
    file = str(tmp_path / "release.pth")
    torch.save({"model": released}, file)
    init_cfg = dict(type="Pretrained", checkpoint=file)
    backbone = PublishedMixer(MICRO, init_cfg=init_cfg).eval()
    backbone.init_weights()
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(backbone(x), trained(x))
