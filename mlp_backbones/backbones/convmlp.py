"""ConvMLP: "ConvMLP: Hierarchical Convolutional MLPs for Vision".

Paper: arXiv 2109.04454, CVPR Workshops 2023. Weights and facts follow the authors'
release (SHI-Labs/Convolutional-MLPs, Apache-2.0); the code is written anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from mlp_backbones.arguments import one_of, positive
from mlp_backbones.backbones.arch import StagedArch, per_stage
from mlp_backbones.backbones.base import CommonArguments, MLPBackbone
from mlp_backbones.checkpoints import CheckpointLayout
from mlp_backbones.layers import ChannelMLP, DropPath
from mlp_backbones.registry import MODELS

_RELEASE = "https://shi-labs.com/projects/convmlp/checkpoints/"
_TAPS = ("stages", "detector")


class ConvTokenizer(nn.Module):
    """Three convolutions and a max pool: images to a map of stride 4.

    Source: paper, section 3.2.

    Args:
        in_channels: Channels of the image.
        dim: Channels of the output; the first two convolutions have half as many,
            rounded down.
    """

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, dim // 2, 3, 2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(dim // 2)
        self.conv2 = nn.Conv2d(dim // 2, dim // 2, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(dim // 2)
        self.conv3 = nn.Conv2d(dim // 2, dim, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, H', W', C')."""
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        x = F.relu(self.norm3(self.conv3(x)))
        x = F.max_pool2d(x, 3, 2, padding=1)
        # (B, C', H', W') -> (B, H', W', C'); fed with NCHW memory: settle it once
        return x.permute(0, 2, 3, 1).contiguous()


class ConvBlock(nn.Module):
    """A residual bottleneck, wide in the middle, whose last ReLU is in the branch.

    Source: paper, section 3.2.

    Args:
        dim: Channels in and out.
        hidden_dim: Channels of the 3x3 convolution.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, hidden_dim, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(hidden_dim)
        self.conv2 = nn.Conv2d(hidden_dim, hidden_dim, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(hidden_dim)
        self.conv3 = nn.Conv2d(hidden_dim, dim, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        branch = x.permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W)
        branch = F.relu(self.norm1(self.conv1(branch)))
        branch = F.relu(self.norm2(self.conv2(branch)))
        branch = F.relu(self.norm3(self.conv3(branch)))
        return x + branch.permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)


class DepthwiseMixer(nn.Module):
    """A layer norm and a 3x3 depthwise convolution without bias.

    Args:
        dim: Channels in and out.
        norm_eps: Epsilon of the layer norm.
    """

    def __init__(self, dim: int, *, norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=norm_eps)
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        x = self.norm(x).permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W)
        return self.conv(x).permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)


class ConvMLPBlock(nn.Module):
    """Two residual channel MLPs; the mixer between them replaces the map.

    Source: paper, section 3.3.

    Args:
        dim: Channels in and out.
        hidden_dim: Width of the channel MLPs.
        drop_path_rate: Stochastic depth rate of both MLPs.
        norm_eps: Epsilon of the layer norms.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        *,
        drop_path_rate: float = 0.0,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp1 = ChannelMLP(dim, hidden_dim)
        self.mixer = DepthwiseMixer(dim, norm_eps=norm_eps)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = ChannelMLP(dim, hidden_dim)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        x = x + self.drop_path(self.mlp1(self.norm1(x)))
        x = self.mixer(x)  # no residual here
        return x + self.drop_path(self.mlp(self.norm2(x)))


@dataclass(frozen=True, kw_only=True)
class ConvMLPArch(StagedArch):
    """A stage of convolutions and three whose channel MLPs widen by ``mlp_ratios``."""

    mlp_ratios: tuple[float, ...] = per_stage(positive, 3)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embed_dims[0] < 2:
            raise ValueError(
                "arch field 'embed_dims' must start with a number from 2 on, half of "
                f"which the stem begins with, got {self.embed_dims}"
            )


def _stage(number: str, offset: int) -> str:
    return f"stages.{int(number) + offset}."


