"""S2-MLP: "S2-MLP: Spatial-Shift MLP Architecture for Vision".

Paper: arXiv 2106.07477, WACV 2022. The authors published neither code nor weights:
the block is that of the paper's figures, what the paper leaves open is noted here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import Unpack

from mlp_backbones.arguments import one_of, positive, switch
from mlp_backbones.backbones.arch import IsotropicArch, single
from mlp_backbones.backbones.resampled import ResampledArguments, ResampledBackbone
from mlp_backbones.checkpoints import CheckpointLayout
from mlp_backbones.layers import (
    Affine,
    ChannelLinear,
    MixerBlock,
)
from mlp_backbones.ops import spatial_shift
from mlp_backbones.registry import MODELS

SHIFT = ("down", "up", "right", "left")
"""Where the quarters of the channels go (paper, equation 3)."""

_NORMS = ("ln", "affine")
_POSITIONS = ("post", "pre")


class SpatialShiftMixer(nn.Module):
    """Two channel FCs with a GELU and a spatial shift between them.

    Source: paper, section 3.2 and algorithm 1.

    Args:
        dim: Channels in and out.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = ChannelLinear(dim, dim)
        self.act = nn.GELU()
        self.fc2 = ChannelLinear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        return self.fc2(spatial_shift(self.act(self.fc1(x)), SHIFT))


