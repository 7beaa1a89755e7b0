import ast
import contextlib
import logging
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from torch.utils.data import DataLoader, Dataset
from toy_runs import run

from mlp_backbones.checkpoints import read_checkpoint
from mlp_backbones.datasets.checks import DataError
from mlp_backbones.engine import cli
from mlp_backbones.engine.cli import run_tool
from mlp_backbones.engine.errors import UserError, one_line


class Broken(Dataset):
    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise self.error


def fail(error):
    def work():
        raise error

    return work


def test_the_error_of_a_data_loading_process_is_its_last_line():
    missing = FileNotFoundError("no image at pictures/7.jpg")
    with pytest.raises(FileNotFoundError) as error:
        next(iter(DataLoader(Broken(missing), num_workers=1)))
    assert "Original Traceback" in str(error.value)
    assert one_line(error.value) == "FileNotFoundError: no image at pictures/7.jpg"


def test_our_own_error_of_a_data_loading_process_is_its_message():
    with pytest.raises(DataError) as error:
        next(iter(DataLoader(Broken(DataError("7.jpg: truncated")), num_workers=1)))
    assert one_line(error.value) == "7.jpg: truncated"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("no such\n  option"), "no such option"),
        (ValueError("depth 3"), "depth 3"),
        (KeyError("depth"), "KeyError: depth"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_errors_become_one_line(error, line):
    assert one_line(error) == line


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("x"), 2),
        (UserError("x", exit_code=1), 1),
        (ValueError("x"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(error, code, capsys):
    assert run_tool(fail(error), "tool.py") == code
    assert capsys.readouterr().err.count("\n") == 1


def test_the_traceback_of_an_unexpected_error_is_kept(tmp_path, capsys):
    run_tool(fail(RuntimeError("x")), "tool.py", traceback_dir=lambda: tmp_path)
    kept = tmp_path / "traceback.txt"
    assert "in work" in kept.read_text()
    assert str(kept) in capsys.readouterr().err


@contextlib.contextmanager
def full_disk(limit=10):
    """Let no file of this process grow beyond some bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def no_folder():
    raise RuntimeError("there is no log yet")


@pytest.mark.parametrize("fault", ["full disk", "a folder in its place", "no folder"])
def test_the_error_handler_never_fails(tmp_path, capsys, fault):
    folder = {"no folder": no_folder}.get(fault, lambda: tmp_path)
    if fault == "a folder in its place":
        (tmp_path / "traceback.txt").mkdir()
    before = sorted(tmp_path.iterdir())
    with full_disk() if fault == "full disk" else contextlib.nullcontext():
        code = run_tool(fail(RuntimeError("x")), "tool.py", traceback_dir=folder)
    assert code == 1
    said = "tool.py: error: RuntimeError: x (traceback: --debug)\n"
    assert capsys.readouterr().err == said
    assert sorted(tmp_path.iterdir()) == before, "no half file"


def test_a_full_disk_leaves_an_earlier_traceback_whole(tmp_path):
    (tmp_path / "traceback.txt").write_text("of an earlier run, and longer")
    with full_disk():
        run_tool(fail(ValueError("x")), "tool.py", traceback_dir=lambda: tmp_path)
    assert (tmp_path / "traceback.txt").read_text() == "of an earlier run, and longer"
    assert len(list(tmp_path.iterdir())) == 1


class Closed:
    def write(self, text):
        raise OSError(28, "No space left on device")

    flush = write


class SpeechlessError(Exception):
    def __str__(self):
        raise ValueError("no words")


def test_closed_streams_and_errors_without_words(monkeypatch, capsys):
    assert run_tool(fail(SpeechlessError()), "tool.py") == 1
    assert "error: SpeechlessError (" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdout", Closed())
    monkeypatch.setattr(sys, "stderr", Closed())
    assert run_tool(fail(UserError("x")), "tool.py") == 2
    assert run_tool(fail(KeyboardInterrupt()), "tool.py") == 130


def test_a_log_on_a_full_disk_prints_no_traceback(tmp_path, capsys):
    logger = logging.Logger("full")
    logger.addHandler(logging.FileHandler(tmp_path / "a.log"))
    with full_disk(0):
        run_tool(lambda: logger.error("lost"), "tool.py")
        assert capsys.readouterr().err == ""
        run_tool(lambda: logger.error("lost"), "tool.py", debug=True)
        assert "File too large" in capsys.readouterr().err
    for handler in logger.handlers:
        with contextlib.suppress(OSError):
            handler.close()


def allocate_too_much():
    torch.empty(1 << 60, dtype=torch.uint8)


OUT_OF_MEMORY = {
    "torch on the CPU": allocate_too_much,
    "numpy": lambda: np.empty(1 << 60, dtype=np.uint8),
    "python": lambda: bytearray(1 << 62),
    "CUDA": fail(
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    ),
    "cuBLAS": fail(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED")),
    "the system": fail(OSError(12, "Cannot allocate memory")),
    "a worker": fail(RuntimeError("Caught MemoryError in DataLoader worker 0.")),
}


@pytest.mark.parametrize("where", OUT_OF_MEMORY)
def test_want_of_memory(where, capsys):
    def run_iter(data_batch):
        OUT_OF_MEMORY[where]()

    inputs = [torch.zeros(3, 32, 64), torch.zeros(3, 48, 40)]
    assert run_tool(lambda: run_iter({"inputs": inputs}), "train.py") == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "out of memory with a batch of 2 images of up to 64 x 48 pixels" in line
    for remedy in ("batch_size", "accumulative_counts", "with_cp=True", "--amp"):
        assert remedy in line
    if where in ("CUDA", "torch on the CPU"):
        assert "tried to allocate" in line


class Greedy(BaseModel):
    """Wants more memory than there is from the third step on."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 1)
        self.calls = 0

    def forward(self, inputs, data_samples=None, mode="tensor"):
        self.calls += 1
        if self.calls == 3:
            allocate_too_much()
        return {"loss": self.layer(torch.stack(list(inputs))).square().mean()}


def test_want_of_memory_in_a_training(tmp_path, capsys):
    images = [{"inputs": torch.ones(3, 16, 8)}] * 4
    loader = {
        "dataset": images,
        "batch_size": 2,
        "sampler": {"type": "InfiniteSampler"},
    }

    def train():
        run(tmp_path, Greedy(), [], train_dataloader=loader)

    assert run_tool(train, "train.py", traceback_dir=lambda: tmp_path) == 3
    line = capsys.readouterr().err.splitlines()[-1]
    assert "with a batch of 2 images of 8 x 16 pixels (tried to allocate 1152" in line
    assert "forward" in (tmp_path / "traceback.txt").read_text()
    assert read_checkpoint(tmp_path / "iter_2.pth").keys() == {
        "layer.weight",
        "layer.bias",
    }


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        ({"inputs": torch.zeros(8, 3, 32, 32)}, " with a batch of 8 images of 32 x 32"),
        ({"inputs": [torch.zeros(1, 9, 8)]}, " with a batch of 1 image of 8 x 9 "),
        ((torch.zeros(2, 3, 4, 5), torch.zeros(2)), " with a batch of 2 images of 5 x"),
        ([], ":"),
        (None, ":"),
        (7, ":"),
    ],
)
def test_batches_of_any_form(batch, size, capsys):
    def run_iter(data_batch):
        raise MemoryError

    assert run_tool(lambda: run_iter(batch), "train.py") == 3
    assert f"out of memory{size}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device", "a.pth"), ("a.pth", "another disk")),
        (
            OSError(30, "Read-only file system", "w"),
            ("w: read-only", "choose a folder"),
        ),
        (PermissionError(13, "Permission denied", "w"), ("w: permission", "folder")),
        (
            RuntimeError("DataLoader worker (pid 123) is killed by signal: Killed. "),
            ("process 123 was killed", "num_workers"),
        ),
        (
            RuntimeError("DataLoader worker (pid(s) 1, 2) exited unexpectedly"),
            ("process 1, 2 was killed", "num_workers"),
        ),
        (
            RuntimeError(
                "DataLoader worker (pid 5) is killed by signal: Bus error. It is "
                "possible that dataloader's workers are out of shared memory."
            ),
            ("process 5 ran out of shared memory", "/dev/shm"),
        ),
    ],
)
def test_accidents_come_with_advice(error, words):
    line = one_line(error)
    assert all(word in line for word in words)
    assert "\n" not in line


