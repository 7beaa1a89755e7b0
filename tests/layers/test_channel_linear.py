"""The linear layer over channels gives what PyTorch's own gives."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mlp_backbones.layers import ChannelLinear


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "shape", [(2, 5, 7, 12), (1, 1, 1, 12), (3, 6, 1, 12), (2, 9, 12), (4, 12)]
)
def test_equals_linear_with_gradients(shape, dtype, bias):
    torch.manual_seed(0)
    layer = nn.Linear(12, 20, bias=bias).to(dtype)
    twin = ChannelLinear(12, 20, bias=bias).to(dtype)
    twin.load_state_dict(layer.state_dict())
    # a view whose memory is not laid out as its shape says
    x = torch.randn(shape[::-1]).to(dtype).permute(*range(len(shape) - 1, -1, -1))
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    outputs = [layer(inputs[0]), twin(inputs[1])]
    grad = torch.randn_like(outputs[0])
    for output in outputs:
        output.backward(grad)

    tolerance = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(outputs[1], outputs[0], **tolerance)
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, **tolerance)
    for ours, theirs in zip(twin.parameters(), layer.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, **tolerance)


def test_initialisation_by_config_reaches_it():
    """MMEngine picks layers by the names of their classes and bases."""
    from mmengine.model import initialize

    layer = ChannelLinear(4, 4)
    initialize(layer, {"type": "Constant", "layer": "Linear", "val": 3.0, "bias": 0})
    assert torch.equal(layer.weight, torch.full((4, 4), 3.0))


def test_is_a_linear_layer_under_autocast():
    x, layer = torch.randn(2, 4, 4, 8), ChannelLinear(8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
        expected = F.linear(x, layer.weight, layer.bias)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)
