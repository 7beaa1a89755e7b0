"""The environment check, judged on made-up sets of distributions."""

import subprocess
import sys
from pathlib import Path

import pytest

from mlp_backbones import environment as env

ROOT = Path(__file__).resolve().parents[1]
MAIN = {
    **{name: pin for names in env.MAIN_STACK.values() for name, pin in names.items()},
    **env.PINS,
    "torch": "2.12.1+cu130",
    "torchvision": "0.27.1+cu130",
    "opencv-python": "4.12.0.88",
}
UPSTREAM = {
    **env.PINS,
    "mmengine": "0.10.7",
    "mmcv": "2.1.0",
    "mmdet": "3.3.0",
    "mmsegmentation": "1.2.2",
    "mmpretrain": "1.2.0",
    "torch": "2.1.2",
    "torchvision": "0.16.2",
    "numpy": "1.26.4",
}
PASSING = {name: env.Probe(True, "fine") for name in env.PROBES}


def make_environment(base, *, without=(), probes=None, python=(3, 11, 7), **changes):
    """Return an environment whose distributions differ from a complete one."""
    packages = {**base, **{key.replace("_", "-"): v for key, v in changes.items()}}
    for name in without:
        del packages[name]
    return env.Environment(python, packages, {**PASSING, **(probes or {})}, "py")


def summaries(environment, task="tests"):
    return [problem.summary for problem in env.find_problems(environment, task)]


@pytest.mark.parametrize("base", [MAIN, UPSTREAM], ids=["main", "upstream"])
@pytest.mark.parametrize("task", env.TASKS)
def test_complete_stack_has_no_problem(base, task):
    assert env.find_problems(make_environment(base), task) == []


def test_pins_equal_the_constraints():
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        requirement, _, marker = line.partition(";")
        if "==" in requirement and not line.startswith("#"):
            name, _, version = requirement.strip().partition("==")
            pins.setdefault(name.lower(), {})["<" if "<" in marker else ""] = version
    main = {n: v for names in env.MAIN_STACK.values() for n, v in names.items()}
    for name, version in {**env.PINS, **main}.items():
        assert pins[name][""] == version, name
    for name, version in env.PINS_PYTHON_3_10.items():
        assert pins[name]["<"] == version, name


def test_both_engines():
    problem, *others = env.find_problems(make_environment(MAIN, mmengine="0.10.7"))
    assert others == []
    assert "onedl-mmengine" in problem.summary
    assert " mmengine" in problem.summary
    assert "own the same files" in problem.summary
    removal, _, installation = problem.command.partition(" && ")
    assert removal.startswith("py -m pip uninstall -y ")
    # Removing one takes files of the other along, so both go and ours comes back.
    assert {"mmengine", "onedl-mmengine", "onedl-mmcv"} <= set(removal.split())
    assert "onedl-mmengine==0.10.12" in installation
    assert " mmengine==" not in installation


def test_upstream_detection_in_the_main_stack():
    environment = make_environment(MAIN, without=["onedl-mmdetection"], mmdet="3.3.0")
    problem, *others = env.find_problems(environment, "detection")
    assert others == []
    assert "mmdet" in problem.summary
    assert "must not be mixed" in problem.summary
    assert "onedl-mmdetection==3.5.1" in problem.command
    assert "mmdet" in problem.command.partition(" && ")[0].split()


def test_main_engine_in_the_upstream_stack():
    environment = make_environment(UPSTREAM, onedl_mmengine="0.10.12")
    problem, *others = env.find_problems(environment)
    assert others == []
    assert "mmengine==0.10.7" in problem.command
    assert "onedl-mmengine==" not in problem.command
    assert '"numpy<2"' in problem.command


def test_two_distributions_of_upstream_mmcv():
    (summary,) = summaries(make_environment(UPSTREAM, mmcv_lite="2.1.0"))
    assert "mmcv, mmcv-lite own the same files" in summary


def test_mmcv_without_operators():
    probes = {
        "mmcv_ops": env.Probe(False, "ModuleNotFoundError: No module 'mmcv._ext'")
    }
    environment = make_environment(MAIN, probes=probes)
    (problem,) = env.find_problems(environment, "detection")
    assert "no working compiled operators" in problem.summary
    assert "mmcv._ext" in problem.summary
    for part in ("MMCV_WITH_OPS=1", "--no-cache-dir", "--no-build-isolation"):
        assert part in problem.command
    assert env.find_problems(environment, "classification") == []


def test_mmcv_that_does_not_import_is_told_once():
    broken = env.Probe(False, "ImportError: broken")
    environment = make_environment(MAIN, probes={"mmcv": broken, "mmcv_ops": broken})
    (problem,) = env.find_problems(environment, "detection")
    assert problem.need == "mmcv"


@pytest.mark.parametrize(
    ("torch", "torchvision", "expected"),
    [
        ("2.12.1+cpu", "0.27.1+cu130", "different builds"),
        ("2.12.1", "0.28.0", "torchvision 0.27 does"),
        ("2.13.0+cpu", "0.27.1", "torchvision 0.28 does"),
    ],
)
def test_torchvision_that_does_not_fit(torch, torchvision, expected):
    environment = make_environment(MAIN, torch=torch, torchvision=torchvision)
    (problem,) = env.find_problems(environment, "detection")
    assert expected in problem.summary
    assert "'torch===2.12.1' 'torchvision===0.27.1'" in problem.command


def test_torch_that_mmcv_cannot_be_built_with():
    environment = make_environment(MAIN, torch="2.15.0", torchvision="0.30.0")
    problem = env.find_problems(environment, "detection")[0]
    assert "C++20" in problem.summary
    assert "torch==2.12.1" in problem.command


