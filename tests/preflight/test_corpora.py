"""No alarm on the configs that this package and OpenMMLab ship."""

import importlib.util
import re
from pathlib import Path

import pytest
from mmengine.config import Config

from mlp_backbones.config_names import TASKS, config_dir
from mlp_backbones.preflight.keys import find_mistakes
from mlp_backbones.preflight.model import class_mistakes, classes_of, try_model
from mlp_backbones.preflight.schedule import find_schedule_mistakes

# Configs of OpenMMLab that cannot be trained or tested as they are: each ends in
# MMEngine with an error about the very key that is named here.
BROKEN = (
    r"bytetrack_yolox_x_8xb4-80e_crowdhuman-mot20train_test-mot20test: .*MOTChallenge",
    r"bytetrack_yolox_x_8xb4-amp-80e_crowdhuman-mot20train_test-mot20test: .*MOTChall",
    r"faster-rcnn_r50_fpn_1x_voc0712-cocofmt: .*eval_mode",
    r"fcos_swinb_fpn_8x4_sample1e-3_mstrain_v3det_2x: .*force_grad_on_level",
    r"solov2-light_\w+: train_cfg .*by_epoch",
    r"vit-base-p16_8xb256-coslr-100e_in1k: train_cfg .*by_epoch",
    r"levit-\w+_8xb256_in1k: the model cannot be built",
    r"resnet50_8xb32-cutmix_in1k: the model cannot be built: KeyError: 'BatchCutMix",
    r"clrnet: the model cannot be built",
    r"vpd_\w+-\w+: the model cannot be built: AssertionError: To use VPD",
)


def configs_of(package: str) -> list[Path]:
    folder = config_dir()
    if package != "mlp_backbones":
        spec = importlib.util.find_spec(package)
        folder = Path(spec.origin).parent / ".mim" / "configs"
    files = sorted(folder.rglob("*.py"))
    files = [file for file in files if "_base_" not in file.parts]
    assert len(files) > 400
    return files


def alarms_in(files: list[Path], *, with_models: bool) -> list[str]:
    found = []
    num_read = 0
    for file in files:
        try:
            config = Config.fromfile(file)
        except Exception:  # it needs a package that is not here
            continue
        if config.get("default_scope") not in TASKS or "model" not in config:
            continue
        num_read += 1
        mistakes = find_mistakes(config) + find_schedule_mistakes(config.to_dict())
        if with_models:
            mistakes += model_mistakes(config)
        lines = [f"{file.stem}: {one.message}" for one in mistakes if one.is_certain]
        found += [line for line in lines if not any(re.match(b, line) for b in BROKEN)]
    assert num_read > 0.9 * len(files)
    return found


def model_mistakes(config: Config) -> list:
    facts = try_model(config)
    found = list(facts.mistakes)
    for split in ("train", "val", "test"):
        dataset = (config.get(f"{split}_dataloader") or {}).get("dataset")
        names = classes_of(dataset, config.default_scope)
        if names is not None:
            found += class_mistakes(
                facts.num_classes, *names, scope=config.default_scope
            )
    return found


@pytest.mark.parametrize("package", ["mlp_backbones", *TASKS])
def test_no_alarm_on_a_sample_of_shipped_configs(package: str) -> None:
    files = configs_of(package)
    assert alarms_in(files[:: len(files) // 12], with_models=True) == []


@pytest.mark.nightly
@pytest.mark.parametrize("package", ["mlp_backbones", *TASKS])
def test_no_alarm_on_any_shipped_config(package: str) -> None:
    assert alarms_in(configs_of(package), with_models=True) == []
