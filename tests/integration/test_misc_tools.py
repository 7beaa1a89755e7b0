"""Configs, data, logs and checkpoints through the small tools around training."""

import hashlib
import json
import pickle
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny_runs
import torch
from mmengine.config import Config
from safetensors.torch import load_file
from tool_calls import fail

from mlp_backbones import get_backbone, get_model
from mlp_backbones.backbones.as_mlp import ASMLP
from mlp_backbones.checkpoints import CheckpointError, load_pretrained
from mlp_backbones.config_names import config_dir
from mlp_backbones.engine import launch
from mlp_backbones.engine import options as engine_options
from mlp_backbones.factory import Classifier

REPOSITORY = Path(__file__).parents[2]
TOOLS = REPOSITORY / "tools"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny_runs.make_data(folder)
    for task in tiny_runs.TASKS:
        tiny_runs.write_config(task, folder)
    return folder


@pytest.fixture(scope="module")
def trained(tiny):
    """Train the tiny segmentor; return its work folder."""
    work_dir = tiny / "work"
    arguments = [str(tiny / "segmentation.py"), "--work-dir", str(work_dir)]
    # MMEngine would take a visualizer of this name from an earlier test.
    arguments += ["--cfg-options", "visualizer.name=misc_tools"]
    parsed = engine_options.train_parser().parse_args(arguments)
    launch.build_runner(launch.prepare_training(parsed)).train()
    return work_dir


# -------------------------------------------------------------------- publish_model


def publish(call, source, out):
    code, text, err = call("misc/publish_model.py", source, out)
    assert code == 0, err
    return Path(text.splitlines()[-1])


def test_a_published_file_is_small_named_by_its_hash_and_stable(
    call, trained, tmp_path
):
    source = trained / "iter_2.pth"
    file = publish(call, source, tmp_path / "model.pth")
    digits = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    assert file == tmp_path / f"model-{digits}.pth"
    assert list(tmp_path.iterdir()) == [file]
    assert file.stat().st_size < source.stat().st_size / 2  # AdamW keeps two moments
    published = torch.load(file, weights_only=True)  # asks for nothing but plain data
    original = torch.load(source, weights_only=False)
    assert set(published) == {"meta", "state_dict"}
    assert published["state_dict"].keys() == original["state_dict"].keys()
    for name, value in original["state_dict"].items():
        assert torch.equal(published["state_dict"][name], value)
    meta = published["meta"]
    assert meta["dataset_meta"]["classes"] == ("ground", "a", "b")
    assert meta["iter"] == 2
    assert "time" not in meta
    # Neither the optimizer's state nor the name that is wished for change the content.
    original["optimizer"] = original["message_hub"] = None
    torch.save(original, tmp_path / "other.pth")
    again = publish(call, tmp_path / "other.pth", tmp_path / "again.pth")
    assert again.name == f"again-{digits}.pth"
    # Publishing what is published changes nothing.
    assert publish(call, file, tmp_path / "model.pth").read_bytes() == file.read_bytes()


def test_tools_test_takes_a_published_file(call, trained, tiny, tmp_path):
    file = publish(call, trained / "iter_2.pth", tmp_path / "model.pth")
    said = []
    for checkpoint in (trained / "iter_2.pth", file):
        out = tmp_path / f"{checkpoint.stem}.pkl"
        arguments = [str(tiny / "segmentation.py"), str(checkpoint), "--out", str(out)]
        arguments += ["--work-dir", str(tmp_path / "work")]
        launch.test(engine_options.test_parser().parse_args(arguments))
        said.append(pickle.loads(out.read_bytes()))
    for before, after in zip(*said, strict=True):
        assert torch.equal(
            before["pred_sem_seg"]["data"], after["pred_sem_seg"]["data"]
        )


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_published_weights_load_by_name(call, tmp_path, suffix):
    model = get_model("gmlp_ti16", num_classes=3).eval()
    images = torch.rand(1, 3, 224, 224)
    weights = dict(model.state_dict())
    content = {
        "meta": {"dataset_meta": {"classes": ("a", "b", "c")}},
        "state_dict": weights,
        "optimizer": {"state": [torch.zeros(5)]},
    }
    torch.save(content, tmp_path / "run.pth")
    file = publish(call, tmp_path / "run.pth", tmp_path / f"model{suffix}")
    found = get_model("gmlp_ti16", num_classes=3, pretrained=file).eval()
    with torch.no_grad():
        assert torch.equal(found(images), model(images))
    backbone = get_backbone("gmlp_ti16", pretrained=file)
    assert torch.equal(backbone.stem.proj.weight, model.backbone.stem.proj.weight)
    if suffix == ".safetensors":
        assert load_file(file).keys() == weights.keys()


