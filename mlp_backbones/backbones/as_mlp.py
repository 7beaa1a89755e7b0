"""AS-MLP: "AS-MLP: An Axial Shifted MLP Architecture for Vision".

Paper: arXiv 2107.08391, ICLR 2022. Weights and facts follow the authors' releases
(svip-lab/AS-MLP and its object detection and semantic segmentation repositories, MIT
licence); the code is written anew.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from mlp_backbones.arguments import odd, positive, switch
from mlp_backbones.backbones.arch import StagedArch
from mlp_backbones.backbones.base import CommonArguments, MLPBackbone
from mlp_backbones.checkpoints import CheckpointLayout
from mlp_backbones.checkpoints.renames import trailing_downsample
from mlp_backbones.layers import (
    ChannelLinear,
    ChannelMLP,
    ConvEmbed,
    SampleNorm,
    apply_norm,
)
from mlp_backbones.ops import axial_shift, dispatch
from mlp_backbones.registry import MODELS

_PATCH_SIZE = 4


def group_steps(
    dim: int, shift_size: int, *, device: torch.device | None = None
) -> Tensor:
    """Return how far from the output position each input channel is read, (C,).

    Source: paper, section 3.2. The channels are cut into ``shift_size`` groups of
    equal length, the last being shorter; the first group is read from the right (or
    below). Where the channels are too few, the last groups are empty.

    Args:
        dim: Number of channels.
        shift_size: Number of groups, odd.
        device: Where the numbers shall be.
    """
    length = -(-dim // shift_size)
    return shift_size // 2 - torch.arange(dim, device=device) // length


class AxialShift(nn.Module):
    """Move groups of channels along one axis; cells from outside the map are 0.

    Source: paper, section 3.2.

    Args:
        axis: 1 to move along the height, 2 along the width.
        shift_size: Number of groups, odd.
    """

    def __init__(self, *, axis: int, shift_size: int) -> None:
        super().__init__()
        self.axis = axis
        self.shift_size = shift_size

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        # whole groups move alike: fewer passes than by single channels
        if dispatch.prefers_gpu_kernel(x):
            return _shift_by_groups(x, self.shift_size, self.axis)
        steps = group_steps(x.shape[-1], self.shift_size, device=x.device)
        return axial_shift(x, steps, self.axis, reach=self.shift_size // 2)

    def extra_repr(self) -> str:
        """Show axis and size."""
        return f"axis={self.axis}, shift_size={self.shift_size}"


def _shift_by_groups(x: Tensor, shift_size: int, axis: int) -> Tensor:
    groups = []
    length = -(-x.shape[-1] // shift_size)
    for index, group in enumerate(x.split(length, dim=-1)):
        step = index - shift_size // 2  # to where the group moves
        if abs(step) >= x.shape[axis]:
            group = torch.zeros_like(group)
        elif step:  # a negative padding cuts off
            group = F.pad(group, (0, 0) * (3 - axis) + (step, -step))
        groups.append(group)
    return torch.cat(groups, dim=-1)


class AxialShiftMixer(nn.Module):
    """Channel FCs around axial shifts along both axes, which are added.

    Source: paper, section 3.2 and figure 2.

    Args:
        dim: Channels in and out.
        shift_size: Groups of channels of a shift, hence cells that it reaches, odd.
        bias: Whether the channel FCs have a bias.
        norm_eps: Epsilon of the norms.
    """

    def __init__(
        self,
        dim: int,
        *,
        shift_size: int = 5,
        bias: bool = True,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.proj_in = ChannelLinear(dim, dim, bias=bias)
        self.norm_in = SampleNorm(dim, eps=norm_eps)
        self.shift_along_width = AxialShift(axis=2, shift_size=shift_size)
        self.shift_along_height = AxialShift(axis=1, shift_size=shift_size)
        self.along_width = ChannelLinear(dim, dim, bias=bias)
        self.along_height = ChannelLinear(dim, dim, bias=bias)
        self.norm_out = SampleNorm(dim, eps=norm_eps)
        self.proj_out = ChannelLinear(dim, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        x = F.gelu(apply_norm(self.norm_in, self.proj_in(x)))
        along_width = F.gelu(self.along_width(self.shift_along_width(x)))
        along_height = F.gelu(self.along_height(self.shift_along_height(x)))
        return self.proj_out(apply_norm(self.norm_out, along_width + along_height))


class PaddedPatchEmbed(ConvEmbed):
    """A patch embedding that fills up incomplete patches at the borders with zeros."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, ceil(H / 4), ceil(W / 4), C')."""
        bottom, right = -x.shape[2] % _PATCH_SIZE, -x.shape[3] % _PATCH_SIZE
        if bottom or right:
            x = F.pad(x, (0, right, 0, bottom))
        return super().forward(x)


