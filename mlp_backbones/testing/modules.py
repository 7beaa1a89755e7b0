"""The part of the contract that says how modules behave in PyTorch's hands."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from mmengine.utils import digit_version
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode

from mlp_backbones.testing.probes import (
    Build,
    build_seeded,
    make_images,
    randomise,
    require,
    require_close,
    require_same,
    seeded,
    sum_squares,
)


def check_history(build: Build) -> None:
    """Check that a pass depends on the weights of now, and on nothing before.

    Weights change between passes unseen by autograd, as averaging, sharding and tools
    that share memory with numpy change them.
    """
    backbone = randomise(build_seeded(build)).eval()
    images = [
        make_images(*size, channels=backbone.in_channels)
        for size in ((64, 96), (33, 47))
    ]
    changes: dict[str, Callable[[nn.Parameter], Any]] = {
        "by .data": lambda p: p.data.mul_(1.1),
        "through numpy": lambda p: p.detach().numpy().__imul__(0.9),
        "by new .data": lambda p: setattr(p, "data", p.data * 1.1),
    }
    with torch.no_grad():
        for name, change in changes.items():
            for x in images:
                backbone(x)
            for parameter in backbone.parameters():
                change(parameter)
            fresh = build_seeded(build).eval()
            fresh.load_state_dict(backbone.state_dict())
            for x in images:
                require_same(backbone(x), fresh(x), f"weights changed {name}")


def check_meta_device(build: Build) -> None:
    """Check that a backbone built without memory is whole once weights are loaded."""
    backbone = randomise(build_seeded(build)).eval()
    x = make_images(channels=backbone.in_channels)
    with torch.device("meta"):
        assigned, emptied = build_seeded(build).eval(), build_seeded(build).eval()
    assigned.load_state_dict(backbone.state_dict(), assign=True)
    emptied.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*emptied.parameters(), *emptied.buffers()):
            tensor.fill_(float("nan") if tensor.is_floating_point() else 1)
        emptied.load_state_dict(backbone.state_dict())
        expected = backbone(x)
        for copied, how in ((assigned, "assigned"), (emptied, "emptied")):
            try:
                found = copied(x)
            except Exception as error:
                raise AssertionError(f"built without memory, {how}: {error}") from error
            require_same(found, expected, f"built without memory, {how}")


def check_calls(build: Build) -> None:
    """Check that weights are used by calling the module that has them, once a pass.

    Else forward hooks never fire, and adapters, pruning, parametrisations, quantised
    and sharded layers are without effect or crash.
    """
    backbone = randomise(build_seeded(build)).eval()
    calls: dict[str, int] = {}

    def count(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            calls[name] += 1

        return hook

    for name, module in backbone.named_modules():
        if next(module.parameters(recurse=False), None) is not None:
            calls[name] = 0
            module.register_forward_hook(count(name))
    deltas = {}
    for name, module in list(backbone.named_modules()):
        if isinstance(module, nn.Linear | _ConvNd):
            parent, _, child = name.rpartition(".")
            deltas[name] = _Adapted(module)
            setattr(backbone.get_submodule(parent), child, deltas[name])
    for height, width in ((75, 106), (32, 32)):
        calls = dict.fromkeys(calls, 0)
        where = f"at {height} x {width} pixels"
        x = make_images(height, width, channels=backbone.in_channels)
        try:
            with seeded(0):
                maps = backbone(x)
        except AttributeError as error:
            raise AssertionError(f"{where} a layer's own is read: {error}") from error
        wrong = {name: number for name, number in calls.items() if number != 1}
        require(not wrong, f"{where} modules are not called once: {wrong}")
    sum_squares(maps).backward()
    dead = [name for name, layer in deltas.items() if not layer.delta.grad.any()]  # type: ignore[union-attr]
    require(not dead, f"what is added to these layers has no effect: {dead}")


class _Adapted(nn.Module):
    """A layer and what an adapter adds to it; it shows no weight of its own."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.delta = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        x = self.base(x)
        return x + self.delta * torch.randn_like(x)