def test_what_a_backbone_notes_is_published_with_its_weights(call, tmp_path):
    arch = dict(embed_dims=(8, 16, 32, 64), depths=(1, 1, 1, 1))

    def make(**options):
        return Classifier(ASMLP(arch=arch, out_indices=(-1,), **options), 2)

    torch.save({"state_dict": make(shift_size=3).state_dict()}, tmp_path / "run.pth")
    for suffix in (".pth", ".safetensors"):
        file = publish(call, tmp_path / "run.pth", tmp_path / f"model{suffix}")
        load_pretrained(make(shift_size=3), file)
        with pytest.raises(CheckpointError, match="trained with shift_size=3"):
            load_pretrained(make(), file)


class Trap:
    def __reduce__(self):
        return exec, ("raise SystemExit('code in a checkpoint was run')",)


@pytest.mark.parametrize(
    ("source", "out", "word"),
    [
        ("no.pth", "model.pth", "no.pth does not exist"),
        ("trap.pth", "model.pth", "it asks for exec"),
        ("text.pth", "model.pth", "text.pth"),
        ("empty.pth", "model.pth", "holds no state dict"),
        ("good.pth", "model.bin", ".pth or .safetensors"),
        ("good.pth", "no/model.pth", "folder does not exist"),
    ],
)
def test_what_is_not_published(call, tmp_path, source, out, word):
    torch.save({"meta": {}}, tmp_path / "empty.pth")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "good.pth")
    torch.save({"weight": torch.zeros(1), "trap": Trap()}, tmp_path / "trap.pth")
    (tmp_path / "text.pth").write_text("no checkpoint")
    before = sorted(tmp_path.iterdir())
    fail(call("misc/publish_model.py", source, out), word)
    assert sorted(tmp_path.iterdir()) == before


# --------------------------------------------------------------------- print_config


def test_a_printed_config_is_the_whole_config(call, tmp_path):
    config = config_dir() / "cyclemlp" / "cyclemlp-b1_8xb128_in1k.py"
    option = "train_dataloader.batch_size=7"
    command = ["misc/print_config.py", config, "--save-path", "whole.py"]
    code, out, err = call(*command, "--cfg-options", option)
    assert code == 0, err
    (tmp_path / "printed.py").write_text(out)
    expected = Config.fromfile(config)
    expected.train_dataloader.batch_size = 7
    for name in ("whole.py", "printed.py"):
        assert Config.fromfile(tmp_path / name).to_dict() == expected.to_dict()
    fail(call(*command), "--overwrite")
    fail(call("misc/print_config.py", config, "--save-path", "x.txt"), ".json")
    fail(call("misc/print_config.py", "no.py"), "no.py does not exist")
    fail(
        call("misc/print_config.py", config, "--cfg-options", "no_such.x=1"), "no_such"
    )


# ------------------------------------------------------------------- browse_dataset


@pytest.mark.parametrize("task", tiny_runs.TASKS)
def test_samples_are_drawn_with_their_annotations(call, tiny, tmp_path, task):
    options = ["--num-images", "2", "--split", "test"]
    code, out, err = call("misc/browse_dataset.py", tiny / f"{task}.py", "b", *options)
    assert code == 0, err
    files = sorted((tmp_path / "b").glob("*.png"))
    assert [f"b/{file.name}" for file in files] == [
        line for line in out.splitlines() if line.endswith(".png")
    ]
    assert len(files) == 2
    folder = tiny / ("images" if task != "classification" else "classes/a")
    pixels = cv2.imread(str(folder / "000.jpg"))
    picture = cv2.imread(str(files[0]))
    factor = picture.shape[0] // tiny_runs.SIZE
    plain = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    changed = (np.abs(picture.astype(int) - plain) > 8).any(axis=-1)
    rows, columns = (np.flatnonzero(changed.any(axis=axis)) for axis in (1, 0))
    if task == "detection":  # the frame of the square, 24 wide from (8, 10)
        edges = [columns[0], columns[-1], rows[0], rows[-1]]
        expected = [8 * factor, 32 * factor, 10 * factor, 34 * factor]
        assert edges == pytest.approx(expected, abs=3)
    elif task == "segmentation":  # the ground is black in its palette, so all changes
        assert changed.mean() > 0.9
        blue, _, red = picture[24 * factor, 28 * factor]  # blue, and of the red class
        assert red > 140 > 120 > blue
    else:
        assert 0 < changed.mean() < 0.3


def test_what_is_not_browsed(call, tiny):
    tool, config = "misc/browse_dataset.py", tiny / "detection.py"
    fail(call(tool, "no.py", "b"), "no.py does not exist")
    fail(call(tool, config, "b", "--num-images", "0"), "at least 1")
    option = "train_dataloader.dataset.data_root=/missing"
    fail(call(tool, config, "b", "--cfg-options", option), "/missing")
    fail(call(tool, config, "b", "--cfg-options", "train_dataloader=None"), "train")


# --------------------------------------------------------------------- analyze_logs


