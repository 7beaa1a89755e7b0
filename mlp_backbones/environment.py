"""What is installed here, what each task needs, and how to mend what is missing.

This module runs where nothing works yet: it imports the standard library only,
compares distribution names instead of import names (two OpenMMLab stacks share the
import names `mmengine`, `mmcv`, `mmdet`, `mmseg` and `mmpretrain`), and tries the
compiled operators in a process of their own, so that a crash is reported and not
suffered.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata

SUPPORTED_PYTHON = ((3, 10), (3, 12))

# The first torch whose headers need C++20, which the mmcv sources do not compile as.
FIRST_TORCH_REFUSED_BY_MMCV = (2, 15)

MAIN_STACK = {
    "engine": {"onedl-mmengine": "0.10.12"},
    "mmcv": {"onedl-mmcv": "2.3.6"},
    "mmdet": {"onedl-mmdetection": "3.5.1"},
    "mmseg": {"onedl-mmsegmentation": "1.4.2"},
    "mmpretrain": {"onedl-mmpretrain": "1.3.6"},
}
UPSTREAM_STACK = {
    "engine": {"mmengine": "0.10.7", "mmengine-lite": "0.10.7"},
    "mmcv": {"mmcv": "2.1.0", "mmcv-lite": "2.1.0", "mmcv-full": "2.1.0"},
    "mmdet": {"mmdet": "3.3.0"},
    "mmseg": {"mmsegmentation": "1.2.2"},
    "mmpretrain": {"mmpretrain": "1.2.0"},
}
STACKS = {"main": MAIN_STACK, "upstream": UPSTREAM_STACK}

# Versions that the mending commands name beside those of the two stacks.
PINS = {
    "torch": "2.12.1",
    "torchvision": "0.27.1",
    "numpy": "2.2.6",
    "opencv-python-headless": "4.12.0.88",
    "setuptools": "80.9.0",
    "ninja": "1.13.2",
    "psutil": "7.2.2",
    "pycocotools": "2.0.11",
    "scikit-learn": "1.9.1",
    "matplotlib": "3.11.2",
    "onnx": "1.23.2",
    "onnxscript": "0.7.2",
    "onnxruntime": "1.31.1",
    "pytest": "9.2.0",
    "pytest-xdist": "3.8.0",
    "safetensors": "0.8.0",
}
PINS_PYTHON_3_10 = {
    "scikit-learn": "1.7.2",
    "matplotlib": "3.10.9",
    "onnxruntime": "1.23.2",
}

# Task -> what it needs: components of a stack, distributions, and probes that pass.
TASKS: dict[str, tuple[str, ...]] = {
    "backbones": ("torch", "safetensors", "engine"),
    "classification": (
        "torch",
        "torchvision",
        "safetensors",
        "engine",
        "mmcv",
        "mmpretrain",
    ),
    "detection": (
        "torch",
        "torchvision",
        "safetensors",
        "engine",
        "mmcv",
        "mmcv-ops",
        "mmdet",
        "pycocotools",
    ),
    "segmentation": (
        "torch",
        "torchvision",
        "safetensors",
        "engine",
        "mmcv",
        "mmcv-ops",
        "mmseg",
    ),
    "onnx": (
        "torch",
        "safetensors",
        "engine",
        "onnx",
        "onnxscript",
        "onnxruntime",
    ),
}
TASKS["demo"] = (*TASKS["detection"], "scikit-learn", "matplotlib")
TASKS["tests"] = tuple(
    dict.fromkeys(
        [
            *(need for needs in TASKS.values() for need in needs),
            "pytest",
            "pytest-xdist",
        ]
    )
)

_PROBE_MARK = "mlp_backbones probe: "
# Each probe names the import it tries; an answer that is not the expected one fails.
_PROBE_SOURCE = r"""
import json, sys, warnings
warnings.simplefilter("ignore")
MARK = sys.argv[1]

def probe_torch():
    import torch
    assert float(torch.ones(2, 3).sum()) == 6.0, "torch adds wrongly"
    return "CUDA " + torch.version.cuda if torch.version.cuda else "CPU build"

def probe_torchvision():
    import torch, torchvision
    boxes = torch.tensor([[0., 0., 10., 10.], [1., 1., 11., 11.], [50., 50., 60., 60.]])
    kept = torchvision.ops.nms(boxes, torch.tensor([.9, .8, .7]), 0.5).tolist()
    assert kept == [0, 2], f"NMS kept {kept} instead of [0, 2]"
    return torchvision.__version__

