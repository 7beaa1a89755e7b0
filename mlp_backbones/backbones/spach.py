"""SPACH: "A Battle of Network Structures: An Empirical Study of CNN, Transformer, MLP".

Paper: arXiv 2108.13002. Facts follow the authors' release (microsoft/SPACH, MIT
licence); the code is written anew.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from mlp_backbones.arguments import (
    not_negative,
    one_of,
    positive,
    positive_int,
    switch,
)
from mlp_backbones.backbones.arch import Arch, per_stage, single
from mlp_backbones.backbones.resampled import GridArguments, GridBackbone
from mlp_backbones.checkpoints import CheckpointLayout
from mlp_backbones.layers import (
    ChannelLinear,
    ChannelMLP,
    DropPath,
    LayerScale,
    SampleNorm,
    TokenMLP,
    apply_norm,
    join_windows,
    partition_windows,
)
from mlp_backbones.ops.dispatch import is_compiling, is_transformed
from mlp_backbones.registry import MODELS

KINDS = ("pass", "mlp", "attn")
STEMS = ("conv1", "conv4")
_STEM_DIM = 64
_HYBRID = "pass 3; pass 2, attn 2; pass 2, attn 10; pass 1, attn 2"


class PatchStem(nn.Module):
    """Patch embedding, plain or behind three convolutions, and a layer norm.

    Args:
        in_channels: Channels of the image.
        dim: Channels of the tokens.
        patch_size: Side of the patches, in pixels.
        stem_type: ``"conv1"`` or ``"conv4"``; the latter halves the image first.
        norm_eps: Epsilon of the layer norm.
    """

    def __init__(
        self,
        in_channels: int,
        dim: int,
        *,
        patch_size: int,
        stem_type: str,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        self.norms = nn.ModuleList()
        if stem_type == "conv4":
            for index in range(3):
                first = index == 0
                self.convs.append(
                    nn.Conv2d(
                        in_channels if first else _STEM_DIM,
                        _STEM_DIM,
                        kernel_size=7 if first else 3,
                        stride=2 if first else 1,
                        padding=3 if first else 1,
                        bias=False,
                    )
                )
                self.norms.append(nn.BatchNorm2d(_STEM_DIM))
            in_channels, patch_size = _STEM_DIM, patch_size // 2
        self.proj = nn.Conv2d(in_channels, dim, patch_size, patch_size)
        self.norm = nn.LayerNorm(dim, eps=norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, H', W', C')."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x)))
        x = self.proj(x).permute(0, 2, 3, 1)  # (B, C', H', W') -> (B, H', W', C')
        return self.norm(x.contiguous())


class NormedMerge(nn.Module):
    """Halve both sides by a convolution, then norm the whole map at once.

    Args:
        in_channels: Channels in.
        dim: Channels out.
        norm_eps: Epsilon of the group norm.
    """

    def __init__(self, in_channels: int, dim: int, *, norm_eps: float) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, 2, 2, bias=False)
        # one group: mean and variance over channels, height and width of each sample
        self.norm = SampleNorm(dim, eps=norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H // 2, W // 2, C')."""
        x = self.proj(x.permute(0, 3, 1, 2))  # (B, H, W, C) -> (B, C', H', W')
        return apply_norm(self.norm, x.permute(0, 2, 3, 1).contiguous())


