"""The preflight through the commands: run card, dry run, weights, resuming."""

import json
import shutil
from types import SimpleNamespace

import pytest
import tiny_runs
import torch

from mlp_backbones.building import build_model
from mlp_backbones.config_names import config_dir
from mlp_backbones.engine import launch, options
from mlp_backbones.engine.amp import FloatHeadOutputsHook
from mlp_backbones.engine.config import read_config
from mlp_backbones.engine.errors import UserError

QUIET = "visualizer.name={}"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny_runs.make_data(folder)
    for task in tiny_runs.TASKS:
        tiny_runs.write_config(task, folder)
    command = [str(folder / "detection.py"), "--work-dir", str(folder / "run")]
    command += ["--cfg-options", "visualizer.name=preflight_run"]
    launch.train(options.train_parser().parse_args(command))
    return folder


@pytest.fixture(scope="module")
def trained(tiny):
    return tiny / "run" / "iter_2.pth"


def dry(tiny, work_dir, *more, task="detection", parser=options.train_parser):
    command = [str(tiny / f"{task}.py"), *more, "--work-dir", str(work_dir)]
    args = parser().parse_args([*command, "--dry-run"])
    (launch.train if parser is options.train_parser else launch.test)(args)
    return json.loads((work_dir / "run_card.json").read_text())


def refused(tiny, work_dir, *more, **options):
    with pytest.raises(UserError) as error:
        dry(tiny, work_dir, *more, **options)
    assert not (work_dir / "run_card.json").exists()
    return str(error.value)


def saved(content, file):
    torch.save(content, file)
    return file


@pytest.mark.parametrize("task", tiny_runs.TASKS)
def test_a_dry_run_ends_in_the_card(tiny, tmp_path, task, capsys):
    card = dry(tiny, tmp_path, "--seed", "7", task=task)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run_card.json"]
    assert (card["task"], card["tool"], card["seed"]) == (task, "train", 7)
    assert [one["split"] for one in card["datasets"]] == ["train", "val"]
    assert [one["num_images"] for one in card["datasets"]] == [6, 6]
    classes = ["ground", "a", "b"] if task == "segmentation" else ["a", "b"]
    assert card["classes"]["names"] == classes
    assert set(card["head_classes"].values()) == {len(classes)}
    assert card["weights"] == []
    assert card["images_per_step"]["total"] == 2
    assert card["precision"] == "float32"
    assert {"torch", "mmengine", "mlp_backbones", "python"} <= card["versions"].keys()
    said = capsys.readouterr().out
    assert "Run card" in said and "random" in said


def test_the_card_tells_what_is_scaled_and_taken_over(tiny, tmp_path, trained):
    setting = ["optim_wrapper.accumulative_counts=4", f"load_from={trained}"]
    card = dry(tiny, tmp_path, "--auto-scale-lr", "--amp", "--cfg-options", *setting)
    step = {"total": 8, "processes": 1, "batch_size": 2, "accumulation": 4}
    assert card["images_per_step"] == step
    assert card["learning_rate"]["arithmetic"] == "0.001 = 0.001 x 8 / 8"
    assert card["precision"] == (
        "mixed, float16" if torch.cuda.is_available() else "mixed, bfloat16"
    )
    (weights,) = card["weights"]
    assert weights["use"] == "load_from" and len(weights["sha256"]) == 64
    assert (weights["left"], weights["missing"]) == (0, 0)
    assert weights["taken"] == len(
        torch.load(trained, weights_only=False)["state_dict"]
    )


def test_the_rate_is_scaled_by_what_is_accumulated(tiny, tmp_path):
    command = [str(tiny / "detection.py"), "--work-dir", str(tmp_path)]
    command += ["--auto-scale-lr", "--cfg-options", "train_cfg.max_iters=1"]
    command += ["optim_wrapper.accumulative_counts=8", "visualizer.name=accumulate"]
    args = options.train_parser().parse_args([*command, "param_scheduler=None"])
    config = launch.prepare_training(args)
    runner = launch.build_runner(config)
    wrapper = runner.build_optim_wrapper(config.optim_wrapper)
    runner.scale_lr(wrapper, runner.auto_scale_lr)
    assert wrapper.param_groups[0]["lr"] == pytest.approx(1e-3 * 2 * 8 / 8)
    card = json.loads((tmp_path / "run_card.json").read_text())
    assert card["learning_rate"]["used"] == pytest.approx(2e-3)


def test_the_card_of_an_earlier_run_is_kept(tiny, tmp_path):
    first = dry(tiny, tmp_path, "--seed", "1")
    assert dry(tiny, tmp_path, "--seed", "2")["seed"] == 2
    (earlier,) = tmp_path.glob("run_card_*.json")
    assert json.loads(earlier.read_text()) == first


def test_a_test_is_told_too(tiny, tmp_path, trained):
    card = dry(tiny, tmp_path, str(trained), parser=options.test_parser)
    assert [one["split"] for one in card["datasets"]] == ["test"]
    assert card["weights"][0]["use"] == "test"


