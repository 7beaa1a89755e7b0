"""The environment check as users run it, in environments made up for each case."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_packages import MAIN, OPERATORS, module_files

from mlp_backbones import environment as env

ROOT = Path(__file__).resolve().parents[1]
TOOL = ROOT / "tools" / "misc" / "check_env.py"


class Fake:
    """A virtual environment with nothing in it but what a test makes up."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "venv", "--without-pip", folder]
        subprocess.run(command, check=True)
        self.python = folder / "bin" / "python"
        (self.site,) = folder.glob("lib/python*/site-packages")

    def add(self, name, module, version, source=""):
        files = module_files(module, source)
        info = f"{name.replace('-', '_')}-{version}.dist-info"
        record = "".join(f"{path},,\n" for path in files)
        head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        files |= {f"{info}/METADATA": head, f"{info}/RECORD": record}
        for path, content in files.items():
            (self.site / path).parent.mkdir(exist_ok=True)
            (self.site / path).write_text(content)

    def remove(self, name, module):
        for path in [*self.site.glob(f"{name.replace('-', '_')}-*/*")]:
            path.unlink()
        for path in self.site.glob(f"{module}/**/*.py"):
            path.unlink()

    def check(self, *arguments):
        """Return the exit code and the lines that the tool as typed prints."""
        variables = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        done = subprocess.run(
            [self.python, TOOL, *arguments],
            capture_output=True,
            text=True,
            env=variables,
            check=False,
        )
        assert done.stderr == ""
        return done.returncode, done.stdout.splitlines()

    def problem(self, *arguments):
        """Return the only problem that the tool tells, and the command."""
        code, lines = self.check(*arguments)
        assert code == 1
        starts = [i for i, line in enumerate(lines) if line.endswith("To mend it:")]
        assert len(starts) == 1, lines
        return lines[starts[0]], lines[starts[0] + 1].strip()


@pytest.fixture
def fake(tmp_path):
    """An environment with all of the main stack."""
    environment = Fake(tmp_path / "venv")
    for name, (module, version, source) in MAIN.items():
        environment.add(name, module, version, source)
    return environment


def test_everything_is_there(fake):
    code, lines = fake.check()
    assert code == 0
    assert [line for line in lines if line.endswith(": ready")] == [
        f"{task}: ready" for task in env.TASKS
    ]
    assert "operators   torchvision's" in lines
    assert "torch       torch 2.12.1 (CUDA: None)" in lines
    (fake.site / "mmcv" / "_ext.py").write_text("")
    assert "operators   mmcv's own, compiled" in fake.check()[1]


def test_bare_python(tmp_path):
    bare = Fake(tmp_path / "venv")
    code, lines = bare.check()
    assert code == 0
    assert "detection: lacks torch, numpy, safetensors, mmengine" in "\n".join(lines)
    assert lines[-1].strip() == (
        f"{bare.python} -m pip install -e '{ROOT}[onedl,onnx,test]' "
        f"-c {ROOT / 'constraints.txt'}"
    )
    assert bare.check("--task", "detection")[0] == 1


def test_what_one_task_lacks(fake):
    fake.remove("onnx", "onnx")
    code, lines = fake.check("--task", "onnx")
    assert code == 1
    assert "onnx: lacks onnx" in lines
    assert "[onedl,onnx]" in lines[-1]
    assert fake.check("--task", "detection")[0] == 0


