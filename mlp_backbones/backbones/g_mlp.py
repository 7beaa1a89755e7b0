"""gMLP: "Pay Attention to MLPs".

Paper: arXiv 2105.08050, NeurIPS 2021. The authors published neither code nor weights
of the vision model; facts and weights are timm's (huggingface/pytorch-image-models,
Apache-2.0 licence), the code is written anew.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from mlp_backbones.backbones.isotropic import IsotropicGridBackbone
from mlp_backbones.checkpoints import CheckpointLayout
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
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        return x + self.drop_path(self.mixer(self.norm1(x)))


@MODELS.register_module()
class GMLP(IsotropicGridBackbone):
    """gMLP, one stride, and a pyramid made of it for any image size.

    Paper, section 2; sizes of table 1.

    Args:
        arch: ``ti16``, ``s16``, ``b16``, ``mini``, or a mapping with ``embed_dim``,
            ``depth``, ``patch_size`` and ``mlp_ratio``.
        pyramid: See :class:`ResampledBackbone`: whether the maps are brought to
            strides 4, 8, 16 and 32.
        image_size: See :class:`IsotropicGridBackbone`, as the next two: side of the
            training images, or height and width, in pixels.
        grid: ``"window"`` mixes inside windows of the training grid;
            ``"interpolate"`` resamples the token matrices, which grow with the square
            of the area.
        shift_windows: Whether the windows of every second block are half a window
            away.
        norm_eps: Epsilon of the blocks' and output layer norms.
        gate_norm_eps: Epsilon of the layer norms in the gates.
        in_channels: See :class:`MLPBackbone`, as all that follow.
        out_indices: The levels whose maps are returned.
        out_norm: Whether each returned map passes a layer norm of its own.
        frozen_stages: How many stages are frozen.
        norm_eval: Without effect here: layer norms keep no statistics.
        drop_path_rate: Stochastic depth rate of the last block.
        with_cp: Whether blocks are recomputed in the backward pass.
        init_cfg: MMEngine's initialisation config.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument has an impossible value.

    Example:
        >>> import torch
        >>> backbone = GMLP("ti16", out_indices=(1, 2, 3))
        >>> [tuple(m.shape) for m in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 64, 8, 12), (1, 128, 4, 6), (1, 128, 2, 3)]
    """

    family = "g_mlp"

    arch_settings: ClassVar[dict[str, dict[str, Any]]] = {
        name: {"embed_dim": dim, "depth": 30, "patch_size": 16, "mlp_ratio": 6}
        for name, dim in (("ti16", 128), ("s16", 256), ("b16", 512))
    }
    mini_arch: ClassVar[dict[str, Any]] = {
        "embed_dim": 32,
        "depth": 4,
        "patch_size": 16,
        "mlp_ratio": 6,
    }
    zero_head = True
    official_names: ClassVar[dict[str, str]] = {
        name: f"gmlp_{name}_224" for name in ("ti16", "s16", "b16")
    }

    released_weights: ClassVar[dict[str, str]] = {  # trained by timm's author
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
                (r"^head\.", "head.fc."),
            ),
        ),
    )

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "ti16",
        *,
        pyramid: bool = True,
        image_size: int | Sequence[int] = 224,
        grid: str = "window",
        shift_windows: bool = False,
        norm_eps: float = 1e-6,
        gate_norm_eps: float = 1e-5,
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        out_norm: bool = True,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        init_cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        self.norm_eps = norm_eps
        self.gate_norm_eps = gate_norm_eps
        super().__init__(
            arch,
            pyramid=pyramid,
            image_size=image_size,
            grid=grid,
            shift_windows=shift_windows,
            in_channels=in_channels,
            out_indices=out_indices,
            out_norm=out_norm,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            drop_path_rate=drop_path_rate,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )

    def build_block(self, stage: int, block: int, drop_path_rate: float) -> nn.Module:
        """Build one block; all blocks are alike."""
        dim = self.arch["embed_dim"]
        hidden_dim = _hidden_dim(dim, self.arch["mlp_ratio"])
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

    def build_out_norm(self, dim: int) -> nn.Module:
        """Build the layer norm of one returned map."""
        return nn.LayerNorm(dim, eps=self.norm_eps)

    @classmethod
    def _check_arch(cls, arch: dict[str, Any]) -> None:
        super()._check_arch(arch)
        if _hidden_dim(arch["embed_dim"], arch["mlp_ratio"]) % 2:
            raise ValueError(
                "arch fields 'embed_dim' and 'mlp_ratio' of GMLP must make an even "
                f"number of channels to split, got {arch['embed_dim']!r} and "
                f"{arch['mlp_ratio']!r}"
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


def _hidden_dim(dim: int, ratio: float) -> int:
    return int(dim * ratio)