def probe_cv2():
    import cv2
    return cv2.__version__

def probe_mmengine():
    import mmengine
    return mmengine.__version__

def probe_mmcv():
    import mmcv
    return mmcv.__version__

def probe_mmcv_ops():
    import mmcv._ext
    import torch
    from mmcv.ops import nms, roi_align
    # On the ramp f(y, x) = x the mean over a box is the x of its centre.
    ramp = torch.arange(8.).expand(1, 1, 8, 8).contiguous()
    box = torch.tensor([[0., 1., 1., 5., 5.]])
    value = float(roi_align(ramp, box, (1, 1), 1.0, 2, "avg", True))
    assert abs(value - 2.5) < 1e-5, f"RoIAlign gave {value} instead of 2.5"
    boxes = torch.tensor([[0., 0., 10., 10.], [1., 1., 11., 11.], [50., 50., 60., 60.]])
    kept = nms(boxes, torch.tensor([.9, .8, .7]), 0.5)[1].tolist()
    assert kept == [0, 2], f"NMS kept {kept} instead of [0, 2]"
    return "RoIAlign and NMS run"

def probe_mmdet():
    import mmdet.models
    return mmdet.__version__

def probe_mmseg():
    import mmseg.models
    return mmseg.__version__

def probe_mmpretrain():
    import mmpretrain.models
    return mmpretrain.__version__

for name in sys.argv[2:]:
    print(MARK + json.dumps(["start", name, ""]), flush=True)
    try:
        answer = ["pass", name, globals()["probe_" + name]()]
    except BaseException as error:
        first_line = (str(error).strip() or "no message").splitlines()[0]
        answer = ["fail", name, type(error).__name__ + ": " + first_line]
    print(MARK + json.dumps(answer), flush=True)
"""
PROBES = (
    "torch",
    "torchvision",
    "cv2",
    "mmengine",
    "mmcv",
    "mmcv_ops",
    "mmdet",
    "mmseg",
    "mmpretrain",
)
_DISTRIBUTIONS_OF_PROBES = {
    "torch": ("torch",),
    "torchvision": ("torchvision",),
    "cv2": ("opencv-python", "opencv-python-headless"),
    "mmengine": (*MAIN_STACK["engine"], *UPSTREAM_STACK["engine"]),
    "mmcv": (*MAIN_STACK["mmcv"], *UPSTREAM_STACK["mmcv"]),
    "mmcv_ops": (*MAIN_STACK["mmcv"], *UPSTREAM_STACK["mmcv"]),
    "mmdet": (*MAIN_STACK["mmdet"], *UPSTREAM_STACK["mmdet"]),
    "mmseg": (*MAIN_STACK["mmseg"], *UPSTREAM_STACK["mmseg"]),
    "mmpretrain": (*MAIN_STACK["mmpretrain"], *UPSTREAM_STACK["mmpretrain"]),
}


@dataclass(frozen=True)
class Probe:
    """The outcome of trying one import in a process of its own.

    Attributes:
        passed: whether the import worked and gave the expected answers.
        message: what the import reported, or the error in one line.
    """

    passed: bool
    message: str


@dataclass(frozen=True)
class Environment:
    """What one Python installation holds.

    Attributes:
        python: version of the interpreter, (major, minor, micro).
        packages: version of each installed distribution by its normalised name.
        probes: outcome of each probe that ran, by name (see `PROBES`).
        executable: how a mending command calls this Python.
    """

    python: tuple[int, int, int]
    packages: Mapping[str, str]
    probes: Mapping[str, Probe] = field(default_factory=dict)
    executable: str = "python"


@dataclass(frozen=True)
class Problem:
    """Something that keeps a task from working.

    Attributes:
        need: what is touched, one of the needs in `TASKS` or `python`.
        summary: what is wrong, in one line.
        command: the one command that mends it.
        missing: whether the thing is simply not installed, as opposed to broken.
    """

    need: str
    summary: str
    command: str
    missing: bool = False


def normalise_name(name: str) -> str:
    """Return a distribution name in the form that names are compared in."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse_release(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: "2.12.1+cpu" -> (2, 12, 1)."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def parse_build(version: str) -> str:
    """Return the local part of a version: "2.12.1+cpu" -> "cpu", else ""."""
    return version.partition("+")[2]


