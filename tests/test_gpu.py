"""Every family in the forms for GPUs, on the CPU and where there is one on a GPU."""

from functools import partial

import pytest
import torch
from sizes import build_micro

from mlp_backbones.factory import families
from mlp_backbones.ops import dispatch
from mlp_backbones.testing.contract import (
    Build,
    check_autocast,
    check_checkpointing,
    check_gradients,
    check_shapes,
    randomise,
)

CUDA = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    ],
)


@pytest.fixture(params=sorted(families()))
def build(request: pytest.FixtureRequest) -> Build:
    return partial(build_micro, request.param)


@pytest.fixture
def gpu_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute in the forms that are meant for GPUs, wherever it is."""
    monkeypatch.setattr(dispatch, "prefers_gpu_kernel", lambda x: True)


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("size", [(64, 96), (75, 106)])
def test_maps_and_gradients_are_those_of_the_cpu(
    build: Build, device: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = randomise(build()).double().eval()
    image = torch.randn(2, 3, *size, dtype=torch.float64)

    def run(device: str) -> list[torch.Tensor]:
        backbone.to(device).zero_grad()
        x = image.to(device).requires_grad_()
        maps = backbone(x)
        torch.stack([feature.square().mean() for feature in maps]).sum().backward()
        grads = [parameter.grad for parameter in backbone.parameters()]
        return [tensor.detach().cpu() for tensor in (*maps, x.grad, *grads)]

    expected = run("cpu")
    monkeypatch.setattr(dispatch, "prefers_gpu_kernel", lambda x: True)
    torch.testing.assert_close(run(device), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_mixed_precision_trains(build: Build, device: str, gpu_forms: None) -> None:
    check_autocast(build, device=device)


@pytest.mark.parametrize(
    "check",
    [check_shapes, check_gradients, check_checkpointing],
    ids=lambda c: c.__name__,
)
def test_the_contract_holds_for_the_forms_for_gpus(
    build: Build, check, gpu_forms: None
) -> None:
    check(build)
