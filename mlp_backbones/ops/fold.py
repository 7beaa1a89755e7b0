"""Batch norms with settled statistics as a part of the layer before them."""

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def fold_batch_norm(
    weight: Tensor, bias: Tensor | None, norm: nn.Module
) -> tuple[Tensor, Tensor | None, bool]:
    """Return the weights of a layer and the batch norm behind it in one, if possible.

    It is while the norm uses its running statistics. Gradients pass through to the
    layer's and the norm's own parameters.

    Args:
        weight: Weight of the linear layer or convolution, (C, ...).
        bias: Its bias, (C,), or None.
        norm: What follows the layer.

    Returns:
        The weight, (C, ...), the bias, (C,), and whether the norm is in them.
    """
    if (
        not isinstance(norm, _BatchNorm)
        or norm.training
        or norm.running_mean is None
        or norm.running_var is None
    ):
        return weight, bias, False
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    mean = norm.running_mean if bias is None else norm.running_mean - bias
    folded = weight * scale.view(-1, *(1,) * (weight.ndim - 1))
    return folded, norm.bias - mean * scale, True