def read_packages(path: list[str] | None = None) -> dict[str, str]:
    """Return the version of each installed distribution by its normalised name.

    Args:
        path: folders to look in, by default those that imports search.
    """
    found = (
        metadata.distributions() if path is None else metadata.distributions(path=path)
    )
    packages: dict[str, str] = {}
    for distribution in found:
        name = distribution.metadata["Name"]
        if name:  # a half-removed package can leave a folder without metadata
            packages.setdefault(normalise_name(name), distribution.version)
    for name in ("torch", "torchvision"):  # their metadata can omit the build label
        version = _read_version_file(name, path or sys.path)
        recorded = packages.get(name)
        if recorded and version and parse_release(version) == parse_release(recorded):
            packages[name] = version
    return packages


def _read_version_file(package: str, folders: Iterable[str]) -> str | None:
    for folder in folders:
        try:
            with open(os.path.join(folder, package, "version.py")) as file:
                found = re.search(r"__version__ *= *['\"]([^'\"]+)", file.read())
        except OSError:
            continue
        return found.group(1) if found else None
    return None


def run_probes(
    names: Iterable[str], executable: str | None = None, timeout: float = 300
) -> dict[str, Probe]:
    """Try imports and compiled operators in a process of their own.

    Args:
        names: probes to run, each one of `PROBES`.
        executable: Python to run them with, by default the one that runs now.
        timeout: seconds after which the process counts as hanging.

    Returns:
        The outcome of each probe. One that ended its process (a segmentation fault)
        is reported as failed, and those after it run in a fresh process.
    """
    remaining = list(names)
    for name in remaining:
        if name not in PROBES:
            raise ValueError(f"unknown probe {name!r}, expected one of {PROBES}")
    outcomes: dict[str, Probe] = {}
    while remaining:
        command = [executable or sys.executable, "-c", _PROBE_SOURCE, _PROBE_MARK]
        try:
            process = subprocess.run(
                [*command, *remaining],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                timeout=timeout,
            )
            ending = f"the process ended with exit status {process.returncode}"
            if process.returncode < 0:
                ending = f"the process was killed by signal {-process.returncode}"
            output = process.stdout
        except subprocess.TimeoutExpired as error:
            ending = f"no answer within {timeout:.0f} s"
            # In spite of text=True it carries bytes.
            captured: bytes | str | None = error.stdout
            output = (
                captured.decode(errors="replace")
                if isinstance(captured, bytes)
                else captured or ""
            )
        running = remaining[0]
        for line in output.splitlines():
            if line.startswith(_PROBE_MARK):
                state, running, message = json.loads(line[len(_PROBE_MARK) :])
                if state != "start":
                    outcomes[running] = Probe(state == "pass", message)
        if running not in outcomes:
            outcomes[running] = Probe(False, ending)
        remaining = [name for name in remaining if name not in outcomes]
    return outcomes


def read_environment(probe: bool = True) -> Environment:
    """Describe the Python that runs now.

    Args:
        probe: whether to try the installed packages too; takes some seconds.
    """
    packages = read_packages()
    names = [
        name
        for name, owners in _DISTRIBUTIONS_OF_PROBES.items()
        if any(owner in packages for owner in owners)
    ]
    return Environment(
        python=(sys.version_info[0], sys.version_info[1], sys.version_info[2]),
        packages=packages,
        probes=run_probes(names) if probe else {},
        executable=shlex.quote(sys.executable),
    )


def choose_stack(environment: Environment) -> str:
    """Return the stack that the environment is meant to hold.

    It is the one that more of the five components come from; the main stack when
    neither leads.
    """
    counts = {
        stack: sum(
            any(name in environment.packages for name in names)
            for names in components.values()
        )
        for stack, components in STACKS.items()
    }
    return "upstream" if counts["upstream"] > counts["main"] else "main"


def find_problems(environment: Environment, task: str = "tests") -> list[Problem]:
    """Return what keeps a task from working, what is broken before what is missing.

    Args:
        environment: what is installed.
        task: one of `TASKS`.

    Raises:
        ValueError: the task is unknown.
    """
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}, expected one of {sorted(TASKS)}")
    needs = TASKS[task]
    problems = _find_python_problems(environment)
    if problems:
        return problems
    stack = choose_stack(environment)
    mixed = _find_mixed_stacks(environment, stack)
    problems += mixed
    problems += _find_wrong_torch(environment, stack)
    mended = {problem.need for problem in problems}
    for need in needs:
        if need in mended:
            continue
        # Nothing built on a mixed stack or a broken torch can be judged before that
        # is mended.
        if need in (*MAIN_STACK, "mmcv-ops") and (mixed or "torch" in mended):
            if _installed(environment, need, stack) is None and not mixed:
                problems.append(_missing(environment, need, stack))
            continue
        problems += _find_need_problems(environment, need, stack)
    return sorted(problems, key=lambda problem: problem.missing)


