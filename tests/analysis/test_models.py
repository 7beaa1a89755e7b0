"""Complexity, throughput and pictures of models that a config describes."""

import statistics

import cv2
import numpy as np
import pytest
import tiny_runs
import torch
from mmengine.config import Config
from torch import nn
from torchvision.models import ResNet18_Weights

from mlp_backbones.analysis.complexity import measure_complexity
from mlp_backbones.analysis.models import TensorForward
from mlp_backbones.analysis.pictures import save_prediction_pictures
from mlp_backbones.analysis.throughput import measure_throughput
from mlp_backbones.building import build_model
from mlp_backbones.checkpoints.compare import CheckpointMismatchError
from mlp_backbones.engine.pictures import PictureFolder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny_runs.make_data(folder)
    files = {task: tiny_runs.write_config(task, folder) for task in tiny_runs.TASKS}
    return {task: Config.fromfile(file) for task, file in files.items()}


def test_complexity_equals_torchvisions_published_numbers():
    config = Config(
        {
            "default_scope": "mmpretrain",
            "model": {
                "type": "ImageClassifier",
                "backbone": {"type": "ResNet", "depth": 18},
                "neck": {"type": "GlobalAveragePooling"},
                "head": {
                    "type": "LinearClsHead",
                    "num_classes": 1000,
                    "in_channels": 512,
                },
            },
        }
    )
    published = ResNet18_Weights.IMAGENET1K_V1.meta
    found = measure_complexity(config, (224, 224))
    assert found.num_parameters == published["num_params"]
    # torchvision counts convolutions and the linear layer, MMEngine norms as well.
    assert found.multiply_adds / 1e9 == pytest.approx(published["_ops"], rel=0.01)


@pytest.mark.parametrize("task", tiny_runs.TASKS)
def test_whole_models_and_backbones(tiny, task):
    whole = measure_complexity(tiny[task], (64, 96))
    backbone = measure_complexity(tiny[task], (64, 96), backbone_only=True)
    model = build_model(tiny[task])
    assert whole.num_parameters == sum(p.numel() for p in model.parameters())
    assert backbone.num_parameters < whole.num_parameters
    assert 0 < backbone.multiply_adds < whole.multiply_adds
    measured = measure_throughput(
        TensorForward(model), (64, 64), batch_size=2, repeats=3, training=True
    )
    assert measured.images_per_second == pytest.approx(
        2 / statistics.median(measured.seconds)
    )
    assert len(measured.seconds) == 3


def test_a_training_step_reaches_the_parameters():
    model = nn.Conv2d(3, 2, 3)
    measure_throughput(model, (8, 8), repeats=1, training=True)
    assert model.weight.grad.abs().sum() > 0
    model.zero_grad()
    measure_throughput(model, (8, 8), repeats=1)
    assert model.weight.grad is None


def test_impossible_measurements_are_refused(tiny):
    with pytest.raises(ValueError, match="batch_size"):
        measure_throughput(nn.Identity(), (8, 8), batch_size=0)
    with pytest.raises(ValueError, match="int8"):
        measure_throughput(nn.Identity(), (8, 8), dtype="int8")
    with pytest.raises(ValueError, match="shape"):
        measure_complexity(tiny["detection"], (0, 8))


@pytest.mark.parametrize("task", tiny_runs.TASKS)
def test_pictures_show_the_ground_truth(tiny, tmp_path, task):
    config = tiny[task]
    file = str(tmp_path / "c.pth")
    torch.save({"state_dict": build_model(config).state_dict()}, file)
    files = save_prediction_pictures(config, file, tmp_path / "out", 2)
    assert [picture.name for picture in files] in (
        ["000.png", "001.png"],
        ["000.png", "002.png"],
    )
    picture = cv2.imread(str(files[0])).astype(int)
    factor = 10
    height, width = 64 * factor, 64 * factor * (1 if task == "classification" else 2)
    assert picture.shape == (height, width, 3)
    if task == "detection":
        # Image 0 holds a box from (8, 10) to (32, 34); on its border lies the frame.
        plain = cv2.imread(config.train_dataloader.dataset.data_root + "images/000.jpg")
        plain = plain.repeat(factor, 0).repeat(factor, 1).astype(int)
        changed = np.abs(picture[:, :height] - plain).sum(axis=2) > 60
        assert changed[100:340, 78:83].mean() > 0.5
        assert changed[100:340, 318:323].mean() > 0.5
        assert changed[:, 360:].mean() < 0.01


def test_a_foreign_checkpoint_is_refused(tiny, tmp_path):
    file = str(tmp_path / "c.pth")
    torch.save({"state_dict": build_model(tiny["segmentation"]).state_dict()}, file)
    with pytest.raises(CheckpointMismatchError, match="neck.lateral_convs.0"):
        build_model(tiny["detection"], checkpoint=file)


def test_images_of_one_name_get_pictures_of_their_own(tmp_path):
    folder = PictureFolder(tmp_path / "p")
    paths = ("a/1.jpg", "b/1.jpg", "b/1.png", "a/1.jpg")
    names = [folder.file_for(path).name for path in paths]
    assert names == ["1.png", "1_2.png", "1_3.png", "1.png"]
