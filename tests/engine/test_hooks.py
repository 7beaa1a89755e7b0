import pytest
import torch
from mmengine.runner import Runner
from toy_runs import FIRST_BAD, Toy, run

from mlp_backbones.checkpoints.compare import CheckpointMismatchError
from mlp_backbones.engine.hooks import (
    CheckLossHook,
    InvalidLossError,
    StrictLoadHook,
)


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
