"""The digit-scenes configs hold together, and run through MMEngine's runner."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn

from mlp_backbones.building import build_model
from mlp_backbones.config_names import config_dir, parse_config_name
from mlp_backbones.datasets.digit_scenes import DigitScenesOptions, make_digit_scenes
from mlp_backbones.engine.config import read_config
from mlp_backbones.engine.errors import UserError
from mlp_backbones.factory import families
from mlp_backbones.layers import LayerScale
from mlp_backbones.registry import MODELS
from mlp_backbones.testing.configs import shrink_config

CONFIG_DIR = config_dir()

METRICS = {
    "mmdet": ("coco/bbox_mAP_50",),
    "mmseg": ("mIoU",),
    "mmpretrain": ("accuracy/top1",),
}
TASKS = {
    None: "1xb32-10e",
    "fpn": "1xb32-3k",
    "mask-rcnn": "1xb8-6e",
    "retinanet": "1xb8-8e",
    "upernet": "1xb32-3k",
}
CROP = 64
BATCH = 4
SILENT, HEARD = 0.1, 0.3
WITH_GRIDS = [
    name for name, cls in sorted(families().items()) if len(cls.grid_modes) > 1
]
# What a task may set beside the network of the family: where weights belong to a token
# grid the size of that grid, and for classifiers what makes the official trunk.
FREE = {
    "filter_resize",
    "global_grouping",
    "image_size",
    "out_indices",
    "shift_windows",
}


@pytest.mark.parametrize("family", sorted(families()))
def test_every_family_has_every_task(family):
    names = [
        parse_config_name(p) for p in CONFIG_DIR.glob(f"{family}/*digit-scenes.py")
    ]
    assert Counter((n.head, f"{n.gpus}xb{n.batch}-{n.schedule}") for n in names) == (
        Counter(TASKS.items())
    )
    assert {n.size for n in names} == {"mini"}


def test_the_network_is_that_of_the_family(digit_path, config):
    """The five tasks differ in what is around the network, not in the network."""
    backbone = config.model.backbone
    cls = families()[digit_path.parent.name]
    arguments = {
        "type": f"mlp_backbones.{cls.__name__}",
        "arch": "mini",
        **cls.mini_options,
    }
    if parse_config_name(digit_path).head is None:
        arguments |= {**cls.classifier_arguments, "out_indices": (3,)}
    else:
        # Of mini_options only what makes the network, not what follows the task.
        arguments = {k: v for k, v in arguments.items() if k not in FREE}
        arguments |= {k: backbone[k] for k in FREE & backbone.keys()}
    assert backbone.to_dict() == Config(arguments).to_dict()
    assert cls.resolve_arch("mini") not in cls.arch_settings.values()


def test_options_reach_the_model_and_not_the_variables_behind_it():
    path = CONFIG_DIR / "vip" / "fpn_vip-mini_1xb32-3k_digit-scenes.py"
    config = read_config(str(path), {"model.decode_head.norm_cfg.type": "GN"})
    assert config.model.decode_head.norm_cfg.type == "GN"
    with pytest.raises(UserError, match="'norm_cfg' is a variable of the config"):
        read_config(str(path), {"norm_cfg.type": "GN"})


def _read(family: str, head: str | None) -> Config:
    slug = f"{family.replace('_', '-')}-mini"
    stem = f"{slug}_{TASKS[head]}" if head is None else f"{head}_{slug}_{TASKS[head]}"
    return Config.fromfile(CONFIG_DIR / family / f"{stem}_digit-scenes.py")


@pytest.mark.parametrize("head", [None, "fpn", "upernet"])
@pytest.mark.parametrize("family", WITH_GRIDS)
def test_token_grids_are_those_of_the_crops(family, head):
    """At the size of the grid, windows and resampled weights are the same network."""
    config = _read(family, head)
    outputs = []
    images = torch.rand(1, 3, CROP, CROP)
    for grid in families()[family].grid_modes:
        torch.manual_seed(0)
        backbone = MODELS.build({**config.model.backbone, "grid": grid}).eval()
        with torch.no_grad():
            outputs.append(backbone(images))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("head", [None, "fpn", "upernet"])
@pytest.mark.parametrize("family", sorted(families()))
def test_branches_are_heard_at_the_start(family, head):
    """Xavier's start is given where the family's own is silent, and only there.

    Families with a learnt scale on their branches, or with linear layers that start
    in a way of their own, keep their start.
    """
    config = _read(family, head)
    own = MODELS.build(config.model.backbone)
    plain = all(
        layer.weight.std().item() == pytest.approx(0.02, rel=0.15)
        and (layer.bias is None or not layer.bias.any())
        for layer in own.modules()
        if isinstance(layer, nn.Linear)
    )
    scaled = any(isinstance(part, LayerScale) for part in own.modules())
    is_silent = min(_changes(own)) < SILENT
    assert ("init_cfg" in config.model) == (is_silent and plain and not scaled)
    if "init_cfg" in config.model:
        given = build_model(shrink_config(config), init=True).backbone
        assert min(_changes(given)) > HEARD


def _changes(backbone: nn.Module) -> list[float]:
    """Return by how much each block changes its input, in units of that input."""
    found: list[float] = []

    def note(_: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        found.append(float((output - inputs[0]).std() / inputs[0].std()))

    for stage in backbone.stages:
        for block in stage.blocks:
            block.register_forward_hook(note)
    with torch.no_grad():
        backbone.train()(torch.randn(4, 3, CROP, CROP))
    return found


@pytest.fixture(scope="module")
def digit_scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "scenes"
    make_digit_scenes(
        folder,
        DigitScenesOptions(
            num_train=BATCH, num_val=2, num_train_cls=10, num_val_cls=10
        ),
    )
    return folder


@pytest.fixture
def format_once(monkeypatch):
    """Format equal configs once: MMEngine does it five times a run."""
    texts: dict[str, str] = {}
    make_text = Config.pretty_text.fget

    def pretty_text(config: Config) -> str:
        key = repr(config.to_dict())
        if key not in texts:
            texts[key] = make_text(config)
        return texts[key]

    monkeypatch.setattr(Config, "pretty_text", property(pretty_text))


# mmseg says at each build that its loss averages over all pixels.
@pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore``")
@pytest.mark.usefixtures("format_once")
def test_trains_and_evaluates(runner_path, digit_scenes, tmp_path):
    part = Path(Config.fromfile(runner_path).data_root).name
    root = digit_scenes / (part if part in ("ade", "cls") else "")
    config = read_config(str(runner_path), {"data_root": str(root)})
    config.launcher, config.work_dir = "none", str(tmp_path)
    config.visualizer.name = runner_path.stem  # MMEngine keeps them by name
    for split in ("train", "val", "test"):
        loader = config[f"{split}_dataloader"]
        loader.num_workers, loader.persistent_workers = 0, False
        loader.batch_size = min(loader.batch_size, BATCH)
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
    (left,) = tmp_path.glob("*_digit-scenes.py")  # it starts the same run again
    assert Config.fromfile(left).model.to_dict() == config.model.to_dict()
