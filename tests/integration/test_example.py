"""The example repository and the guide to it: what they show is what runs."""

import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import openmmlab_runs
import pytest
import torch

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "examples" / "my_mixer"
GUIDE = (REPOSITORY / "docs" / "adding_a_backbone.md").read_text()
CONFIG = "configs/retinanet_my-mixer-tiny_fpn_1xb8-8e_digit-scenes.py"

SHORT = [
    "train_cfg.max_epochs=1",
    "train_dataloader.batch_size=2",
    "train_dataloader.num_workers=0",
    "train_dataloader.persistent_workers=False",
    "val_dataloader.num_workers=0",
    "val_dataloader.persistent_workers=False",
    "default_hooks.logger.interval=1",
    "default_hooks.checkpoint.interval=1",
    "model.test_cfg.score_thr=0.0",
]
"""Options that make two steps of a training on four images, and an evaluation."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the example, with data, beside a link to our tools."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "tools").symlink_to(REPOSITORY / "tools")
    ignored = shutil.ignore_patterns("__pycache__", "data", "work_dirs")
    copied = shutil.copytree(EXAMPLE, folder / "examples" / "my_mixer", ignore=ignored)
    # The guide's own line, with options that make it small.
    make_data = blocks("shell")[0].splitlines()[2]
    assert "make_digit_scenes.py" in make_data
    shell(f"{make_data} --num-train 4 --num-val 2 --formats coco", copied)
    assert (copied / "data" / "digit_scenes" / "digit_scenes.json").is_file()
    return copied


def shell(script: str, folder: Path) -> str:
    """Run lines of bash that must succeed and return what they printed."""
    environment = openmmlab_runs.bare_environment(folder.parents[1])
    bin_dir = str(Path(sys.executable).parent)
    environment["PATH"] = os.pathsep.join([bin_dir, environment["PATH"]])
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=folder,
        env={"PYTHONPATH": "", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def test_the_backbone_takes_fewer_than_60_lines() -> None:
    assert len((EXAMPLE / "my_mixer.py").read_text().splitlines()) < 60


def test_the_guide_shows_the_files_of_the_example() -> None:
    files = {path.name: path.read_text() for path in EXAMPLE.rglob("*.py")}
    shown = blocks("python")
    for block in shown:
        assert any(block in text for text in files.values()), block
    whole = [name for name, text in files.items() if text in shown]
    assert sorted(whole) == ["my_mixer.py", Path(CONFIG).name]


@pytest.mark.parametrize("whose", ["ours", "mmdet's"])
def test_the_commands_of_the_guide_train_it(whose: str, copy: Path) -> None:
    ours, mmdets = blocks("shell")  # the third is indented, for this package
    lines = ours.splitlines()
    assert lines[0] == f"cd {EXAMPLE.relative_to(REPOSITORY)}"
    exported, command = lines[1], lines[3]
    if whose == "mmdet's":
        exported, command = (
            f"{exported}\n{mmdets.splitlines()[0]}",
            mmdets.split("\n")[1],
        )
    assert command.endswith(CONFIG)
    work_dir = copy / "work" / whose[:4]
    shell(
        f"{exported}\n{command} --work-dir {work_dir} --cfg-options {' '.join(SHORT)}",
        copy,
    )

    losses = openmmlab_runs.losses(work_dir)
    assert len(losses) == 2
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
    state = torch.load(work_dir / "epoch_1.pth", weights_only=False)
    assert state["meta"]["iter"] == 2
    assert "backbone.stages.3.blocks.0.mixer.fc2.weight" in state["state_dict"]
    (log,) = work_dir.glob("*/*.log")
    assert "coco/bbox_mAP_50:" in log.read_text()


def test_the_tests_of_the_example_pass(copy: Path) -> None:
    said = shell('export PYTHONPATH="$PWD:$PYTHONPATH"\npython -m pytest -q .', copy)
    assert re.search(r"^\d+ passed", said, re.MULTILINE)
    assert "skipped" not in said
