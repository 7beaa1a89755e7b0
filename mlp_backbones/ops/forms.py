"""Which of several equal forms of a computation suits a device."""

from torch import Tensor


def suits_gpu(x: Tensor) -> bool:
    """Say whether to compute on a tensor in the form that is meant for GPUs.

    Call it as ``forms.suits_gpu``: tests replace it here to run those forms on a CPU.

    Args:
        x: The tensor that is computed on, of any shape.
    """
    return x.is_cuda
