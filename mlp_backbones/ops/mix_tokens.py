"""One linear layer along the token axis, without a transpose."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mlp_backbones.ops import dispatch


def mix_tokens(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply one linear layer to the tokens of every channel.

    It is the matrix product from the left, ``weight @ x + bias[:, None]``, which reads
    channels-last memory in the order in which it lies.

    Args:
        x: Tokens, (B, N, C).
        weight: (M, N).
        bias: (M,).

    Returns:
        The new tokens, (B, M, C).
    """
    if dispatch.prefers_gpu_kernel(x):
        # convolutions may round to TF32 there, products do not
        return torch.baddbmm(bias[:, None], weight.expand(len(x), -1, -1), x)
    return F.conv1d(x, weight[:, :, None], bias)  # tokens are its channels
