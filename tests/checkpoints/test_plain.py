"""Checkpoints as plain data: what plain torch reads, and what MMEngine gets back."""

import math
from collections import Counter, OrderedDict, defaultdict, namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.optim import MultiStepLR
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn
from toy_runs import Toy, run

from mlp_backbones.checkpoints import CheckpointError, plain
from mlp_backbones.checkpoints.plain import check_finite, plain_checkpoint
from mlp_backbones.engine.hooks import PlainCheckpointHook

Pair = namedtuple("Pair", "a b")


class _NotesThings(Hook):
    """Puts into the message hub what hooks of others put there."""

    def before_train(self, runner):
        hub = runner.message_hub
        hub.update_info("best_score", np.float32(0.5))
        hub.update_info("state", np.arange(3, dtype=np.uint32))
        hub.update_info("nested", ConfigDict(a=[ConfigDict(b=(1, Path("x")))]))
        hub.update_info("draws", torch.get_rng_state())


def test_a_checkpoint_of_mmengine(tmp_path):
    """Written by MMEngine's own hook; read by plain torch, and resumed from."""
    runner = run(
        tmp_path,
        Toy(0.5),
        [PlainCheckpointHook(), _NotesThings()],
        param_scheduler={
            "type": "MultiStepLR",
            "milestones": [2, 3],
            "by_epoch": False,
        },
    )
    read = torch.load(tmp_path / "iter_6.pth", weights_only=True)
    assert read["state_dict"].keys() == runner.model.state_dict().keys()
    assert read["state_dict"]._metadata == runner.model.state_dict()._metadata
    info = read["message_hub"]["runtime_info"]
    assert info["best_score"] == 0.5 and type(info["best_score"]) is float
    assert info["state"] == [0, 1, 2]
    assert info["nested"] == {"a": [{"b": (1, "x")}]}
    assert type(info["nested"]["a"][0]) is dict
    assert info["draws"].shape == torch.get_rng_state().shape
    loaded = CheckpointLoader.load_checkpoint(str(tmp_path / "iter_6.pth"))
    before = runner.message_hub.log_scalars
    after = loaded["message_hub"]["log_scalars"]
    assert after.keys() == before.keys() and "train/loss_a" in after
    for name, history in after.items():
        assert type(history) is HistoryBuffer
        for ours, theirs in zip(history.data, before[name].data, strict=True):
            np.testing.assert_array_equal(ours, theirs)
            assert ours.dtype == theirs.dtype
        assert history.max_length == before[name].max_length
    runner.message_hub.load_state_dict(loaded["message_hub"])
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    schedule = MultiStepLR(optimizer, milestones=[9], by_epoch=False)
    schedule.load_state_dict(loaded["param_schedulers"][0])
    assert schedule.milestones == {2: 1, 3: 1}


@pytest.mark.parametrize("legacy", [False, True])
def test_histories_as_mmengine_writes_them(tmp_path, legacy):
    history = HistoryBuffer([1.0, 2.5], [1, 2], max_length=7)
    hub = {"log_scalars": {"loss": history, "odd": 3}, "runtime_info": {}}
    file = tmp_path / "a.pth"
    torch.save({"message_hub": hub}, file, _use_new_zipfile_serialization=not legacy)
    scalars = CheckpointLoader.load_checkpoint(str(file))["message_hub"]["log_scalars"]
    assert scalars["loss"].data[0].tolist() == [1.0, 2.5]
    assert scalars["loss"].data[1].tolist() == [1, 2]
    assert scalars["loss"].max_length == 7
    assert scalars["loss"].statistics("max") == 2.5
    assert scalars["odd"] == 3
    history._count_history = np.ones(5)
    torch.save({"message_hub": hub}, file)
    with pytest.raises(CheckpointError, match="history loss is of two lengths"):
        CheckpointLoader.load_checkpoint(str(file))


def test_configs_in_a_file_are_mappings(tmp_path):
    config = ConfigDict(a=[ConfigDict(b=(1, "x"))], c=ConfigDict())
    torch.save({"meta": {"dataset_meta": config}}, tmp_path / "a.pth")
    loaded = CheckpointLoader.load_checkpoint(str(tmp_path / "a.pth"))
    assert loaded["meta"]["dataset_meta"] == {"a": [{"b": (1, "x")}], "c": {}}


def test_devices(tmp_path):
    tied = torch.ones(2)
    weights = OrderedDict(a=tied, b=(tied, [nn.Parameter(tied)]))
    weights._metadata = {"": {"version": 1}}
    torch.save({"state_dict": weights, "n": 1}, tmp_path / "a.pth")
    file = str(tmp_path / "a.pth")
    for place in (None, "cpu", torch.device("cpu"), lambda storage, _: storage, {}):
        loaded = CheckpointLoader.load_checkpoint(file, place)["state_dict"]
        assert torch.equal(loaded["a"], tied)
        assert loaded._metadata == weights._metadata
    moved = CheckpointLoader.load_checkpoint(file, "meta")["state_dict"]
    assert moved["a"].is_meta and moved["b"][0].is_meta and moved["b"][1][0].is_meta
    assert moved._metadata == weights._metadata


def test_what_is_plain_stays_and_what_is_not_is_named(monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr(plain, "print_log", lambda text, *_, **__: said.append(text))
    weight = nn.Parameter(torch.ones(2))
    content = {
        "weight": weight,
        "counts": Counter([8, 11, 11]),
        "default": defaultdict(list, a=[1]),
        "pair": Pair(1, np.int64(2)),
        "set": {3},
        "flag": np.bool_(True),
        "words": np.array(["a", "b"]),
        "none": None,
        "size": torch.Size([1]),
        np.int64(5): "key",
        "hooks": {"call": print, "list": [1, print]},
    }
    made = plain_checkpoint(content)
    assert made["weight"] is weight
    torch.save(made, tmp_path / "a.pth")
    read = torch.load(tmp_path / "a.pth", weights_only=True)
    assert torch.equal(read.pop("weight"), weight)
    assert read == {
        "counts": {8: 1, 11: 2},
        "default": {"a": [1]},
        "pair": (1, 2),
        "set": [3],
        "flag": True,
        "words": ["a", "b"],
        "none": None,
        "size": torch.Size([1]),
        5: "key",
        "hooks": {"list": [1, None]},
    }
    assert [line.split(" is a ")[0] for line in said] == [
        "checkpoint.hooks.call",
        "checkpoint.hooks.list.1",
    ]
    assert plain_checkpoint(made).keys() == made.keys()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_what_is_not_finite_is_named(bad, dtype):
    values = {"a": [torch.ones(3, dtype=torch.int64), torch.ones(2, dtype=dtype)]}
    values["large"] = torch.full((9,), 3e38)  # the sum is infinite, they are not
    values["cancel"] = torch.tensor([1e38, -1e38])
    check_finite(values, "x.pth")
    check_finite(None, "x.pth")
    values["a"][1][0] = bad
    values |= {str(i): torch.full((1,), bad) for i in range(9)}
    with pytest.raises(CheckpointError) as caught:
        check_finite(values, "x.pth")
    assert str(caught.value).startswith(
        "checkpoint x.pth holds NaN or infinite values in 10 tensors: a.1, 0, 1, 2, 3,"
    )
