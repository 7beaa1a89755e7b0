"""Every door that a checkpoint comes through: nothing that a file holds is run."""

import contextlib
import importlib.util
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import mmengine.runner
import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader, load_checkpoint
from toy_runs import Toy

from mlp_backbones import safe_loading
from mlp_backbones.building import build_model
from mlp_backbones.checkpoints import CheckpointError, loaders, read_checkpoint
from mlp_backbones.config_names import config_dir
from mlp_backbones.engine.errors import UserError
from mlp_backbones.engine.hooks import StrictLoadHook
from mlp_backbones.engine.publish import publish_checkpoint


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def _zip(content: Any, file: Path) -> None:
    torch.save(content, file)


def _legacy(content: Any, file: Path) -> None:
    torch.save(content, file, _use_new_zipfile_serialization=False)


def _bare_pickle(content: Any, file: Path) -> None:
    file.write_bytes(pickle.dumps(content))


def _npz(content: Any, file: Path) -> None:
    with file.open("wb") as stream:
        np.savez(stream, a=np.array([content], dtype=object))


WRITERS = {
    ("zip", "a.pth"): _zip,
    ("legacy", "a.pth"): _legacy,
    ("legacy", "a.safetensors"): _legacy,
    ("zip", "a.npz"): _zip,
    ("pickle", "a.pth"): _bare_pickle,
    ("pickle", "a.pkl"): _bare_pickle,
    ("npz", "a.npz"): _npz,
    ("npz", "a.pth"): _npz,
}


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "sprung"


@pytest.fixture
def trap(tmp_path: Path, marker: Path) -> str:
    """A whole checkpoint of the toy with a trap beside the weights."""
    content = {
        "state_dict": Toy().state_dict(),
        "meta": {"epoch": 1, "iter": 2},
        "message_hub": {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}},
        "trap": Trap(marker),
    }
    torch.save(content, tmp_path / "trap.pth")
    torch.load(tmp_path / "trap.pth", weights_only=False)
    assert marker.exists(), "the trap works"
    marker.unlink()
    return str(tmp_path / "trap.pth")