class TokenAttention(nn.Module):
    """Multi-head self-attention over all tokens, or inside windows.

    Args:
        dim: Channels in and out.
        num_heads: Number of heads.
        window: Side of the windows, in tokens, or None for the whole map.
    """

    def __init__(self, dim: int, num_heads: int, *, window: int | None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window = window
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = ChannelLinear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        size = (x.shape[1], x.shape[2])
        if self.window is None or max(size) <= self.window:
            return self._attend(x, None)
        windows, mask = partition_windows(x, (self.window, self.window))
        return join_windows(self._attend(windows, mask), size)

    def _attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        qkv = self.qkv(x.flatten(1, 2))  # (B, N, 3C): query, key, value; head; channel
        qkv = qkv.unflatten(-1, (3, self.num_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, N, C / heads)
        if mask is not None:
            mask = mask.flatten(1)[:, None, None]  # (B, 1, 1, N): keys that exist
        # counters of FLOPs know products only; fused kernels lack forward derivatives
        if torch.jit.is_tracing() or (not is_compiling() and is_transformed()):
            attended = _plain_attention(query, key, value, mask)
        else:
            attended = F.scaled_dot_product_attention(query, key, value, mask)
        # (B, heads, N, C / heads) -> (B, H, W, C)
        return self.proj(attended.transpose(1, 2).reshape(x.shape))


def _plain_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
) -> Tensor:
    logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if mask is not None:
        logits = logits.masked_fill(~mask, float("-inf"))
    return logits.softmax(-1) @ value


class SpachBlock(nn.Module):
    """A spatial mixer and a depthwise convolution side by side, then a channel MLP.

    Source: paper, section 3.1 and figure 1. The convolution, the authors' conditional
    positional encoding, reads the block's input as it is and is never dropped.

    Args:
        dim: Channels in and out.
        mixer: Spatial mixer, (B, H, W, C) to (B, H, W, C), or None for none.
        hidden_dim: Width of the channel MLP.
        layer_scale: Initial value of the learnt scale of the mixer's channels.
        norm_eps: Epsilon of the layer norms.
        drop_path_rate: Stochastic depth rate of mixer and channel MLP.
    """

    def __init__(
        self,
        dim: int,
        *,
        mixer: nn.Module | None,
        hidden_dim: int,
        layer_scale: float,
        norm_eps: float,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        self.mixer = mixer
        if mixer is not None:
            self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
            self.layer_scale = LayerScale(dim, layer_scale)
        self.cpe = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = ChannelMLP(dim, hidden_dim)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        # (B, H, W, C) -> (B, C, H, W) and back: views in channels_last memory format
        y = x + self.cpe(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        if self.mixer is not None:
            y = y + self.drop_path(self.layer_scale(self.mixer(self.norm1(x))))
        return y + self.drop_path(self.mlp(self.norm2(y)))


def _rename_layer(match: re.Match[str]) -> str:
    stage, index = int(match[1]) - 1, int(match[2])
    if stage == 0:
        return f"stages.0.blocks.{index}."
    if index == 0:
        return f"stages.{stage}.downsample."
    return f"stages.{stage}.blocks.{index - 1}."


_RENAMES = (
    (r"^norm1\.", "stem.norm."),
    (r"^norm2\.", "norm."),
    (r"^stem\.proj\.([036])\.", lambda m: f"stem.convs.{int(m[1]) // 3}."),
    (r"^stem\.proj\.([147])\.", lambda m: f"stem.norms.{int(m[1]) // 3}."),
    (r"^stem\.proj\.9\.", "stem.proj."),
    (r"^layer(\d+)\.(\d+)\.", _rename_layer),
    (r"\.downsample\.net\.1\.0\.", ".downsample.proj."),
    (r"\.downsample\.net\.1\.1\.", ".downsample.norm."),
    (r"\.spatial_func\.", ".mixer."),
    (r"\.cpe_net\.net\.1\.", ".cpe."),
    (r"\.channel_func\.", ".mlp."),
    (r"\.gamma_1$", ".layer_scale.gamma"),
)


def _blocks(name: str, stage: Any) -> tuple[tuple[str, int], ...]:
    """Check the pairs of one stage: what mixes, and in how many blocks."""
    if isinstance(stage, str) or not isinstance(stage, Sequence):
        raise ValueError(f"{name} must hold pairs for each stage, got {stage!r}")
    for pair in stage:
        if (
            isinstance(pair, str)
            or not isinstance(pair, Sequence)
            or len(pair) != 2
            or pair[0] not in KINDS
            or type(pair[1]) is not int
            or pair[1] < 1
        ):
            raise ValueError(
                f"{name} must hold, for each stage, pairs of one of {KINDS} and a "
                f"positive number, got {pair!r}"
            )
    return tuple((kind, count) for kind, count in stage)


@dataclass(frozen=True, kw_only=True)
class SPACHArch(Arch):
    """One stride, or four stages if ``multi_stage``, and what mixes in each block."""

    embed_dims: tuple[int, ...] = per_stage(positive_int)
    net_arch: tuple[tuple[tuple[str, int], ...], ...] = per_stage(_blocks)
    num_heads: int = single(positive_int)
    mlp_ratio: float = single(positive)
    token_ratio: float = single(positive)
    patch_size: int = single(positive_int)
    stem_type: str = single(partial(one_of, choices=STEMS))
    multi_stage: bool = single(switch)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stem_type == "conv4" and self.patch_size % 2:
            raise ValueError(
                "arch field 'patch_size' must be even with a conv4 stem, got "
                f"{self.patch_size}"
            )
        for dim, stage in zip(self.embed_dims, self.net_arch, strict=True):
            if "attn" in dict(stage) and dim % self.num_heads:
                raise ValueError(f"{self.num_heads} heads do not divide {dim} channels")
        if not self.multi_stage and len(set(self.embed_dims)) > 1:
            raise ValueError(
                "arch field 'embed_dims' must hold one number four times where "
                f"'multi_stage' is False, got {self.embed_dims!r}"
            )

    @property
    def transitions(self) -> tuple[bool, ...]:
        """Whether the stride doubles behind each stage."""
        return (self.multi_stage,) * 3 + (False,)

    @property
    def stage_dims(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return self.embed_dims

    @property
    def stage_depths(self) -> tuple[int, ...]:
        """Number of blocks of each stage."""
        return tuple(sum(count for _, count in stage) for stage in self.net_arch)


def _read_net_arch(text: str) -> tuple[tuple[tuple[str, int], ...], ...]:
    """Read ``"pass 2; pass 2, attn 10"`` as pairs of kind and count, stage by stage."""
    return tuple(
        tuple((kind, int(count)) for kind, count in map(str.split, stage.split(", ")))
        for stage in text.split("; ")
    )


@MODELS.register_module()
class SPACH(GridBackbone):
    """SPACH: convolution, attention, token MLP or a mixture, any image size.

    A common frame in which the authors compare spatial mixers. Sizes are named after
    the paper's figure: ``xxs``, ``xs`` and ``s`` have one stride, of which a pyramid is
    made, ``ms_xxs``, ``ms_xs`` and ``ms_s`` four stages; what follows is the mixer.
    Token MLPs belong to the training grid. Attention takes any map as it is, at a cost
    that grows with the square of its area.

    Args:
        arch: ``{xxs,xs,s}_{conv,mlp,attn}``, ``ms_{xxs,xs,s}_{conv,mlp,attn}``,
            ``ms_{xs,s}_hybrid``, ``ms_s_hybrid_plus``, ``mini``, or a mapping with
            ``embed_dims``, ``net_arch`` (for each stage pairs of ``pass``, ``mlp`` or
            ``attn`` and a number of blocks), ``num_heads`` (the same in all stages),
            ``mlp_ratio``, ``token_ratio``, ``patch_size``, ``stem_type`` and
            ``multi_stage``.
        attention_window: Side of windows for attention on large images, in tokens, or
            None for the official attention over the whole map.
        layer_scale: Start of the learnt scale of the spatial mixers.
        norm_eps: Epsilon of all layer norms.
        down_norm_eps: Epsilon of the group norms between stages.
        common: See :class:`GridBackbone`.

    Example:
        >>> import torch
        >>> backbone = SPACH("ms_xxs_conv", out_indices=(1, 2, 3))
        >>> [tuple(m.shape) for m in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 128, 8, 12), (1, 256, 4, 6), (1, 512, 2, 3)]
    """

    family = "spach"
    grid_modes = ("window", "interpolate")
    zero_head = True

    # fmt: off
    arch_settings: ClassVar[Mapping[str, SPACHArch]] = {
        name: SPACHArch(
            embed_dims=(dim, 2 * dim, 4 * dim, 8 * dim)
            if name.startswith("ms_")
            else (dim,) * 4,
            net_arch=_read_net_arch(net_arch),
            num_heads=dim // 32,
            mlp_ratio=ratio,
            token_ratio=0.5,
            patch_size=4 if name.startswith("ms_") else 16,
            stem_type="conv4" if name.endswith("_plus") else "conv1",
            multi_stage=name.startswith("ms_"),
        )
        for name, dim, ratio, net_arch in (
            ("ms_xxs_conv", 64, 2, "pass 2; pass 2; pass 6; pass 2"),
            ("ms_xxs_mlp", 64, 2, "pass 2; mlp 2; mlp 6; mlp 2"),
            ("ms_xxs_attn", 32, 2, "pass 2; attn 2; attn 6; attn 2"),
            ("ms_xs_conv", 96, 2, "pass 3; pass 4; pass 12; pass 3"),
            ("ms_xs_mlp", 96, 2, "pass 3; mlp 4; mlp 12; mlp 3"),
            ("ms_xs_attn", 64, 2, "pass 3; attn 4; attn 12; attn 3"),
            ("ms_s_conv", 128, 3, "pass 3; pass 4; pass 12; pass 3"),
            ("ms_s_mlp", 128, 3, "pass 3; mlp 4; mlp 12; mlp 3"),
            ("ms_s_attn", 96, 3, "pass 3; attn 4; attn 12; attn 3"),
            ("ms_xs_hybrid", 96, 2, "pass 3; pass 4; pass 2, attn 10; pass 1, attn 2"),
            ("ms_s_hybrid", 128, 3, _HYBRID),
            ("ms_s_hybrid_plus", 128, 3, _HYBRID),
            ("xxs_conv", 384, 2, "pass 3; pass 3; pass 3; pass 3"),
            ("xxs_mlp", 384, 2, "mlp 3; mlp 3; mlp 3; mlp 3"),
            ("xxs_attn", 192, 2, "attn 3; attn 3; attn 3; attn 3"),
            ("xs_conv", 384, 2, "pass 6; pass 6; pass 6; pass 6"),
            ("xs_mlp", 384, 2, "mlp 6; mlp 6; mlp 6; mlp 6"),
            ("xs_attn", 384, 2, "attn 3; attn 3; attn 3; attn 3"),
            ("s_conv", 512, 3, "pass 6; pass 6; pass 6; pass 6"),
            ("s_mlp", 512, 3, "mlp 6; mlp 6; mlp 6; mlp 6"),
            ("s_attn", 512, 3, "attn 3; attn 3; attn 3; attn 3"),
        )
    }
    # fmt: on
    mini_arch = SPACHArch(
        embed_dims=(32, 64, 128, 192),
        net_arch=_read_net_arch("pass 2; mlp 2; mlp 1, attn 1; attn 1"),
        num_heads=4,
        mlp_ratio=4,
        token_ratio=0.5,
        patch_size=4,
        stem_type="conv1",
        multi_stage=True,
    )
    mini_options: ClassVar[dict[str, Any]] = {"image_size": 64, "layer_scale": 0.1}

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "ms_xxs_conv",
        *,
        attention_window: int | None = None,
        layer_scale: float = 1e-4,
        norm_eps: float = 1e-6,
        down_norm_eps: float = 1e-5,
        **common: Unpack[GridArguments],
    ) -> None:
        self.constant_drop_path = not self.resolve_arch(arch).multi_stage
        self.attention_window = attention_window
        if attention_window is not None:
            positive_int("attention_window", attention_window)
        self.layer_scale = not_negative("layer_scale", layer_scale)
        self.norm_eps = norm_eps
        self.down_norm_eps = positive("down_norm_eps", down_norm_eps)
        super().__init__(arch, **common)

    @property
    def fills_up_images(self) -> bool:
        """Whether images are filled up: four stages take any size by themselves."""
        return not self.arch.multi_stage

    def build_stem(self) -> nn.Module:
        """Build the patch embedding with its layer norm."""
        return PatchStem(
            self.in_channels,
            self.embed_dims[0],
            patch_size=self.patch_size,
            stem_type=self.arch.stem_type,
            norm_eps=self.norm_eps,
        )

    def build_downsample(self, stage: int) -> nn.Module | None:
        """Build the normed convolution between two stages of a multi-stage arch."""
        if not self.arch.multi_stage:
            return None
        before, after = self.embed_dims[stage - 1 : stage + 1]
        return NormedMerge(before, after, norm_eps=self.down_norm_eps)

    def build_block(self, stage: int, block: int, drop_path_rate: float) -> nn.Module:
        """Build one block, with the spatial mixer that the arch names for it."""
        dim = self.embed_dims[stage]
        return SpachBlock(
            dim,
            mixer=self._build_mixer(stage, block),
            hidden_dim=int(dim * self.arch.mlp_ratio),
            layer_scale=self.layer_scale,
            norm_eps=self.norm_eps,
            drop_path_rate=drop_path_rate,
        )

    def _build_mixer(self, stage: int, block: int) -> nn.Module | None:
        kinds = [
            kind for kind, count in self.arch.net_arch[stage] for _ in range(count)
        ]
        dim = self.embed_dims[stage]
        if kinds[block] == "attn":
            return TokenAttention(
                dim, self.arch.num_heads, window=self.attention_window
            )
        if kinds[block] == "pass":
            return None
        options = self.grid_options(stage, block)
        num_tokens = math.prod(options["grid_size"])
        hidden_dim = int(num_tokens * self.arch.token_ratio)
        if hidden_dim < 1:
            raise ValueError(
                f"token_ratio {self.arch.token_ratio} of the {num_tokens} tokens of "
                f"stage {stage} is less than one; image_size must be larger"
            )
        return TokenMLP(hidden_dim=hidden_dim, **options)

    def _init_module(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    official_names: ClassVar[Mapping[str, str]] = {
        name: re.sub(
            r"^(.*)_(conv|mlp|attn|hybrid|hybrid_plus)$",
            r"spach_\1_patch4_224_\2"
            if name.startswith("ms_")
            else r"spach_\1_patch16_224_\2",
            name,
        )
        for name in arch_settings
    }
    checkpoint_layouts = (
        CheckpointLayout(
            name="SPACH release",
            signature=r"^(blocks|layer\d)\.\d+\.cpe_net\.net\.1\.weight",
            renames=_RENAMES,
        ),
    )
