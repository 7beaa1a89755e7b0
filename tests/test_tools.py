"""Every tool once as a process; what they do is tested where it lives."""

import importlib.util
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_runs
import torch

REPOSITORY = Path(__file__).parents[1]
TOOLS = REPOSITORY / "tools"
PYTHON_TOOLS = sorted(TOOLS.rglob("*.py"))
SHELL_TOOLS = sorted(TOOLS.rglob("*.sh"))


def run(*command, **variables):
    """Run a tool and return its exit code, stdout and stderr."""
    command = [str(part) for part in command]
    head = ["bash"] if command[0].endswith(".sh") else [sys.executable]
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    bin_dir = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **os.environ}
    environment |= {"PYTHONPATH": path, "PATH": bin_dir, **variables}
    done = subprocess.run(
        head + command, capture_output=True, text=True, env=environment, check=False
    )
    return done.returncode, done.stdout, done.stderr


def succeed(*command, **variables):
    code, out, err = run(*command, **variables)
    assert code == 0, f"{out[-3000:]}\n{err[-3000:]}"
    return out


def fail(code, *command):
    """Run a tool that must fail and return its one line of error."""
    found, out, err = run(*command)
    lines = [line for line in err.splitlines() if ": error: " in line]
    assert found == code, f"{out[-2000:]}\n{err[-2000:]}"
    assert "Traceback (most recent call last)" not in err
    assert len(lines) == 1, err
    assert err.rstrip().endswith(lines[0])
    return lines[0]


def load(tool):
    """Import a tool as a module."""
    spec = importlib.util.spec_from_file_location("tool", tool)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def refuse(monkeypatch, capfd):
    """Call a tool in this process, where it must fail; return its line of error."""

    def call(code, tool, *arguments):
        monkeypatch.setattr(sys, "argv", [str(tool), *map(str, arguments)])
        try:
            found = load(tool).main()
        except SystemExit as end:  # argparse's
            found = end.code
        err = capfd.readouterr().err
        lines = [line for line in err.splitlines() if ": error: " in line]
        assert (found, len(lines)) == (code, 1), err
        return lines[0]

    return call


