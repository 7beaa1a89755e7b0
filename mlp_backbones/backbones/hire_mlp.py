"""Hire-MLP: "Hire-MLP: Vision MLP via Hierarchical Rearrangement".

Paper: arXiv 2108.13341, CVPR 2022. Weights and facts follow the authors' release
(ggjy/Hire-Wave-MLP.pytorch, MIT licence); the code is written anew.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from mlp_backbones.arguments import positive_int
from mlp_backbones.backbones.arch import PyramidArch, per_stage
from mlp_backbones.backbones.base import CommonArguments, MLPBackbone
from mlp_backbones.checkpoints import CheckpointLayout
from mlp_backbones.checkpoints.renames import interleaved_stage
from mlp_backbones.layers import (
    ChannelLinear,
    ConvEmbed,
    SplitAttention,
    blend,
)
from mlp_backbones.registry import MODELS

_RELEASE = "https://github.com/ggjy/Hire-Wave-MLP.pytorch/releases/download/log/"


def read_around(x: Tensor, start: int, length: int, axis: int) -> Tensor:
    """Read cells of a map along one axis as if its end met its beginning.

    Args:
        x: Feature map, (B, H, W, C).
        start: Where to begin; any whole number.
        length: Number of cells to read, also more than there are.
        axis: 1 to read along the height, 2 along the width.

    Returns:
        The map, with ``length`` cells along the axis: a view where it can be one.
    """
    size = x.shape[axis]
    pieces = []
    while length > 0:
        start %= size
        count = min(length, size - start)
        pieces.append(x.narrow(axis, start, count))
        start, length = start + count, length - count
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=axis)


class RegionMLP(nn.Module):
    """A bottleneck shared by all regions of neighbours along one axis.

    The map is rolled, filled up to whole regions with cells from its beginning, passes
    the bottleneck region by region and is rolled back. Joining the cells of a region
    and taking them apart again is left to strided convolutions, which rearrange
    nothing. Source: paper, sections 3.2 and 3.3; the batch norm is the release's.

    Args:
        dim: Channels in and out.
        axis: 1 for regions along the height, 2 along the width.
        region_size: Cells in a region.
        shift: Cells by which the map is rolled.
        norm_eps: Epsilon of the batch norm.
    """

    def __init__(
        self,
        dim: int,
        *,
        axis: int,
        region_size: int,
        shift: int = 0,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.axis = axis
        self.region_size = region_size
        self.shift = shift
        kernel = (region_size, 1) if axis == 1 else (1, region_size)
        hidden_dim = dim // 2
        self.reduce = nn.Conv2d(dim, hidden_dim, kernel, stride=kernel, bias=False)
        self.norm = nn.BatchNorm2d(hidden_dim, eps=norm_eps)
        self.expand = nn.ConvTranspose2d(
            hidden_dim, dim, kernel, stride=kernel, bias=False
        )
        self.bias = nn.Parameter(torch.zeros(region_size, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        axis, size = self.axis, x.shape[self.axis]
        padded_size = -(-size // self.region_size) * self.region_size
        x = read_around(x, -self.shift, padded_size, axis)
        # (B, H, W, C) -> (B, C, H, W), a view in channels_last memory format
        hidden = F.relu(self.norm(self.reduce(x.permute(0, 3, 1, 2))))
        x = self.expand(hidden).permute(0, 2, 3, 1)  # to (B, H, W, C)
        bias = self.bias.to(x.dtype)
        bias = bias[:, None] if axis == 1 else bias
        regions = x.unflatten(axis, (-1, self.region_size))
        x = (regions + bias).flatten(axis, axis + 1)
        return read_around(x.narrow(axis, 0, size), self.shift, size, axis)

    def extra_repr(self) -> str:
        """Show axis, region and roll."""
        return f"axis={self.axis}, region_size={self.region_size}, shift={self.shift}"


class HireMixer(nn.Module):
    """Region MLPs along both axes and a channel FC, blended and projected.

    Source: paper, section 3.1; the release blends the three by softmax weights.

    Args:
        dim: Channels in and out.
        region_size: Cells in a region.
        shift: Cells by which the map is rolled.
        norm_eps: Epsilon of the batch norms.
    """

    def __init__(
        self, dim: int, *, region_size: int, shift: int = 0, norm_eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.along_height, self.along_width = (
            RegionMLP(
                dim, axis=axis, region_size=region_size, shift=shift, norm_eps=norm_eps
            )
            for axis in (1, 2)
        )
        self.channel = ChannelLinear(dim, dim)
        self.reweight = SplitAttention(dim)
        self.proj = ChannelLinear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        branches = (self.along_height(x), self.along_width(x), self.channel(x))
        return self.proj(blend(branches, self.reweight(branches)))


class ActivatedConvEmbed(ConvEmbed):
    """A strided convolution, a norm and a ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the embedded map, (B, H', W', C')."""
        return F.relu(super().forward(x))


def _to_convolutions(weights: dict[str, Tensor], backbone: Any) -> dict[str, Tensor]:
    """Turn channel FCs over whole regions into strided convolutions.

    There the inputs (and outputs) of a region are numbered c * r + j, for channel c
    and the j-th of r cells.
    """
    converted = {}
    for key, tensor in weights.items():
        match = re.match(
            r"stages\.(\d+)\.blocks\.\d+\.mixer\.along_(height|width)\.(.+)", key
        )
        if match is not None:
            region_size = backbone.arch.region_size[int(match[1])]
            kernel = (-1, 1) if match[2] == "height" else (1, -1)
            if match[3] == "reduce.weight":  # (C/2, C * r, 1, 1) -> (C/2, C, r)
                tensor = tensor.flatten(1).unflatten(1, (-1, region_size))
                tensor = tensor.unflatten(2, kernel)
            elif match[3] == "expand.weight":  # (C * r, C/2, 1, 1) -> (C/2, C, r)
                tensor = tensor.flatten(1).t().unflatten(1, (-1, region_size))
                tensor = tensor.unflatten(2, kernel)
            elif match[3] == "bias":  # (C * r) -> (r, C)
                tensor = tensor.unflatten(0, (-1, region_size)).t()
        converted[key] = tensor
    return converted


@dataclass(frozen=True, kw_only=True)
class HireMLPArch(PyramidArch):
    """Four stages of region MLPs whose rolls go round in a cycle."""

    region_size: tuple[int, ...] = per_stage(positive_int)
    shift_cycle: tuple[int, ...] = per_stage(positive_int)
    shift_dilation: tuple[int, ...] = per_stage(positive_int)

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.embed_dims) < 4:
            raise ValueError(
                "arch field 'embed_dims' must hold numbers from 4 on, got "
                f"{self.embed_dims}"
            )

    def shift(self, stage: int, block: int) -> int:
        """Return by how many cells a block of a stage rolls its map."""
        return block % self.shift_cycle[stage] * self.shift_dilation[stage]


