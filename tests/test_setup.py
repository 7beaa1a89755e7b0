"""The Makefile and the set-up behind it, run as a user runs them, and the wheel."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from mlp_backbones.environment import MAIN_STACK, PINS
from mlp_backbones.version import __version__

ROOT = Path(__file__).resolve().parents[1]
STAMPS = (f"python-{sys.version_info[0]}.{sys.version_info[1]}", "torch", "mmcv")


def run_make(*arguments, folder=ROOT, **variables):
    """Run make as from a fresh shell: nothing of an outer make, pip or Python set."""
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("MAKE", "PIP_", "PYTHON", "MFLAGS", "VIRTUAL_ENV"))
    }
    environment["PIP_CONFIG_FILE"] = os.devnull
    environment.update({key: str(value) for key, value in variables.items()})
    return subprocess.run(
        [shutil.which("make"), "-C", str(folder), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def error_line(process):
    """Return the one line that tells the user what to do, without make's own."""
    assert process.returncode != 0, process.stdout
    assert "Traceback" not in process.stderr
    lines = [
        line
        for line in process.stderr.splitlines()
        if not re.match(r"make(\[\d+\])?: (\*\*\* \[|Entering|Leaving)", line)
    ]
    assert len(lines) == 1, process.stderr
    return lines[0]


@pytest.fixture
def checkout(tmp_path):
    """A copy of what the set-up depends on."""
    folder = tmp_path / "checkout"
    (folder / "tools" / "misc").mkdir(parents=True)
    (folder / "mlp_backbones").mkdir()
    for name in ("Makefile", "setup.py", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    shutil.copy(ROOT / "tools/misc/setup_env.py", folder / "tools/misc")
    for name in ("__init__.py", "version.py", "environment.py"):
        shutil.copy(ROOT / "mlp_backbones" / name, folder / "mlp_backbones")
    return folder


def write_wheel(folder, name, version, modules=None):
    """Write a wheel that holds the given modules, each `path: source`."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    files = {
        f"{info}/METADATA": "Metadata-Version: 2.1\n"
        f"Name: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\n"
        "Root-Is-Purelib: true\nTag: py3-none-any\n",
        **(modules or {}),
    }
    record = "".join(f"{path},,\n" for path in files) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        for path, content in {**files, f"{info}/RECORD": record}.items():
            wheel.writestr(path, content)


TORCH = {
    "torch/__init__.py": "import types\nfrom . import version\n"
    "def ones(h, w): return types.SimpleNamespace(sum=lambda: h * w)\n"
    "def tensor(values): return values\n",
    "torch/version.py": "__version__ = '2.12.1+cpu'\ncuda = None\n",
}
TORCHVISION = {
    "torchvision/__init__.py": "import types\n__version__ = '0.27.1'\n"
    "def nms(*_): return types.SimpleNamespace(tolist=lambda: [0, 2])\n"
    "ops = types.SimpleNamespace(nms=nms)\n",
}


@pytest.fixture
def wheels(tmp_path):
    """A folder of made-up wheels that the set-up installs from, with no network."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        name, _, version = line.partition("==")
        if name in ("setuptools", "wheel", "packaging", "ninja", "psutil", "numpy"):
            write_wheel(folder, name, version)
    write_wheel(
        folder,
        "opencv-python-headless",
        PINS["opencv-python-headless"],
        {"cv2.py": "__version__ = '4'\n"},
    )
    return folder


@pytest.fixture
def path_without_compiler(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "mkdir", "touch", "rm"):
        (folder / name).symlink_to(shutil.which(name))
    return folder


def test_python_that_does_not_exist(tmp_path):
    line = error_line(
        run_make("demo", PYTHON="/nonexistent/python", VENV=tmp_path / "venv")
    )
    assert "PYTHON=/nonexistent/python does not run" in line
    assert "PYTHON=python3.11 make setup" in line


def test_no_python_at_all(tmp_path, path_without_compiler):
    line = error_line(
        run_make("test", VENV=tmp_path / "venv", PATH=path_without_compiler)
    )
    assert "No Python 3.10, 3.11 or 3.12 found" in line


def test_python_that_is_too_old(tmp_path):
    python = tmp_path / "python3.8"
    # -c CODE as an old Python would run it, nothing else is asked of it.
    python.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] || exit 99\nexec "{sys.executable}" -c "import sys; '
        f'sys.version_info = (3, 8, 18); exec(sys.argv[1])" "$2"\n'
    )
    python.chmod(0o755)
    line = error_line(run_make("demo", PYTHON=python, VENV=tmp_path / "venv"))
    assert "Python 3.8" in line
    assert "not supported" in line
    assert "PYTHON=python3.11" in line
    assert not (tmp_path / "venv").exists()


