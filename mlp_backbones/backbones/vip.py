"""Vision Permutator: "A Permutable MLP-Like Architecture for Visual Recognition".

Paper: arXiv 2106.12368, IEEE TPAMI 2022. Facts and the layout of weights follow the
authors' release (houqb/VisionPermutator, MIT licence, weights for non-commercial use);
the code is written anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import Unpack

from mlp_backbones.arguments import positive_int
from mlp_backbones.backbones.arch import TwoStrideArch, per_stage
from mlp_backbones.backbones.axial import AxialArguments, AxialBackbone, axial_layout
from mlp_backbones.layers import AxialMixer, ChannelLinear, grid_to_map, map_to_grid
from mlp_backbones.registry import MODELS


class PermuteMixer(AxialMixer):
    """Mix lines by one linear map per axis, as wide as line times segment.

    Channels are cut into segments. All numbers that a line of tokens has in one
    segment form one vector, token by token, and each such vector passes the axis's
    linear layer: a segment of C / G channels on a line of G tokens makes C numbers.
    Source: paper, section 3.2 and algorithm 1. On other grids every pair of channels of
    a segment keeps its table from token to token, which is resampled.

    Args:
        dim: Channels in and out.
        num_segments: Number of segments G.
        grid_size: Height and width of the grid the weights belong to, in tokens.
        qkv_bias: Whether the three branches have a bias.
        options: The other arguments of :class:`GridMixer`.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_segments: int,
        grid_size: tuple[int, int],
        qkv_bias: bool,
        **options: Any,
    ) -> None:
        super().__init__(dim, qkv_bias=qkv_bias, grid_size=grid_size, **options)
        self.num_segments = num_segments
        height, width = (side * (dim // num_segments) for side in grid_size)
        self.along_height = ChannelLinear(height, height, bias=qkv_bias)
        self.along_width = ChannelLinear(width, width, bias=qkv_bias)

    def mix_lines(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Map (B, H, W, C) to two maps (B, H, W, C)."""
        height, width = self.grid_size
        columns = self._mix(self.along_height, x.transpose(1, 2), height)
        return columns.transpose(1, 2), self._mix(self.along_width, x, width)

    def _mix(self, linear: ChannelLinear, x: Tensor, length: int) -> Tensor:
        """Pass lines (B, number, L', C) of any length through a layer for L tokens."""
        lines = map_to_grid(x, 2, length)  # (B, number, L, C)
        lines = lines.unflatten(-1, (self.num_segments, -1)).transpose(2, 3)
        # (B, number, G, L, C / G), each vector of L * C / G numbers
        mixed = linear(lines.flatten(3)).unflatten(-1, lines.shape[3:])
        return grid_to_map(mixed.transpose(2, 3).flatten(3), 2, x.shape[2])


@dataclass(frozen=True, kw_only=True)
class PermutatorArch(TwoStrideArch):
    """Two strides; ``segment_dims`` is also the side of the grid, in tokens."""

    segment_dims: tuple[int, ...] = per_stage(positive_int)

    def __post_init__(self) -> None:
        super().__post_init__()
        for dim, segments in zip(self.embed_dims, self.segment_dims, strict=True):
            if dim % segments:
                raise ValueError(
                    "arch field 'segment_dims' must divide 'embed_dims': "
                    f"{dim} channels make no {segments} segments"
                )

    @property
    def grid_sides(self) -> tuple[int, ...]:
        """Side of the square token grid of each stage."""
        return self.segment_dims


@MODELS.register_module()
class VisionPermutator(AxialBackbone):
    """Vision Permutator, one or two strides, and a pyramid made of them.

    The weights that mix lines belong to a grid of 32 x 32 tokens before the stride
    doubles and of 16 x 16 behind it, which are 224 pixels of the official network and
    256 of the pyramid.

    Args:
        arch: ``s14``, ``s7``, ``m7``, ``l7``, ``mini``, or a mapping with
            ``embed_dims``, ``depths``, ``segment_dims`` (the number of segments, and
            the side of the grid), ``transitions`` and ``mlp_ratios``, four values
            each, and ``patch_size``.
        common: See :class:`AxialBackbone`; ``qkv_bias`` is that of all three branches.

    Example:
        >>> import torch
        >>> backbone = VisionPermutator("s7", out_indices=(1, 2, 3))
        >>> [tuple(m.shape) for m in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 192, 8, 12), (1, 384, 4, 6), (1, 384, 2, 3)]
    """

    family = "vip"

    # fmt: off
    arch_settings: ClassVar[Mapping[str, PermutatorArch]] = {
        name: PermutatorArch(
            embed_dims=dims, depths=depths, segment_dims=segments,
            transitions=tuple(stage == merge for stage in range(4)),
            mlp_ratios=(3, 3, 3, 3), patch_size=patch_size,
        )
        for name, patch_size, dims, depths, segments, merge in (
            ("s14", 14, (384, 384, 384, 384), (4, 3, 8, 3), (16, 16, 16, 16), None),
            ("s7", 7, (192, 384, 384, 384), (4, 3, 8, 3), (32, 16, 16, 16), 0),
            ("m7", 7, (256, 256, 512, 512), (4, 3, 14, 3), (32, 32, 16, 16), 1),
            ("l7", 7, (256, 512, 512, 512), (8, 8, 16, 4), (32, 16, 16, 16), 0),
        )
    }
    mini_arch = PermutatorArch(
        embed_dims=(96, 144, 144, 144), depths=(3, 2, 2, 1),
        segment_dims=(24, 12, 12, 12), transitions=(True, False, False, False),
        mlp_ratios=(3, 3, 3, 3), patch_size=7,
    )
    # fmt: on
    mini_options: ClassVar[dict[str, Any]] = {"image_size": 64}

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "s7",
        **common: Unpack[AxialArguments],
    ) -> None:
        super().__init__(arch, **common)

    def build_mixer(self, stage: int, block: int) -> PermuteMixer:
        """Build one mixer; those of a stage differ in where their windows begin."""
        return PermuteMixer(
            self.embed_dims[stage],
            num_segments=self.arch.segment_dims[stage],
            qkv_bias=self.qkv_bias,
            **self.grid_options(stage, block),
        )

    checkpoint_layouts = (axial_layout("Vision Permutator release", "mlp", "weight"),)
