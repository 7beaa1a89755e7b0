import sys

import pytest
from torch.utils.data import DataLoader, Dataset

from mlp_backbones.datasets.checks import DataError
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
