"""docs/first_config.md: its commands run as they stand and print what it shows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "first_config.md").read_text()
NEW = "configs/my_mixer/retinanet_my-mixer-tiny_fpn_8xb2-1x_coco.py"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def run(tmp_path: Path):
    """Return a function that runs lines of bash beside links into the checkout."""
    (tmp_path / "configs").mkdir()
    for place in ("examples", "tools", "configs/_base_", "configs/cyclemlp"):
        (tmp_path / place).symlink_to(REPOSITORY / place)
    paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    bin_dir = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PATH": os.pathsep.join([bin_dir, os.environ["PATH"]]),
    }

    def shell(script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-euc", script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return shell


def test_the_commands_do_what_the_page_says(run, tmp_path: Path) -> None:
    copy, count, ask, look = blocks("shell")
    whole, model = blocks("python")
    refusal, widths = blocks("text")
    export = copy.splitlines()[0]
    assert run(copy).returncode == 0
    new = tmp_path / NEW
    # A copy keeps its bases.
    assert whole.startswith(new.read_text().partition("\n]\n")[0])
    new.write_text(whole)

    failed = run(f"{export}\n{count}")
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1:] == refusal.splitlines()

    asked = run(f"{export}\n{ask}")
    assert (asked.returncode, asked.stdout) == (0, widths)

    new.write_text(whole.partition("model = ")[0] + model)
    looked = run(f"{export}\n{look}")
    assert looked.returncode == 0, looked.stderr
    assert "multiply-adds" in looked.stdout
    assert "in_channels=[\n            64,\n            128,\n            192,\n" in (
        looked.stdout
    )


def test_the_table_names_every_model_and_its_maps() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| (\(.*?\)) \| (.*) \|$", PAGE, re.MULTILINE)
    folder = REPOSITORY / "configs" / "_base_" / "models"
    assert sorted(name for name, *_ in rows) == sorted(
        path.stem for path in folder.glob("*.py")
    )
    for name, indices, places in rows:
        model = Config.fromfile(folder / f"{name}.py").model
        assert str(tuple(model.backbone.out_indices)) == indices
        for part in re.findall(r"`(\w+)\.in_channels`", places):
            assert "in_channels" not in model[part], (name, part)
        if len(indices) > len("(3,)"):  # the readers of several maps
            assert ("neck" in model) == ("`neck.in_channels`" in places)
