"""gMLP: "Pay Attention to MLPs".

Paper: arXiv 2105.08050, NeurIPS 2021. The authors published neither code nor weights
of the vision model; facts and weights are timm's (huggingface/pytorch-image-models,
Apache-2.0 licence), the code is written anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import Unpack

from mlp_backbones.arguments import positive
from mlp_backbones.backbones.arch import IsotropicArch, single
from mlp_backbones.backbones.resampled import GridArguments, GridBackbone
from mlp_backbones.checkpoints import CheckpointLayout
from mlp_backbones.checkpoints.preprocessing import (
    CENTERED,
    IMAGENET,
    Preprocessing,
)
from mlp_backbones.layers import (
    ChannelLinear,
    ConvEmbed,
    DropPath,
    TokenLinear,
    init_lecun_normal,
)
from mlp_backbones.registry import MODELS


class SpatialGate(nn.Module):
    """Multiply channels with a linear mix over all tokens of others, plus a bias.

    Source: paper, section 2.1, with the channels split in two halves.

    Args:
        dim: Channels of each half.
        grid_size: Height and width of the grid the weights belong to, in tokens.
        norm_eps: Epsilon of the layer norm in front of the mix.
        options: Further arguments of :class:`TokenLinear`.
    """

    def __init__(
        self,
        dim: int,
        grid_size: tuple[int, int],
        *,
        norm_eps: float,
        **options: Any,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=norm_eps)
        self.proj = TokenLinear(grid_size, **options)

    def forward(self, u: Tensor, v: Tensor) -> Tensor:
        """Gate ``u`` by ``v``, both (B, H, W, C)."""
        return u * self.proj(self.norm(v))


class GatedMLP(nn.Module):
    """Widen, activate, gate one half of the channels by the other, and lead back.

    Source: paper, section 2.

    Args:
        dim: Channels in and out.
        hidden_dim: Channels before the split.
        gate: What maps both halves, (B, H, W, hidden_dim / 2), to one.
    """

    def __init__(self, dim: int, hidden_dim: int, gate: SpatialGate) -> None:
        super().__init__()
        self.fc1 = ChannelLinear(dim, hidden_dim)
        self.act = nn.GELU()
        self.gate = gate
        self.fc2 = ChannelLinear(hidden_dim // 2, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        u, v = self.act(self.fc1(x)).chunk(2, dim=-1)
        return self.fc2(self.gate(u, v))


class GatedBlock(nn.Module):
    """``x + mixer(norm1(x))`` with stochastic depth: one branch mixes both ways.

    Args:
        norm1: Norm in front of the mixer.
        mixer: Mixer of tokens and channels, (B, H, W, C) to (B, H, W, C).
        drop_path_rate: Stochastic depth rate.
    """

    def __init__(
        self, *, norm1: nn.Module, mixer: nn.Module, drop_path_rate: float
    ) -> None:
        super().__init__()
        self.norm1 = norm1
        self.mixer = mixer
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        return x + self.drop_path(self.mixer(self.norm1(x)))


@dataclass(frozen=True, kw_only=True)
class GMLPArch(IsotropicArch):
    """Width, depth, patches, and how far a block widens before its gate."""

    mlp_ratio: float = single(positive)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_dim % 2:
            raise ValueError(
                "arch fields 'embed_dim' and 'mlp_ratio' must make an even number of "
                f"channels to split, got {self.embed_dim!r} and {self.mlp_ratio!r}"
            )

    @property
    def hidden_dim(self) -> int:
        """Channels before the gate."""
        return int(self.embed_dim * self.mlp_ratio)


@MODELS.register_module()
class GMLP(GridBackbone):
    """gMLP, one stride, and a pyramid made of it for any image size.

    Paper, section 2; sizes of table 1.

    Args:
        arch: ``ti16``, ``s16``, ``b16``, ``mini``, or a mapping with ``embed_dim``,
            ``depth``, ``patch_size`` and ``mlp_ratio``.
        norm_eps: Epsilon of the blocks' and output layer norms.
        gate_norm_eps: Epsilon of the layer norms in the gates.
        common: See :class:`GridBackbone`.

    Example:
        >>> import torch
        >>> backbone = GMLP("ti16", out_indices=(1, 2, 3))
        >>> [tuple(m.shape) for m in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 64, 8, 12), (1, 128, 4, 6), (1, 128, 2, 3)]
    """

    family = "gmlp"
    zero_head = True
    grid_modes = ("window", "interpolate")

    arch_settings: ClassVar[Mapping[str, GMLPArch]] = {
        name: GMLPArch(embed_dim=dim, depth=30, patch_size=16, mlp_ratio=6)
        for name, dim in (("ti16", 128), ("s16", 256), ("b16", 512))
    }
    mini_arch = GMLPArch(embed_dim=96, depth=8, patch_size=8, mlp_ratio=4)
    mini_options: ClassVar[dict[str, Any]] = {"image_size": 64}

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "ti16",
        *,
        norm_eps: float = 1e-6,
        gate_norm_eps: float = 1e-5,
        **common: Unpack[GridArguments],
    ) -> None:
        self.norm_eps = norm_eps
        self.gate_norm_eps = positive("gate_norm_eps", gate_norm_eps)
        super().__init__(arch, **common)

    def build_block(self, stage: int, block: int, drop_path_rate: float) -> nn.Module:
        """Build one block; all blocks are alike."""
        dim = self.arch.embed_dim
        hidden_dim = self.arch.hidden_dim
        gate = SpatialGate(
            hidden_dim // 2,
            norm_eps=self.gate_norm_eps,
            **self.grid_options(stage, block),
        )
        return GatedBlock(
            norm1=nn.LayerNorm(dim, eps=self.norm_eps),
            mixer=GatedMLP(dim, hidden_dim, gate),
            drop_path_rate=drop_path_rate,
        )

    def _init_module(self, module: nn.Module) -> None:
        """Initialise as timm does: gates begin as the identity."""
        if isinstance(module, TokenLinear):
            nn.init.normal_(module.weight, std=1e-6)
            nn.init.ones_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.normal_(module.bias, std=1e-6)
        elif isinstance(module, ConvEmbed):
            init_lecun_normal(module.proj)

    timm_names: ClassVar[Mapping[str, str]] = {
        name: f"gmlp_{name}_224" for name in ("ti16", "s16", "b16")
    }
    default_preprocessing = CENTERED
    arch_preprocessing: ClassVar[Mapping[str, Preprocessing]] = {"mini": IMAGENET}
    released_weights: ClassVar[Mapping[str, str]] = {  # trained by timm's author
        "s16": "https://github.com/rwightman/pytorch-image-models/releases/download/"
        "v0.1-weights/gmlp_s16_224_raa-10536d42.pth",
    }
    checkpoint_layouts = (
        CheckpointLayout(
            name="timm",
            signature=r"^blocks\.\d+\.mlp_channels\.gate\.proj\.weight",
            renames=(
                (r"^(blocks\.\d+)\.norm\.", r"\1.norm1."),
                (r"^(blocks\.\d+)\.mlp_channels\.", r"\1.mixer."),
            ),
        ),
    )