def test_python_that_does_not_fit_is_passed_over(tmp_path, path_without_compiler):
    """A python3.11 that refuses to start, as shims do, must not be chosen."""
    refusing = path_without_compiler / "python3.11"
    refusing.write_text("#!/bin/sh\nexit 127\n")
    refusing.chmod(0o755)
    (path_without_compiler / "python3.12").symlink_to(sys.executable)
    process = run_make(
        "-n", "setup", VENV=tmp_path / "venv", PATH=path_without_compiler
    )
    assert process.returncode == 0, process.stderr
    assert "'python3.12' tools/misc/setup_env.py" in process.stdout


def test_too_little_disk(tmp_path):
    line = error_line(
        run_make(
            "setup",
            PYTHON=sys.executable,
            VENV=tmp_path / "venv",
            MIN_FREE_GIB=1000000,
        )
    )
    assert re.search(r"too little disk: [\d.]+ GiB free at .*, 1e\+06 GiB needed", line)
    assert "VENV=/other/disk/venv" in line


def test_folder_that_is_no_environment_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    line = error_line(run_make("setup", PYTHON=sys.executable, VENV=tmp_path))
    assert "no virtual environment" in line
    assert run_make("clean-venv", VENV=tmp_path).returncode == 0
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.slow
def test_no_network(tmp_path):
    line = error_line(
        run_make(
            "setup",
            PYTHON=sys.executable,
            VENV=tmp_path / "venv",
            MIN_FREE_GIB=0,
            PIP_INDEX_URL="http://127.0.0.1:9/simple",
        )
    )
    assert "no network" in line
    assert "PIP_INDEX_URL" in line


@pytest.mark.slow
def test_no_compiler(tmp_path, wheels, path_without_compiler):
    line = error_line(
        run_make(
            "setup",
            PYTHON=sys.executable,
            VENV=tmp_path / "venv",
            MIN_FREE_GIB=0,
            PIP_NO_INDEX=1,
            PIP_FIND_LINKS=wheels,
            PATH=path_without_compiler,
            CXX="",
        )
    )
    assert "no compiler" in line
    assert "apt install g++" in line


@pytest.mark.slow
def test_torchvision_of_another_build(tmp_path, checkout, wheels):
    write_wheel(wheels, "torch", "2.12.1+cpu", TORCH)
    broken = "raise RuntimeError('operator torchvision::nms does not exist')\n"
    files = {
        "torchvision/__init__.py": broken,
        "torchvision/version.py": "__version__ = '0.27.1+cu130'\n",
    }
    write_wheel(wheels, "torchvision", "0.27.1", files)
    write_wheel(wheels, "onedl-mmcv", MAIN_STACK["mmcv"]["onedl-mmcv"])
    process = run_make(
        "setup",
        folder=checkout,
        PYTHON=sys.executable,
        MIN_FREE_GIB=0,
        PIP_NO_INDEX=1,
        PIP_FIND_LINKS=wheels,
    )
    line = error_line(process)
    assert "torch 2.12.1+cpu and torchvision 0.27.1+cu130" in line
    assert "torchvision::nms does not exist" in line
    assert "make clean-venv" in line


