"""The readers of others take our model index: model-index, mmpretrain."""

import modelindex
import pytest
from mmpretrain.apis.model import ModelHub

from mlp_backbones.config_names import config_dir, find_configs
from mlp_backbones.factory import families

MODEL_INDEX = config_dir().parent / "model-index.yml"


@pytest.fixture(scope="module")
def index():
    return modelindex.load(str(MODEL_INDEX))


def test_model_index_finds_no_error(index):
    errors = index.check(silent=True)
    # As in OpenMMLab's files the path begins at the root of the repository, where
    # model-index looks beside the metafile; check_metafiles.py checks it.
    assert [e for e in errors if "Path to README file configs/" not in e] == []


def test_every_config_and_every_family_is_there_once(index):
    names = [path.stem for path in find_configs(config_dir())]
    assert sorted(model.name for model in index.models) == sorted(names)
    classes = [cls.__name__ for cls in families().values()]
    assert sorted(c.name for c in index.collections) == sorted(classes)


def test_what_is_stated_arrives(index):
    """In the words that `mim search` shows and filters by."""
    models = {model.name: model for model in index.models}
    model = models["retinanet_cyclemlp-b1_fpn_8xb2-1x_coco"]
    assert model.in_collection == "CycleMLP"
    assert model.config == f"configs/cyclemlp/{model.name}.py"
    assert model.metadata.parameters == 24893268
    assert model.metadata.batch_size == 16
    assert model.metadata.epochs == 12
    assert model.metadata.training_data == "COCO"
    # A text in brackets behind `Parameters` would take its place in `mim search`.
    assert model.metadata.data["Paper Parameters"] == "24.9M"
    (result,) = model.results
    assert (result.task, result.dataset) == ("Object Detection", "COCO")
    assert result.metrics == {"box AP": 38.6, "box AP50": 59.1, "box AP75": 40.8}


def test_mmpretrain_registers_every_model(monkeypatch):
    monkeypatch.setattr(ModelHub, "_models_dict", {})
    ModelHub.register_model_index(MODEL_INDEX, config_prefix=MODEL_INDEX.parent)
    paths = find_configs(config_dir())
    assert len(ModelHub._models_dict) == len(paths)
    for path in paths:
        entry = ModelHub._models_dict[path.stem.lower()]
        assert entry.config == str(path)
    weights = ModelHub._models_dict["cyclemlp-b1_8xb128_in1k"].weights
    assert weights.startswith("https://github.com/ShoufaChen/CycleMLP/")
