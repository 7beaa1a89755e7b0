"""The Makefile and the set-up behind it, run as a user runs them, and the wheel."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from fake_packages import MAIN, module_files
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from mlp_backbones.version import __version__

ROOT = Path(__file__).resolve().parents[1]


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
def bare_path(tmp_path):
    """A PATH with the shell and no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sh").symlink_to(shutil.which("sh"))
    return folder


# ------------------------------------------------------------------------- the Python


def test_python_that_does_not_exist(tmp_path):
    process = run_make("demo", PYTHON="/nonexistent/python", VENV=tmp_path / "venv")
    line = error_line(process)
    assert "Python 3.10 to 3.13 is needed, /nonexistent/python is none" in line
    assert "PYTHON=python3.11 make setup" in line


def test_no_python_at_all(tmp_path, bare_path):
    line = error_line(run_make("test", VENV=tmp_path / "venv", PATH=bare_path))
    assert "Python 3.10 to 3.13 is needed, none found" in line


@pytest.mark.parametrize(
    ("target", "variable", "version", "highest"),
    [
        ("demo", "PYTHON", (3, 8, 18), 13),
        ("setup", "PYTHON", (3, 14, 0), 13),
        ("setup-upstream", "UPSTREAM_PYTHON", (3, 12, 1), 11),
    ],
)
def test_python_that_does_not_fit(tmp_path, target, variable, version, highest):
    python = tmp_path / "python"
    text = "{}.{}.{}".format(*version)
    # Only -V and -c CODE are asked of it.
    python.write_text(
        f'#!/bin/sh\n[ "$1" = -V ] && echo "Python {text}" && exit\n'
        f'[ "$1" = -c ] || exit 99\nexec "{sys.executable}" -c "import sys; '
        f'sys.version_info = {version}; exec(sys.argv[1])" "$2"\n'
    )
    python.chmod(0o755)
    venv = tmp_path / "venv"
    variables = {variable: python, "VENV": venv, "UPSTREAM_VENV": venv}
    line = error_line(run_make(target, **variables))
    assert f"Python 3.10 to 3.{highest} is needed, {python} is Python {text}:" in line
    assert f"{variable}=python3.11 make setup" in line
    assert not venv.exists()


def test_python_that_does_not_start_is_passed_over(tmp_path, bare_path):
    """A python3.11 that refuses to start, as shims do, must not be chosen."""
    refusing = bare_path / "python3.11"
    refusing.write_text("#!/bin/sh\nexit 127\n")
    refusing.chmod(0o755)
    (bare_path / "python3.13").symlink_to(sys.executable)
    process = run_make("-n", "setup", VENV=tmp_path / "venv", PATH=bare_path)
    assert process.returncode == 0, process.stderr
    assert "'python3.13' dev/setup_env.py" in process.stdout


def test_supported_python_is_told_alike_everywhere():
    project = (ROOT / "setup.py").read_text()
    assert 'python_requires=">=3.10,<3.14"' in project
    assert "Programming Language :: Python :: 3.13" in project
    assert "3.10 to 3.13" in (ROOT / "README.md").read_text()


# ------------------------------------------------------------ the disk and the network


def test_too_little_disk(tmp_path):
    venv = tmp_path / "venv"
    process = run_make("setup", PYTHON=sys.executable, VENV=venv, MIN_FREE_GIB=10**6)
    line = error_line(process)
    assert re.search(r"too little disk: [\d.]+ GiB free at .*, 1000000.0 GiB", line)
    assert "VENV" in line
    assert not venv.exists()


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


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (
            "ERROR: Could not install: [Errno 28] No space left on device",
            "disk is full",
        ),
        ("connection broken by 'SSLError(CERTIFICATE_VERIFY_FAILED)'", "PIP_CERT"),
        ("connection broken by 'ReadTimeoutError'", "no network"),
        ("Error: Command '-m ensurepip --upgrade' failed", "python3-venv"),
        ("fatal error: Killed signal terminated program cc1plus", "MAX_JOBS=1"),
        ("The detected CUDA version (11.8) mismatches", "CUDA_VISIBLE_DEVICES="),
        (
            "ERROR: Could not find a version that satisfies the requirement x\n"
            "ERROR: No matching distribution found for torch==2.12.1",
            "has no torch==2.12.1 for this Python",
        ),
        ("ERROR: what it was\nnoise\nERROR: for help visit", "what it was"),
        ("", "the command failed"),
    ],
)
def test_failures_of_pip_in_one_line(output, expected):
    path = ROOT / "dev" / "setup_env.py"
    spec = importlib.util.spec_from_file_location("setup_env", path)
    setup_env = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup_env)
    line = setup_env.describe_failure(output)
    assert expected in line
    assert "\n" not in line


# --------------------------------------------- the whole set-up, from made-up packages