@pytest.mark.parametrize("python", [(3, 9, 18), (3, 14, 0)])
def test_python_that_is_not_supported(fake, python):
    code = "import runpy, sys; "
    code += f"sys.version_info = {python}; sys.argv[:1] = []; "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [fake.python, "-c", code, TOOL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    output = done.stdout + done.stderr
    assert f"Python 3.{python[1]} is not supported, 3.10 to 3.13 are" in output
    assert "PYTHON=python3.11 make setup" in output


def test_both_stacks(fake):
    fake.add("mmengine", "mmengine", "0.10.7")
    summary, command = fake.problem()
    assert "both OpenMMLab stacks" in summary
    assert "onedl-mmengine, onedl-mmcv" in summary
    assert summary.endswith("and mmengine. To mend it:")
    removal, installation = command.split(" && ")
    # Removing one takes files of the other along: all go and ours comes back.
    removed = removal.partition("uninstall -y ")[2].split()
    assert {"mmengine", "onedl-mmengine", "onedl-mmcv"} <= set(removed)
    assert "[onedl]" in installation


def test_two_of_upstream(tmp_path):
    fake = Fake(tmp_path / "venv")
    for name in ("mmcv", "mmcv-lite"):
        fake.add(name, "mmcv", "2.1.0")
    fake.add("mmengine", "mmengine", "0.10.7")
    summary, command = fake.problem()
    assert summary.startswith("mmcv-lite and mmcv own the same files")
    assert "uninstall -y mmengine mmcv-lite mmcv && " in command
    assert "[upstream]" in command
    (constraints,) = (word for word in command.split() if "constraints" in word)
    assert constraints == str(ROOT / "constraints-upstream.txt")


def test_old_mmcv(tmp_path):
    fake = Fake(tmp_path / "venv")
    fake.add("mmcv-full", "mmcv", "1.7.2")
    summary, command = fake.problem()
    assert summary.startswith("mmcv-full 1.7.2 is older than 2.0")
    assert "uninstall -y mmcv-full && " in command
    assert "install -e" in command


def test_torchvision_of_another_release(fake):
    fake.add("torchvision", "torchvision", "0.28.0")
    (fake.site / "torchvision-0.27.1.dist-info" / "METADATA").unlink()
    summary, command = fake.problem()
    assert "torch 2.12.1 and torchvision 0.28.0 do not fit each other" in summary
    assert "--force-reinstall --no-deps torch torchvision" in command


def test_torchvision_of_another_build(fake):
    error = "operator torchvision::nms does not exist"
    (fake.site / "torchvision/__init__.py").write_text(f"raise RuntimeError('{error}')")
    summary, command = fake.problem()
    assert "torchvision 0.27.1 and torch 2.12.1" in summary
    assert error in summary
    assert "--force-reinstall --no-deps torchvision torch" in command


def test_metadata_without_files(fake):
    (fake.site / "mmdet" / "models.py").unlink()
    summary, command = fake.problem("--task", "detection")
    assert "onedl-mmdetection 3.5.1 lacks mmdet/models.py" in summary
    assert "--force-reinstall --no-deps onedl-mmdetection" in command
    (fake.site / "mmdet" / "__init__.py").unlink()
    assert "lacks mmdet/__init__.py" in fake.problem()[0]


def test_files_without_metadata(fake):
    for path in fake.site.glob("onedl_mmseg*/*"):
        path.unlink()
    summary, command = fake.problem()
    assert summary.startswith("mmseg has files but no metadata")
    assert "install -e" in command


def test_opencv_without_system_libraries(fake):
    (fake.site / "cv2/__init__.py").write_text("raise ImportError('libGL.so.1')")
    summary, command = fake.problem()
    assert "cv2 failed (ImportError: libGL.so.1)" in summary
    assert "--force-reinstall --no-deps opencv-python-headless" in command


def test_operators_that_answer_wrongly(fake):
    (fake.site / "mmcv/ops.py").write_text(OPERATORS.replace("2.5", "2.0"))
    summary, _ = fake.problem()
    assert "RoIAlign gave 2.0 instead of 2.5" in summary
    code, lines = fake.check()
    assert code == 1
    assert "detection: lacks operators" in lines
    assert "classification: ready" in lines


def test_packages_that_crash_or_end_the_process(fake):
    """A segmentation fault is told, and the imports after it still run."""
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    (fake.site / "mmdet/models.py").write_text(crash)
    summary, command = fake.problem()
    assert "onedl-mmdetection 3.5.1: mmdet failed" in summary
    assert "the process ended, exit code -11" in summary
    assert "--no-deps onedl-mmdetection" in command
    lines = fake.check()[1]
    assert "classification: ready" in lines
    (fake.site / "mmdet/models.py").write_text("import sys; sys.exit(3)")
    assert "SystemExit: 3" in fake.problem()[0]


def test_import_that_hangs(tmp_path, monkeypatch):
    (tmp_path / "cv2.py").write_text("import time; time.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    passed, note = env.run_probes(["cv2"], timeout=3)["cv2"]
    assert not passed
    assert "no answer within 3 s" in note


def test_this_environment():
    done = subprocess.run(
        [sys.executable, TOOL, "--task", "tests"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.rstrip().endswith("tests: ready")
