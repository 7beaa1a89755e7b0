"""Trading cheap arithmetic for memory in training."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mlp_backbones.ops.dispatch import is_compiling, is_transformed


def recomputed(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Call ``function`` and keep only its inputs for the backward pass.

    What leads up to the function's last operation is computed again in the backward
    pass; the last operation itself is not, so a function that ends in a linear layer
    costs no second matrix product for it. Outside training, under torch.compile,
    which plans its own recomputation, and under torch.func this is a plain call.

    Args:
        function: A function without randomness and without running statistics.
        inputs: Its arguments.
    """
    if not torch.is_grad_enabled() or is_compiling() or is_transformed():
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