def is_ready(environment: Environment, task: str) -> bool:
    """Return whether a task has all it needs."""
    return not find_problems(environment, task)


def find_conflicts(packages: Mapping[str, str]) -> list[Problem]:
    """Return the problems that distribution names alone show (mixed stacks)."""
    environment = Environment(python=(3, 11, 0), packages=packages)
    return _find_mixed_stacks(environment, choose_stack(environment))


def install_command(
    environment: Environment, needs: Iterable[str], stack: str = "main"
) -> str:
    """Return the one command that installs what is needed, in the order that works.

    Args:
        environment: the Python to install into.
        needs: needs of `TASKS`.
        stack: "main" or "upstream".
    """
    wanted = set(needs)
    pip = f"{environment.executable} -m pip install"
    numpy = _pin("numpy") if stack == "main" else '"numpy<2"'
    has_mmcv = bool(wanted & {"mmcv", "mmcv-ops"})
    commands = []
    first: list[str] = []
    if wanted & {"torch", "torchvision"}:
        if stack == "main":
            first += [_pin("torch"), _pin("torchvision"), numpy]
        else:
            first += ["torch==2.1.2", "torchvision==0.16.2", numpy]
    if has_mmcv:
        first += (
            [_pin(name) for name in ("setuptools", "ninja", "psutil")]
            if stack == "main"
            else ["openmim"]
        )
    if first:
        commands.append(f"{pip} {' '.join(first)}")
    if has_mmcv and stack == "main":
        # A cached wheel may have been built without the operators.
        commands.append(
            f"MMCV_WITH_OPS=1 {pip} --no-build-isolation --no-cache-dir "
            f"--force-reinstall --no-deps {_pin_of_component('mmcv', stack)}"
        )
    elif has_mmcv:
        commands.append(
            f"{environment.executable} -m mim install --only-binary mmcv "
            f"{_pin_of_component('mmcv', stack)}"
        )
    components = [need for need in MAIN_STACK if need in wanted]
    rest = [_pin_of_component(component, stack) for component in components]
    if components:
        rest.append(numpy)
    rest += [
        _pin(need, environment.python)
        for need in sorted(wanted - {*MAIN_STACK, "mmcv-ops", "torch", "torchvision"})
    ]
    if rest:
        # The main stack comes as sources; isolation would build them with whatever
        # setuptools is newest.
        isolation = " --no-build-isolation" if components and stack == "main" else ""
        commands.append(f"{pip}{isolation} {' '.join(rest)}")
    return " && ".join(commands)


def _pin(name: str, python: tuple[int, ...] = (3, 11)) -> str:
    pins = {**PINS, **PINS_PYTHON_3_10} if python[:2] == (3, 10) else PINS
    return f"{name}=={pins[name]}"


def _pin_of_component(component: str, stack: str) -> str:
    name, version = next(iter(STACKS[stack][component].items()))
    return f"{name}=={version}"


def _installed(environment: Environment, need: str, stack: str) -> str | None:
    """Return the distribution that answers a need, None where there is none."""
    component = "mmcv" if need == "mmcv-ops" else need
    names = STACKS[stack].get(component, (need,))
    return next((name for name in names if name in environment.packages), None)


def _missing(environment: Environment, need: str, stack: str) -> Problem:
    name = need
    if need in MAIN_STACK:
        name = next(iter(STACKS[stack][need]))
    return Problem(
        need,
        f"{name} is not installed",
        install_command(environment, [need], stack),
        missing=True,
    )


def _find_python_problems(environment: Environment) -> list[Problem]:
    lowest, highest = SUPPORTED_PYTHON
    if lowest <= environment.python[:2] <= highest:
        return []
    version = ".".join(str(part) for part in environment.python)
    return [
        Problem(
            "python",
            f"Python {version} is not supported, "
            f"{lowest[0]}.{lowest[1]} to {highest[0]}.{highest[1]} are",
            "PYTHON=python3.11 make setup",
        )
    ]


