"""The contract checks: they pass a sound backbone and catch one fault each."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mlp_backbones.backbones import MLPBackbone, StagedArch
from mlp_backbones.layers import ChannelMLP, ConvEmbed, MixerBlock
from mlp_backbones.testing import contract
from mlp_backbones.testing.contract import CHECKS, check_backbone


class Sound(MLPBackbone):
    """The plainest backbone that keeps the contract: its mixer does nothing."""

    arch_settings: ClassVar[dict[str, StagedArch]] = {
        "mini": StagedArch(embed_dims=(4, 6, 8, 10), depths=(1, 2, 1, 1))
    }
    mixer: type[nn.Module] = nn.Identity
    steps: tuple[int, ...] = (4, 2, 2, 2)

    def build_stem(self) -> nn.Module:
        return self.embed(self.in_channels, 0, channels_last=False)

    def build_downsample(self, stage: int) -> nn.Module:
        return self.embed(self.embed_dims[stage - 1], stage)

    def embed(self, channels: int, stage: int, **options: bool) -> nn.Module:
        step = self.steps[stage]
        sizes = dict(kernel_size=2 * step - 1, stride=step, padding=step - 1)
        return ConvEmbed(channels, self.embed_dims[stage], **sizes, **options)

    def build_block(self, stage: int, block: int, drop_path_rate: float) -> nn.Module:
        dim = self.embed_dims[stage]
        return MixerBlock(
            norm1=nn.LayerNorm(dim),
            mixer=self.mixer(),
            norm2=nn.LayerNorm(dim),
            mlp=ChannelMLP(dim, 2 * dim),
            drop_path_rate=drop_path_rate,
        )


class WrongStride(Sound):
    steps = (4, 2, 2, 4)


class NotANumber(Sound):
    class mixer(nn.Module):  # noqa: N801
        def forward(self, x: Tensor) -> Tensor:
            return x / 0.0


class TiedOrder(Sound):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(sorted(super().forward(x), key=lambda m: -m.shape[-1]))


class IdleWeight(Sound):
    class mixer(nn.Module):  # noqa: N801
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            return x * 2


class CountsPasses(Sound):
    class mixer(nn.Module):  # noqa: N801
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("passes", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                self.passes += 1
            return x


class NeverFrozen(Sound):
    def _freeze(self) -> None:
        pass


class TrainsFrozenParts(Sound):
    def train(self, mode: bool = True) -> "TrainsFrozenParts":
        nn.Module.train(self, mode)
        return self


class NeverDrops(Sound):
    def build_block(self, stage: int, block: int, drop_path_rate: float) -> nn.Module:
        return super().build_block(stage, block, 0.0)


class DropsTheSame(Sound):
    def build_block(self, stage: int, block: int, drop_path_rate: float) -> nn.Module:
        return super().build_block(stage, block, self.drop_path_rate / 2)


class OneLayer(Sound):
    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        return 0, super().get_layer_depth(param_name, prefix)[1]


class LooksAtNeighbours(Sound):
    class mixer(nn.Module):  # noqa: N801
        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(0)  # over the batch


class KeepsAWeightToItself(Sound):
    class mixer(nn.Module):  # noqa: N801
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.rand(()), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale


class TakesAnything(Sound):
    def _check_input(self, x: Tensor) -> None:
        pass


class ChangesTheImage(Sound):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return super().forward(x.mul_(2))


class TooLargeForHalf(Sound):
    class mixer(nn.Module):  # noqa: N801
        def forward(self, x: Tensor) -> Tensor:
            return (x.half() * 6e4 * 6e4).to(x.dtype) if is_autocast() else x


def is_autocast() -> bool:
    return torch.is_autocast_enabled("cpu")


class LooksAtValues(Sound):
    class mixer(nn.Module):  # noqa: N801
        def forward(self, x: Tensor) -> Tensor:
            return x if x.mean().item() > 0 else -x


class Remembers(Sound):
    class mixer(nn.Module):  # noqa: N801
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))
            self.kept: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            if torch.is_grad_enabled() or self.training:
                return x * self.scale
            self.kept = self.scale.clone() if self.kept is None else self.kept
            return x * self.kept


class ConstantInABuffer(Sound):
    class mixer(nn.Module):  # noqa: N801
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("two", torch.tensor(2.0), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.two


class ReadsTheWeight(Sound):
    class mixer(nn.Module):  # noqa: N801
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Conv2d(1, 1, 1)
            self.other = nn.Linear(1, 1)

        def forward(self, x: Tensor) -> Tensor:
            self.other(x[..., :1])  # called, and without effect
            return x * self.scale.weight.flatten()


class DeadLayer(Sound):
    class mixer(nn.Module):  # noqa: N801
        def __init__(self) -> None:
            super().__init__()
            self.dead = nn.Linear(1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x + 0 * self.dead(x[..., :1])


class ConvolvesBesideItsNorm(Sound):
    class mixer(nn.Module):  # noqa: N801
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1)
            self.norm = nn.BatchNorm2d(1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.norm(x[:, None, ..., 0])[:, 0, ..., None]


class SinglePrecision(Sound):
    class mixer(nn.Module):  # noqa: N801
        def forward(self, x: Tensor) -> Tensor:
            return x.float().to(x.dtype)


class HandwrittenGradient(Sound):
    class mixer(nn.Module):  # noqa: N801
        def forward(self, x: Tensor) -> Tensor:
            return _Twice.apply(x)


class _Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 2


FAULTS = [
    (WrongStride, "check_shapes", r"stride 32 of 64 x 64 pixels has shape"),
    (NotANumber, "check_shapes", "not finite"),
    (TiedOrder, "check_out_indices", r"out_indices \(3, 0\)"),
    (IdleWeight, "check_gradients", r"stages\.0\.blocks\.0\.mixer\.scale"),
    (CountsPasses, "check_checkpointing", "with_cp=True: buffers"),
    (NeverFrozen, "check_frozen_stages", r"frozen_stages=0 stem\.proj\.weight is not"),
    (TrainsFrozenParts, "check_frozen_stages", "part 0 has training=True"),
    (NeverDrops, "check_stochastic_depth", "no block has a DropPath"),
    (DropsTheSame, "check_stochastic_depth", "should grow to 0.5"),
    (OneLayer, "check_layer_depths", r"0 \.\.\. 6"),
    (LooksAtNeighbours, "check_batch_independence", "image 0 alone and in a batch"),
    (KeepsAWeightToItself, "check_copies", "another with the same state dict"),
    (TakesAnything, "check_inputs", "31.* not refused"),
    (ChangesTheImage, "check_inputs", "image after the pass"),
    (TooLargeForHalf, "check_autocast", "in torch.bfloat16 the loss"),
    (Remembers, "check_history", "weights changed by .data"),
    (ConstantInABuffer, "check_meta_device", "built without memory, assigned"),
    (ReadsTheWeight, "check_calls", "has no attribute 'weight'"),
    (DeadLayer, "check_calls", r"no effect: \['stages\.0\.blocks\.0\.mixer\.dead'"),
    (ConvolvesBesideItsNorm, "check_fusing", "fused batch norms change the maps"),
    (SinglePrecision, "check_precision", "compute in less"),
    (HandwrittenGradient, "check_transforms", "torch.func does not take it"),
    (LooksAtValues, "check_tracing", "does not trace"),
]


def test_a_sound_backbone_passes() -> None:
    check_backbone(partial(Sound, "mini"))


@pytest.mark.parametrize(("cls", "check", "words"), FAULTS)
def test_a_fault_is_found_and_named(cls: type[Sound], check: str, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        getattr(contract, check)(partial(cls, "mini"))


def test_every_check_is_run_and_known_to_find_a_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = {name for name in contract.__all__ if name.startswith("check_")}
    assert {check.__name__ for check in CHECKS} == names - {"check_backbone"}
    assert {check for _, check, _ in FAULTS} == names - {"check_backbone"}
    called: list[Callable[..., Any]] = []
    monkeypatch.setattr(contract, "CHECKS", [called.append, called.append])
    check_backbone(Sound)
    assert called == [Sound, Sound]


def test_chance_outside_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    contract.check_stochastic_depth(partial(Sound, "mini"))
    assert torch.equal(torch.rand(3), expected)