def test_resume_takes_load_from_where_there_is_no_checkpoint(tiny, tmp_path, trained):
    said = refused(tiny, tmp_path, "--resume")
    assert f"no checkpoint in {tmp_path}" in said and "load_from" in said
    option = ["--cfg-options", f"load_from={trained}"]
    card = dry(tiny, tmp_path, "--resume", *option)
    assert [one["use"] for one in card["weights"]] == ["load_from"]
    shutil.copy(trained, tmp_path)
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "iter_2.pth"))
    card = dry(tiny, tmp_path, "--resume", *option)
    (weights,) = card["weights"]
    assert (weights["use"], weights["file"]) == ("resume", str(tmp_path / "iter_2.pth"))


def state_of(tiny):
    return build_model(read_config(str(tiny / "detection.py"))).state_dict()


def test_weights_that_fit_nothing_are_refused(tiny, tmp_path):
    state = state_of(tiny)
    backbone = {
        name.removeprefix("backbone."): value
        for name, value in state.items()
        if name.startswith("backbone.")
    }
    others = {
        (f"{name[:9]}x{name[9:]}" if name.startswith("backbone.") else name): value
        for name, value in state.items()
    }
    wider = {
        name: torch.zeros(*(2 * side for side in value.shape), 1)
        for name, value in state.items()
    }
    for number, content in enumerate((backbone, others, wider)):
        file = saved(content, tmp_path / f"{number}.pth")
        said = refused(tiny, tmp_path, "--cfg-options", f"load_from={file}")
        assert "model.backbone.init_cfg.checkpoint" in said and str(file) in said


def test_weights_of_another_head_are_counted(tiny, tmp_path):
    state = state_of(tiny)
    name = "bbox_head.retina_cls.bias"
    file = saved({**state, name: torch.zeros(7)}, tmp_path / "w.pth")
    card = dry(tiny, tmp_path, "--cfg-options", f"load_from={file}")
    (weights,) = card["weights"]
    assert (weights["left"], weights["missing"]) == (1, 1)
    assert any(str(file) in warning for warning in card["warnings"])


def test_weights_that_are_no_numbers_are_refused(tiny, tmp_path, trained):
    content = torch.load(trained, weights_only=False)
    content["state_dict"]["backbone.conv1.weight"][0, 0, 0, 0] = float("nan")
    file = saved(content, tmp_path / "nan.pth")
    for more, parser in (
        ([str(file)], options.test_parser),
        (["--resume", str(file)], options.train_parser),
        (["--cfg-options", f"load_from={file}"], options.train_parser),
    ):
        said = refused(tiny, tmp_path, *more, parser=parser)
        assert "backbone.conv1.weight holds 1 values" in said and str(file) in said


def test_a_test_needs_weights_that_fit(tiny, tmp_path):
    state = state_of(tiny)
    del state["backbone.conv1.weight"]
    file = saved(state, tmp_path / "w.pth")
    said = refused(tiny, tmp_path, str(file), parser=options.test_parser)
    assert "backbone.conv1.weight is missing" in said


def test_what_cannot_be_resumed_is_refused(tiny, tmp_path, trained):
    content = torch.load(trained, weights_only=False)
    weights = saved(content["state_dict"], tmp_path / "weights.pth")
    assert "it does not say how far its run has come" in refused(
        tiny, tmp_path, "--resume", str(weights)
    )
    batch = ["--cfg-options", "train_dataloader.batch_size=3"]
    said = refused(tiny, tmp_path, "--resume", str(trained), *batch)
    assert "batch_size=2, this run has 3" in said
    content["meta"]["dataset_meta"]["classes"] = ("b", "a")
    turned = saved(content, tmp_path / "turned.pth")
    for more, parser in (
        (["--resume", str(turned)], options.train_parser),
        ([str(turned)], options.test_parser),
    ):
        said = refused(tiny, tmp_path, *more, parser=parser)
        assert "number 0" in said and "'b'" in said and "'a'" in said


def test_weights_of_a_backbone_are_compared_with_it(tiny, tmp_path):
    state = {f"layer.{number}": torch.zeros(3) for number in range(4)}
    file = saved(state, tmp_path / "backbone.pth")
    place = "model.backbone.init_cfg"
    given = [f"{place}.type=Pretrained", f"{place}.checkpoint={file}"]
    said = refused(tiny, tmp_path, "--cfg-options", *given)
    assert f"{place}.checkpoint: 0 of" in said and str(file) in said
    given[1] = f"{place}.checkpoint={tmp_path / 'none.pth'}"
    said = refused(tiny, tmp_path, "--cfg-options", *given)
    assert f"{place}.checkpoint" in said and "does not exist" in said


