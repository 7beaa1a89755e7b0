"""What the tests of tools share."""

from collections import OrderedDict
from functools import partial

import pytest
from mmengine.logging import MMLogger
from tool_calls import Call, call_tool


@pytest.fixture
def call(monkeypatch, tmp_path, capfd) -> Call:
    """Run a tool in this process; return its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    # A logger of an earlier test would write to what that test had in stderr's place.
    monkeypatch.setattr(MMLogger, "_instance_dict", OrderedDict())
    return partial(call_tool, monkeypatch, capfd)
