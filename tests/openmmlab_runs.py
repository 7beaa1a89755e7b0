"""Runs of OpenMMLab's own tools, with nothing but the installed package to find."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import mlp_backbones


def package_folder(scope: str) -> Path:
    """Return where `mmdet`, `mmseg` or `mmpretrain` is installed."""
    return Path(importlib.util.find_spec(scope).origin).parent


def tool(scope: str, name: str) -> Path:
    """Return the tool `train.py` or `test.py` that a package brings along."""
    return package_folder(scope) / ".mim" / "tools" / name


def bare_environment(folder: Path) -> dict[str, str]:
    """Return variables under which only what is installed can be imported.

    Where this package runs from a checkout that is not the installed one, a folder with
    a link to it, and neither tools nor configs beside it, stands in.
    """
    environment = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **os.environ}
    environment.pop("PYTHONPATH", None)
    code = "import mlp_backbones; print(mlp_backbones.__file__)"
    tried = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.stdout.strip() != mlp_backbones.__file__:
        site = folder / "site-packages"
        site.mkdir(exist_ok=True)
        link = site / "mlp_backbones"
        if not link.exists():
            link.symlink_to(Path(mlp_backbones.__file__).parent)
        environment["PYTHONPATH"] = str(site)
    return environment


def run(*command: str | Path, cwd: Path, env: dict[str, str]) -> str:
    """Run Python on a script or `-m` module; return what it printed on success."""
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def losses(work_dir: Path) -> list[float]:
    """Return the loss of each logged step of the only run in a work folder."""
    (file,) = work_dir.glob("*/vis_data/scalars.json")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]