def evaluate(tiny, work_dir, trained, *settings):
    """Run tools/test.py's work; return the metrics and the log."""
    name = work_dir.name.replace("-", "_")
    command = [str(tiny / "detection.py"), str(trained), "--work-dir", str(work_dir)]
    command += ["--no-check-data", "--cfg-options", f"visualizer.name={name}"]
    args = options.test_parser().parse_args([*command, *settings])
    metrics = launch.test(args)
    (log,) = work_dir.glob("*/*.log")
    return metrics, log.read_text()


def test_an_evaluation_without_detections_has_metrics(tiny, tmp_path, trained):
    setting = "model.test_cfg.score_thr=1.1"
    metrics, log = evaluate(tiny, tmp_path / "none_found", trained, setting)
    assert metrics["coco/bbox_mAP"] == 0.0
    assert "not one detection" in log and "coco/bbox_mAP: 0.0" in log


def test_an_evaluation_without_annotations_says_so(tiny, tmp_path, trained):
    content = json.loads((tiny / "coco.json").read_text())
    file = tmp_path / "empty.json"
    file.write_text(json.dumps({**content, "annotations": []}))
    settings = [
        f"test_dataloader.dataset.ann_file={file}",
        f"test_evaluator.ann_file={file}",
    ]
    metrics, log = evaluate(tiny, tmp_path / "none_drawn", trained, *settings)
    assert metrics["coco/bbox_mAP"] == -1.0
    assert "coco/bbox_mAP_50" in log and "has no object" in log


MASKS = """
_base_ = {base!r}
steps = [dict(type='LoadImageFromFile'),
         dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
         dict(type='Resize', scale=(64, 64), keep_ratio=True),
         dict(type='PackDetInputs', meta_keys=(
             'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
data = dict(_delete_=True, type='CocoDataset', data_root={root!r}, ann_file='coco.json',
            metainfo=dict(classes=('a', 'b')), data_prefix=dict(img='images/'),
            pipeline=steps)
loader = dict(batch_size=2, num_workers=0, persistent_workers=False)
train_dataloader = dict(dataset=data, **loader)
val_dataloader = dict(dataset=dict(test_mode=True, **data), **loader)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file={root!r} + '/coco.json')
test_evaluator = val_evaluator
head = dict(num_classes=2)
model = dict(roi_head=dict(bbox_head=head, mask_head=head),
             test_cfg=dict(rcnn=dict(score_thr=0.0)))
train_cfg = dict(max_epochs=1)
visualizer = dict(name='masks')
"""


@pytest.mark.parametrize("masks", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_mixed_precision_trains_and_tests_a_detector(tiny, tmp_path, masks):
    config = tiny / "detection.py"
    if masks:
        base = min((config_dir() / "cyclemlp").glob("mask-rcnn_*digit-scenes.py"))
        config = tmp_path / "masks.py"
        config.write_text(MASKS.format(base=str(base), root=str(tiny)))
    command = [str(config), "--work-dir", str(tmp_path), "--amp", "--no-check-data"]
    name = ["--cfg-options", f"visualizer.name=amp_{masks}"]
    launch.train(options.train_parser().parse_args([*command, *name]))
    (trained,) = tmp_path.glob("*_[0-9].pth")
    command.insert(1, str(trained))
    name = ["--cfg-options", f"visualizer.name=amp_test_{masks}"]
    metrics = launch.test(options.test_parser().parse_args([*command, *name]))
    assert 0 <= metrics["coco/bbox_mAP"] <= 1


def test_heads_give_float32_and_compute_in_less():
    head = torch.nn.Linear(4, 4)
    model = torch.nn.ModuleDict({"bbox_head": head, "neck": torch.nn.Linear(4, 4)})
    FloatHeadOutputsHook().before_run(SimpleNamespace(model=model))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image = torch.ones(1, 4)
        assert model["neck"](image).dtype == torch.bfloat16
        given = head(image)
    assert given.dtype == torch.float32
    assert torch.equal(given, given.bfloat16().float())


def test_scalars_go_to_tensorboard_and_wandb(tiny, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import (
        EventAccumulator,
    )

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    command = [str(tiny / "classification.py"), "--work-dir", str(tmp_path)]
    command += ["--vis", "tensorboard", "wandb", "--no-check-data"]
    command += ["--cfg-options", "visualizer.name=vis"]
    launch.train(options.train_parser().parse_args(command))
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    read = EventAccumulator(str(events.parent)).Reload()
    losses = read.Scalars("loss")
    assert [event.step for event in losses] == [1, 2]
    (scalars,) = tmp_path.rglob("scalars.json")
    written = [json.loads(line) for line in scalars.read_text().splitlines()]
    expected = [entry["loss"] for entry in written if "loss" in entry]
    assert [event.value for event in losses] == pytest.approx(expected)
    assert read.Scalars("accuracy/top1")
    (run,) = tmp_path.rglob("run-*.wandb")
    assert run.stat().st_size > 0


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_named(tiny, tmp_path, monkeypatch, name):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda one: None if one == name else find(one)
    )
    said = refused(tiny, tmp_path, "--vis", name)
    assert f"--vis {name} needs the package {name}: pip install" in said
