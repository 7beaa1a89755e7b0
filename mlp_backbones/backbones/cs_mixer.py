"""CS-Mixer: "A Cross-Scale Vision MLP Model with Spatial-Channel Mixing".

Paper: arXiv 2308.13363, IEEE Transactions on Artificial Intelligence 2024. No code was
released under the paper's name. Formulas and sizes follow the first author's public
development code (crrrr30/convmixer, branch ``new``, Apache-2.0 licence, class
``CrossFormer`` of ``timm/models/tpmlp.py``), whose largest size has the parameters and
FLOPs that the paper states; the code here is written anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from mlp_backbones.arguments import image_size as check_image_size
from mlp_backbones.arguments import one_of, positive, positive_int, switch
from mlp_backbones.backbones.arch import StagedArch, per_stage, single
from mlp_backbones.backbones.base import (
    MIN_INPUT_SIZE,
    CommonArguments,
    MLPBackbone,
)
from mlp_backbones.checkpoints import CheckpointLayout
from mlp_backbones.checkpoints.renames import trailing_downsample
from mlp_backbones.layers import ChannelLinear
from mlp_backbones.ops import recomputed
from mlp_backbones.registry import MODELS

GLOBAL_GROUPINGS = ("span", "fixed")


class CrossScaleConv(nn.Module):
    """Convolutions of several kernels and one stride, side by side.

    Source: CrossFormer (arXiv 2108.00154, section 3.1.1), taken over by CS-Mixer. The
    first kernel, the smallest, gives half the channels, each further one half of what
    its forerunner gives, and the last as many as the one before it.

    Args:
        in_channels: Channels of the input.
        dim: Channels of the output, a multiple of 2 to the number of kernels less one.
        kernel_sizes: Sides of the kernels, in cells; each is ``stride`` plus an even
            number, so that all give the same map.
        stride: Step of all kernels, in cells.
    """

    def __init__(
        self, in_channels: int, dim: int, kernel_sizes: Sequence[int], stride: int
    ) -> None:
        super().__init__()
        last = len(kernel_sizes) - 1
        self.projs = nn.ModuleList(
            nn.Conv2d(
                in_channels,
                dim >> min(index + 1, last),
                kernel_size,
                stride,
                (kernel_size - stride) // 2,
            )
            for index, kernel_size in enumerate(kernel_sizes)
        )

    def embed(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, H // stride, W // stride, C')."""
        return torch.cat([proj(x).permute(0, 2, 3, 1) for proj in self.projs], dim=-1)


