"""Which of several equal forms of a computation to take."""

import torch
from torch import Tensor
from torch.autograd import forward_ad

# torch < 2.3 has it under its older name only
is_compiling = getattr(torch.compiler, "is_compiling", torch._dynamo.is_compiling)
"""Tell a compiler's pass from a real one."""


def is_transformed() -> bool:
    """Say whether ``torch.func`` or forward-mode differentiation is at work.

    Neither knows checkpoints or gradients written by hand.
    """
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def prefers_gpu_kernel(x: Tensor) -> bool:
    """Say whether to compute on a tensor in the form that is meant for GPUs.

    Call it as ``dispatch.prefers_gpu_kernel``: tests replace it here to run those forms
    on a CPU.

    Args:
        x: The tensor that is computed on, of any shape.
    """
    return x.is_cuda
