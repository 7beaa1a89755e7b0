"""Vision Permutator: "A Permutable MLP-Like Architecture for Visual Recognition".

Paper: arXiv 2106.12368, IEEE TPAMI 2022. Facts and the layout of weights follow the
authors' release (houqb/VisionPermutator, MIT licence, weights for non-commercial use);
the code is written anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import Unpack

from mlp_backbones.arguments import one_of, positive, positive_int, switch
from mlp_backbones.backbones.arch import TwoStrideArch, per_stage
from mlp_backbones.backbones.resampled import (
    ResampledArguments,
    ResampledBackbone,
    two_stride_grid,
)
from mlp_backbones.checkpoints import CheckpointLayout
from mlp_backbones.checkpoints.renames import tell_downsamplings
from mlp_backbones.layers import AxialMixer, ChannelMLP, MixerBlock, resize_axis
from mlp_backbones.ops import channel_linear
from mlp_backbones.registry import MODELS


class PermuteMixer(AxialMixer):
    """Mix lines by one linear map per axis, as wide as line times segment.

    Channels are cut into segments. All numbers that a line of tokens has in one
    segment form one vector, token by token, and each such vector passes the axis's
    linear layer: a segment of C / G channels on a line of G tokens makes C numbers.
    Source: paper, section 3.2 and algorithm 1.

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
        self.along_height = nn.Linear(height, height, bias=qkv_bias)
        self.along_width = nn.Linear(width, width, bias=qkv_bias)

    def mix_lines(
        self, x: Tensor, weights: tuple[Tensor, ...], mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Map (B, H, W, C) to two maps (B, H, W, C)."""
        half = len(weights) // 2
        x = x.unflatten(-1, (self.num_segments, -1))  # (B, H, W, G, C / G)
        columns = _mix(x.permute(0, 2, 3, 1, 4), *weights[:half])  # (B, W, G, H, C / G)
        columns = columns.permute(0, 3, 1, 2, 4).flatten(3)
        rows = _mix(x.transpose(2, 3), *weights[half:])  # (B, H, G, W, C / G)
        rows = rows.transpose(2, 3).flatten(3)
        return columns, rows

    def resize_weights(self, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """Return weight and bias, if any, of the columns, then those of the rows.

        Every pair of channels of a segment has a table of its own from token to
        token; each is resampled, and scaled as sums over longer lines need.
        """
        weights = []
        for linear, old, new in zip(
            (self.along_height, self.along_width), self.grid_size, size, strict=True
        ):
            # (C, C) -> (L', S, L, S)
            weight = linear.weight.unflatten(1, (old, -1)).unflatten(0, (old, -1))
            weight = resize_axis(resize_axis(weight, 2, new, scale=True), 0, new)
            weights.append(weight.flatten(2).flatten(0, 1))
            if linear.bias is not None:
                bias = resize_axis(linear.bias.unflatten(0, (old, -1)), 0, new)
                weights.append(bias.flatten())
        return tuple(weights)


def _mix(lines: Tensor, *weights: Tensor) -> Tensor:
    """Pass lines (..., L, S) through a linear layer on their L * S numbers."""
    return channel_linear(lines.flatten(-2), *weights).unflatten(-1, lines.shape[-2:])


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


@MODELS.register_module()
class VisionPermutator(ResampledBackbone):
    """Vision Permutator, one or two strides, and a pyramid made of them.

    The weights that mix lines belong to a grid of 32 x 32 tokens before the stride
    doubles and of 16 x 16 behind it, which are 224 pixels of the official network and
    256 of the pyramid.

    Args:
        arch: ``s14``, ``s7``, ``m7``, ``l7``, ``mini``, or a mapping with
            ``embed_dims``, ``depths``, ``segment_dims`` (the number of segments, and
            the side of the grid), ``transitions`` and ``mlp_ratios``, four values
            each, and ``patch_size``.
        image_size: Side of the training images, or height and width, in pixels of
            the official network, where the weights belong to another grid than
            ``segment_dims`` says.
        grid: ``"window"`` runs the mixer, pooling for the blend included, inside
            windows of the grid; ``"interpolate"`` resamples the weights, which grow
            with the square of the map's sides.
        shift_windows: Whether the windows of every second block are half a window
            away.
        qkv_bias: Whether the three branches of the mixer have a bias.
        skip_lam: Divisor of both residual branches.
        norm_eps: Epsilon of the blocks' and output layer norms.
        common: See :class:`ResampledBackbone`.

    Example:
        >>> import torch
        >>> backbone = VisionPermutator("s7", out_indices=(1, 2, 3))
        >>> [tuple(m.shape) for m in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 192, 8, 12), (1, 384, 4, 6), (1, 384, 2, 3)]
    """

    family = "vip"
    grid_modes = ("window", "interpolate")

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
        *,
        image_size: int | Sequence[int] | None = None,
        grid: str = "window",
        shift_windows: bool = False,
        qkv_bias: bool = False,
        skip_lam: float = 1.0,
        norm_eps: float = 1e-5,
        **common: Unpack[ResampledArguments],
    ) -> None:
        self.qkv_bias = switch("qkv_bias", qkv_bias)
        self.skip_lam = positive("skip_lam", skip_lam)
        self.norm_eps = norm_eps
        fields, mode = self.resolve_arch(arch), one_of("grid", grid, self.grid_modes)
        self.token_grid = two_stride_grid(
            fields, fields.segment_dims, image_size, mode, shift_windows
        )
        super().__init__(arch, **common)

    def build_block(self, stage: int, block: int, drop_path_rate: float) -> nn.Module:
        """Build one block; those of a stage differ in where their windows begin."""
        dim = self.embed_dims[stage]
        return MixerBlock(
            norm1=nn.LayerNorm(dim, eps=self.norm_eps),
            mixer=PermuteMixer(
                dim,
                num_segments=self.arch.segment_dims[stage],
                qkv_bias=self.qkv_bias,
                **self.token_grid.options(stage, self.block_number(stage, block)),
            ),
            norm2=nn.LayerNorm(dim, eps=self.norm_eps),
            mlp=ChannelMLP(dim, int(dim * self.arch.mlp_ratios[stage])),
            drop_path_rate=drop_path_rate,
            branch_scale=1.0 / self.skip_lam,
        )

    checkpoint_layouts = (
        CheckpointLayout(
            name="Vision Permutator release",
            signature=r"^network\.\d+\.\d+\.attn\.mlp_h\.weight",
            renames=(
                (r"^patch_embed\.", "stem."),
                (r"\.attn\.mlp_h\.", ".mixer.along_height."),
                (r"\.attn\.mlp_w\.", ".mixer.along_width."),
                (r"\.attn\.mlp_c\.", ".mixer.channel."),
                (r"\.attn\.", ".mixer."),
            ),
            convert=tell_downsamplings,
        ),
    )