def check_fusing(build: Build) -> None:
    """Check that batch norms may be fused with the convolutions before them.

    As mmcv's ``fuse_conv_bn`` does it: a norm with the last convolution registered
    before it in the same module.
    """
    backbone = randomise(build_seeded(build)).eval()
    generator = torch.Generator().manual_seed(0)
    for module in backbone.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            shape = module.running_mean.shape
            module.running_mean.copy_(torch.randn(shape, generator=generator))
            module.running_var.copy_(1 + torch.rand(shape, generator=generator))  # type: ignore[union-attr]
    x = make_images(75, 106, channels=backbone.in_channels)
    with torch.no_grad():
        expected = backbone(x)
        for module in backbone.modules():
            last = None
            for name, child in list(module.named_children()):
                if isinstance(child, _BatchNorm) and last is not None:
                    fused = fuse_conv_bn_eval(getattr(module, last), child)
                    setattr(module, last, fused)
                    setattr(module, name, nn.Identity())
                    last = None
                elif isinstance(child, nn.Conv2d):
                    last = name
        found = backbone(x)
    for feature, other in zip(found, expected, strict=True):
        off = (feature - other).abs().max() / other.abs().max().clamp(min=1)
        require(bool(off < 1e-5), f"fused batch norms change the maps by {off:.1e}")


def check_precision(build: Build) -> None:
    """Check that a float64 backbone computes in float64 throughout."""
    backbone = randomise(build_seeded(build)).double().eval()
    for height, width in ((64, 96), (75, 106)):
        x = make_images(height, width, channels=backbone.in_channels).double()
        with torch.no_grad(), _Lowered() as lowered:
            backbone(x)
        require(
            not lowered.operations,
            f"in float64 these compute in less: {sorted(lowered.operations)}",
        )


class _Lowered(TorchDispatchMode):
    """Note operations that give floating-point numbers of less than 64 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor) and tensor.numel():
                exact = tensor.dtype in (torch.float64, torch.complex128)
                if (tensor.is_floating_point() or tensor.is_complex()) and not exact:
                    self.operations.add(str(func))
        return result


def check_transforms(build: Build) -> None:
    """Check ``torch.func`` and second derivatives against plain backward passes.

    In training where no batch norm forbids it; ``torch.func`` from torch 2.5 on.
    """
    backbone = randomise(build_seeded(build))
    norms = any(isinstance(module, _BatchNorm) for module in backbone.modules())
    backbone.train(not norms)
    x = make_images(40, 32, channels=backbone.in_channels)
    weights = dict(backbone.named_parameters())

    def loss(image: Tensor) -> Tensor:
        maps = torch.func.functional_call(backbone, weights, (image[None],))
        return sum_squares(maps)

    image = x.clone().requires_grad_()
    with _plain_attention():
        losses = torch.stack([loss(one) for one in image])
    try:
        (expected,) = torch.autograd.grad(losses.sum(), image, create_graph=True)
        (second,) = torch.autograd.grad(expected.square().sum(), image)
    except Exception as error:
        raise AssertionError(f"no second derivative: {error}") from error
    require(bool(torch.isfinite(second).all()), "second derivatives are not finite")
    if digit_version(torch.__version__) < digit_version("2.5"):
        return  # torch 2.1 gives NaN for vmap of grad
    direction = make_images(40, 32, channels=backbone.in_channels).flip(0)
    try:
        found = torch.func.vmap(torch.func.grad(loss))(x)
        slope = torch.func.jvp(loss, (x[0],), (direction[0],))[1]
    except Exception as error:
        raise AssertionError(f"torch.func does not take it: {error}") from error
    require_close(found, expected, "gradients by vmap and grad")
    require_close(slope, (expected[0] * direction[0]).sum(), "the derivative by jvp")


def _plain_attention() -> AbstractContextManager:
    """Take the form of attention that torch can differentiate twice."""
    if not hasattr(torch.nn, "attention"):  # before torch 2.3
        return torch.backends.cuda.sdp_kernel(
            enable_flash=False, enable_math=True, enable_mem_efficient=False
        )
    return torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