class PostNormBlock(MixerBlock):
    """``x + norm1(mixer(x))``, then ``x + norm2(mlp(x))``, with stochastic depth.

    Source: paper, figure 1; what the branches add up to is never normed itself.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        x = self._add(x, self.norm1(self.mixer(x)))
        return self._add(x, self.norm2(self.mlp(x)))


def affine_scale(depth: int) -> float:
    """Return the scale that the affine norms at the end of branches start with.

    Source: the rule of ResMLP (arXiv 2105.03404, appendix A); S2-MLP states none.

    Args:
        depth: Number of blocks.
    """
    if depth <= 18:
        return 0.1
    return 1e-5 if depth <= 24 else 1e-6


def _check_norm_position(state_dict: dict[str, Tensor], backbone: Any) -> None:
    """Refuse weights of norms in front of the branches for norms behind them.

    Raises:
        ValueError: If the model's norms stand elsewhere than the file's.
    """
    if backbone.norm_position != "pre" or backbone.stem_norm:
        raise ValueError(
            "these weights need norm_position='pre' and stem_norm=False, got "
            f"{backbone.norm_position!r} and {backbone.stem_norm!r}"
        )


@dataclass(frozen=True, kw_only=True)
class S2MLPArch(IsotropicArch):
    """Width, depth and patches, and which norm the blocks have."""

    mlp_ratio: float = single(positive)
    norm: str = single(partial(one_of, choices=_NORMS))


@MODELS.register_module()
class S2MLP(ResampledBackbone):
    """S2-MLP, one stride, any image size: no weight depends on the token grid.

    The four levels are the maps after each quarter of the depth, resampled as
    :class:`ResampledBackbone` says. Norms behind the branches leave the sum of the
    branches unnormed, so each level passes a layer norm, also where ``norm`` is
    affine; the classifier has no final norm, and ``out_norm=True`` gives it one.

    Args:
        arch: ``wide``, ``deep`` or a mapping with ``embed_dim``, ``depth``,
            ``patch_size``, ``mlp_ratio`` and ``norm``, which is ``ln`` for layer
            norms or ``affine`` for a scale and an offset per channel.
        norm_position: ``post`` for norms at the end of the branches as in the paper,
            ``pre`` for norms in front of them as in re-implementations.
        stem_norm: Whether the stem ends in a norm, as in the paper.
        norm_eps: Epsilon of all layer norms.
        common: See :class:`ResampledBackbone`.

    Example:
        >>> import torch
        >>> backbone = S2MLP("mini")
        >>> [tuple(m.shape) for m in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 12, 16, 24), (1, 24, 8, 12), (1, 48, 4, 6), (1, 48, 2, 3)]
    """

    family = "s2_mlp"
    classifier_arguments: ClassVar[dict[str, Any]] = {
        "pyramid": False,
        "out_norm": False,
    }

    arch_settings: ClassVar[Mapping[str, S2MLPArch]] = {
        name: S2MLPArch(
            embed_dim=dim, depth=depth, patch_size=16, mlp_ratio=4, norm=norm
        )
        for name, dim, depth, norm in (
            ("wide", 768, 12, "ln"),
            ("deep", 384, 36, "affine"),
        )
    }
    mini_arch = S2MLPArch(embed_dim=160, depth=6, patch_size=16, mlp_ratio=4, norm="ln")

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "wide",
        *,
        norm_position: str = "post",
        stem_norm: bool = True,
        norm_eps: float = 1e-5,
        **common: Unpack[ResampledArguments],
    ) -> None:
        self.norm_position = one_of("norm_position", norm_position, _POSITIONS)
        self.stem_norm = switch("stem_norm", stem_norm)
        self.norm_eps = norm_eps
        super().__init__(arch, **common)

    def build_stem(self) -> nn.Module:
        """Build the patch embedding, with a norm behind it or without."""
        size = self.patch_size
        norm = self._build_norm() if self.stem_norm else None
        return self.build_embed(0, kernel_size=size, stride=size, norm=norm)

    def build_block(self, stage: int, block: int, drop_path_rate: float) -> nn.Module:
        """Build one block; all blocks are alike."""
        dim = self.arch.embed_dim
        # a small scale is for norms behind the branches: in front it would starve them
        post = self.norm_position == "post"
        scale = affine_scale(self.arch.depth) if post else 1.0
        block_class = PostNormBlock if post else MixerBlock
        return block_class(
            norm1=self._build_norm(scale),
            mixer=SpatialShiftMixer(dim),
            norm2=self._build_norm(scale),
            mlp=self.build_mlp(stage),
            drop_path_rate=drop_path_rate,
        )

    def build_out_norm(self, dim: int) -> nn.Module:
        """Build the norm of one returned map: of a level always a layer norm."""
        if self.pyramid:
            return nn.LayerNorm(dim, eps=self.norm_eps)
        return self._build_norm()

    def adapt_weights(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Fit official weights to the pyramid.

        Args:
            weights: Tensors under this package's names; an affine final norm cannot
                become the layer norm of a level and is left out.
        """
        weights = super().adapt_weights(weights)
        if not self.pyramid:
            return weights
        affine = ("norm.alpha", "norm.beta", "out_norms.3.alpha", "out_norms.3.beta")
        return {key: value for key, value in weights.items() if key not in affine}

    def _build_norm(self, scale: float = 1.0) -> nn.Module:
        dim = self.arch.embed_dim
        if self.arch.norm == "affine":
            return Affine(dim, scale=scale)
        return nn.LayerNorm(dim, eps=self.norm_eps)

    checkpoint_layouts = (
        CheckpointLayout(
            name="S2-MLP as this package's reference cases have it",
            signature=r"^patch_embed\.proj\.weight",
            renames=((r"^patch_embed\.", "stem."),),
        ),
        CheckpointLayout(
            name="S2-MLP re-implementation (liuruiyang98/Jittor-MLP)",
            signature=r"^stages\.0\.1\.model\.\d+\.0\.fn\.0\.weight",
            renames=(
                (r"^stages\.0\.0\.", "stem.proj."),
                (r"^stages\.0\.1\.model\.(\d+)\.0\.norm\.", r"blocks.\1.norm1."),
                (r"^stages\.0\.1\.model\.(\d+)\.1\.norm\.", r"blocks.\1.norm2."),
                (r"^stages\.0\.1\.model\.(\d+)\.0\.fn\.0\.", r"blocks.\1.mixer.fc1."),
                (r"^stages\.0\.1\.model\.(\d+)\.0\.fn\.3\.", r"blocks.\1.mixer.fc2."),
                (r"^stages\.0\.1\.model\.(\d+)\.1\.fn\.0\.", r"blocks.\1.mlp.fc1."),
                (r"^stages\.0\.1\.model\.(\d+)\.1\.fn\.3\.", r"blocks.\1.mlp.fc2."),
                (r"^mlp_head\.1\.", "head.fc."),
            ),
            check=_check_norm_position,
        ),
    )
