"""What the package never does: load what may run code, or write into the home."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_runs

ROOT = Path(__file__).resolve().parents[1]

# Loaders of formats that may hold code, and what makes a call of them safe.
NEVER = """
    pickle.load pickle.loads pickle.Unpickler dill.load dill.loads marshal.load
    marshal.loads joblib.load shelve.open pandas.read_pickle torch.hub.load
    torch.hub.load_state_dict_from_url torch.jit.load yaml.unsafe_load yaml.full_load
    mmengine.load mmengine.fileio.load fileio.load eval exec
"""
UNSAFE: dict[str, tuple[str, bool] | None] = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
    **dict.fromkeys(NEVER.split()),
}


def unsafe_calls(source: str) -> Iterator[str]:
    """Yield the calls of unsafe loaders, by whatever name they were imported."""
    tree = ast.parse(source)
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            names |= {a.asname: a.name for a in node.names if a.asname}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        first, dot, rest = called.partition(".")
        called = f"{names.get(first, first)}{dot}{rest}"
        keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if called == "yaml.load":
            if "Safe" not in ast.unparse(node):
                yield ast.unparse(node)
        elif called in UNSAFE:
            safe = UNSAFE[called]
            if safe is None or keywords.get(safe[0]) != str(safe[1]):
                yield ast.unparse(node)


@pytest.mark.parametrize("folder", ["mlp_backbones", "tools"])
def test_no_unsafe_loader_is_called(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert len(files) > 10
    found = [
        f"{file.relative_to(ROOT)}: {call}"
        for file in files
        for call in unsafe_calls(file.read_text())
    ]
    assert found == []


def test_unsafe_loaders_would_be_found() -> None:
    sources = {
        "import torch\ntorch.load(f)": 1,
        "import torch\ntorch.load(f, weights_only=False)": 1,
        "import torch\ntorch.load(f, weights_only=True)": 0,
        "from torch import load as read\nread(f)": 1,
        "import torch as t\nt.load(f)": 1,
        "import pickle\npickle.loads(b)": 1,
        "from pickle import loads\nloads(b)": 1,
        "import numpy as np\nnp.load(f)": 1,
        "import numpy as np\nnp.load(f, allow_pickle=False)": 0,
        "import yaml\nyaml.load(f)": 1,
        "import yaml\nyaml.load(f, yaml.SafeLoader)": 0,
        "from mmengine.fileio import load\nload(f)": 1,
        "model.eval()\njson.load(f)": 0,
        "eval(text)": 1,
    }
    for source, number in sources.items():
        assert len(list(unsafe_calls(source))) == number, source


@pytest.mark.slow
def test_a_training_writes_into_its_work_folder_only(tmp_path: Path) -> None:
    """And a test and a drawing: HOME, where caches lie, and the place stay empty."""
    for name in ("home", "here", "data", "tmp"):
        (tmp_path / name).mkdir()
    tiny_runs.make_data(tmp_path / "data")
    config = tiny_runs.write_config("classification", tmp_path / "data")
    before = sorted((tmp_path / "data").rglob("*"))
    caches = ("XDG_", "MPL", "TORCH_HOME", "MMENGINE_HOME", "PYTHONPATH")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(caches)}
    environment |= {
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "tmp"),
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    work = tmp_path / "work"
    checkpoint = work / "iter_2.pth"
    for tool, *arguments in (
        ("tools/train.py", config, "--work-dir", work),
        ("tools/test.py", config, checkpoint, "--work-dir", work, "--show-dir", work),
    ):
        done = subprocess.run(
            [sys.executable, str(ROOT / tool), *map(str, arguments)],
            env=environment,
            cwd=tmp_path / "here",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert checkpoint.is_file()
    for name in ("home", "here", "tmp"):
        assert not list((tmp_path / name).rglob("*")), name
    assert sorted((tmp_path / "data").rglob("*")) == before
