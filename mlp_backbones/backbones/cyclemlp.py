"""CycleMLP: "CycleMLP: A MLP-like Architecture for Dense Prediction".

Paper: arXiv 2107.10224, ICLR 2022. Weights and facts follow the authors' release
(ShoufaChen/CycleMLP, MIT licence); the code is written anew.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from mlp_backbones.arguments import positive, positive_int, switch
from mlp_backbones.backbones.arch import PyramidArch
from mlp_backbones.backbones.base import CommonArguments, MLPBackbone
from mlp_backbones.checkpoints import CheckpointLayout
from mlp_backbones.checkpoints.renames import interleaved_stage
from mlp_backbones.layers import ChannelLinear, SplitAttention, blend
from mlp_backbones.ops import axial_shift, channel_linear, recomputed
from mlp_backbones.registry import MODELS

_RELEASE = "https://github.com/ShoufaChen/CycleMLP/releases/download/v0.1/"


def cycle_steps(dim: int, cycle: int, *, device: torch.device | None = None) -> Tensor:
    """Return how far from the output position each input channel is read, (C,).

    Source: the authors' release; a cycle of 3 gives 0, +1, -1, 0, +1, -1, ... (the
    paper's equation 4 writes an uncentred cycle, which no weights were trained with).

    Args:
        dim: Number of channels.
        cycle: Length of the cycle, in cells.
        device: Where the numbers shall be.
    """
    half = cycle // 2
    return (torch.arange(dim, device=device) + half) % cycle - half


class CycleFC(nn.Linear):
    """A linear layer whose inputs are read up to half a cycle away along one axis.

    Same parameters and cost as a channel FC: an exact shift, then one matrix product
    (paper, section 3.1).

    Args:
        dim: Channels in and out.
        axis: 1 to move along the height, 2 along the width.
        cycle: Length of the cycle, in cells.
    """

    def __init__(self, dim: int, *, axis: int, cycle: int = 3) -> None:
        super().__init__(dim, dim)
        self.axis = axis
        self.cycle = cycle

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C); cells outside the map count as 0."""
        steps = cycle_steps(x.shape[-1], self.cycle, device=x.device)
        shifted = axial_shift(x, steps, self.axis, reach=self.cycle // 2)
        return channel_linear(shifted, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Show axis and cycle beside the sizes."""
        return f"{super().extra_repr()}, axis={self.axis}, cycle={self.cycle}"


class CycleMixer(nn.Module):
    """Two Cycle FCs and a channel FC in parallel, blended and projected.

    Source: paper, section 3.2 and figure 3.

    Args:
        dim: Channels in and out.
        cycle: Length of the cycle, in cells.
        qkv_bias: Whether the channel FC has a bias; the Cycle FCs always do.
        recompute: Whether shifted and blended maps are computed again in the backward
            pass instead of stored, which costs no matrix product.
    """

    def __init__(
        self,
        dim: int,
        *,
        cycle: int = 3,
        qkv_bias: bool = False,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.recompute = recompute
        self.along_width = CycleFC(dim, axis=2, cycle=cycle)
        self.along_height = CycleFC(dim, axis=1, cycle=cycle)
        self.channel = ChannelLinear(dim, dim, bias=qkv_bias)
        self.reweight = SplitAttention(dim)
        self.proj = ChannelLinear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        if not (self.recompute and self.training):
            branches = (self.along_width(x), self.along_height(x), self.channel(x))
            return self.proj(blend(branches, self.reweight(branches)))
        branches = (
            recomputed(self.along_width, x),
            recomputed(self.along_height, x),
            self.channel(x),
        )
        return recomputed(self._project, self.reweight(branches), *branches)

    def _project(self, weights: Tensor, *branches: Tensor) -> Tensor:
        return self.proj(blend(branches, weights))


def _check_offsets(state_dict: dict[str, Tensor], backbone: Any) -> None:
    """Refuse weights that were trained with other steps than the model's.

    Raises:
        ValueError: If an offset buffer does not hold the model's cycle.
    """
    cycle = backbone.cycle
    for key, offset in state_dict.items():
        if not key.endswith(".offset"):
            continue
        expected = torch.zeros(offset.numel() // 2, 2)  # pairs (down, right)
        along = 1 if ".sfc_h." in key else 0
        expected[:, along] = cycle_steps(len(expected), cycle).float()
        if not torch.equal(offset.float().reshape(-1, 2).cpu(), expected):
            raise ValueError(
                f"{key} holds other steps than a cycle of {cycle} along one axis"
            )


@MODELS.register_module()
class CycleMLP(MLPBackbone):
    """CycleMLP, four stages, any image size.

    ``b1`` ... ``b5`` are the released models. ``tiny``, ``small`` and ``base`` take
    widths and depths from the authors' later table; their released checkpoints belong
    to another, unreleased class, so these sizes are for training from scratch.

    Args:
        arch: ``b1`` ... ``b5``, ``tiny``, ``small``, ``base``, or a mapping with
            ``embed_dims``, ``depths`` and ``mlp_ratios``, four numbers each.
        cycle: Length of the cycle of the Cycle FCs, in cells.
        qkv_bias: Whether the channel branch of the mixer has a bias.
        skip_lam: Divisor of both residual branches.
        recompute: Whether training stores only what takes a matrix product to get
            back, and in the first two stages, whose maps are the largest and products
            the smallest, not even the mixer's branches. About half the memory for
            some percent of time; ``with_cp`` saves more and costs more.
        norm_eps: Epsilon of the blocks' and output layer norms.
        common: See :class:`MLPBackbone`.

    Example:
        >>> import torch
        >>> backbone = CycleMLP("b1", out_indices=(1, 2, 3))
        >>> [tuple(m.shape) for m in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 128, 8, 12), (1, 320, 4, 6), (1, 512, 2, 3)]
    """

    family = "cyclemlp"

    # fmt: off
    arch_settings: ClassVar[Mapping[str, PyramidArch]] = {
        name: PyramidArch(embed_dims=dims, depths=depths, mlp_ratios=ratios)
        for name, dims, depths, ratios in (
            ("b1", (64, 128, 320, 512), (2, 2, 4, 2), (4, 4, 4, 4)),
            ("b2", (64, 128, 320, 512), (2, 3, 10, 3), (4, 4, 4, 4)),
            ("b3", (64, 128, 320, 512), (3, 4, 18, 3), (8, 8, 4, 4)),
            ("b4", (64, 128, 320, 512), (3, 8, 27, 3), (8, 8, 4, 4)),
            ("b5", (96, 192, 384, 768), (3, 4, 24, 3), (4, 4, 4, 4)),
            ("tiny", (96, 192, 384, 768), (2, 2, 6, 2), (4, 4, 4, 4)),
            ("small", (96, 192, 384, 768), (2, 2, 18, 2), (4, 4, 4, 4)),
            ("base", (128, 256, 512, 1024), (2, 2, 18, 2), (4, 4, 4, 4)),
        )
    }
    # fmt: on
    mini_arch = PyramidArch(
        embed_dims=(32, 64, 128, 192), depths=(2, 2, 2, 1), mlp_ratios=(4, 4, 4, 4)
    )

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "b1",
        *,
        cycle: int = 3,
        qkv_bias: bool = False,
        skip_lam: float = 1.0,
        norm_eps: float = 1e-5,
        recompute: bool = True,
        **common: Unpack[CommonArguments],
    ) -> None:
        self.cycle = positive_int("cycle", cycle)
        self.qkv_bias = switch("qkv_bias", qkv_bias)
        self.branch_scale = 1.0 / positive("skip_lam", skip_lam)
        self.norm_eps = norm_eps
        self.recompute = switch("recompute", recompute)
        super().__init__(arch, **common)

    def build_stem(self) -> nn.Module:
        """Build the overlapping patch embedding, stride 4."""
        return self.build_embed(0, kernel_size=7, stride=4, padding=2)

    def build_downsample(self, stage: int) -> nn.Module:
        """Build the overlapping convolution that halves both sides."""
        return self.build_embed(stage, kernel_size=3, stride=2, padding=1)

    def build_block(self, stage: int, block: int, drop_path_rate: float) -> nn.Module:
        """Build one block; all blocks of a stage are alike."""
        built: Any = super().build_block(stage, block, drop_path_rate)
        built.recompute_mixer = self.recomputes and stage < 2
        return built

    def build_mixer(self, stage: int, block: int) -> CycleMixer:
        """Build one mixer; all blocks of a stage are alike."""
        return CycleMixer(
            self.embed_dims[stage],
            cycle=self.cycle,
            qkv_bias=self.qkv_bias,
            recompute=self.recomputes and stage >= 2,
        )

    released_weights: ClassVar[dict[str, str]] = {
        name: f"{_RELEASE}CycleMLP_{name.upper()}.pth"
        for name in ("b1", "b2", "b3", "b4", "b5")
    }
    checkpoint_layouts = (
        CheckpointLayout(
            name="CycleMLP release",
            signature=r"^network\.\d+\.\d+\.attn\.sfc_h\.weight",
            renames=(
                (r"^patch_embed\.", "stem."),
                (r"^network\.(\d+)\.", interleaved_stage),
                (r"\.attn\.sfc_h\.", ".mixer.along_width."),
                (r"\.attn\.sfc_w\.", ".mixer.along_height."),
                (r"\.attn\.mlp_c\.", ".mixer.channel."),
                (r"\.attn\.", ".mixer."),
                (r"^norm([0246])\.", lambda m: f"out_norms.{int(m[1]) // 2}."),
            ),
            drops=(r"\.attn\.sfc_[hw]\.offset$",),
            check=_check_offsets,
        ),
    )