@pytest.mark.slow
def test_mmcv_wheel_without_operators_is_not_accepted(
    checkout, wheels, path_without_compiler
):
    write_wheel(wheels, "torch", "2.12.1", TORCH)
    write_wheel(wheels, "torchvision", "0.27.1", TORCHVISION)
    mmcv = {"mmcv/__init__.py": "__version__ = '2.3.6'\n"}
    write_wheel(wheels, "onedl-mmcv", MAIN_STACK["mmcv"]["onedl-mmcv"], mmcv)
    process = run_make(
        "setup",
        folder=checkout,
        PYTHON=sys.executable,
        MIN_FREE_GIB=0,
        PIP_NO_INDEX=1,
        PIP_FIND_LINKS=wheels,
        PATH=path_without_compiler,
        CXX="",
    )
    assert "No module named 'mmcv._ext'" in process.stdout
    # It goes on to compile, which cannot be here.
    assert "no compiler" in error_line(process)
    installed = list(checkout.glob(".venv/lib/python*/site-packages/onedl_mmcv*"))
    assert installed == []
    # What was done before stays done: the next run starts with mmcv.
    process = run_make("-n", "setup", folder=checkout)
    assert "setup_env.py --venv '.venv' --min-free-gib '12' mmcv" in process.stdout
    assert "--min-free-gib '12' torch" not in process.stdout


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (
            "ERROR: Could not install: [Errno 28] No space left on device",
            "disk is full",
        ),
        (
            "Retrying after connection broken by 'SSLError(CERTIFICATE_VERIFY_FAILED)'",
            "PIP_CERT",
        ),
        (
            "WARNING: Retrying after connection broken by 'ReadTimeoutError'\n"
            "c++: fatal error: Killed signal terminated program cc1plus\n"
            "ninja: build stopped: subcommand failed.",
            "MAX_JOBS=1",
        ),
        ("ninja: build stopped: subcommand failed.", "first error in the log"),
        (
            "RuntimeError: The detected CUDA version (11.8) mismatches the version",
            "CUDA_VISIBLE_DEVICES= make setup",
        ),
        (
            "ERROR: Could not find a version that satisfies the requirement x\n"
            "ERROR: No matching distribution found for torch==2.12.1",
            "no torch==2.12.1 for this Python",
        ),
        ("ERROR: first\nnoise\nERROR: what it was\nhint: see above", "what it was"),
        ("", "the command failed"),
    ],
)
def test_failures_of_pip_in_one_line(output, expected):
    path = ROOT / "tools/misc/setup_env.py"
    spec = importlib.util.spec_from_file_location("setup_env", path)
    setup_env = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup_env)
    line = setup_env.describe_failure(output)
    assert expected in line
    assert "\n" not in line


def test_finished_setup_is_not_repeated(checkout):
    """make reads the stamps: nothing to do until what they depend on changes."""
    stamps = checkout / ".venv" / ".stamps"
    stamps.mkdir(parents=True)
    for age, name in enumerate((*STAMPS, "project")):
        (stamps / name).touch()
        os.utime(stamps / name, (2e9 + age, 2e9 + age))

    def is_done(python=sys.executable):
        return run_make("-q", "setup", folder=checkout, PYTHON=python).returncode == 0

    assert is_done()
    process = run_make("-n", "demo", folder=checkout, PYTHON=sys.executable)
    assert process.stdout.count("setup_env.py") == 0
    assert "tools/train.py" in process.stdout
    os.utime(checkout / "setup.py", (3e9, 3e9))
    assert not is_done()
    os.utime(checkout / "setup.py", (1e9, 1e9))
    assert is_done()
    os.utime(checkout / "constraints.txt", (3e9, 3e9))
    assert not is_done()
    os.utime(checkout / "constraints.txt", (1e9, 1e9))
    # Another Python asks for another environment.
    (stamps / STAMPS[0]).rename(stamps / "python-3.9")
    assert not is_done()


def test_test_target_runs_the_slow_tests_too():
    process = run_make("-n", "test")
    assert '-m pytest -n 2 -m "slow or not slow"' in process.stdout


def test_help_names_every_target():
    process = run_make("help")
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"demo", "test", "setup", "lint", "typecheck", "clean"} <= set(targets)
    listed = {line.split()[0] for line in process.stdout.splitlines() if line.strip()}
    assert set(targets) <= listed


@pytest.mark.slow
def test_wheel(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("mlp_backbones", "tools", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    offline = ["--no-index", "--no-build-isolation"]
    subprocess.run([*command, *offline, "--wheel-dir", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"mlp_backbones-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = f"mlp_backbones-{__version__}.dist-info"
        metadata = archive.read(f"{info}/METADATA").decode()
    modules = {
        str(path.relative_to(ROOT)) for path in (ROOT / "mlp_backbones").rglob("*.py")
    }
    assert modules <= names
    assert "mlp_backbones/py.typed" in names
    assert f"{info}/licenses/LICENSE" in names
    assert f"{info}/licenses/NOTICE" in names
    outside = {
        name for name in names if name.split("/")[0] not in ("mlp_backbones", info)
    }
    assert outside == set()
    assert not any("__pycache__" in name for name in names)
    # The core requires neither of the two OpenMMLab stacks.
    required = re.findall(r"^Requires-Dist: (.*)$", metadata, re.MULTILINE)
    core = {
        re.split(r"[<>=!~ ]", line)[0] for line in required if "extra ==" not in line
    }
    assert core == {"numpy", "safetensors", "torch"}
    python = SpecifierSet(re.search(r"Requires-Python: (.*)", metadata).group(1))
    supported = {f"3.{minor}.1" for minor in range(8, 16) if f"3.{minor}.1" in python}
    assert supported == {"3.10.1", "3.11.1", "3.12.1"}
    assert (
        "License: Apache-2.0" in metadata
        or "License-Expression: Apache-2.0" in metadata
    )
