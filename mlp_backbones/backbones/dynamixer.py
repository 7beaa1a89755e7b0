"""DynaMixer: "A Vision MLP Architecture with Dynamic Mixing".

Paper: arXiv 2201.12083, ICML 2022. Facts and the layout of weights follow the authors'
code (ziyuwwang/DynaMixer, MIT licence), which came without weights; the code here is
written anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from mlp_backbones.arguments import positive_int
from mlp_backbones.backbones.arch import TwoStrideArch, per_stage
from mlp_backbones.backbones.axial import AxialArguments, AxialBackbone, axial_layout
from mlp_backbones.layers import AxialMixer, ChannelLinear, linear_samples, map_to_grid
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
        self.generate = ChannelLinear(length * reduced_dim, length * length)
        self.out = ChannelLinear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Mix lines.

        Args:
            x: Lines of any length L', (B, number, L', C).
            mask: True for real tokens, (B, number, L', 1), or None if all are real.

        Returns:
            The mixed lines, (B, number, L', C).
        """
        values = x.unflatten(-1, (self.num_heads, -1)).transpose(2, 3)
        mixing = self.mixing_weights(x, mask)
        mixed = mixing.to(x.dtype).transpose(-2, -1) @ values
        # (B, number, heads, L', C / heads) -> (B, number, L', C)
        return self.out(mixed.transpose(2, 3).flatten(3))

    def mixing_weights(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Generate the weights of lines; the arguments are those of :meth:`forward`.

        Returns:
            Weights (B, number, heads, L', L') from the token of the last dimension but
            one to that of the last, over which real tokens' sum up to 1.
        """
        length = x.shape[2]
        reduced = map_to_grid(self.compress(x), 2, self.length)
        reduced = reduced.unflatten(-1, (self.num_heads, -1)).transpose(2, 3)
        logits = self.generate(reduced.flatten(3)).unflatten(-1, (self.length, -1))
        if length != self.length:  # (B, number, heads, L, L) -> (..., L', L')
            samples = linear_samples(self.length, length, logits)
            logits = samples @ logits @ samples.t()
        if mask is not None:
            # lines without any real token are mixed, or they would divide 0 by 0
            real = mask | ~mask.any(2, keepdim=True)
            logits = logits.masked_fill(~real[:, :, None], -torch.inf)
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        return logits.softmax(-2)


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

    def mix_lines(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Map (B, H, W, C) to two maps (B, H, W, C)."""
        # columns: (B, H, W, ...) -> (B, W, H, ...) and back
        turned = None if mask is None else mask.transpose(1, 2)
        columns = self.along_height(x.transpose(1, 2), turned)
        return columns.transpose(1, 2), self.along_width(x, mask)


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

    @property
    def grid_sides(self) -> tuple[int, ...]:
        """Side of the square token grid of each stage."""
        return self.resolutions


@MODELS.register_module()
class DynaMixer(AxialBackbone):
    """DynaMixer, two strides, and a pyramid made of them for any image size.

    The layers that generate the weights belong to lines of 32 tokens before the
    stride doubles and of 16 behind it, which are 224 pixels of the official network
    and 256 of the pyramid.

    Args:
        arch: ``s``, ``m``, ``l``, ``mini``, or a mapping with ``embed_dims``,
            ``depths``, ``resolutions`` (the side of the grid), ``num_heads``,
            ``reduced_dims``, ``transitions`` and ``mlp_ratios``, four values each, and
            ``patch_size``.
        common: See :class:`AxialBackbone`; ``qkv_bias`` is that of the channel branch.

    Example:
        >>> import torch
        >>> backbone = DynaMixer("s", out_indices=(1, 2, 3))
        >>> [tuple(m.shape) for m in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 192, 8, 12), (1, 384, 4, 6), (1, 384, 2, 3)]
    """

    family = "dynamixer"

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
        **common: Unpack[AxialArguments],
    ) -> None:
        super().__init__(arch, **common)

    def build_mixer(self, stage: int, block: int) -> DynamicMixer:
        """Build one mixer; those of a stage differ in where their windows begin."""
        return DynamicMixer(
            self.embed_dims[stage],
            num_heads=self.arch.num_heads[stage],
            reduced_dim=self.arch.reduced_dims[stage],
            qkv_bias=self.qkv_bias,
            **self.grid_options(stage, block),
        )

    checkpoint_layouts = (
        axial_layout("DynaMixer release", "mix", r"generate\.weight"),
    )