def free_port():
    """A port that no process of this machine listens on, as text."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def scalars(run_dir):
    """Rows of the newest scalar file of a work folder, of training batches only."""
    file = max(run_dir.glob("*/vis_data/scalars.json"))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [row for row in rows if "loss" in row]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny_runs.make_data(folder)
    for task in tiny_runs.TASKS:
        tiny_runs.write_config(task, folder)
    return folder


@pytest.fixture(scope="module")
def trained(tiny):
    """One training of each task, by name; the options differ for more coverage."""
    options = {
        "detection": ["--amp-dtype=bfloat16", "--auto-scale-lr", "--seed=3"],
        "segmentation": ["--show-dir", tiny / "shown"],
        "classification": [],
    }
    work_dirs = {}
    for task in tiny_runs.TASKS:
        work_dirs[task] = tiny / f"work_{task}"
        command = [TOOLS / "train.py", tiny / f"{task}.py", *options[task]]
        succeed(*command, "--work-dir", work_dirs[task])
    return work_dirs


def relative(path):
    return path.relative_to(REPOSITORY).as_posix()


def check_help(tool, text):
    assert tool.name in text
    assert len(text.splitlines()) > 2


@pytest.mark.parametrize("tool", PYTHON_TOOLS, ids=relative)
def test_every_tool_explains_itself(tool, monkeypatch, capsys):
    """In this process: a new one would load OpenMMLab for each."""
    monkeypatch.setattr(sys, "argv", [str(tool), "--help"])
    with pytest.raises(SystemExit) as end:
        load(tool).main()
    assert end.value.code == 0
    check_help(tool, capsys.readouterr().out)


@pytest.mark.parametrize("tool", [TOOLS / "train.py", *SHELL_TOOLS], ids=relative)
def test_tools_explain_themselves_as_processes(tool):
    check_help(tool, succeed(tool, "--help"))


@pytest.mark.parametrize("tool", SHELL_TOOLS, ids=relative)
def test_shell_tools_refuse_missing_arguments(tool):
    assert "usage" in fail(2, tool, "x")


@pytest.mark.parametrize("name", ["slurm_train.sh", "slurm_test.sh"])
def test_slurm_tools_hand_their_arguments_to_srun(name, tmp_path):
    srun = tmp_path / "srun"
    srun.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    arguments = ["part", "job", "config.py", "fourth", "--cfg-options", "a=b c"]
    command = [str(TOOLS / name), *arguments]
    environment = {**os.environ, "PATH": path, "GPUS": "3", "SRUN_ARGS": "-x n1"}
    done = subprocess.run(
        ["bash", *command], capture_output=True, text=True, env=environment, check=True
    )
    found = done.stdout.splitlines()
    assert found[:3] == ["-p", "part", "--job-name=job"]
    assert {"--ntasks=3", "-x", "n1", "config.py", "--launcher=slurm"} <= set(found)
    assert found[-2:] == ["--cfg-options", "a=b c"]
    fourth = "--work-dir=fourth" if name == "slurm_train.sh" else "fourth"
    assert fourth in found


@pytest.mark.parametrize("task", tiny_runs.TASKS)
def test_training_leaves_a_checkpoint_and_finite_losses(trained, task):
    state = torch.load(trained[task] / "iter_2.pth", weights_only=False)
    assert state["meta"]["iter"] == 2
    rows = scalars(trained[task])
    assert [row["iter"] for row in rows] == [1, 2]
    assert all(0 < row["loss"] < 100 for row in rows)


def test_options_of_training(trained, tiny):
    # A batch of 2 for a base of 8 makes a quarter of the rate 1e-3.
    assert scalars(trained["detection"])[0]["lr"] == pytest.approx(2.5e-4)
    config = (trained["detection"] / "detection.py").read_text()
    assert "mlp_backbones.AutocastOptimWrapper" in config
    assert "seed=3" in config
    pictures = list((tiny / "shown" / "iter_2").glob("*.png"))
    assert len(pictures) == tiny_runs.NUM_IMAGES


def test_resume_continues_where_the_run_ended(trained, tiny, tmp_path):
    work_dir = tmp_path / "resumed"
    shutil.copytree(trained["classification"], work_dir)
    command = [TOOLS / "train.py", tiny / "classification.py", "--resume"]
    more = ["--work-dir", work_dir, "--cfg-options", "train_cfg.max_iters=4"]
    # `last_checkpoint` holds the path of the run it was copied from.
    (work_dir / "last_checkpoint").write_text(str(work_dir / "iter_2.pth"))
    succeed(*command, *more)
    assert [row["iter"] for row in scalars(work_dir)] == [3, 4]
    names = {file.name for file in work_dir.glob("*.pth")}
    assert names == {"iter_2.pth", "iter_4.pth"}
    drawn = succeed(
        TOOLS / "analysis_tools" / "analyze_logs.py", "plot_curve", work_dir
    )
    assert [Path(line).name for line in drawn.split()] == [
        "loss.png", "lr.png", "metrics.png",
    ]  # fmt: skip


def check_test(trained, tiny, task, tmp_path, *options):
    command = [TOOLS / "test.py", tiny / f"{task}.py", trained[task] / "iter_2.pth"]
    out_file, shown = tmp_path / "out.pkl", tmp_path / "shown"
    more = ["--work-dir", tmp_path, "--out", out_file, "--show-dir", shown]
    succeed(*command, *more, *options)
    predictions = pickle.loads(out_file.read_bytes())
    assert len(predictions) == tiny_runs.NUM_IMAGES
    assert len(list(shown.glob("*.png"))) == tiny_runs.NUM_IMAGES
    return predictions


def test_testing_a_detector_with_tta(trained, tiny, tmp_path):
    predictions = check_test(trained, tiny, "detection", tmp_path, "--tta")
    boxes = predictions[0]["pred_instances"]["bboxes"]
    assert boxes.shape[1] == 4
    assert 0 <= boxes.min() <= boxes.max() <= tiny_runs.SIZE


def test_testing_a_segmentor_in_bfloat16(trained, tiny, tmp_path):
    predictions = check_test(trained, tiny, "segmentation", tmp_path, "--amp")
    assert predictions[0]["pred_sem_seg"]["data"].shape[-2:] == (64, 64)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_testing_the_others_with_tta(trained, tiny, task, tmp_path):
    check_test(trained, tiny, task, tmp_path, "--tta")


def test_a_checkpoint_of_another_architecture(trained, tiny, tmp_path):
    checkpoint = trained["segmentation"] / "iter_2.pth"
    command = [TOOLS / "test.py", tiny / "detection.py", checkpoint]
    line = fail(1, *command, "--work-dir", tmp_path)
    assert str(checkpoint) in line
    assert "neck.lateral_convs.0.conv.weight is missing in the file" in line
    assert "is not in the model" in line


def test_a_loss_that_becomes_nan(tiny, tmp_path):
    settings = ["optim_wrapper.optimizer.lr=1e30", "train_cfg.max_iters=8"]
    command = [TOOLS / "train.py", tiny / "classification.py", "--work-dir", tmp_path]
    line = fail(1, *command, "--cfg-options", *settings)
    assert "loss = nan" in line
    assert "learning rate 1e+30" in line
    assert list(tmp_path.glob("*/traceback.txt"))


def test_an_image_smaller_than_the_backbone_takes(tiny, tmp_path):
    config = tiny / "small.py"
    config.write_text(
        "_base_ = 'classification.py'\n"
        "model = dict(backbone=dict(_delete_=True, type='mlp_backbones.CycleMLP',\n"
        "    arch=dict(embed_dims=(8, 8, 8, 64), depths=(1, 1, 1, 1),\n"
        "              mlp_ratios=(1, 1, 1, 1)), out_indices=(3,)))\n"
        "train_dataloader = dict(dataset=dict(pipeline=[\n"
        "    dict(type='LoadImageFromFile'), dict(type='Resize', scale=24),\n"
        "    dict(type='PackInputs')]))\n"
    )
    line = fail(1, TOOLS / "train.py", config, "--work-dir", tmp_path)
    assert "24" in line
    assert "32" in line


@pytest.mark.parametrize(
    ("code", "options", "word"),
    [
        (2, ["--cfg-options", "trian_cfg.max_iters=3"], "trian_cfg"),
        (2, ["--resume", "missing.pth"], "missing.pth"),
        (
            1,
            ["--cfg-options", "train_dataloader.dataset.data_root=/missing"],
            "/missing",
        ),
    ],
)
def test_mistakes_before_the_start(refuse, tiny, tmp_path, code, options, word):
    command = [TOOLS / "train.py", tiny / "detection.py", "--work-dir", tmp_path / "w"]
    assert word in refuse(code, *command, *options)
    assert not (tmp_path / "w").exists()


def test_a_missing_config(refuse):
    assert "missing.py" in refuse(2, TOOLS / "train.py", "missing.py")


def test_counting_and_measuring(refuse, tiny, tmp_path):
    config, out = tiny / "detection.py", tmp_path / "speed.json"
    analysis = TOOLS / "analysis_tools"
    text = succeed(analysis / "get_flops.py", config, "--shape", 64, 96)
    assert "64 x 96" in text
    assert "parameters" in text
    options = ["--shape", 64, "--repeats", 2, "--warmup", 0, "--out", out]
    assert "images/s" in succeed(analysis / "benchmark.py", config, *options)
    assert len(json.loads(out.read_text())["seconds"]) == 2
    assert "--overwrite" in refuse(2, analysis / "benchmark.py", config, "--out", out)


def test_showing_predictions(refuse, trained, tiny, tmp_path):
    tool = TOOLS / "analysis_tools" / "show_predictions.py"
    checkpoint = trained["detection"] / "iter_2.pth"
    command = [tool, tiny / "detection.py", checkpoint, tmp_path / "out"]
    succeed(*command, "--num-images", 2)
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
    assert "not empty" in refuse(2, *command)


@pytest.mark.slow
def test_two_processes_train_and_test_together(tiny, tmp_path):
    config, out = tiny / "detection.py", tmp_path / "out.pkl"
    options = ["--work-dir", tmp_path, "--auto-scale-lr"]
    succeed(TOOLS / "dist_train.sh", config, 2, *options, PORT=free_port())
    # Two processes with a batch of 2 each, for a base of 8.
    assert scalars(tmp_path)[0]["lr"] == pytest.approx(5e-4)
    command = [TOOLS / "dist_test.sh", config, tmp_path / "iter_2.pth", 2]
    succeed(*command, "--work-dir", tmp_path, "--out", out, PORT=free_port())
    assert len(pickle.loads(out.read_bytes())) == tiny_runs.NUM_IMAGES


@pytest.mark.parametrize(
    "options",
    [
        # captured and differentiated as by the default, without compiling C++
        ["--cfg-options", "compile.backend=aot_eager"],
        pytest.param([], marks=pytest.mark.nightly),
    ],
)
@pytest.mark.slow
def test_compiled_training_gives_the_same_loss(trained, tiny, tmp_path, options):
    command = [TOOLS / "train.py", tiny / "classification.py", "--compile", *options]
    succeed(*command, "--work-dir", tmp_path)
    compiled, plain = scalars(tmp_path), scalars(trained["classification"])
    assert compiled[1]["loss"] == pytest.approx(plain[1]["loss"], rel=1e-3)


@pytest.mark.slow
def test_the_demo_leaves_what_it_promises(tmp_path):
    """The Makefile's own lines, in a folder with links to what they use."""
    from mlp_backbones.datasets.digit_scenes import (
        DigitScenesOptions,
        make_digit_scenes,
    )

    for name in ("configs", "mlp_backbones", "tools"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    options = DigitScenesOptions(num_train=16, num_val=4, formats=("coco",))
    make_digit_scenes(tmp_path / "data" / "digit_scenes", options)
    earlier = tmp_path / "work_dirs" / "demo_retinanet" / "run" / "epoch_8.pth"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("of an earlier demo")
    # After two steps hardly a score passes the usual threshold.
    settings = (
        "train_cfg.max_epochs=1 train_cfg.val_interval=1 "
        "default_hooks.checkpoint.interval=1 model.test_cfg.score_thr=0.0"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [
            *("make", "-f", str(REPOSITORY / "Makefile"), "-o", "setup", "demo"),
            *(f"VENV={sys.prefix}", f"DEMO_OPTIONS=--cfg-options {settings}"),
        ],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert "coco/bbox_mAP_50" in done.stdout
    demo = tmp_path / "work_dirs" / "demo_retinanet"
    assert (demo / "run" / "epoch_1.pth").is_file()
    assert len(list((demo / "pictures").glob("*.png"))) == 4
    curves = {file.name for file in (demo / "curves").glob("*.png")}
    assert {"loss.png", "metrics.png"} <= curves
    (kept,) = (tmp_path / "work_dirs").glob("demo_retinanet_*/run/epoch_8.pth")
    assert kept.read_text() == "of an earlier demo"