class PatchMerging(nn.Module):
    """Join each cell of 2x2 positions, norm the whole map and project.

    Odd sides are padded with zeros, which enter the norm's statistics. Source: Swin
    Transformer (arXiv 2103.14030, section 3.1), with the norm of AS-MLP.

    Args:
        in_channels: Channels of the input.
        dim: Channels of the output.
        norm_eps: Epsilon of the norm.
    """

    def __init__(self, in_channels: int, dim: int, *, norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = SampleNorm(4 * in_channels, eps=norm_eps)
        self.reduction = ChannelLinear(4 * in_channels, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, ceil(H / 2), ceil(W / 2), C')."""
        bottom, right = x.shape[1] % 2, x.shape[2] % 2
        if bottom or right:
            x = F.pad(x, (0, 0, 0, right, 0, bottom))
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (B, H/2, 2, W/2, 2, C)
        # the row inside the cell varies before the column: (B, H/2, W/2, 4C)
        x = x.permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.reduction(apply_norm(self.norm, x))


@MODELS.register_module()
class ASMLP(MLPBackbone):
    """AS-MLP, four stages, any image size.

    Its norms take mean and variance over a whole map: padding and cropping of an image
    change all of its features.

    Args:
        arch: ``tiny``, ``small``, ``base``, or a mapping with ``embed_dims`` and
            ``depths``, four numbers each.
        shift_size: Groups of channels of a shift, hence cells that it reaches, odd.
            It has no weights. A state dict of this class remembers it and refuses
            another; official files do not say it: the released classifiers have 5,
            some of the authors' detectors and segmentors 3.
        mlp_ratio: Hidden channels of the channel MLPs over their channels.
        mixer_bias: Whether the channel FCs of the mixers have a bias.
        patch_norm: Whether the patch embedding ends in a norm.
        norm_eps: Epsilon of all norms.
        common: See :class:`MLPBackbone`.

    Example:
        >>> import torch
        >>> backbone = ASMLP("tiny")
        >>> [tuple(m.shape) for m in backbone(torch.rand(1, 3, 64, 90))]
        [(1, 96, 16, 23), (1, 192, 8, 12), (1, 384, 4, 6), (1, 768, 2, 3)]
    """

    family = "as_mlp"

    arch_settings: ClassVar[Mapping[str, StagedArch]] = {
        "tiny": StagedArch(embed_dims=(96, 192, 384, 768), depths=(2, 2, 6, 2)),
        "small": StagedArch(embed_dims=(96, 192, 384, 768), depths=(2, 2, 18, 2)),
        "base": StagedArch(embed_dims=(128, 256, 512, 1024), depths=(2, 2, 18, 2)),
    }
    mini_arch = StagedArch(embed_dims=(32, 64, 128, 192), depths=(2, 2, 2, 1))

    noted_arguments = ("shift_size",)

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "tiny",
        *,
        shift_size: int = 5,
        mlp_ratio: float = 4.0,
        mixer_bias: bool = True,
        patch_norm: bool = True,
        norm_eps: float = 1e-5,
        **common: Unpack[CommonArguments],
    ) -> None:
        self.shift_size = odd("shift_size", shift_size)
        self.mlp_ratio = positive("mlp_ratio", mlp_ratio)
        self.mixer_bias = switch("mixer_bias", mixer_bias)
        self.patch_norm = switch("patch_norm", patch_norm)
        self.norm_eps = norm_eps
        super().__init__(arch, **common)

    def build_stem(self) -> nn.Module:
        """Build the patch embedding, stride 4."""
        norm = self.build_norm(self.embed_dims[0]) if self.patch_norm else None
        return self.build_embed(
            0,
            kernel_size=_PATCH_SIZE,
            stride=_PATCH_SIZE,
            norm=norm,
            embed_class=PaddedPatchEmbed,
        )

    def build_downsample(self, stage: int) -> nn.Module:
        """Build the patch merging that halves both sides."""
        dims = self.embed_dims
        return PatchMerging(dims[stage - 1], dims[stage], norm_eps=self.norm_eps)

    def build_mixer(self, stage: int, block: int) -> AxialShiftMixer:
        """Build one mixer; all blocks of a stage are alike."""
        return AxialShiftMixer(
            self.embed_dims[stage],
            shift_size=self.shift_size,
            bias=self.mixer_bias,
            norm_eps=self.norm_eps,
        )

    def build_mlp(self, stage: int) -> ChannelMLP:
        """Build one channel MLP; all blocks of a stage are alike."""
        dim = self.embed_dims[stage]
        return ChannelMLP(dim, int(dim * self.mlp_ratio))

    def build_norm(self, dim: int) -> nn.Module:
        """Build a norm over a whole map, for ``apply_norm``."""
        return SampleNorm(dim, eps=self.norm_eps)

    def _init_module(self, module: nn.Module) -> None:
        """Keep torch's start: the release initialises its classifier's head alone."""

    checkpoint_layouts = (
        CheckpointLayout(
            name="AS-MLP release",
            signature=r"^layers\.\d+\.blocks\.\d+\.axial_shift\.conv2_1\.weight",
            renames=(
                (r"^patch_embed\.", "stem."),
                (r"^layers\.(\d+)\.downsample\.", trailing_downsample),
                (r"^layers\.", "stages."),
                (r"\.axial_shift\.conv1\.", ".mixer.proj_in."),
                (r"\.axial_shift\.norm1\.", ".mixer.norm_in."),
                (r"\.axial_shift\.conv2_1\.", ".mixer.along_width."),
                (r"\.axial_shift\.conv2_2\.", ".mixer.along_height."),
                (r"\.axial_shift\.norm2\.", ".mixer.norm_out."),
                (r"\.axial_shift\.conv3\.", ".mixer.proj_out."),
                (r"^norm([0-3])\.", r"out_norms.\1."),
            ),
        ),
    )