def pack(folder, name, version, files, requires=""):
    """Write a wheel that holds the given files, each `path: content`."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\n"
        f"Version: {version}\n{requires}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in files) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        for path, content in {**files, f"{info}/RECORD": record}.items():
            wheel.writestr(path, content)


def repack(folder, name):
    """Write a wheel of a package that is installed here."""
    found = metadata.distribution(name)
    files = {
        str(file): file.locate().read_bytes()
        for file in found.files
        if file.suffix != ".pyc"
        and file.parts[0] != ".."
        and file.name not in ("RECORD", "WHEEL", "METADATA")
    }
    pack(folder, name, found.version, files)


@pytest.fixture
def checkout(tmp_path):
    """A copy of what the set-up depends on."""
    folder = tmp_path / "checkout"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("dev", "mlp_backbones", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    names = ("constraints.txt", "Makefile", "setup.py", "pyproject.toml")
    for name in (*names, "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture
def wheels(tmp_path):
    """A folder with a made-up wheel of each pinned package; pip's own are real."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        pin = Requirement(line.partition("#")[0]) if "==" in line else None
        if pin and (pin.marker is None or pin.marker.evaluate()):
            _, _, source = MAIN.get(pin.name, ("", "", ""))
            module = MAIN[pin.name][0] if pin.name in MAIN else pin.name
            version = str(pin.specifier).removeprefix("==")
            requires = "Requires-Dist: opencv-python\n" * (pin.name == "onedl-mmcv")
            pack(folder, pin.name, version, module_files(module, source), requires)
    for name in ("pip", "setuptools"):
        repack(folder, name)
    return folder


@pytest.mark.slow
def test_setup_from_nothing_to_a_change(checkout, wheels):
    """A failure, the set-up, no repetition, two changes, and an interruption."""
    variables = {"PYTHON": sys.executable, "MIN_FREE_GIB": 0}
    variables |= {"PIP_NO_INDEX": 1, "PIP_FIND_LINKS": wheels, "PIP_NO_CACHE_DIR": 1}

    def set_up():
        return run_make("setup", folder=checkout, **variables)

    def version_of(name):
        return [
            found.version
            for found in metadata.distributions(
                path=[str(p) for p in checkout.glob(".venv/lib/python*/site-packages")]
            )
            if found.name == name
        ]

    (rich,) = wheels.glob("rich-*")
    rich.rename(wheels / "away")
    line = error_line(set_up())
    version = rich.name.split("-")[1]
    assert "the package index has no rich" in line
    (wheels / "away").rename(rich)
    process = set_up()
    assert process.returncode == 0, process.stdout + process.stderr
    assert re.search(r"installing \d\d packages", process.stdout)
    assert version_of("rich") == [version]
    assert version_of("mlp_backbones") == [__version__]
    process = set_up()
    assert (process.returncode, process.stderr) == (0, "")
    assert "setup:" not in process.stdout
    assert "pip" not in process.stdout
    # A pin that changes, and the setup.py: the environment follows.
    pins = checkout / "constraints.txt"
    pins.write_text(pins.read_text().replace(f"rich=={version}", "rich==99.1"))
    pack(wheels, "rich", "99.1", {"rich.py": ""})
    assert set_up().returncode == 0
    assert version_of("rich") == ["99.1"]
    project = checkout / "setup.py"
    text = project.read_text().replace(
        'DEMO = ["matplotlib"', 'DEMO = ["x1", "matplotlib"'
    )
    project.write_text(text)
    pack(wheels, "x1", "1.0", {"x1.py": ""})
    assert set_up().returncode == 0
    assert version_of("x1") == ["1.0"]
    # An installation that broke off is mended by the command that the check names.
    (models,) = checkout.glob(".venv/lib/*/site-packages/mmdet/models.py")
    models.unlink()
    project.write_text(f"{text}\n")
    process = set_up()
    assert process.returncode == 0, process.stdout + process.stderr
    assert "lacks mmdet/models.py" in process.stdout
    assert models.is_file()


@pytest.mark.slow
def test_operators_that_cannot_be_compiled(checkout, wheels):
    """An index without the sources: the wheel without operators does not pass."""
    variables = {"PYTHON": sys.executable, "MIN_FREE_GIB": 0}
    variables |= {"PIP_NO_INDEX": 1, "PIP_FIND_LINKS": wheels, "PIP_NO_CACHE_DIR": 1}
    line = error_line(run_make("operators", folder=checkout, **variables))
    assert "the package index has no onedl-mmcv" in line


# ------------------------------------------------------- the rest of the Makefile


def test_test_target_runs_the_slow_tests_too():
    process = run_make("-n", "test")
    assert "-m pytest -n 2" in process.stdout
    assert "-m 'not nightly'" in process.stdout  # which goes before pyproject's


def test_two_stacks_have_two_environments():
    main, upstream = (
        run_make("-n", target, PYTHON=sys.executable).stdout
        for target in ("test", "test-upstream")
    )
    assert (
        "--venv '.venv' --constraints constraints.txt --extras onedl,test,dev" in main
    )
    assert "--venv '.venv-upstream' --constraints constraints-upstream.txt" in upstream
    assert "'.venv-upstream/bin/python' -m pytest" in upstream


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
    assert core == {"numpy", "safetensors", "torch", "typing_extensions"}
    python = SpecifierSet(re.search(r"Requires-Python: (.*)", metadata).group(1))
    supported = {f"3.{minor}.1" for minor in range(8, 16) if f"3.{minor}.1" in python}
    assert supported == {"3.10.1", "3.11.1", "3.12.1", "3.13.1"}
    assert (
        "License: Apache-2.0" in metadata
        or "License-Expression: Apache-2.0" in metadata
    )
