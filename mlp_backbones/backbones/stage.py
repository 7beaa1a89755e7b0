"""A run of blocks at one resolution, and their recomputation."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from mlp_backbones.ops.dispatch import is_compiling, is_transformed


class Stage(nn.Module):
    """Optional downsampling, then a run of blocks at one resolution.

    Args:
        downsample: What leads from the previous stage's map to this one's, or None.
        blocks: The blocks, each (B, H, W, C) to (B, H, W, C).
        with_cp: Recompute each block in the backward pass instead of storing it.
    """

    def __init__(
        self,
        downsample: nn.Module | None,
        blocks: Sequence[nn.Module],
        *,
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H', W', C')."""
        if self.downsample is not None:
            x = self.downsample(x)
        return self.run_blocks(x)

    def run_blocks(self, x: Tensor) -> Tensor:
        """Pass (B, H, W, C) through the blocks alone."""
        for block in self.blocks:
            if self.with_cp and torch.is_grad_enabled() and not _is_transformed():
                x = _checkpointed(block, x)
            else:
                x = block(x)
        return x


def _is_transformed() -> bool:
    """Say whether ``torch.func`` is at work, which knows no checkpoints."""
    return not is_compiling() and is_transformed()


def _checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    norms = [
        module
        for module in block.modules()
        if isinstance(module, _BatchNorm) and module.training
    ]
    # a compiler's graph moves statistics once, and holds no contexts of ours
    if not norms or is_compiling():
        return checkpoint(block, x, use_reentrant=False)

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), _no_running_statistics(norms)

    return checkpoint(block, x, use_reentrant=False, context_fn=contexts)


@contextmanager
def _no_running_statistics(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Let the second of two equal passes leave the running statistics alone."""
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:  # a momentum of 0 keeps what is there; nothing is counted
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, num_batches_tracked in kept:
            norm.momentum, norm.num_batches_tracked = momentum, num_batches_tracked