@pytest.mark.parametrize(
    ("changes", "expected", "command"),
    [
        ({"numpy": "2.2.6"}, "numpy < 2", 'py -m pip install "numpy<2"'),
        (
            {"torch": "2.6.0", "torchvision": "0.21.0"},
            "torch <= 2.5",
            'py -m pip install torch==2.1.2 torchvision==0.16.2 "numpy<2"',
        ),
    ],
)
def test_upstream_with_too_new_a_package(changes, expected, command):
    (problem,) = env.find_problems(make_environment(UPSTREAM, **changes), "detection")
    assert expected in problem.summary
    assert problem.command == command


def test_opencv_without_system_libraries():
    probes = {
        "cv2": env.Probe(False, "ImportError: libGL.so.1"),
        "mmcv": env.Probe(False, "x"),
    }
    environment = make_environment(MAIN, probes=probes)
    problem = env.find_problems(environment, "classification")[0]
    assert "libGL.so.1" in problem.summary
    assert "opencv-python-headless==4.12.0.88" in problem.command


def test_missing_parts_are_installed_by_one_command():
    environment = make_environment(
        MAIN, without=["torch", "torchvision", "onedl-mmcv", "onnx"], probes={}
    )
    report = env.format_report(environment)
    command = report.splitlines()[-1].strip()
    assert report.count("pip install") == command.count("pip install")
    steps = command.split(" && ")
    assert "torch==2.12.1" in steps[0], "torch must come before mmcv is built"
    assert "MMCV_WITH_OPS=1" in steps[1]
    assert "onnx==1.23.2" in steps[2]
    assert "backbones: lacks torch" in report
    assert "onnx: lacks torch, onnx" in report


def test_python_3_10_is_told_versions_that_it_has():
    environment = make_environment(MAIN, without=["scikit-learn"], python=(3, 10, 13))
    (problem,) = env.find_problems(environment, "demo")
    assert problem.command == "py -m pip install scikit-learn==1.7.2"


@pytest.mark.parametrize("python", [(3, 9, 18), (3, 13, 0)])
def test_unsupported_python(python):
    (summary,) = summaries(make_environment(MAIN, python=python))
    assert "3.10 to 3.12" in summary


def test_unknown_task_and_probe():
    with pytest.raises(ValueError, match="'detect'.*detection"):
        env.find_problems(make_environment(MAIN), "detect")
    with pytest.raises(ValueError, match="'mmcv-ops'"):
        env.run_probes(["mmcv-ops"])


def test_probes_of_packages_that_crash_or_fail(tmp_path, monkeypatch):
    """A segmentation fault is reported, and the probes after it still run."""
    modules = {
        "cv2": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "mmengine": "raise ImportError('first line\\nsecond line')",
        "mmcv": "__version__ = '7.0'",
        "torchvision": "import sys; sys.exit(3)",
    }
    for name, source in modules.items():
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    outcomes = env.run_probes(["cv2", "mmengine", "mmcv", "torchvision"])
    assert outcomes["cv2"] == env.Probe(False, "the process was killed by signal 11")
    assert outcomes["mmengine"] == env.Probe(False, "ImportError: first line")
    assert outcomes["mmcv"] == env.Probe(True, "7.0")
    assert not outcomes["torchvision"].passed


def test_probe_that_hangs(tmp_path, monkeypatch):
    (tmp_path / "cv2.py").write_text("import time; time.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    outcomes = env.run_probes(["cv2"], timeout=2)
    assert outcomes["cv2"] == env.Probe(False, "no answer within 2 s")


def test_operators_that_answer_wrongly_fail(tmp_path, monkeypatch):
    """The probe of mmcv checks values, not only that the import works."""
    (tmp_path / "mmcv").mkdir()
    (tmp_path / "mmcv" / "__init__.py").write_text("")
    (tmp_path / "mmcv" / "_ext.py").write_text("")
    (tmp_path / "mmcv" / "ops.py").write_text(
        "import torch\n"
        "def roi_align(*args): return torch.tensor(2.0)\n"
        "def nms(boxes, scores, threshold): return boxes, torch.tensor([0, 2])\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    outcome = env.run_probes(["mmcv_ops"])["mmcv_ops"]
    assert outcome == env.Probe(
        False, "AssertionError: RoIAlign gave 2.0 instead of 2.5"
    )


def test_read_packages(tmp_path):
    for name, version in (("Onedl_MMCV", "2.3.6"), ("torch", "2.12.1")):
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "version.py").write_text("__version__ = '2.12.1+cpu'\n")
    packages = env.read_packages([str(tmp_path)])
    assert packages == {"onedl-mmcv": "2.3.6", "torch": "2.12.1+cpu"}


def test_check_env_runs_with_nothing_installed():
    """-S leaves site-packages out: the tool has the standard library only."""
    tool = str(ROOT / "tools" / "misc" / "check_env.py")
    command = [sys.executable, "-S", tool]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "detection: lacks torch" in process.stdout
    assert "onedl-mmdetection==3.5.1" in process.stdout
    process = subprocess.run(
        [*command, "--task", "detection"], capture_output=True, text=True
    )
    assert process.returncode == 1


def test_check_env_accepts_this_environment():
    tool = str(ROOT / "tools" / "misc" / "check_env.py")
    process = subprocess.run(
        [sys.executable, tool, "--task", "tests"], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stdout
    assert "RoIAlign and NMS run" in process.stdout
    assert process.stdout.rstrip().endswith("tests: ready")
