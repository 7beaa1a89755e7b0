"""Wave-MLP: "An Image Patch is a Wave: Phase-Aware Vision MLP".

Paper: arXiv 2111.12294, CVPR 2022. Weights and facts follow the authors' release
(ggjy/Hire-Wave-MLP.pytorch, MIT licence); the code is written anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from mlp_backbones.arguments import odd, one_of, switch
from mlp_backbones.backbones.arch import PyramidArch, single
from mlp_backbones.backbones.base import CommonArguments, MLPBackbone
from mlp_backbones.checkpoints import CheckpointLayout
from mlp_backbones.checkpoints.renames import interleaved_stage
from mlp_backbones.layers import (
    ChannelLinear,
    SampleNorm,
    SplitAttention,
    apply_norm,
    blend,
)
from mlp_backbones.registry import MODELS

_RELEASE = "https://github.com/huawei-noah/CV-Backbones/releases/download/wavemlp/"
_NORMS = ("batch_norm", "group_norm_1")
_PHASES = ("pointwise", "depthwise")


class PhaseEstimator(nn.Module):
    """The phase of every token and channel, not negative and not bounded.

    Source: paper, section 3.2; the batch norm and the ReLU are the release's.

    Args:
        dim: Channels in and out.
        kind: ``"pointwise"`` for a channel FC, ``"depthwise"`` for a 3x3 convolution.
        norm_eps: Epsilon of the batch norm.
    """

    def __init__(self, dim: int, *, kind: str, norm_eps: float) -> None:
        super().__init__()
        self.kind = kind
        if kind == "pointwise":
            self.fc: nn.Module = ChannelLinear(dim, dim)
        else:
            self.fc = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)
        self.norm = nn.BatchNorm2d(dim, eps=norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to phases in radians, (B, H, W, C), at least float32."""
        if self.kind == "pointwise":
            phase = self.fc(x)
        else:  # (B, H, W, C) -> (B, C, H, W) and back
            phase = self.fc(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        # in full precision under autocast, where the weights have it
        for parameter in self.norm.parameters():
            phase = phase.to(parameter.dtype)
        phase = apply_norm(self.norm, phase)
        # a large phase in half precision would leave little of its cosine
        if phase.dtype in (torch.float16, torch.bfloat16):
            phase = phase.float()
        return F.relu(phase)


class WaveMix(nn.Conv2d):
    """Mix pairs of channels in a window along one axis.

    A convolution in groups of two inputs, as the release has it: output channel g reads
    channels 2g and 2g + 1 of the C real and C imaginary parts of waves in a row, hence
    two cosine parts or two sine parts. (The paper's equation 9 pairs cosine and sine.)

    Args:
        dim: Channels out, half of those in.
        axis: 1 to mix along the height, 2 along the width.
        window: Number of tokens in the window, odd.
    """

    def __init__(self, dim: int, *, axis: int, window: int) -> None:
        kernel = (window, 1) if axis == 1 else (1, window)
        padding = (window // 2, 0) if axis == 1 else (0, window // 2)
        super().__init__(2 * dim, dim, kernel, padding=padding, groups=dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 2C, H, W) to (B, C, H, W)."""
        # grouped convolutions are slow nearly everywhere, depthwise ones are not:
        # (C, 2, kh, kw) -> (2C, 1, kh, kw), then the two of each group are added
        weight = self.weight.flatten(0, 1).unsqueeze(1)
        x = F.conv2d(x, weight, padding=self.padding, groups=len(weight))
        return x[:, 0::2] + x[:, 1::2]


def unfold_waves(amplitude: Tensor, phase: Tensor) -> Tensor:
    """Unfold waves, (B, H, W, C) each, into real and imaginary parts, (B, 2C, H, W)."""
    parts = (
        amplitude * torch.cos(phase).to(amplitude.dtype),
        amplitude * torch.sin(phase).to(amplitude.dtype),
    )
    return torch.cat(parts, dim=-1).permute(0, 3, 1, 2)


class PhaseAwareMixer(nn.Module):
    """Wave mixing along width and height and a channel FC, blended and projected.

    Source: paper, section 3.3 and figure 2 (PATM).

    Args:
        dim: Channels in and out.
        phase: Kind of the phase estimators, ``"pointwise"`` or ``"depthwise"``.
        window: Number of tokens in a window, odd.
        qkv_bias: Whether amplitudes and the channel FC have a bias.
        norm_eps: Epsilon of the phases' batch norms.
    """

    def __init__(
        self,
        dim: int,
        *,
        phase: str = "pointwise",
        window: int = 7,
        qkv_bias: bool = False,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.amplitude_along_width = ChannelLinear(dim, dim, bias=qkv_bias)
        self.amplitude_along_height = ChannelLinear(dim, dim, bias=qkv_bias)
        self.phase_along_width = PhaseEstimator(dim, kind=phase, norm_eps=norm_eps)
        self.phase_along_height = PhaseEstimator(dim, kind=phase, norm_eps=norm_eps)
        self.mix_along_width = WaveMix(dim, axis=2, window=window)
        self.mix_along_height = WaveMix(dim, axis=1, window=window)
        self.channel = ChannelLinear(dim, dim, bias=qkv_bias)
        self.reweight = SplitAttention(dim)
        self.proj = ChannelLinear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        along_width = self.mix_along_width(
            unfold_waves(self.amplitude_along_width(x), self.phase_along_width(x))
        )
        along_height = self.mix_along_height(
            unfold_waves(self.amplitude_along_height(x), self.phase_along_height(x))
        )
        branches = (
            along_width.permute(0, 2, 3, 1),  # (B, C, H, W) -> (B, H, W, C)
            along_height.permute(0, 2, 3, 1),
            self.channel(x),
        )
        return self.proj(blend(branches, self.reweight(branches)))


@dataclass(frozen=True, kw_only=True)
class WaveMLPArch(PyramidArch):
    """Four stages, and what kinds of phases and norms all of them have."""

    phase: str = single(partial(one_of, choices=_PHASES))
    norm: str = single(partial(one_of, choices=_NORMS))
    downsample_norm: bool = single(switch)
    window: int = single(odd)


@MODELS.register_module()
class WaveMLP(MLPBackbone):
    """Wave-MLP, four stages, any image size.

    ``t_dw`` is the paper's T*. The paper's detectors and segmentors have the parameter
    counts of depthwise phases, which the released ``t``, ``s`` and ``m`` do not have.

    The phase estimators hold batch norms in every size. Train in small batches with
    ``norm_eval``, or synchronise them.

    Args:
        arch: ``t_dw``, ``t``, ``s``, ``m``, ``b``, ``mini``, or a mapping with
            ``embed_dims``, ``depths`` and ``mlp_ratios``, four numbers each;
            ``phase``, ``"pointwise"`` or ``"depthwise"``; ``norm``, ``"batch_norm"``
            or ``"group_norm_1"`` (over height, width and channels together);
            ``downsample_norm``, whether stem and downsamplings end in a norm; and
            ``window``, the odd number of tokens mixed along an axis.
        qkv_bias: Whether amplitudes and the channel branch have a bias.
        norm_eps: Epsilon of all norms.
        common: See :class:`MLPBackbone`.

    Example:
        >>> import torch
        >>> backbone = WaveMLP("t_dw", out_indices=(1, 2, 3))
        >>> [tuple(m.shape) for m in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 128, 8, 12), (1, 320, 4, 6), (1, 512, 2, 3)]
    """

    family = "wave_mlp"

    # fmt: off
    arch_settings: ClassVar[Mapping[str, WaveMLPArch]] = {
        name: WaveMLPArch(
            embed_dims=dims, depths=depths, mlp_ratios=ratios, phase=phase, norm=norm,
            downsample_norm=downsample_norm, window=7,
        )
        for name, dims, depths, ratios, phase, norm, downsample_norm in (
            ("t_dw", (64, 128, 320, 512), (2, 2, 4, 2), (4, 4, 4, 4),
             "depthwise", "batch_norm", True),
            ("t", (64, 128, 320, 512), (2, 2, 4, 2), (4, 4, 4, 4),
             "pointwise", "batch_norm", True),
            ("s", (64, 128, 320, 512), (2, 3, 10, 3), (4, 4, 4, 4),
             "pointwise", "group_norm_1", True),
            ("m", (64, 128, 320, 512), (3, 4, 18, 3), (8, 8, 4, 4),
             "pointwise", "group_norm_1", False),
            ("b", (96, 192, 384, 768), (2, 2, 18, 2), (4, 4, 4, 4),
             "pointwise", "group_norm_1", False),
        )
    }
    mini_arch = WaveMLPArch(
        embed_dims=(32, 64, 128, 192), depths=(1, 2, 2, 1), mlp_ratios=(4, 4, 4, 4),
        phase="pointwise", norm="batch_norm", downsample_norm=True, window=7,
    )
    # fmt: on

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "t",
        *,
        qkv_bias: bool = False,
        norm_eps: float = 1e-5,
        **common: Unpack[CommonArguments],
    ) -> None:
        self.qkv_bias = switch("qkv_bias", qkv_bias)
        self.norm_eps = norm_eps
        super().__init__(arch, **common)

    def build_stem(self) -> nn.Module:
        """Build the overlapping patch embedding, stride 4."""
        return self._build_embed(0, kernel_size=7, stride=4, padding=2)

    def build_downsample(self, stage: int) -> nn.Module:
        """Build the overlapping convolution that halves both sides."""
        return self._build_embed(stage, kernel_size=3, stride=2, padding=1)

    def build_mixer(self, stage: int, block: int) -> PhaseAwareMixer:
        """Build one mixer; all blocks of a stage are alike."""
        return PhaseAwareMixer(
            self.embed_dims[stage],
            phase=self.arch.phase,
            window=self.arch.window,
            qkv_bias=self.qkv_bias,
            norm_eps=self.norm_eps,
        )

    def build_norm(self, dim: int) -> nn.Module:
        """Build a norm of the arch's kind, for ``apply_norm``."""
        if self.arch.norm == "batch_norm":
            return nn.BatchNorm2d(dim, eps=self.norm_eps)
        return SampleNorm(dim, eps=self.norm_eps)

    def _build_embed(self, stage: int, **sizes: Any) -> nn.Module:
        normed = self.arch.downsample_norm
        norm = self.build_norm(self.embed_dims[stage]) if normed else None
        return self.build_embed(stage, norm=norm, **sizes)

    def _init_module(self, module: nn.Module) -> None:
        """Keep torch's start: the release initialises its classifier's head alone."""

    released_weights: ClassVar[Mapping[str, str]] = {
        name: f"{_RELEASE}WaveMLP_{official}.pth.tar"
        for name, official in (("t_dw", "T_dw"), ("t", "T"), ("s", "S"), ("m", "M"))
    }
    checkpoint_layouts = (
        CheckpointLayout(
            name="Wave-MLP release",
            signature=r"^network\.\d+\.\d+\.attn\.tfc_h\.weight",
            renames=(
                (r"^patch_embed\.", "stem."),
                (r"^network\.(\d+)\.", interleaved_stage),
                (r"\.attn\.fc_c\.", ".mixer.channel."),
                (r"\.attn\.(fc|tfc|theta)_h", r".attn.\1_along_width"),  # "horizontal"
                (r"\.attn\.(fc|tfc|theta)_w", r".attn.\1_along_height"),
                (r"\.attn\.fc_along", ".mixer.amplitude_along"),
                (r"\.attn\.tfc_along", ".mixer.mix_along"),
                (r"\.attn\.theta_along", ".mixer.phase_along"),
                (r"_conv\.0\.", ".fc."),
                (r"_conv\.1\.", ".norm."),
                (r"\.attn\.", ".mixer."),
                (r"^norm([0246])\.", lambda m: f"out_norms.{int(m[1]) // 2}."),
            ),
            # a profiler's counters: the authors' hub script takes them out as well
            drops=(r"(^|\.)total_(ops|params)$",),
        ),
    )
