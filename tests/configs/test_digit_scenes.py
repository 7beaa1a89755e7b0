"""The digit-scenes configs run through MMEngine's runner on a small set."""

import json

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from mlp_backbones.datasets.digit_scenes import DigitScenesOptions, make_digit_scenes
from mlp_backbones.testing.configs import find_config_dir

CONFIG_DIR = find_config_dir()

PATHS = sorted(CONFIG_DIR.glob("*/*_digit-scenes.py"))
METRICS = {
    "mmdet": ("coco/bbox_mAP_50",),
    "mmseg": ("mIoU",),
    "mmpretrain": ("accuracy/top1",),
}


@pytest.fixture(scope="module")
def digit_scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "scenes"
    make_digit_scenes(
        folder,
        DigitScenesOptions(num_train=8, num_val=2, num_train_cls=32, num_val_cls=10),
    )
    return folder


# mmseg says at each build that its loss averages over all pixels.
@pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore``")
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_trains_and_evaluates(path, digit_scenes, tmp_path):
    config = Config.fromfile(path)
    text = config.pretty_text.replace("data/digit_scenes", str(digit_scenes))
    config = Config.fromstring(text, ".py")
    config.work_dir = str(tmp_path)
    config.visualizer.name = path.stem  # MMEngine keeps visualizers by name
    for split in ("train", "val", "test"):
        loader = config[f"{split}_dataloader"]
        loader.num_workers, loader.persistent_workers = 0, False
    if config.model.type == "RetinaNet":
        config.model.test_cfg.score_thr = 0.0  # one step makes no confident detection
    config.env_cfg.dist_cfg.backend = "gloo"
    if config.train_cfg.type == "IterBasedTrainLoop":
        config.train_cfg.update(max_iters=1, val_interval=1)
    else:
        config.train_cfg.update(max_epochs=1, val_interval=1)
    config.default_hooks.checkpoint.interval = 1
    config.default_hooks.logger.interval = 1
    runner = Runner.from_cfg(config)
    runner.train()

    (log,) = tmp_path.glob("*/vis_data/scalars.json")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    metrics = {key: value for line in lines for key, value in line.items()}
    assert metrics["loss"] > 0
    for name in METRICS[config.default_scope]:
        assert 0 <= metrics[name] <= 100
    if config.model.type == "MaskRCNN":
        assert "coco/segm_mAP_50" in metrics
    assert len(list(tmp_path.glob("*_1.pth"))) == 1