def _assert_refused(load: Any, marker: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        load()
    assert "\n" not in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize(("kind", "name"), WRITERS, ids="-".join)
def test_formats(tmp_path: Path, marker: Path, kind: str, name: str) -> None:
    file = tmp_path / name
    WRITERS[kind, name]({"state_dict": {"a": Trap(marker)}}, file)
    _assert_refused(lambda: read_checkpoint(file), marker)
    _assert_refused(lambda: CheckpointLoader.load_checkpoint(str(file)), marker)


ADDRESSES = [
    "{file}",
    "http://host/trap.pth",
    "https://host/trap.pth",
    "modelzoo://trap",
    "torchvision://trap",
    "open-mmlab://trap",
    "openmmlab://trap",
    "open-mmlab://local",
    "mmcls://trap",
    "s3://bucket/trap.pth",
    "cluster:s3://bucket/trap.pth",
    "petrel://bucket/trap.pth",
    "pavi://trap",
]


@pytest.fixture
def sent(trap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Put the trap, or what a test puts in its place, behind every address."""
    sent = [Path(trap).read_bytes()]

    def write(file: str) -> None:
        Path(file).write_bytes(sent[0])

    urls = {"trap": "https://host/trap.pth", "local": trap}
    for name in ("torchvision", "external", "mmcls"):
        monkeypatch.setattr(mmengine_checkpoint, f"get_{name}_models", lambda: urls)
    deprecated = "get_deprecated_model_names"
    monkeypatch.setattr(mmengine_checkpoint, deprecated, lambda: {"old": "trap"})
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    download = "torch.hub.download_url_to_file"
    monkeypatch.setattr(download, lambda url, file, **_: write(file))
    store = types.SimpleNamespace(get=lambda name: sent[0])
    monkeypatch.setattr(loaders, "get_file_backend", lambda *_, **__: store)
    model = types.SimpleNamespace(name="trap.pth", download=write)
    cloud = types.SimpleNamespace(get=lambda name: model)
    monkeypatch.setitem(sys.modules, "pavi", types.SimpleNamespace(modelcloud=cloud))
    return sent


def test_addresses(sent: list[bytes], trap: str, marker: Path) -> None:
    for address in ADDRESSES:
        name = address.format(file=trap)
        _assert_refused(
            lambda name=name: CheckpointLoader.load_checkpoint(name), marker
        )
        _assert_refused(lambda name=name: load_checkpoint(Toy(), name), marker)
    # Without the trap they all give the weights: it alone was refused.
    content = torch.load(trap, weights_only=False)
    del content["trap"]
    torch.save(content, trap)
    sent[0] = Path(trap).read_bytes()
    for address in (*ADDRESSES, "openmmlab://old"):
        loaded = CheckpointLoader.load_checkpoint(address.format(file=trap), "cpu")
        if address == "mmcls://trap":  # gives the backbone, of which there is none
            assert loaded == {"state_dict": {}}
        else:
            assert loaded["state_dict"].keys() == Toy().state_dict().keys()
    with pytest.raises(CheckpointError, match="knows no model 'trab', but trap"):
        CheckpointLoader.load_checkpoint("torchvision://trab")


def _runner(folder: Path, **options: Any) -> Runner:
    loader = {
        "dataset": [{"inputs": torch.ones(2)}] * 4,
        "batch_size": 2,
        "sampler": {"type": "InfiniteSampler"},
    }
    return Runner(
        Toy(0.5),
        str(folder),
        train_dataloader=loader,
        train_cfg={"by_epoch": False, "max_iters": 3},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.125}},
        experiment_name=str(folder),
        **options,
    )


def test_runners(trap: str, tmp_path: Path, marker: Path) -> None:
    (tmp_path / "last_checkpoint").write_text(trap)
    for options in (
        {"load_from": trap},
        {"load_from": trap, "resume": True},
        {"resume": True},
    ):
        _assert_refused(_runner(tmp_path, **options).train, marker)
    runner = _runner(tmp_path)
    for load in (runner.load_checkpoint, runner.resume):
        _assert_refused(lambda load=load: load(trap), marker)
    hook = StrictLoadHook(trap)
    _assert_refused(lambda: hook.before_run(runner), marker)


def _pretrained(trap: str, prefix: str | None = None) -> dict[str, str]:
    init_cfg = {"type": "Pretrained", "checkpoint": trap}
    return {**init_cfg, "prefix": prefix} if prefix else init_cfg


DETECTOR = {
    "type": "RetinaNet",
    "backbone": {
        "type": "ResNet", "depth": 18, "base_channels": 8, "out_indices": (3,),
    },
    "neck": {"type": "FPN", "in_channels": [64], "out_channels": 8, "num_outs": 1},
    "bbox_head": {
        "type": "RetinaHead", "num_classes": 2, "in_channels": 8, "feat_channels": 8,
        "stacked_convs": 1,
        "anchor_generator": {
            "type": "AnchorGenerator", "octave_base_scale": 4, "scales_per_octave": 1,
            "ratios": [1.0], "strides": [32],
        },
    },
}  # fmt: skip


@pytest.mark.parametrize("part", ["model", "backbone", "neck", "bbox_head"])
@pytest.mark.parametrize("prefix", [None, "layer"])
def test_init_cfg_of_any_part(trap: str, marker: Path, part: str, prefix: Any) -> None:
    model = Config({"model": DETECTOR, "default_scope": "mmdet"})
    node = model.model if part == "model" else model.model[part]
    node.init_cfg = _pretrained(trap, prefix)
    _assert_refused(lambda: build_model(model, device="cpu", init=True), marker)


def test_own_backbones_and_tools(trap: str, tmp_path: Path, marker: Path) -> None:
    settings = {"type": "mlp_backbones.CycleMLP", "arch": "mini", "out_indices": (3,)}
    config = Config({"model": DETECTOR, "default_scope": "mmdet"})
    config.model.backbone = {**settings, "init_cfg": _pretrained(trap)}
    _assert_refused(lambda: build_model(config, device="cpu", init=True), marker)
    config.model.backbone.init_cfg = None
    _assert_refused(lambda: build_model(config, device="cpu", checkpoint=trap), marker)
    with pytest.raises(UserError, match="plain data"):
        publish_checkpoint(Path(trap), tmp_path / "published.pth")
    assert not marker.exists()


def test_bare_modules(trap: str, marker: Path) -> None:
    module = BaseModule(init_cfg=_pretrained(trap))
    with DefaultScope.overwrite_default_scope("mmengine"):
        _assert_refused(module.init_weights, marker)


# ---------------------------------------------------------------- configs in a file


def _with_config(text: str, place: str, file: Path) -> str:
    content: dict[str, Any] = {
        "state_dict": Toy().state_dict(),
        "meta": {"epoch": 0, "iter": 1},
        "message_hub": {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}},
        "optimizer": torch.optim.SGD(Toy().parameters(), lr=0.1).state_dict(),
    }
    node = content["message_hub"]["runtime_info"] if place == "hub" else content["meta"]
    node["config" if place == "config" else "cfg"] = text
    torch.save(content, file)
    return str(file)


CODE = [
    "open({marker!r}, 'w')",
    "a = open({marker!r}, 'w')",
    "a = dict(b=[open({marker!r}, 'w')])",
    "a = [open({marker!r}, 'w') for _ in range(1)]",
    "import os\nos.mknod({marker!r})",
    "a = {{'b': (1, open({marker!r}, 'w'))}}",
    "a = -open({marker!r}, 'w')",
    "def f(x=open({marker!r}, 'w')): pass",
    "a = 1 if open({marker!r}, 'w') else 2",
    'a = f"""{{open({marker!r}, 1 * "w")}}"""',
    "a = dict(**open({marker!r}, 'w'))",
    "a = 1\na += open({marker!r}, 'w')",
]


@pytest.mark.parametrize("place", ["config", "cfg", "hub"])
def test_configs_in_a_file_are_not_run(
    tmp_path: Path, marker: Path, place: str
) -> None:
    springing = 0
    for number, template in enumerate(CODE):
        text = template.format(marker=str(marker))
        with contextlib.suppress(Exception):
            Config.fromstring(text, ".py")
        if marker.exists():
            springing += 1
            marker.unlink()
        file = _with_config(text, place, tmp_path / f"{number}.pth")
        with pytest.raises((KeyError, ValueError, AssertionError)):
            DetInferencer(weights=file, device="cpu")
        assert not marker.exists(), text
    # upstream's MMEngine reads a lone `import os` as a lazy import
    assert springing >= len(CODE) - 1, "the traps work"
    _runner(tmp_path, load_from=file, resume=True).train()
    assert not marker.exists()


@pytest.mark.parametrize(
    "text",
    [
        "_base_ = 'other.py'",
        "a = '{{$UNSET:x}}'",
        "a = '{{ fileDirname }}'",
        "a = b",
        "a = dict",
        "a = (",
        "a = " + "(" * 5000,
    ],
)
def test_texts_that_reach_beyond_themselves(text: str, tmp_path: Path) -> None:
    file = _with_config(text, "cfg", tmp_path / "a.pth")
    assert "cfg" not in CheckpointLoader.load_checkpoint(file)["meta"]


def test_plain_configs_in_a_file_stay(tmp_path: Path) -> None:
    config = Config.fromfile(
        config_dir() / "cyclemlp/mask-rcnn_cyclemlp-mini_fpn_1xb8-6e_digit-scenes.py"
    )
    config.odd = {"a.b": -1.5e-3, "c": [(), None, {1, 2}], "d": float("inf")}
    file = _with_config(config.pretty_text, "cfg", tmp_path / "a.pth")
    kept = CheckpointLoader.load_checkpoint(file)["meta"]["cfg"]
    assert kept == config.pretty_text


# --------------------------------------------------------------- whoever comes first


def _fresh(with_finder: bool) -> types.ModuleType:
    """Run the source of MMEngine's module again, as its first import would."""
    finder: Any = safe_loading.Finder if with_finder else importlib.machinery.PathFinder
    spec = finder.find_spec(safe_loading.LOADER, mmengine.runner.__path__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_this_package_may_be_imported_first(trap: str, marker: Path) -> None:
    module = _fresh(with_finder=True)
    _assert_refused(lambda: module.CheckpointLoader.load_checkpoint(trap), marker)


def test_mmengine_may_be_imported_first(
    trap: str, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = _fresh(with_finder=False)
    schemes = {p: f.__module__ for p, f in module.CheckpointLoader._schemes.items()}
    assert set(schemes.values()) == {safe_loading.LOADER}, "MMEngine's own"
    assert schemes.keys() == loaders.LOADERS.keys(), "all are known"

    @module.CheckpointLoader.register_scheme("mine://")
    def load_from_mine(filename: str, map_location: Any) -> str:
        return "mine"

    monkeypatch.setitem(sys.modules, safe_loading.LOADER, module)
    monkeypatch.setattr(sys, "meta_path", [])
    for _ in range(2):
        safe_loading.install()
    assert sys.meta_path == [safe_loading.Finder]
    _assert_refused(lambda: module.CheckpointLoader.load_checkpoint(trap), marker)
    assert module.CheckpointLoader.load_checkpoint("mine://a") == "mine"


def test_a_way_that_has_no_safe_form(marker: Path) -> None:
    _assert_refused(lambda: loaders.load_safely("new://", "new://a", "cpu"), marker)
