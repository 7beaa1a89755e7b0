import pytest
import torch
from mmengine.runner import Runner
from toy_runs import Toy

from mlp_backbones.checkpoints import CheckpointError
from mlp_backbones.checkpoints.compare import CheckpointMismatchError
from mlp_backbones.engine.hooks import StrictLoadHook


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


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf"])
def test_weights_that_are_not_finite_are_not_tested(tmp_path, bad):
    file, other = str(tmp_path / "own.pth"), Toy()
    torch.nn.init.constant_(other.layer.bias, float(bad))
    torch.save({"state_dict": other.state_dict(), "optimizer": {}}, file)
    with pytest.raises(CheckpointError, match=r"own\.pth holds NaN.*: layer\.bias;"):
        StrictLoadHook(file).before_run(FakeRunner(Toy()))
