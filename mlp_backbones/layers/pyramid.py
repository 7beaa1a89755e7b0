"""Pyramid levels out of maps that a backbone has at other strides."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PyramidResample(nn.Module):
    """Bring a channels-last map to a stride that is a power of two away.

    Source: the simple feature pyramid of ViTDet (arXiv 2203.16527, section 3), less
    its last two convolutions, which are those of an FPN. Up: transposed convolutions
    of kernel and stride 2, each halving the channels, with layer norm and GELU
    between them. Down: max pooling of kernel and stride 2; an odd row or column at
    the border is pooled by itself.

    Args:
        dim: Channels in.
        factor: Stride of the input over that of the output: 4 and 2 double the sides
            twice and once, 1 changes nothing, 1/2 halves them.

    Raises:
        ValueError: If ``factor`` is no power of two, or ``dim`` cannot be halved so
            often.

    Attributes:
        out_channels: Channels out.
    """

    def __init__(self, dim: int, factor: float) -> None:
        super().__init__()
        if factor <= 0 or not math.log2(factor).is_integer():
            raise ValueError(f"factor must be a power of two, got {factor}")
        self.steps = int(math.log2(factor))
        num_ups = max(self.steps, 0)
        if dim % 2**num_ups:
            raise ValueError(f"{dim} channels cannot be halved {num_ups} times")
        self.out_channels = dim >> num_ups
        layers: list[nn.Module] = []
        for step in range(num_ups):
            if step:
                layers += [_NormAct(dim)]
            layers += [nn.ConvTranspose2d(dim, dim // 2, 2, 2)]
            dim //= 2
        self.up = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, ceil(H * factor), ceil(W * factor), C')."""
        if self.steps == 0:
            return x
        x = x.permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W)
        if self.steps > 0:
            x = self.up(x)
        for _ in range(-self.steps):
            x = F.max_pool2d(x, 2, 2, ceil_mode=True)
        return x.permute(0, 2, 3, 1)  # (B, C', H', W') -> (B, H', W', C')

    def extra_repr(self) -> str:
        """Show how far the strides lie apart."""
        return f"factor={2.0**self.steps:g}"


class _NormAct(nn.Module):
    """Layer norm over the channels of (B, C, H, W), then GELU."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm(x.permute(0, 2, 3, 1)))  # (B, C, H, W) -> (B, H, W, C)
        return x.permute(0, 3, 1, 2)


def resample_patch_kernel(weight: Tensor, size: int) -> Tensor:
    """Resample the kernel of a patch embedding to another patch size.

    The kernel found gives, on patches resized bilinearly from the old size to the new
    one, what the old kernel gave on the patches before: exactly where patches grow,
    in the sense of least squares where they shrink. Source: FlexiViT
    (arXiv 2212.08013, section 3.4).

    Args:
        weight: Kernel, (C', C, P, P).
        size: The new side of the patch, in pixels.

    Returns:
        The kernel, (C', C, size, size).
    """
    old = weight.shape[-1]
    if size == old:
        return weight
    basis = torch.eye(old * old, dtype=torch.float64).reshape(old * old, 1, old, old)
    resize = F.interpolate(basis, (size, size), mode="bilinear", align_corners=False)
    # rows: what one old pixel spreads to; (P * P, size * size)
    resize = resize.flatten(1)
    kernel = weight.flatten(2).double() @ torch.linalg.pinv(resize.T)
    return kernel.reshape(*weight.shape[:2], size, size).to(weight.dtype)
