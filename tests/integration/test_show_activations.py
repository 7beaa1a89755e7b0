"""tools/analysis_tools/show_activations.py, for all three tasks."""

import importlib.util
import os
import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from tool_calls import fail

from mlp_backbones.building import build_model
from mlp_backbones.config_names import config_dir
from mlp_backbones.testing.contract import randomise

TOOL = "analysis_tools/show_activations.py"
CONFIGS = {
    "classification": "cyclemlp-mini_1xb32-10e_digit-scenes",
    "detection": "retinanet_cyclemlp-mini_fpn_1xb8-8e_digit-scenes",
    "instances": "mask-rcnn_cyclemlp-mini_fpn_1xb8-6e_digit-scenes",
    "segmentation": "fpn_cyclemlp-mini_1xb32-3k_digit-scenes",
}

ALL = [
    pytest.param(task, marks=[] if task == "detection" else pytest.mark.slow)
    for task in CONFIGS
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return config, weights and an image for each task."""
    folder = tmp_path_factory.mktemp("weights")
    image = np.random.default_rng(0).integers(0, 255, (80, 112, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / "scene.png"), image)
    found = {}
    for task, stem in CONFIGS.items():
        path = config_dir() / "cyclemlp" / f"{stem}.py"
        torch.manual_seed(0)
        model = build_model(Config.fromfile(path))
        randomise(model.backbone)
        torch.save({"state_dict": model.state_dict()}, folder / f"{task}.pth")
        found[task] = (folder / "scene.png", path, folder / f"{task}.pth")
    return found


def draw(call, *arguments):
    code, out, err = call(TOOL, *arguments)
    assert code == 0, err
    return [line for line in out.splitlines() if line.startswith("out/")]


@pytest.mark.parametrize("task", ALL)
def test_feature_maps(call, trained, task, tmp_path) -> None:
    lines = draw(call, *trained[task], "out")
    assert lines == [f"out/scene_stage{stage}_mean.png" for stage in range(4)]
    pictures = [cv2.imread(str(tmp_path / line)) for line in lines]
    assert len({picture.shape for picture in pictures}) == 1
    assert all((a != b).any() for a, b in zip(pictures, pictures[1:], strict=False))
    # another image gives another picture: it is the network's map that is drawn
    for method in ("max", "channels"):
        (line,) = draw(call, *trained[task], "out", "--method", method, "--stages", "1")
        assert cv2.imread(str(tmp_path / line)).std() > 1


@pytest.fixture
def grad_cam():
    if importlib.util.find_spec("pytorch_grad_cam") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI needs grad-cam, and it is not installed")
        pytest.skip("grad-cam is not installed")


@pytest.mark.slow
@pytest.mark.parametrize("task", CONFIGS)
def test_class_activation_maps(call, trained, task, tmp_path, grad_cam) -> None:
    pictures = {}
    for target in ("1", "2"):
        options = ("--method", "gradcam", "--class", target, "--stages", "1", "2")
        lines = draw(call, *trained[task], "out", *options)
        assert [line.partition(": ")[0] for line in lines] == [
            f"out/scene_stage{stage}_gradcam.png" for stage in (1, 2)
        ]
        assert all(": " in line for line in lines)
        pictures[target] = cv2.imread(str(tmp_path / "out/scene_stage2_gradcam.png"))
    assert (pictures["1"] != pictures["2"]).any()
    for method in ("layercam", "eigencam"):
        options = ("--method", method, "--stages", "3", "--cfg-options")
        frozen = "model.backbone.frozen_stages=4"
        (line,) = draw(call, *trained[task], "out", *options, frozen)
        assert (": " in line) == (method == "layercam")


def test_what_is_not_drawn(call, trained, tmp_path, monkeypatch) -> None:
    image, config, weights = trained["classification"]
    fail(call(TOOL, "no.png", config, weights, "out"), "no.png does not exist")
    stage = ("--stages", "4")
    fail(call(TOOL, image, config, weights, "out", *stage), "there are 0 to 3")
    wrong = ("--method", "gradcam", "--class", "cow")
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    fail(call(TOOL, image, config, weights, "out", *wrong), "pip install grad-cam")
    assert not (tmp_path / "out").exists()


def test_classes_that_do_not_exist(call, trained, grad_cam) -> None:
    for wrong in ("cow", "10"):
        options = ("--method", "gradcam", "--class", wrong)
        fail(
            call(TOOL, *trained["classification"], "out", *options), f"class '{wrong}'"
        )
