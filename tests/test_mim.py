"""What is built, and mim with it: in an environment of its own, from empty folders."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config
from modelindex.load_model_index import load as load_model_index

from mlp_backbones.version import __version__

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "mlp_backbones"
INFO = f"{PACKAGE}-{__version__}.dist-info"
MIM_FOLDERS = (f"{PACKAGE}/.mim", f"{INFO}/.mim")
CONFIG = "retinanet_cyclemlp-mini_fpn_1xb8-8e_digit-scenes"
WITH_WEIGHTS = "cyclemlp-b1_8xb128_in1k"
# What a tree may hold that was built and worked in, none of it for others.
JUNK = (
    "build/lib/mlp_backbones/of_an_earlier_build.py",
    "build/lib/mlp_backbones/.mim/configs/cyclemlp/of_an_earlier_build.py",
    "configs/cyclemlp/__pycache__/x.cpython-311.pyc",
    "configs/cyclemlp/notes.txt",
    "data/digit_scenes/picture.png",
    "examples/my_mixer/data/digit_scenes/notes.md",
    "examples/my_mixer/work_dirs/run/config.py",
    "mlp_backbones/data/weights.pth",
    "tools/misc/scratch.ipynb",
    "work_dirs/run/epoch_1.pth",
)


# ------------------------------------------------------------- the wheel and the sdist


def build(source: Path, kind: str, target: Path) -> Path:
    """Build a wheel or an sdist as pip does, with the setuptools that is here."""
    code = "import sys, setuptools.build_meta as b; "
    code += f"open(sys.argv[2], 'w').write(b.build_{kind}(sys.argv[1]))"
    name = target / f"{kind}.txt"
    target.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", code, str(target), str(name)],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return target / name.read_text()


def copy_tree(target: Path) -> Path:
    """Copy the checkout without what git ignores and without git itself."""
    everywhere = shutil.ignore_patterns("__pycache__")
    top = shutil.ignore_patterns(
        ".*", "build", "dist", "data", "work_dirs", "*.egg-info"
    )

    def ignore(folder: str, names: list[str]) -> set[str]:
        ignored = everywhere(folder, names)
        return ignored | top(folder, names) if Path(folder) == ROOT else ignored

    shutil.copytree(ROOT, target, ignore=ignore)
    return target


def read_wheel(path: Path) -> dict[str, str]:
    """Return the hash of each file by its name."""
    with zipfile.ZipFile(path) as wheel:
        return {
            name: hashlib.sha256(wheel.read(name)).hexdigest()
            for name in wheel.namelist()
        }


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A wheel and an sdist of the tree as it is, with junk in it."""
    folder = tmp_path_factory.mktemp("built")
    source = copy_tree(folder / "source")
    for name in JUNK:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("junk")
    return {
        "wheel": build(source, "wheel", folder / "dist"),
        "sdist": build(source, "sdist", folder / "dist"),
        "source": source,
    }


def own_files(source: Path, *folders: str) -> set[str]:
    """Return the files of folders of the tree, from its root, without the junk."""
    return {
        path.relative_to(source).as_posix()
        for folder in folders
        for path in (source / folder).rglob("*")
        if path.is_file()
    } - set(JUNK)


def test_the_sdist_builds_the_same_wheel(built, tmp_path):
    with tarfile.open(built["sdist"]) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    again = build(source, "wheel", tmp_path / "dist")
    assert again.name == built["wheel"].name
    assert read_wheel(again) == read_wheel(built["wheel"])