class CrossScaleStem(CrossScaleConv):
    """Patches of several sizes around the same centres, then a layer norm.

    Args:
        in_channels: Channels of the image.
        dim: Channels of the output.
        patch_sizes: Sides of the patches, in pixels; the first is the stride too.
        norm: Whether there is a norm.
        norm_eps: Epsilon of the norm.
    """

    def __init__(
        self,
        in_channels: int,
        dim: int,
        patch_sizes: Sequence[int],
        *,
        norm: bool = True,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__(in_channels, dim, patch_sizes, patch_sizes[0])
        self.norm = nn.LayerNorm(dim, eps=norm_eps) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map an image (B, C, H, W) to (B, H // stride, W // stride, C')."""
        return self.norm(self.embed(x))


class CrossScaleMerging(CrossScaleConv):
    """A layer norm, then convolutions of several kernels that halve both sides.

    Args:
        in_channels: Channels of the input.
        dim: Channels of the output.
        kernel_sizes: Sides of the kernels, in cells.
        norm_eps: Epsilon of the norm.
    """

    def __init__(
        self,
        in_channels: int,
        dim: int,
        kernel_sizes: Sequence[int],
        *,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__(in_channels, dim, kernel_sizes, stride=2)
        self.norm = nn.LayerNorm(in_channels, eps=norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, ceil(H / 2), ceil(W / 2), C')."""
        height, width = x.shape[1:3]
        x = self.norm(x)
        if height % 2 or width % 2:
            x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        return self.embed(x.permute(0, 3, 1, 2))  # (B, H, W, C) -> (B, C, H, W)


class GroupMixer(nn.Module):
    """Mix space and squeezed channels of each group of tokens by one matrix per head.

    Each token is squeezed to ``num_heads`` times ``reduced_dim`` numbers. The numbers
    that one head has in a group of G x G tokens form one vector, which is multiplied
    by a full matrix. The result, expanded to all channels, gates a linear map of the
    input. Source: the development code, class ``Attention``.

    Tokens of a group lie ``interval`` apart. Maps that are no whole number of groups
    are filled up with zero tokens at the right and the bottom, which give the bias of
    the squeezing layer.

    Args:
        dim: Channels in and out.
        num_heads: Number of heads m.
        reduced_dim: Numbers d that a token keeps in each head.
        group_size: Side G of a group, in tokens.
        interval: Distance between neighbours of a group along height and width, in
            tokens; None spreads each group over the whole map. On maps of at most
            ``group_size`` tokens along either side it is 1.
        value_bias: Whether the linear map that is gated has a bias.
        recompute: Whether the gate is computed again in the backward pass instead of
            stored, which costs the products of the squeezed channels alone.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        reduced_dim: int,
        group_size: int,
        interval: tuple[int, int] | None = (1, 1),
        value_bias: bool = True,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.reduced_dim = reduced_dim
        self.group_size = group_size
        self.interval = interval
        self.recompute = recompute
        length = group_size * group_size * reduced_dim
        # head, input, output: vectors are rows and stand in front of the matrix
        self.weight = nn.Parameter(torch.empty(num_heads, length, length))
        self.bias = nn.Parameter(torch.empty(num_heads, length))
        self.value = ChannelLinear(dim, dim, bias=value_bias)
        self.squeeze = ChannelLinear(dim, num_heads * reduced_dim)
        self.expand = ChannelLinear(num_heads * reduced_dim, dim)
        self.proj = ChannelLinear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start with gates that are all but 1: the mixer starts as a linear map."""
        nn.init.trunc_normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)
        bound = 1e-3 / self.group_size**2
        nn.init.uniform_(self.expand.weight, -bound, bound)
        nn.init.ones_(self.expand.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        # all but the matrices works token by token: only squeezed maps are grouped
        mixed = self._mix(x)
        if self.recompute and self.training:
            return recomputed(self._gate, self.value(x), mixed)
        return self._gate(self.value(x), mixed)

    def _gate(self, value: Tensor, mixed: Tensor) -> Tensor:
        return self.proj(value * self.expand(mixed))

    def _mix(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        side = self.group_size
        (rows, row_step), (columns, column_step) = self._layout(height, width)
        bottom = rows * side * row_step - height
        right = columns * side * column_step - width
        if bottom or right:
            x = F.pad(x, (0, 0, 0, right, 0, bottom))
        x = self.squeeze(x)
        # (B, H, W, m * d) -> (B, rows, G, step, columns, G, step, m, d)
        x = x.reshape(
            *(batch, rows, side, row_step, columns, side, column_step),
            *(self.num_heads, self.reduced_dim),
        )
        x = x.permute(7, 0, 1, 3, 4, 6, 2, 5, 8)
        grouped = x.shape  # (m, B, rows, step, columns, step, G, G, d)
        # the heads are the batch: no matrix is copied for each group
        x = torch.bmm(x.reshape(self.num_heads, -1, self.weight.shape[1]), self.weight)
        x = (x + self.bias.unsqueeze(1)).view(grouped)
        # -> (B, rows, G, step, columns, G, step, m, d)
        x = x.permute(1, 2, 6, 3, 4, 7, 5, 0, 8)
        x = x.flatten(1, 3).flatten(2, 4).flatten(3)  # (B, H', W', m * d)
        return x[:, :height, :width]

    def _layout(
        self, height: int, width: int
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return for each axis the number of windows of groups and the interval."""
        local = min(height, width) <= self.group_size or self.interval == (1, 1)
        layout = []
        for axis, size in enumerate((height, width)):
            num_groups = -(-size // self.group_size)
            if local:
                layout.append((num_groups, 1))
            elif self.interval is None:
                layout.append((1, num_groups))
            else:
                step = min(self.interval[axis], num_groups)
                layout.append((-(-num_groups // step), step))
        return layout[0], layout[1]

    def extra_repr(self) -> str:
        """Show the size of the groups and how far they reach."""
        return f"group_size={self.group_size}, interval={self.interval}"


@dataclass(frozen=True, kw_only=True)
class CSMixerArch(StagedArch):
    """Four stages of mixers with heads of their own, and equal channel MLPs."""

    num_heads: tuple[int, ...] = per_stage(positive_int)
    reduced_dims: tuple[int, ...] = per_stage(positive_int)
    group_sizes: tuple[int, ...] = per_stage(positive_int)
    mlp_ratio: float = single(positive)


def _kernel_sizes(
    name: str, kernel_sizes: Sequence[int], *, stride: int
) -> tuple[int, ...]:
    sizes = tuple(kernel_sizes) if isinstance(kernel_sizes, Sequence) else ()
    if (
        not sizes
        or not all(type(size) is int and size >= stride for size in sizes)
        or any((size - stride) % 2 for size in sizes)
        or (name == "patch_sizes" and sizes[0] != stride)
    ):
        raise ValueError(
            f"{name} must hold even kernel sizes of at least the stride {stride}"
            f"{', the stride first' if name == 'patch_sizes' else ''}; got "
            f"{kernel_sizes!r}"
        )
    return sizes


def _split_dim(name: str, dim: int, kernel_sizes: Sequence[int]) -> int:
    parts = 2 ** (len(kernel_sizes) - 1)
    if dim % parts:
        raise ValueError(
            f"embed_dims must be multiples of {parts} for {len(kernel_sizes)} "
            f"{name}, got {dim}"
        )
    return dim


@MODELS.register_module()
class CSMixer(MLPBackbone):
    """CS-Mixer, four stages, any image size.

    Even blocks of a stage mix groups of adjacent tokens, odd blocks groups of tokens
    spread over the map. The mixing matrices belong to the size of a group, not of the
    image; where the training image gives a stage fewer tokens than a group, its groups
    are smaller. Sides of the first map are rounded down as by the convolutions of the
    stem, whose larger patches still see the pixels behind the last whole patch; later
    ones are rounded up.

    Only ``l`` is confirmed by the paper. ``t``, ``s`` and ``b`` are the development
    code's.

    Args:
        arch: ``t``, ``s``, ``b``, ``l``, ``mini``, or a mapping with ``embed_dims``,
            ``depths``, ``num_heads``, ``reduced_dims`` and ``group_sizes``, four
            numbers each, and ``mlp_ratio``.
        image_size: Side of the training images, or height and width, in pixels.
        global_grouping: How far the groups of odd blocks reach. ``"span"`` spreads
            them over the whole map, as the authors' code does at its training size.
            ``"fixed"`` keeps the distances between tokens that training had (8, 4, 2
            and 1 in the four stages at 224 pixels), as CrossFormer's detectors do.
        patch_sizes: Sides of the stem's patches, in pixels, the first one 4.
        merge_sizes: Kernels that lead to the second, third and fourth stage.
        patch_norm: Whether the stem ends in a layer norm.
        qkv_bias: Whether the linear maps that are gated have a bias; the authors' code
            has kept the name from attention.
        norm_eps: Epsilon of all layer norms.
        recompute: Whether training computes normed, gating and activated maps again
            instead of storing them, which costs no product of whole maps: two fifths
            less memory for some more time.
        common: See :class:`MLPBackbone`.

    Example:
        >>> import torch
        >>> backbone = CSMixer("t", out_indices=(1, 2, 3))
        >>> [tuple(m.shape) for m in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 128, 8, 12), (1, 256, 4, 6), (1, 512, 2, 3)]
    """

    family = "cs_mixer"

    # fmt: off
    arch_settings: ClassVar[Mapping[str, CSMixerArch]] = {
        name: CSMixerArch(
            embed_dims=(dim, 2 * dim, 4 * dim, 8 * dim), depths=depths,
            num_heads=(heads, 2 * heads, 4 * heads, 8 * heads),
            reduced_dims=(reduced,) * 4, group_sizes=(7, 7, 7, 7), mlp_ratio=4,
        )
        for name, dim, depths, heads, reduced in (
            ("t", 64, (1, 1, 8, 6), 2, 2),
            ("s", 96, (2, 2, 6, 2), 3, 4),
            ("b", 96, (2, 2, 18, 2), 3, 4),
            ("l", 128, (2, 2, 18, 2), 4, 4),
        )
    }
    mini_arch = CSMixerArch(
        embed_dims=(32, 64, 128, 192), depths=(2, 2, 2, 1), num_heads=(2, 2, 4, 6),
        reduced_dims=(2, 2, 2, 2), group_sizes=(6, 6, 6, 6), mlp_ratio=4,
    )
    # fmt: on
    mini_options: ClassVar[dict[str, Any]] = {"image_size": 64}

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "t",
        *,
        image_size: int | Sequence[int] = 224,
        global_grouping: str = "span",
        patch_sizes: Sequence[int] = (4, 8, 16, 32),
        merge_sizes: Sequence[Sequence[int]] = ((2, 4), (2, 4), (2, 4)),
        patch_norm: bool = True,
        qkv_bias: bool = True,
        norm_eps: float = 1e-5,
        recompute: bool = False,
        **common: Unpack[CommonArguments],
    ) -> None:
        if (
            not isinstance(merge_sizes, Sequence)
            or len(merge_sizes) != len(self.stage_strides) - 1
        ):
            raise ValueError(
                f"merge_sizes must hold {len(self.stage_strides) - 1} sequences of "
                f"kernel sizes, got {merge_sizes!r}"
            )
        self.image_size = check_image_size(image_size, MIN_INPUT_SIZE)
        self.global_grouping = one_of(
            "global_grouping", global_grouping, GLOBAL_GROUPINGS
        )
        self.patch_sizes = _kernel_sizes("patch_sizes", patch_sizes, stride=4)
        self.merge_sizes = tuple(
            _kernel_sizes("merge_sizes", sizes, stride=2) for sizes in merge_sizes
        )
        self.patch_norm = switch("patch_norm", patch_norm)
        self.qkv_bias = switch("qkv_bias", qkv_bias)
        self.norm_eps = norm_eps
        self.recompute = switch("recompute", recompute)
        super().__init__(arch, **common)

    def build_stem(self) -> nn.Module:
        """Build the cross-scale patch embedding, stride 4."""
        return CrossScaleStem(
            self.in_channels,
            _split_dim("patch_sizes", self.embed_dims[0], self.patch_sizes),
            self.patch_sizes,
            norm=self.patch_norm,
            norm_eps=self.norm_eps,
        )

    def build_downsample(self, stage: int) -> nn.Module:
        """Build the cross-scale convolutions that halve both sides."""
        kernel_sizes = self.merge_sizes[stage - 1]
        return CrossScaleMerging(
            self.embed_dims[stage - 1],
            _split_dim("merge_sizes", self.embed_dims[stage], kernel_sizes),
            kernel_sizes,
            norm_eps=self.norm_eps,
        )

    def build_mixer(self, stage: int, block: int) -> GroupMixer:
        """Build one mixer: local where the block's number in the stage is even."""
        sides = [side // 4 >> stage for side in self.image_size]
        group_size = min(self.arch.group_sizes[stage], *sides)
        interval: tuple[int, int] | None = (1, 1)
        if block % 2:
            height, width = (-(-side // group_size) for side in sides)
            interval = (height, width) if self.global_grouping == "fixed" else None
        return GroupMixer(
            self.embed_dims[stage],
            num_heads=self.arch.num_heads[stage],
            reduced_dim=self.arch.reduced_dims[stage],
            group_size=group_size,
            interval=interval,
            value_bias=self.qkv_bias,
            recompute=self.recomputes,
        )

    def _init_module(self, module: nn.Module) -> None:
        super()._init_module(module)
        if isinstance(module, GroupMixer):  # comes behind its own linear layers
            module.reset_parameters()

    checkpoint_layouts = (
        CheckpointLayout(
            name="CS-Mixer development code",
            signature=r"^layers\.\d+\.blocks\.\d+\.attn\.v_proj\.",
            renames=(
                (r"^patch_embed\.", "stem."),
                (r"^layers\.(\d+)\.downsample\.", trailing_downsample),
                (r"^layers\.", "stages."),
                (r"\.reductions\.", ".projs."),
                (r"\.attn\.to_u\.", ".mixer.value."),
                (r"\.attn\.to_v\.", ".mixer.squeeze."),
                (r"\.attn\.v_proj\.", ".mixer.expand."),
                (r"\.attn\.", ".mixer."),
            ),
        ),
    )
