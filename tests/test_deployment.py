"""What docs/deployment.md says of tracing and quantisation."""

import re
from pathlib import Path

import pytest
import torch
from sizes import build_micro

from mlp_backbones.factory import families
from mlp_backbones.layers import ChannelLinear
from mlp_backbones.testing.contract import randomise

PAGE = Path(__file__).parents[1] / "docs" / "deployment.md"


@pytest.mark.filterwarnings("ignore")
def test_linear_layers_can_be_quantised() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict = {}
    exec(code, names)
    backbone, quantized = names["backbone"], names["quantized"]
    assert not any(isinstance(module, ChannelLinear) for module in backbone.modules())
    kinds = [type(module).__module__ for module in quantized.modules()]
    plain = [m for m in backbone.modules() if type(m) is torch.nn.Linear]
    assert sum(kind.endswith("dynamic.modules.linear") for kind in kinds) == len(plain)
    assert len(plain) > 20
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for found, expected in zip(quantized(x), backbone(x), strict=True):
            assert (found - expected).abs().max() < 0.1 * expected.abs().max()
            assert (found != expected).any()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", sorted(families()))
def test_traces_are_exact(family: str) -> None:
    backbone = randomise(build_micro(family)).eval()
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        traced = torch.jit.trace(backbone, x)
        for found, expected in zip(traced(x), backbone(x), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