@MODELS.register_module()
class HireMLP(MLPBackbone):
    """Hire-MLP, four stages, any image size.

    Where a map is rolled, its first and last cells meet: in a padded batch the top
    rows of an image mix with the padding, not with its own bottom rows.

    Args:
        arch: ``tiny``, ``small``, ``base``, ``large``, or a mapping with
            ``embed_dims``, ``depths``, ``mlp_ratios``, ``region_size`` (cells in a
            region), ``shift_cycle`` (blocks until the rolls repeat) and
            ``shift_dilation`` (cells that each of them adds), four numbers each.
        norm_eps: Epsilon of all batch norms.
        common: See :class:`MLPBackbone`.

    Example:
        >>> import torch
        >>> backbone = HireMLP("tiny").eval()
        >>> [tuple(m.shape) for m in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 64, 16, 24), (1, 128, 8, 12), (1, 320, 4, 6), (1, 512, 2, 3)]
    """

    family = "hire_mlp"

    arch_settings: ClassVar[Mapping[str, HireMLPArch]] = {
        name: HireMLPArch(
            embed_dims=dims,
            depths=depths,
            mlp_ratios=(4, 4, 4, 4),
            region_size=(4, 3, 3, 2),
            shift_cycle=(2, 2, 3, 2),
            shift_dilation=(2, 2, 1, 1),
        )
        for name, dims, depths in (
            ("tiny", (64, 128, 320, 512), (2, 2, 4, 2)),
            ("small", (64, 128, 320, 512), (3, 4, 10, 3)),
            ("base", (64, 128, 320, 512), (4, 6, 24, 3)),
            ("large", (96, 192, 384, 768), (4, 6, 24, 3)),
        )
    }
    mini_arch = replace(
        arch_settings["tiny"], embed_dims=(32, 64, 128, 192), depths=(2, 2, 3, 1)
    )

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "tiny",
        *,
        norm_eps: float = 1e-5,
        **common: Unpack[CommonArguments],
    ) -> None:
        self.norm_eps = norm_eps
        super().__init__(arch, **common)

    def build_stem(self) -> nn.Module:
        """Build the overlapping patch embedding, stride 4."""
        return self._build_embed(0, kernel_size=7, stride=4, padding=2)

    def build_downsample(self, stage: int) -> nn.Module:
        """Build the overlapping convolution that halves both sides."""
        return self._build_embed(stage, kernel_size=3, stride=2, padding=1)

    def build_mixer(self, stage: int, block: int) -> HireMixer:
        """Build one mixer; the rolls of a stage's blocks go round in a cycle."""
        return HireMixer(
            self.embed_dims[stage],
            region_size=self.arch.region_size[stage],
            shift=self.arch.shift(stage, block),
            norm_eps=self.norm_eps,
        )

    def build_norm(self, dim: int) -> nn.Module:
        """Build a batch norm, for ``apply_norm``."""
        return nn.BatchNorm2d(dim, eps=self.norm_eps)

    def _build_embed(self, stage: int, **sizes: Any) -> ConvEmbed:
        norm = self.build_norm(self.embed_dims[stage])
        return self.build_embed(
            stage, norm=norm, embed_class=ActivatedConvEmbed, **sizes
        )

    def _init_module(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    released_weights: ClassVar[Mapping[str, str]] = {
        name: f"{_RELEASE}hire_mlp_{name}.pth" for name in ("tiny", "small", "base")
    }
    checkpoint_layouts = (
        CheckpointLayout(
            name="Hire-MLP release",
            signature=r"^network\.\d+\.\d+\.attn\.mlp_h1_norm\.weight",
            renames=(
                (r"^patch_embed\.", "stem."),
                (r"^network\.(\d+)\.", interleaved_stage),
                (r"\.attn\.mlp_c\.", ".mixer.channel."),
                (r"\.attn\.mlp_h", ".mixer.along_height"),
                (r"\.attn\.mlp_w", ".mixer.along_width"),
                (r"(\.along_\w+)1_norm\.", r"\1.norm."),
                (r"(\.along_\w+)1\.", r"\1.reduce."),
                (r"(\.along_\w+)2\.weight", r"\1.expand.weight"),
                (r"(\.along_\w+)2\.bias", r"\1.bias"),
                (r"\.attn\.", ".mixer."),
                (r"^norm([0246])\.", lambda m: f"out_norms.{int(m[1]) // 2}."),
            ),
            convert=_to_convolutions,
        ),
    )