def test_the_sdist_holds_nothing_of_a_tree_at_work(built):
    with tarfile.open(built["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"examples/my_mixer/my_mixer.py", "tests/test_mim.py"} <= names
    assert names & set(JUNK) == set()


def test_the_wheel_holds_what_mim_looks_for(built):
    files = read_wheel(built["wheel"])
    # These keep a checkout.
    source = built["source"]
    wanted = {"model-index.yml", *own_files(source, "configs", "tools")}
    own = ("check_metafiles", "make_model_zoo", "update_metafiles")
    wanted -= {f"tools/misc/{name}.py" for name in own}
    for folder in MIM_FOLDERS:
        found = {
            name.removeprefix(f"{folder}/"): digest
            for name, digest in files.items()
            if name.startswith(f"{folder}/")
        }
        assert set(found) == wanted
        for name, digest in found.items():
            assert digest == hashlib.sha256((source / name).read_bytes()).hexdigest()


def test_the_wheel_holds_nothing_else(built):
    kinds = {
        name: Path(name).suffix
        for name in read_wheel(built["wheel"])
        if not name.startswith(INFO)
    }
    assert {name.split("/")[0] for name in kinds} == {PACKAGE}
    assert {
        name
        for name, kind in kinds.items()
        if kind not in (".py", ".md", ".sh", ".yml") and name != f"{PACKAGE}/py.typed"
    } == set()
    # Of the folders of the checkout these stay outside.
    outside = {"tests", "benchmarks", "examples", "docs", "data", "work_dirs", "build"}
    assert [name for name in kinds if outside & set(name.split("/"))] == []
    modules = {name for name in kinds if ".mim" not in name}
    assert modules == own_files(built["source"], PACKAGE)


def test_shell_scripts_stay_executable(built):
    with zipfile.ZipFile(built["wheel"]) as wheel:
        modes = {
            entry.filename: entry.external_attr >> 16
            for entry in wheel.infolist()
            if entry.filename.endswith(".sh")
        }
    assert len(modes) >= 8
    assert all(mode & 0o111 == 0o111 for mode in modes.values()), modes


@pytest.mark.parametrize("folder", MIM_FOLDERS)
def test_the_index_in_the_wheel_leads_to_every_config(built, folder, tmp_path):
    with zipfile.ZipFile(built["wheel"]) as wheel:
        wheel.extractall(tmp_path)
    index = load_model_index(str(tmp_path / folder / "model-index.yml"))
    names = {model.name: model.config for model in index.models}
    assert set(names.values()) == {
        name
        for name in own_files(built["source"], "configs")
        if name.endswith(".py") and "/_base_/" not in name
    }
    for name, config in names.items():
        assert (tmp_path / folder / config).is_file()
        assert Path(config).stem == name


def test_an_installation_takes_its_own_configs(built, tmp_path):
    with zipfile.ZipFile(built["wheel"]) as wheel:
        wheel.extractall(tmp_path)
    (tmp_path / "configs" / "_base_").mkdir(parents=True)  # of another distribution
    code = f"import {PACKAGE}; print({PACKAGE}.config_dir())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(tmp_path / MIM_FOLDERS[0] / "configs")


# ----------------------------------------------------------------- mim, with a network


class CleanEnvironment:
    """A virtual environment that holds the wheel and mim, and nothing of a checkout.

    Args:
        folder: where to make it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "home").mkdir(parents=True)
        self.venv = folder / "venv"
        self.bin = self.venv / "bin"
        self.python = self.bin / "python"
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        self.site = self.venv / "lib" / version / "site-packages"

    def run(self, command, folder=None, **variables):
        """Run a command and return its exit code and what it printed.

        It sees no Python path and no home folder of the one who tests.
        """
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "VIRTUAL_ENV", "MLP_BACKBONES_"))
        }
        path = os.pathsep.join([str(self.bin), environment["PATH"]])
        environment |= {
            "OMP_NUM_THREADS": "1",
            "PATH": path,
            "PYTHONWARNINGS": "ignore",
        }
        environment |= {"NO_COLOR": "1", "HOME": str(self.folder / "home"), **variables}
        done = subprocess.run(
            [str(part) for part in command],
            cwd=folder or self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout

    def succeed(self, *command, folder=None, **variables):
        code, text = self.run(command, folder, **variables)
        assert code == 0, f"{' '.join(str(part) for part in command)}\n{text[-4000:]}"
        return text

    def mim(self, *arguments, folder=None, **variables):
        return self.succeed(self.bin / "mim", *arguments, folder=folder, **variables)

    def pip(self, *arguments, **variables):
        pip = [self.python, "-m", "pip", "install", "--quiet"]
        pip += ["-c", ROOT / "constraints.txt"]
        return self.succeed(*pip, *arguments, **variables)


@pytest.fixture
def clean(built, tmp_path):
    """Install the wheel with the extra of the main stack, and nothing else by hand.

    Nothing is borrowed from the environment of the tests: pip fetches or takes from
    its cache, which the set-up has filled. Without a network this is a failure.
    """
    environment = CleanEnvironment(tmp_path / "clean")
    home = {"HOME": str(Path.home())}  # of pip's cache
    try:
        environment.succeed(sys.executable, "-m", "venv", environment.venv)
        environment.pip(f"{built['wheel']}[onedl]", **home)
        if environment.run([environment.python, "-c", "import cv2"])[0]:
            # The system lacks libraries for windows: as check_env.py says.
            options = ["--force-reinstall", "--no-deps"]
            environment.pip(*options, "opencv-python-headless", **home)
        yield environment
    finally:
        shutil.rmtree(environment.venv, ignore_errors=True)  # six gigabytes


@pytest.mark.slow
def test_mim_in_a_clean_environment(clean, built, tmp_path):
    """One test, since the environment takes minutes to make and gigabytes to hold."""
    models = {}
    for path in (built["source"] / "configs").glob("*/metafile.yml"):
        for model in yaml.safe_load(path.read_text())["Models"]:
            models[model["Name"]] = model
    folder = tmp_path / "empty"
    folder.mkdir()
    check_list(clean)
    check_search(clean, models)
    check_data_training_and_testing(clean, folder)
    check_download_of_a_config(clean, built["source"], tmp_path / "plain")
    address = models[WITH_WEIGHTS]["Weights"]
    check_download_of_weights(clean, address, tmp_path / "weights")
    check_every_tool(clean, folder)
    check_uninstalling(clean)
    check_editable(clean, tmp_path / "source", folder)


def check_list(clean):
    line = rf"^{PACKAGE} +{re.escape(__version__)}$"
    assert re.search(line, clean.mim("list"), re.MULTILINE)


def check_search(clean, models):
    clean.mim("search", PACKAGE, "--json", "found.json")
    found = json.loads((clean.folder / "found.json").read_text())
    assert found["parameters"] == {
        name: model["Metadata"]["Parameters"] for name, model in models.items()
    }
    text = clean.mim("search", PACKAGE, "--config", CONFIG)
    assert config_ids(text) == [CONFIG]
    assert re.search(r"^model +cyclemlp$", text, re.MULTILINE)
    fields = ["--field", "parameters", "weight"]
    text = clean.mim("search", PACKAGE, "--model", "CycleMLP", *fields)
    assert set(config_ids(text)) == {
        name for name, model in models.items() if model["In Collection"] == "CycleMLP"
    }
    assert "architecture" not in text
    condition = ["--condition", "parameters<20e6,flops<3e9"]
    text = clean.mim("search", PACKAGE, *condition, "--sort", "parameters")
    small = {
        name: model["Metadata"]["Parameters"]
        for name, model in models.items()
        if model["Metadata"]["Parameters"] < 20e6
        and model["Metadata"].get("FLOPs", 3e9) < 3e9
    }
    assert len(small) > 10
    assert set(config_ids(text)) == set(small)
    sizes = [small[name] for name in config_ids(text)]
    assert sizes == sorted(sizes, reverse=True)


def check_data_training_and_testing(clean, folder):
    text = clean.mim(
        *("run", PACKAGE, "make_digit_scenes", "--num-train", 8, "--num-val", 4),
        *("--num-train-cls", 10, "--num-val-cls", 10, "--formats", "coco"),
        folder=folder,
    )
    assert "digit scenes written to data/digit_scenes" in text
    train(clean, folder, "run")
    (file,) = (folder / "run").glob("*/vis_data/scalars.json")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 2
    assert all(0 < loss < 100 for loss in losses)
    text = clean.mim(
        *("test", PACKAGE, f"{CONFIG}.py", "--checkpoint", "run/epoch_1.pth"),
        # After two steps hardly a score passes the usual threshold.
        *("--work-dir", "tested", "--cfg-options", "model.test_cfg.score_thr=0.0"),
        folder=folder,
    )
    assert re.search(r"coco/bbox_mAP_50: +\d\.\d+", text)


def train(clean, folder, work_dir):
    """Train two steps, with a config by its name, and return what was printed."""
    settings = ["train_cfg.max_epochs=1", "train_dataloader.batch_size=4"]
    settings += ["default_hooks.logger.interval=1"]
    text = clean.mim(
        *("train", PACKAGE, f"{CONFIG}.py", "--work-dir", work_dir),
        *("--cfg-options", *settings),
        folder=folder,
    )
    assert (folder / work_dir / "epoch_1.pth").is_file()
    return text


def check_download_of_a_config(clean, source, folder):
    command = ["download", PACKAGE, "--config", CONFIG, "--dest", "."]
    folder.mkdir()
    clean.mim(*command, folder=folder)
    assert [path.name for path in folder.iterdir()] == [f"{CONFIG}.py"]
    (original,) = (source / "configs").glob(f"*/{CONFIG}.py")
    written = Config.fromfile(folder / f"{CONFIG}.py")
    assert written.to_dict() == Config.fromfile(original).to_dict()
    code = (
        "import mlp_backbones\n"  # before mmdet: mmcv's operators
        "from mmengine.config import Config\n"
        "from mmengine.registry import MODELS, init_default_scope\n"
        "init_default_scope('mmdet')\n"
        f"model = MODELS.build(Config.fromfile('{CONFIG}.py').model)\n"
        "print(type(model).__name__, type(model.backbone).__name__)"
    )
    text = clean.succeed(clean.python, "-c", code, folder=folder)
    assert text.splitlines()[-1] == "RetinaNet CycleMLP"


def check_download_of_weights(clean, address, folder):
    """MIM fetches weights before it writes a config: without a network, neither."""
    command = ["download", PACKAGE, "--config", WITH_WEIGHTS, "--dest", "."]
    nowhere = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9")
    folder.mkdir()
    code, text = clean.run([clean.bin / "mim", *command], folder, **nowhere)
    assert code != 0
    assert "Failed to establish a new connection" in text
    assert address.removeprefix("https://").partition("/")[2] in text
    assert list(folder.iterdir()) == []
    # Weights that are there already need no network.
    (folder / address.rpartition("/")[2]).touch()
    clean.mim(*command, folder=folder, **nowhere)
    config = Config.fromfile(folder / f"{WITH_WEIGHTS}.py")
    assert config.model.backbone.type == "mlp_backbones.CycleMLP"


def check_every_tool(clean, folder):
    """Ask each tool for its help, the Python ones in one process."""
    tools = clean.site / PACKAGE / ".mim" / "tools"
    scripts = sorted(str(tool) for tool in tools.rglob("*.py"))
    code = (
        "import runpy, sys\n"
        "for tool in sys.argv[1:]:\n"
        "    sys.argv = [tool, '--help']\n"
        "    try:\n"
        "        runpy.run_path(tool, run_name='__main__')\n"
        "    except SystemExit as end:\n"
        "        print('ended', tool, end.code)\n"
    )
    text = clean.succeed(clean.python, "-c", code, *scripts, folder=folder)
    for script in scripts:
        assert f"usage: {Path(script).name}" in text
        assert f"ended {script} 0" in text
    for tool in tools.rglob("*.sh"):
        assert tool.name in clean.succeed(tool, "--help", folder=folder)


def check_uninstalling(clean):
    clean.succeed(clean.python, "-m", "pip", "uninstall", "-y", PACKAGE)
    assert list(clean.site.glob(f"{PACKAGE}*")) == []


def check_editable(clean, source, folder):
    """There onedl-mim looks in the checkout, where all that it looks for lies."""
    before = {path.name for path in copy_tree(source).iterdir()}
    clean.pip("--no-deps", "--no-build-isolation", "-e", source)
    new = {path.name for path in source.iterdir()} - before
    assert new <= {f"{PACKAGE}.egg-info", "build"}  # git ignores both
    assert not (source / PACKAGE / ".mim").exists()
    check_list(clean)
    assert config_ids(clean.mim("search", PACKAGE, "--config", CONFIG)) == [CONFIG]
    command = ["download", PACKAGE, "--config", CONFIG, "--dest", "written"]
    clean.mim(*command, folder=folder)
    assert (folder / "written" / f"{CONFIG}.py").is_file()
    assert str(source / "tools" / "train.py") in train(clean, folder, "editable")


def config_ids(text):
    """Return the names of the models that `mim search` printed."""
    return re.findall(r"^config id: (\S+)$", text, re.MULTILINE)
