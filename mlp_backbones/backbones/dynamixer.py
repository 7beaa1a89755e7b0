"""DynaMixer: "A Vision MLP Architecture with Dynamic Mixing".

Paper: arXiv 2201.12083, ICML 2022. Facts and the layout of weights follow the authors'
code (ziyuwwang/DynaMixer, MIT licence), which came without weights; the code here is
written anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
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
from mlp_backbones.layers import (
    AxialMixer,
    ChannelLinear,
    ChannelMLP,
    MixerBlock,
    resize_axis,
)
from mlp_backbones.ops import channel_linear
from mlp_backbones.registry import MODELS


class DynamicMix(nn.Module):
    """Mix the tokens of lines by weights that are generated from those tokens.

    Each token is reduced to few numbers for each head; one linear layer turns those
    of a whole line into logits from token to token, and a softmax into weights.
    Source: paper, section 3.2 and algorithm 1, which writes the matrix transposed.

    Args:
        dim: Channels in and out.
        length: Tokens L of a line.
        num_heads: Groups of channels that have weights of their own.
        reduced_dim: Numbers that a token is reduced to, for each head.
    """

    def __init__(
        self, dim: int, *, length: int, num_heads: int, reduced_dim: int
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.length = length
        self.compress = ChannelLinear(dim, num_heads * reduced_dim)
        self.generate = nn.Linear(length * reduced_dim, length * length)
        self.out = ChannelLinear(dim, dim)

    def forward(
        self, x: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Mix lines.

        Args:
            x: Lines, (B, number, L, C).
            weight: Weight of the generating layer for lines of L tokens.
            bias: Its bias.
            mask: True for real tokens, (B, number, L, 1), or None if all are real.

        Returns:
            The mixed lines, (B, number, L, C).
        """
        values = x.unflatten(-1, (self.num_heads, -1)).transpose(2, 3)
        mixing = self.mixing_weights(x, weight, bias, mask)
        mixed = mixing.to(x.dtype).transpose(-2, -1) @ values
        # (B, number, heads, L, C / heads) -> (B, number, L, C)
        return self.out(mixed.transpose(2, 3).flatten(3))

    def mixing_weights(
        self, x: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Generate the weights of lines; the arguments are those of :meth:`forward`.

        Returns:
            Weights (B, number, heads, L, L) from the token of the last dimension but
            one to that of the last, over which real tokens' sum up to 1.
        """
        reduced = self.compress(x).unflatten(-1, (self.num_heads, -1)).transpose(2, 3)
        logits = channel_linear(reduced.flatten(3), weight, bias)
        logits = logits.unflatten(-1, (x.shape[2], -1))  # (B, number, heads, L, L)
        if mask is not None:
            # lines without any real token are mixed, or they would divide 0 by 0
            real = mask | ~mask.any(2, keepdim=True)
            logits = logits.masked_fill(~real[:, :, None], -torch.inf)
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        return logits.softmax(-2)

    def resize_weights(self, length: int) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the generating layer for lines of ``length``."""
        # (L * L, L * reduced) -> (L, L, L, reduced)
        square = (self.length, self.length)
        weight = self.generate.weight.unflatten(1, (self.length, -1))
        weight, bias = weight.unflatten(0, square), self.generate.bias.view(square)
        weight = resize_axis(weight, 2, length, scale=True)
        for dim in (0, 1):
            weight = resize_axis(weight, dim, length)
            bias = resize_axis(bias, dim, length)
        return weight.flatten(2).flatten(0, 1), bias.flatten()


class DynamicMixer(AxialMixer):
    """Dynamic mixing of columns and of rows, blended with a channel branch.

    Source: paper, section 3.3 and figure 1.

    Args:
        dim: Channels in and out.
        num_heads: Groups of channels that have weights of their own.
        reduced_dim: Numbers that a token is reduced to, for each head.
        grid_size: Height and width of the grid the weights belong to, in tokens.
        qkv_bias: Whether the channel branch has a bias.
        options: The other arguments of :class:`GridMixer`.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        reduced_dim: int,
        grid_size: tuple[int, int],
        qkv_bias: bool,
        **options: Any,
    ) -> None:
        super().__init__(dim, qkv_bias=qkv_bias, grid_size=grid_size, **options)
        self.along_height, self.along_width = (
            DynamicMix(dim, length=side, num_heads=num_heads, reduced_dim=reduced_dim)
            for side in grid_size
        )

    def mix_lines(
        self, x: Tensor, weights: tuple[Tensor, ...], mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Map (B, H, W, C) to two maps (B, H, W, C)."""
        # columns: (B, H, W, ...) -> (B, W, H, ...) and back
        turned = None if mask is None else mask.transpose(1, 2)
        columns = self.along_height(x.transpose(1, 2), *weights[:2], turned)
        return columns.transpose(1, 2), self.along_width(x, *weights[2:], mask)

    def resize_weights(self, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """Return weight and bias of the generating layers of columns and rows."""
        height, width = size
        return *self.along_height.resize_weights(
            height
        ), *self.along_width.resize_weights(width)


@dataclass(frozen=True, kw_only=True)
class DynaMixerArch(TwoStrideArch):
    """Two strides; ``resolutions`` are the sides of the grids, in tokens."""

    resolutions: tuple[int, ...] = per_stage(positive_int)
    num_heads: tuple[int, ...] = per_stage(positive_int)
    reduced_dims: tuple[int, ...] = per_stage(positive_int)

    def __post_init__(self) -> None:
        super().__post_init__()
        for dim, heads in zip(self.embed_dims, self.num_heads, strict=True):
            if dim % heads:
                raise ValueError(
                    "arch field 'num_heads' must divide 'embed_dims': "
                    f"{dim} channels make no {heads} heads"
                )


@MODELS.register_module()
class DynaMixer(ResampledBackbone):
    """DynaMixer, two strides, and a pyramid made of them for any image size.

    The layers that generate the weights belong to lines of 32 tokens before the
    stride doubles and of 16 behind it, which are 224 pixels of the official network
    and 256 of the pyramid.

    Args:
        arch: ``s``, ``m``, ``l``, ``mini``, or a mapping with ``embed_dims``,
            ``depths``, ``resolutions`` (the side of the grid), ``num_heads``,
            ``reduced_dims``, ``transitions`` and ``mlp_ratios``, four values each, and
            ``patch_size``.
        image_size: Side of the training images, or height and width, in pixels of
            the official network, where the weights belong to another grid than
            ``resolutions`` says.
        grid: ``"window"`` runs the mixer, pooling for the blend included, inside
            windows of the grid; ``"interpolate"`` resamples the generating layers,
            which grow with the third power of the map's sides.
        shift_windows: Whether the windows of every second block are half a window
            away.
        qkv_bias: Whether the channel branch of the mixer has a bias.
        skip_lam: Divisor of both residual branches.
        norm_eps: Epsilon of the blocks' and output layer norms.
        common: See :class:`ResampledBackbone`.

    Example:
        >>> import torch
        >>> backbone = DynaMixer("s", out_indices=(1, 2, 3))
        >>> [tuple(m.shape) for m in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 192, 8, 12), (1, 384, 4, 6), (1, 384, 2, 3)]
    """

    family = "dynamixer"
    grid_modes = ("window", "interpolate")

    # fmt: off
    arch_settings: ClassVar[Mapping[str, DynaMixerArch]] = {
        name: DynaMixerArch(
            embed_dims=dims, depths=depths, resolutions=resolutions, num_heads=heads,
            reduced_dims=(reduced,) * 4,
            transitions=tuple(stage == merge for stage in range(4)),
            mlp_ratios=(3, 3, 3, 3), patch_size=7,
        )
        for name, dims, depths, resolutions, heads, reduced, merge in (
            ("s", (192, 384, 384, 384), (4, 3, 8, 3),
             (32, 16, 16, 16), (8, 16, 16, 16), 2, 0),
            ("m", (256, 256, 512, 512), (4, 3, 14, 3),
             (32, 32, 16, 16), (8, 8, 16, 16), 2, 1),
            ("l", (256, 512, 512, 512), (8, 8, 16, 4),
             (32, 16, 16, 16), (8, 16, 16, 16), 8, 0),
        )
    }
    mini_arch = DynaMixerArch(
        embed_dims=(96, 144, 144, 144), depths=(3, 2, 2, 1),
        resolutions=(24, 12, 12, 12), num_heads=(8,) * 4, reduced_dims=(2,) * 4,
        transitions=(True, False, False, False), mlp_ratios=(3,) * 4, patch_size=7,
    )
    # fmt: on
    mini_options: ClassVar[dict[str, Any]] = {"image_size": 64}

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "s",
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
            fields, fields.resolutions, image_size, mode, shift_windows
        )
        super().__init__(arch, **common)

    def build_block(self, stage: int, block: int, drop_path_rate: float) -> nn.Module:
        """Build one block; those of a stage differ in where their windows begin."""
        dim = self.embed_dims[stage]
        return MixerBlock(
            norm1=nn.LayerNorm(dim, eps=self.norm_eps),
            mixer=DynamicMixer(
                dim,
                num_heads=self.arch.num_heads[stage],
                reduced_dim=self.arch.reduced_dims[stage],
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
            name="DynaMixer release",
            signature=r"^network\.\d+\.\d+\.attn\.mix_h\.generate\.weight",
            renames=(
                (r"^patch_embed\.", "stem."),
                (r"\.attn\.mix_h\.", ".mixer.along_height."),
                (r"\.attn\.mix_w\.", ".mixer.along_width."),
                (r"\.attn\.mlp_c\.", ".mixer.channel."),
                (r"\.attn\.", ".mixer."),
            ),
            convert=tell_downsamplings,
        ),
    )
