import re

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import nn

from mlp_backbones.engine.hooks import (
    CheckLossHook,
    CheckpointMismatchError,
    InvalidLossError,
    StrictLoadHook,
    compare_state_dicts,
)

FIRST_BAD = 4


class Toy(BaseModel):
    """Two losses; the second is `bad` from iteration FIRST_BAD on."""

    def __init__(self, bad=float("nan"), width=2):
        super().__init__()
        self.layer = nn.Linear(2, width)
        self.bad = bad
        self.calls = 0

    def forward(self, inputs, data_samples=None, mode="tensor"):
        if mode != "loss":
            return [BaseDataElement() for _ in range(len(inputs))]
        self.calls += 1
        loss = self.layer(torch.stack(list(inputs))).square().mean()
        second = self.bad if self.calls >= FIRST_BAD else 0.5
        return {"loss_a": loss, "loss_b": loss * 0 + second}


def run(tmp_path, model, hook, max_iters=6, save_every=2):
    loader = {
        "dataset": [{"inputs": torch.ones(2)}] * 4,
        "batch_size": 2,
        "sampler": {"type": "InfiniteSampler"},
    }
    runner = Runner(
        model,
        str(tmp_path),
        train_dataloader=loader,
        train_cfg={"by_epoch": False, "max_iters": max_iters},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.125}},
        default_hooks={
            "checkpoint": {
                "type": "CheckpointHook",
                "interval": save_every,
                "by_epoch": False,
            },
            "logger": {"type": "LoggerHook", "interval": 1},
        },
        custom_hooks=[hook],
        log_processor={"by_epoch": False, "window_size": 1},
        visualizer={
            "type": "Visualizer",
            "vis_backends": [{"type": "LocalVisBackend"}],
        },
        experiment_name=re.sub(r"\W", "_", str(tmp_path)),
    )
    runner.train()
    return runner


@pytest.mark.parametrize("interval", [1, 2, 100])
@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_a_bad_loss_stops_the_run_and_is_named(tmp_path, interval, bad):
    # With the interval 100 only the check before a checkpoint can find it.
    with pytest.raises(InvalidLossError) as error:
        run(tmp_path, Toy(float(bad)), CheckLossHook(interval))
    message = str(error.value)
    assert f"iteration {FIRST_BAD}:" in message
    assert f"loss_b = {bad}" in message
    assert "loss_a" not in message
    assert "0.125" in message
    # The checkpoint of iteration 2 is kept, the one of damaged weights not written.
    assert [file.name for file in tmp_path.glob("*.pth")] == ["iter_2.pth"]
    torch.load(tmp_path / "iter_2.pth", weights_only=False)
    (log,) = tmp_path.glob("*/*.log")
    assert "loss_b" in log.read_text().splitlines()[-1]


def test_a_bad_loss_after_the_last_full_interval_is_found(tmp_path):
    with pytest.raises(InvalidLossError, match=f"iteration {FIRST_BAD}:"):
        run(tmp_path, Toy(), CheckLossHook(3), max_iters=5, save_every=100)


def test_good_losses_run_to_the_end(tmp_path):
    runner = run(tmp_path, Toy(0.25), CheckLossHook(4))
    assert runner.iter == 6


@pytest.mark.parametrize("interval", [0, -1, 1.5])
def test_the_interval_is_checked(interval):
    with pytest.raises(ValueError, match=str(interval)):
        CheckLossHook(interval)


def test_state_dicts_are_compared_in_both_directions():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert compare_state_dicts(model, {"state_dict": state}) == []
    assert (
        compare_state_dicts(model, {f"module.{k}": v for k, v in state.items()}) == []
    )
    state["0.weight"] = torch.zeros(3, 4)
    del state["0.bias"], state["1.num_batches_tracked"]
    state["head.weight"] = torch.zeros(1)
    assert compare_state_dicts(model, state) == [
        "0.weight is (3, 4) in the file, (3, 2) in the model",
        "0.bias is missing in the file",
        "head.weight is not in the model",
    ]


class FakeRunner:
    """Loads as MMEngine does; nothing else of a runner is needed."""

    load_checkpoint = Runner.load_checkpoint

    def __init__(self, model):
        self.model = model
        self.logger = self

    def call_hook(self, name, **kwargs):
        pass

    def info(self, message):
        pass


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    file = str(tmp_path / "other.pth")
    torch.save({"state_dict": Toy(width=3).state_dict()}, file)
    with pytest.raises(CheckpointMismatchError) as error:
        StrictLoadHook(file).before_run(FakeRunner(Toy(width=2)))
    assert "layer.weight is (3, 2) in the file, (2, 2) in the model" in str(error.value)


def test_a_fitting_checkpoint_is_loaded(tmp_path):
    file, other, model = str(tmp_path / "own.pth"), Toy(), Toy()
    torch.save({"state_dict": other.state_dict()}, file)
    assert not torch.equal(other.layer.weight, model.layer.weight)
    StrictLoadHook(file).before_run(FakeRunner(model))
    assert torch.equal(other.layer.weight, model.layer.weight)
