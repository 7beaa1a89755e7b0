"""What the checks of the contract share: building, images, comparisons."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mlp_backbones.backbones import MLPBackbone

Build = Callable[..., MLPBackbone]
ModuleT = TypeVar("ModuleT", bound=nn.Module)


def randomise(module: ModuleT, seed: int = 1) -> ModuleT:
    """Add noise to every parameter, so that nothing hides behind a zero.

    Args:
        module: What is changed, in place.
        seed: Of the noise.

    Returns:
        The module itself.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return module


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Fix chance for a block, and leave it outside as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def build_seeded(build: Build, *, seed: int = 0, **options: Any) -> MLPBackbone:
    """Build a backbone by fixed chance."""
    with seeded(seed):
        return build(**options)


def make_images(
    height: int = 64, width: int = 96, *, batch: int = 2, channels: int = 3
) -> Tensor:
    """Draw images that are always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, channels, height, width, generator=generator)


def sum_squares(maps: Sequence[Tensor]) -> Tensor:
    """Make one number of all maps."""
    return torch.stack([feature.square().mean() for feature in maps]).sum()


def require(condition: bool, message: str) -> None:
    """Raise an ``AssertionError`` with a message unless a condition holds."""
    if not condition:
        raise AssertionError(message)


def require_close(found: Any, expected: Any, what: str) -> None:
    """Compare results of other orders of summation."""
    torch.testing.assert_close(
        found,
        expected,
        rtol=1e-4,
        atol=1e-6,
        msg=lambda text: f"{what}: not the same\n{text}",
    )


def require_same(found: Any, expected: Any, what: str) -> None:
    """Compare results that should agree to the last bits."""
    torch.testing.assert_close(
        found, expected, msg=lambda text: f"{what}: not the same\n{text}"
    )