def _find_mixed_stacks(environment: Environment, stack: str) -> list[Problem]:
    """Find distributions of both stacks: they own the same files, the last one wins."""
    other = "upstream" if stack == "main" else "main"
    foreign = _distributions(environment, other)
    rivals = _rivals(environment, stack)
    if not foreign and not rivals:
        return []
    own = _distributions(environment, stack)
    owned_components = [
        component
        for component in MAIN_STACK
        if any(
            name in environment.packages
            for names in STACKS.values()
            for name in names[component]
        )
    ]
    # Removing one distribution takes shared files of the other along, hence both go.
    removed = " ".join(sorted({*foreign, *own}))
    command = (
        f"{environment.executable} -m pip uninstall -y {removed} && "
        f"{install_command(environment, owned_components, stack)}"
    )
    engines = [
        name
        for names in STACKS.values()
        for name in names["engine"]
        if name in environment.packages
    ]
    if len(engines) > 1:
        summary = (
            f"both {' and '.join(engines)} are installed and own the same files: "
            "whichever came last is in use"
        )
    elif foreign:
        summary = (
            f"{', '.join(foreign)} beside {', '.join(own)}: the {other} and the "
            f"{stack} OpenMMLab stack must not be mixed"
        )
    else:
        summary = f"{', '.join(rivals)} own the same files: only one may be installed"
    return [Problem("engine", summary, command)]


def _distributions(environment: Environment, stack: str) -> list[str]:
    return [
        name
        for names in STACKS[stack].values()
        for name in names
        if name in environment.packages
    ]


def _rivals(environment: Environment, stack: str) -> list[str]:
    """Return distributions of one stack that own the same files (mmcv, mmcv-lite)."""
    for names in STACKS[stack].values():
        found = [name for name in names if name in environment.packages]
        if len(found) > 1:
            return found
    return []


def _find_wrong_torch(environment: Environment, stack: str) -> list[Problem]:
    torch = environment.packages.get("torch")
    torchvision = environment.packages.get("torchvision")
    if torch is None:
        return []
    release = parse_release(torch)
    reinstall = install_command(environment, ["torch"], stack)
    if stack == "upstream":
        if release >= (2, 6):
            return [
                Problem(
                    "torch",
                    f"torch {torch} is too new for the upstream stack, which needs "
                    "torch <= 2.5",
                    reinstall,
                )
            ]
        numpy = environment.packages.get("numpy")
        if numpy is not None and parse_release(numpy) >= (2,):
            return [
                Problem(
                    "engine",
                    f"numpy {numpy} is too new for the upstream stack, which needs "
                    "numpy < 2",
                    f'{environment.executable} -m pip install "numpy<2"',
                )
            ]
    elif release >= FIRST_TORCH_REFUSED_BY_MMCV:
        return [
            Problem(
                "torch",
                f"torch {torch} cannot build onedl-mmcv (its headers need C++20), "
                "torch below 2.15 can",
                reinstall,
            )
        ]
    if torchvision is None or not release:
        return []
    # torch 2.N goes with torchvision 0.(N + 15) since torch 2.0.
    expected = (0, release[1] + 15) if release[0] == 2 and len(release) > 1 else None
    pair = f"torch {torch} and torchvision {torchvision}"
    if expected is not None and parse_release(torchvision)[:2] != expected:
        summary = f"{pair} do not belong together, torchvision 0.{expected[1]} does"
    elif _builds_differ(torch, torchvision):
        summary = f'{pair} are of different builds ("torchvision::nms does not exist")'
    else:
        return []
    if stack == "main":
        # "===" takes the default build, never one with a label such as "+cpu".
        reinstall = (
            f"{environment.executable} -m pip install --force-reinstall "
            f"'torch==={PINS['torch']}' 'torchvision==={PINS['torchvision']}' "
            f"{_pin('numpy')} {_pin('setuptools')}"
        )
    return [Problem("torchvision", summary, reinstall)]


def _builds_differ(torch: str, torchvision: str) -> bool:
    builds = parse_build(torch), parse_build(torchvision)
    return all(builds) and builds[0] != builds[1]