def test_debug_lets_errors_through(monkeypatch):
    with pytest.raises(ValueError, match="x"):
        run_tool(fail(ValueError("x")), "tool.py", debug=True)
    monkeypatch.setenv("MLP_BACKBONES_DEBUG", "1")
    with pytest.raises(UserError):
        run_tool(fail(UserError("x")), "tool.py")


def test_a_work_that_succeeds_gives_zero_and_no_line(capsys):
    assert run_tool(lambda: None, "tool.py") == 0
    assert capsys.readouterr().err == ""
    assert sys.exc_info() == (None, None, None)


REPOSITORY = Path(__file__).parents[2]
PYTHON_TOOLS = sorted((REPOSITORY / "tools").rglob("*.py"))

SPY = """
import os, runpy, sys

class Spy:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            sys.meta_path.remove(self)
            print("policy:", os.environ.get("OMP_WAIT_POLICY"))

sys.meta_path.insert(0, Spy())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def policy_at_the_import_of_torch(*command, **variables):
    """Run a tool and return how the threads would wait when it imports torch."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(REPOSITORY), environment.get("PYTHONPATH", "")]
    )
    done = subprocess.run(
        [sys.executable, "-c", SPY, *map(str, command)],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    (found,) = re.findall(r"^policy: (\w+)$", done.stdout, re.MULTILINE)
    return found


def test_waiting_threads_of_a_tool_sleep_beside_other_work():
    train = (REPOSITORY / "tools" / "train.py", "missing.py")
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        time.sleep(0.5)
        try:
            assert policy_at_the_import_of_torch(*train) == "PASSIVE"
        finally:
            other.kill()
    found = policy_at_the_import_of_torch(*train, OMP_WAIT_POLICY="ACTIVE")
    assert found == "ACTIVE"


def test_waiting_threads_spin_on_a_quiet_machine():
    environment = {}
    cli.choose_wait_policy(environment, running=0)
    assert environment == {}
    cli.choose_wait_policy(environment, running=1)
    assert environment == {"OMP_WAIT_POLICY": "PASSIVE"}


def before_cli(tree):
    """Modules that a file imports before mlp_backbones.engine.cli."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            if node.module == "mlp_backbones.engine.cli":
                return
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
    yield "nothing of mlp_backbones.engine.cli"


def id_of(tool):
    return tool.relative_to(REPOSITORY).as_posix()


@pytest.mark.parametrize("tool", PYTHON_TOOLS, ids=id_of)
def test_every_tool_sets_the_policy_before_it_imports_torch(tool):
    if "environment" in tool.read_text():  # reads what is installed, trains nothing
        pytest.skip("needs no torch")
    imported = set(before_cli(ast.parse(tool.read_text())))
    assert imported <= set(sys.stdlib_module_names), imported


def test_the_package_leaves_the_environment_alone():
    """Only tools import what sets the policy."""
    package = REPOSITORY / "mlp_backbones"
    allowed = {package / "engine" / "cli.py", package / "engine" / "options.py"}
    for file in set(package.rglob("*.py")) - allowed:
        text = file.read_text()
        assert "mlp_backbones.engine.cli" not in text, file
        assert "mlp_backbones.engine.options" not in text, file