@MODELS.register_module()
class ConvMLP(MLPBackbone):
    """ConvMLP, one convolutional stage and three of MLPs, any image size.

    The authors' detectors and segmentors take other maps than the ends of the stages:
    the stem's output and then what *enters* the second and third stage, behind the
    convolution that halves the map. Only the last level is the end of its stage.
    Their published weights need ``taps="detector", out_norm=False``; channels and
    strides are the same.

    Stochastic depth begins anew at 0 in each stage of MLPs and reaches
    ``drop_path_rate``, 0.1 in the authors' trainings, in the last block of each.

    Args:
        arch: ``s``, ``m``, ``l``, ``mini``, or a mapping with ``embed_dims`` and
            ``depths``, four numbers each, and ``mlp_ratios``, three, since the first
            stage has no MLPs.
        taps: Which maps are returned: ``"stages"``, the ends of the stages, or
            ``"detector"``, those of the authors' detectors.
        norm_eps: Epsilon of the layer norms.
        common: See :class:`MLPBackbone`.

    Example:
        >>> import torch
        >>> backbone = ConvMLP("s", taps="detector", out_norm=False)
        >>> [tuple(m.shape) for m in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 64, 16, 24), (1, 128, 8, 12), (1, 256, 4, 6), (1, 512, 2, 3)]
    """

    family = "convmlp"

    arch_settings: ClassVar[Mapping[str, ConvMLPArch]] = {
        name: ConvMLPArch(embed_dims=dims, depths=depths, mlp_ratios=ratios)
        for name, dims, depths, ratios in (
            ("s", (64, 128, 256, 512), (2, 2, 4, 2), (2, 2, 2)),
            ("m", (64, 128, 256, 512), (3, 3, 6, 3), (3, 3, 3)),
            ("l", (96, 192, 384, 768), (3, 4, 8, 3), (3, 3, 3)),
        )
    }
    mini_arch = ConvMLPArch(
        embed_dims=(32, 64, 128, 192), depths=(1, 2, 2, 2), mlp_ratios=(2, 2, 2)
    )

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "s",
        *,
        taps: str = "stages",
        norm_eps: float = 1e-5,
        **common: Unpack[CommonArguments],
    ) -> None:
        self.taps = one_of("taps", taps, _TAPS)
        self.norm_eps = norm_eps
        super().__init__(arch, **common)

    def build_stem(self) -> nn.Module:
        """Build the tokenizer, stride 4."""
        return ConvTokenizer(self.in_channels, self.embed_dims[0])

    def build_downsample(self, stage: int) -> nn.Module:
        """Build the convolution that halves both sides."""
        return self.build_embed(stage, kernel_size=3, stride=2, padding=1)

    def build_block(self, stage: int, block: int, drop_path_rate: float) -> nn.Module:
        """Build one block: convolutions in the first stage, MLPs in the others."""
        dim = self.embed_dims[stage]
        if stage == 0:
            return ConvBlock(dim, self.embed_dims[1])
        return ConvMLPBlock(
            dim,
            int(dim * self.arch.mlp_ratios[stage - 1]),
            drop_path_rate=drop_path_rate,
            norm_eps=self.norm_eps,
        )

    def adapt_weights(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Leave out the blocks behind the last tap, which are not built.

        Args:
            weights: Tensors under this package's names.
        """
        behind = tuple(
            f"stages.{index}.blocks."
            for index, stage in enumerate(self.stages)
            if not stage.blocks
        )
        return {key: v for key, v in weights.items() if not key.startswith(behind)}

    def _pyramid(self, x: Tensor) -> list[Tensor]:
        if self.taps == "stages":
            return super()._pyramid(x)
        self._check_input(x)
        x = self.stem(x)
        entered = []
        stages: Any = self.stages
        for stage in stages:
            x = x if stage.downsample is None else stage.downsample(x)
            entered.append(x)
            x = stage.run_blocks(x)
        last = len(self.stage_strides) - 1
        return [x if index == last else entered[index] for index in self.out_indices]

    def _drop_path_rates(self) -> list[list[float]]:
        rates = [
            [self.drop_path_rate * block / max(depth - 1, 1) for block in range(depth)]
            for depth in self.depths
        ]
        rates[0] = [0.0] * self.depths[0]
        last = max(self.out_indices)
        if self.taps == "detector" and last < len(rates) - 1:
            rates[last] = []  # the map that enters this stage is all that is asked for
        return rates

    def _init_module(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        else:
            super()._init_module(module)

    released_weights: ClassVar[Mapping[str, str]] = {
        size: f"{_RELEASE}convmlp_{size}_imagenet.pth" for size in ("s", "m", "l")
    }
    checkpoint_layouts = (
        CheckpointLayout(
            name="ConvMLP release",
            signature=r"^conv_stages\.conv_blocks\.\d+\.0\.weight",
            renames=(
                (r"^stages\.(\d+)\.blocks\.", lambda m: _stage(m[1], 1) + "blocks."),
                (
                    r"^stages\.(\d+)\.downsample_mlp\.downsample\.",
                    lambda m: _stage(m[1], 2) + "downsample.proj.",
                ),
                (r"\.channel_mlp1\.", ".mlp1."),
                (r"\.channel_mlp2\.", ".mlp."),
                (r"\.connect_norm\.", ".mixer.norm."),
                (r"\.connect\.", ".mixer.conv."),
                (r"^conv_stages\.downsample\.", "stages.1.downsample.proj."),
                (r"^conv_stages\.conv_blocks\.", "stages.0.blocks."),
                (r"^tokenizer\.block\.", "stem."),
                (
                    r"^(stem|stages\.0\.blocks\.\d+)\.([036])\.",
                    lambda m: f"{m[1]}.conv{int(m[2]) // 3 + 1}.",
                ),
                (
                    r"^(stem|stages\.0\.blocks\.\d+)\.([147])\.",
                    lambda m: f"{m[1]}.norm{int(m[2]) // 3 + 1}.",
                ),
            ),
        ),
    )