def _find_need_problems(
    environment: Environment, need: str, stack: str
) -> list[Problem]:
    command = install_command(environment, [need], stack)
    distribution = _installed(environment, need, stack)
    if distribution is None:
        # A missing mmcv is one problem, told by the need "mmcv".
        return [] if need == "mmcv-ops" else [_missing(environment, need, stack)]
    version = environment.packages[distribution]
    probe_name = {"engine": "mmengine", "mmcv-ops": "mmcv_ops"}.get(need, need)
    if need == "mmcv":
        cv2 = environment.probes.get("cv2")
        if cv2 is not None and not cv2.passed:
            return [
                Problem(
                    need,
                    f"OpenCV does not import ({cv2.message})",
                    f"{environment.executable} -m pip install --force-reinstall "
                    f"--no-deps {_pin('opencv-python-headless')}",
                )
            ]
    probe = environment.probes.get(probe_name)
    if probe is None or probe.passed:
        return []
    if need == "mmcv-ops":
        broken_mmcv = environment.probes.get("mmcv")
        if broken_mmcv is not None and not broken_mmcv.passed:
            return []  # told by the need "mmcv"
        summary = (
            f"{distribution} {version} has no working compiled operators "
            f"({probe.message})"
        )
    else:
        summary = f"{distribution} {version} does not work ({probe.message})"
        if need in MAIN_STACK and need != "mmcv":
            command = (
                f"{environment.executable} -m pip install --no-build-isolation "
                f"--force-reinstall --no-deps {_pin_of_component(need, stack)}"
            )
    return [Problem(need, summary, command)]


def make_rows(environment: Environment) -> list[tuple[str, str, str, str]]:
    """Return the rows of the version table: part, version, state and tasks."""
    stack = choose_stack(environment)
    rows = [
        (
            "Python",
            ".".join(str(part) for part in environment.python),
            "not supported" if _find_python_problems(environment) else "ok",
            "all",
        )
    ]
    users: dict[str, list[str]] = {}
    for task, needs in TASKS.items():
        for need in needs:
            users.setdefault(need, []).append(task)
    users["numpy"] = users["opencv-python"] = ["all"]
    for need, tasks in users.items():
        names = [
            name
            for names in STACKS.values()
            for name in names.get("mmcv" if need == "mmcv-ops" else need, ())
            if name in environment.packages
        ]
        if not names:
            names = [need] if need in environment.packages else []
        probe_name = {
            "engine": "mmengine",
            "mmcv-ops": "mmcv_ops",
            "opencv-python": "cv2",
        }
        probe = environment.probes.get(probe_name.get(need, need))
        if not names:
            state = "missing"
        elif probe is None:
            state = "installed"
        else:
            state = "ok" if probe.passed else "broken"
            if need in ("torch", "mmcv-ops") and probe.passed:
                state = f"ok ({probe.message})"
        default = next(iter(STACKS[stack].get(need, (need,))))
        label = "mmcv compiled operators" if need == "mmcv-ops" else " + ".join(names)
        versions = " + ".join(environment.packages[name] for name in names) or "-"
        used_by = "all" if len(tasks) == len(TASKS) else ", ".join(tasks)
        rows.append((label or default, versions, state, used_by))
    return rows


def format_report(environment: Environment, task: str | None = None) -> str:
    """Return the whole report as plain text.

    Args:
        environment: what is installed.
        task: the task to judge; by default every task is, one line each.
    """
    lines = _format_table(
        ("part", "version", "state", "needed by"), make_rows(environment)
    )
    lines.append("")
    judged = TASKS if task is None else (task,)
    problems: dict[Problem, list[str]] = {}
    for name in judged:
        found = find_problems(environment, name)
        needs = ", ".join(dict.fromkeys(problem.need for problem in found))
        lines.append(f"{name}: {'lacks ' + needs if found else 'ready'}")
        for problem in found:
            problems.setdefault(problem, []).append(name)
    for problem in problems:
        if not problem.missing:
            lines += [
                "",
                f"{problem.summary[0].upper()}{problem.summary[1:]}. To mend it:",
                f"  {problem.command}",
            ]
    missing = [problem for problem in problems if problem.missing]
    if missing:
        command = install_command(
            environment,
            [problem.need for problem in missing],
            choose_stack(environment),
        )
        lines += ["", "To install what is missing:", f"  {command}"]
    return "\n".join(lines)


def _format_table(
    header: tuple[str, ...], rows: list[tuple[str, str, str, str]]
) -> list[str]:
    columns = list(zip(header, *rows, strict=True))
    widths = [max(len(cell) for cell in column) for column in columns]
    lines = [
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in (header, *rows)
    ]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]
