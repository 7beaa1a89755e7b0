import ast
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

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
