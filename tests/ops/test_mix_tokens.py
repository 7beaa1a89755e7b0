"""Linear layers along the token axis."""

import torch
import torch.nn.functional as F

from mlp_backbones.ops import mix_tokens


def test_left_multiplication_is_a_linear_layer_on_transposed_tokens() -> None:
    x = torch.randn(3, 10, 7, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 10, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    expected = F.linear(x.transpose(1, 2), weight, bias).transpose(1, 2)
    found = mix_tokens(x, weight, bias)
    torch.testing.assert_close(found, expected)
    parts = (x, weight, bias)
    upstream = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, parts, upstream),
        torch.autograd.grad(expected, parts, upstream),
    )
