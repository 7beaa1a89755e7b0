import torch
from torch import nn

from mlp_backbones.checkpoints.compare import Mismatches, compare_state_dicts


def test_state_dicts_are_compared_in_both_directions():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    wrapped = {f"module.{name}": value for name, value in state.items()}
    for fitting in (state, {"state_dict": state}, {"model": state}, wrapped):
        assert not compare_state_dicts(model, fitting)
    state["0.weight"] = torch.zeros(3, 4)
    del state["0.bias"], state["1.num_batches_tracked"]
    state["head.weight"] = torch.zeros(1)
    mismatches = compare_state_dicts(model, state)
    assert mismatches
    assert mismatches.wrong_shapes == [("0.weight", (3, 4), (3, 2))]
    assert mismatches.missing == ["0.bias"]
    assert mismatches.unknown == ["head.weight"]
    assert mismatches.describe("a.pth") == (
        "checkpoint a.pth does not fit this model: "
        "0.weight is (3, 4) in the file, (3, 2) in the model; "
        "0.bias is missing in the file; head.weight is not in the model"
    )


def test_two_mismatches_of_each_kind_are_described():
    names = ["a", "b", "c"]
    shapes = [(name, (1,), (2,)) for name in names]
    text = Mismatches(shapes, names, []).describe("a.pth")
    assert text.endswith(
        ": a is (1,) in the file, (2,) in the model; b is (1,) in the file, "
        "(2,) in the model; a is missing in the file; b is missing in the file; "
        "and 2 more"
    )