@pytest.fixture
def log(tmp_path):
    """Write the log of two epochs, and of a start that was resumed from the first."""

    def row(epoch, iteration, time, loss):
        common = {"lr": 0.1, "data_time": time / 4, "memory": 100 * iteration}
        return {**common, "loss": loss, "time": time, "epoch": epoch, "iter": iteration}

    first = [
        row(1, 1, 9.0, 4.0),
        row(1, 2, 1.0, 3.0),
        row(1, 3, 2.0, 2.0),
        {"coco/bbox_mAP": 0.3, "coco/bbox_mAP_s": -1.0, "time": 99.0, "step": 1},
        row(2, 4, 50.0, 9.0),
    ]
    second = [
        row(2, 4, 7.0, 1.0),
        row(2, 5, 4.0, 0.5),
        row(2, 6, 5.0, 1.5),
        {"coco/bbox_mAP": 0.2, "coco/bbox_mAP_s": -1.0, "time": 99.0, "step": 2},
    ]
    for name, rows in (("20260101_000000", first), ("20260102_000000", second)):
        file = tmp_path / "run" / name / "vis_data" / "scalars.json"
        file.parent.mkdir(parents=True)
        file.write_text("".join(f"{json.dumps(line)}\n" for line in rows))
    return tmp_path / "run"


def test_times_of_a_log(call, log):
    tool = "analysis_tools/analyze_logs.py"
    code, out, err = call(tool, "cal_train_time", log)
    assert code == 0, err
    # Without the first row of each epoch: 1 and 2, then 4 and 5.
    assert "3.0000 s/iter (fastest 1.0000, slowest 5.0000)" in out
    assert "25.0 % of it waiting for data" in out
    assert "slowest epoch 2, average 4.5000" in out
    assert "fastest epoch 1, average 1.5000" in out
    assert "over epochs 1.5000" in out
    _, out, _ = call(tool, "cal_train_time", log, "--include-outliers")
    assert f"{28 / 6:.4f} s/iter (fastest 1.0000, slowest 9.0000)" in out


def test_the_best_of_a_log(call, log):
    code, out, err = call("analysis_tools/analyze_logs.py", "summary", log)
    assert code == 0, err
    cells = {
        line.split("│")[1].strip(): [part.strip() for part in line.split("│")[2:5]]
        for line in out.splitlines()
        if line.count("│") == 5
    }
    assert cells == {
        "loss": ["0.5000", "5", "1.5000"],
        "coco/bbox_mAP": ["0.300", "3", "0.200"],
    }
    assert "GPU memory: 600 MiB" in out
    assert "3.0000 s/iter" in out


def test_the_log_of_a_run_by_iterations(call, trained, tmp_path):
    tool = "analysis_tools/analyze_logs.py"
    code, out, err = call(tool, "summary", trained)
    assert code == 0, err
    assert "mIoU" in out
    file = max(trained.glob("*/vis_data/scalars.json"))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert f"{rows[1]['time']:.4f} s/iter" in out  # the second of two
    code, out, err = call(
        tool, "plot_curve", trained, "--keys", "loss", "--out-dir", "c"
    )
    assert code == 0, err
    assert out.split() == ["c/loss.png"]
    assert (tmp_path / "c" / "loss.png").stat().st_size > 1000


def test_logs_that_are_none(call, tmp_path, log):
    tool = "analysis_tools/analyze_logs.py"
    fail(call(tool, "summary", tmp_path / "no"), "vis_data/scalars.json")
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    fail(call(tool, "cal_train_time", broken), "broken.json, line 1")
    broken.write_text('{"loss": 1.0, "time": 1.0, "iter": 1}\n')
    fail(call(tool, "cal_train_time", broken), "too few iterations")
    fail(call(tool, "plot_curve", log, "--keys", "no"), "no curve 'no'")


# ----------------------------------------------------------------------------- docs


def test_every_tool_is_in_the_list_of_tools():
    page = (REPOSITORY / "docs" / "tools.md").read_text()
    tools = [
        file.relative_to(REPOSITORY).as_posix()
        for pattern in ("*.py", "*.sh")
        for file in sorted(TOOLS.rglob(pattern))
    ]
    missing = [name for name in tools if name not in page]
    assert not missing
    assert "docs/tools.md" in (REPOSITORY / "README.md").read_text()


def test_every_command_of_the_documents_names_a_tool_that_exists():
    pages = [REPOSITORY / "README.md"]
    for folder in ("docs", "configs", "examples"):
        pages += (REPOSITORY / folder).rglob("*.md")
    assert len(pages) > 20
    for page in pages:
        text = page.read_text()
        for tool in re.findall(r"\btools/[\w/]+\.(?:py|sh)\b", text):
            assert (REPOSITORY / tool).is_file(), (page, tool)
        # It takes options only.
        for rest in re.findall(r"make_digit_scenes\.py +(\S+)", text):
            assert rest.startswith(("--", "|")), (page, rest)
