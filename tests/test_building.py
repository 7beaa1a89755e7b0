"""One door from a config to a model; tests of each task go through it, too."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mlp_backbones.building import build_model, count_parameters
from mlp_backbones.checkpoints.compare import CheckpointMismatchError


@pytest.fixture
def config() -> Config:
    start = {"type": "Constant", "layer": "Linear", "val": 3.0}
    head = {"type": "LinearClsHead", "num_classes": 3, "in_channels": 512}
    return Config(
        {
            "default_scope": "mmpretrain",
            "data_preprocessor": {"mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0]},
            "model": {
                "type": "ImageClassifier",
                "backbone": {
                    "type": "mlp_backbones.CycleMLP",
                    "arch": "b1",
                    "out_indices": (3,),
                },
                "neck": {"type": "GlobalAveragePooling"},
                "head": {**head, "init_cfg": start},
            },
        }
    )


def test_weights_are_initialised_on_request_only(config):
    assert not (build_model(config).head.fc.weight == 3).any()
    assert (build_model(config, init=True).head.fc.weight == 3).all()


def test_the_preprocessor_beside_the_model_is_used(config):
    model = build_model(config)
    assert model.data_preprocessor.mean.flatten().tolist() == [1, 2, 3]
    assert model.training
    assert "data_preprocessor" not in config.model


def test_the_scope_of_others_stays(config):
    with DefaultScope.overwrite_default_scope("mmdet"):
        build_model(config)
        assert DefaultScope.get_current_instance().scope_name == "mmdet"


def test_parameters_are_counted_without_memory(config):
    model = build_model(config, device="meta")
    assert all(parameter.is_meta for parameter in model.parameters())
    assert count_parameters(config) == sum(p.numel() for p in model.parameters())


def test_a_model_without_memory_takes_no_weights(config):
    with pytest.raises(ValueError, match=r"meta.*a\.pth"):
        build_model(config, device="meta", checkpoint="a.pth")
    with pytest.raises(ValueError, match="meta"):
        build_model(config, device="meta", init=True)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_checkpoint_is_loaded_strictly(config, tmp_path, prefix):
    file = str(tmp_path / "a.pth")
    weights = build_model(config, init=True).state_dict()
    torch.save({"state_dict": {prefix + k: v for k, v in weights.items()}}, file)
    loaded = build_model(config, checkpoint=file).state_dict()
    assert all(torch.equal(weights[name], loaded[name]) for name in weights)
    torch.save({"state_dict": {"head.fc.weight": torch.zeros(2, 512)}}, file)
    with pytest.raises(CheckpointMismatchError, match=r"head.fc.weight is \(2, 512\)"):
        build_model(config, checkpoint=file)
