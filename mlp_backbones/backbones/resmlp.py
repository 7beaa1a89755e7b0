"""ResMLP: feedforward networks for image classification.

Paper: "ResMLP: Feedforward networks for image classification with data-efficient
training", arXiv 2105.03404, TPAMI 2022. Facts and the layout of weights follow the
authors' release (facebookresearch/deit, Apache-2.0 licence); the code is written anew.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import Unpack

from mlp_backbones.arguments import positive
from mlp_backbones.backbones.arch import IsotropicArch, single
from mlp_backbones.backbones.resampled import GridArguments, GridBackbone
from mlp_backbones.checkpoints import CheckpointLayout
from mlp_backbones.layers import Affine, LayerScale, TokenLinear
from mlp_backbones.registry import MODELS

_RELEASE = "https://dl.fbaipublicfiles.com/deit/"
_FINAL_AFFINE = re.compile(r"^(norm|out_norms\.\d+)\.(alpha|beta)$")


def without_final_affine(
    weights: dict[str, Tensor], pyramid: bool
) -> dict[str, Tensor]:
    """Drop the final affine map if the backbone is a pyramid, whose norms start fresh.

    Args:
        weights: Tensors under this package's names.
        pyramid: Whether the backbone is one.
    """
    if not pyramid:
        return weights
    return {k: v for k, v in weights.items() if not _FINAL_AFFINE.match(k)}


@dataclass(frozen=True, kw_only=True)
class ResMLPArch(IsotropicArch):
    """Widths and depth, and what all branches are scaled by at initialisation."""

    mlp_ratio: float = single(positive)
    init_scale: float = single(positive)


@MODELS.register_module()
class ResMLP(GridBackbone):
    """ResMLP, one stride, and a pyramid made of it for any image size.

    A block is one linear layer over all tokens and a channel MLP, each between an
    affine map and a learnt scale of its branch (paper, section 2). Nothing in it looks
    at statistics, so levels of the pyramid pass layer norms; the classifier's trunk
    keeps its affine map.

    ``s12``, ``s24``, ``s36`` and ``b24_8`` (patches of 8 pixels) are the released
    models, ``b24`` is the paper's, of which nothing was released.

    Args:
        arch: ``s12``, ``s24``, ``s36``, ``b24``, ``b24_8``, ``mini``, or a mapping
            with ``embed_dim``, ``depth``, ``patch_size``, ``mlp_ratio`` and
            ``init_scale``, which all branches are scaled by at the start.
        common: See :class:`GridBackbone`.

    Example:
        >>> import torch
        >>> backbone = ResMLP("s12", out_indices=(1, 2, 3))
        >>> [tuple(m.shape) for m in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 192, 8, 12), (1, 384, 4, 6), (1, 384, 2, 3)]
    """

    family = "resmlp"

    grid_modes = ("window", "interpolate")
    constant_drop_path = True
    arch_settings: ClassVar[Mapping[str, ResMLPArch]] = {
        name: ResMLPArch(
            embed_dim=dim,
            depth=depth,
            patch_size=patch_size,
            mlp_ratio=4,
            init_scale=init_scale,
        )
        for name, dim, depth, patch_size, init_scale in (
            ("s12", 384, 12, 16, 0.1),
            ("s24", 384, 24, 16, 1e-5),
            ("s36", 384, 36, 16, 1e-6),
            ("b24", 768, 24, 16, 1e-6),
            ("b24_8", 768, 24, 8, 1e-6),
        )
    }
    mini_arch = ResMLPArch(
        embed_dim=128, depth=8, patch_size=8, mlp_ratio=3, init_scale=0.1
    )
    mini_options: ClassVar[dict[str, Any]] = {"image_size": 64}

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "s12",
        **common: Unpack[GridArguments],
    ) -> None:
        super().__init__(arch, **common)

    def build_mixer(self, stage: int, block: int) -> TokenLinear:
        """Build one linear layer over tokens; all blocks are alike."""
        return TokenLinear(**self.grid_options(stage, block))

    def build_norm(self, dim: int) -> nn.Module:
        """Build the affine map in front of a branch."""
        return Affine(dim)

    def build_layer_scale(self, dim: int) -> LayerScale:
        """Build the learnt scale of a branch."""
        return LayerScale(dim, self.arch.init_scale)

    def build_out_norm(self, dim: int) -> nn.Module:
        """Build the norm of one level, or the classifier's affine map."""
        return nn.LayerNorm(dim) if self.pyramid else Affine(dim)

    def adapt_weights(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Leave out the classifier's affine map where levels have norms.

        Args:
            weights: Tensors under this package's names.
        """
        return super().adapt_weights(without_final_affine(weights, self.pyramid))

    def _init_module(self, module: nn.Module) -> None:
        if isinstance(module, TokenLinear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
        else:
            super()._init_module(module)

    official_names: ClassVar[Mapping[str, str]] = {
        "s12": "resmlp_12",
        "s24": "resmlp_24",
        "s36": "resmlp_36",
        "b24": "resmlpB_24_patch16",
        "b24_8": "resmlpB_24",
    }
    timm_names: ClassVar[Mapping[str, str]] = {
        "s12": "resmlp_12_224",
        "s24": "resmlp_24_224",
        "s36": "resmlp_36_224",
        "b24_8": "resmlp_big_24_224",
    }
    released_weights: ClassVar[Mapping[str, str]] = {
        "s12": f"{_RELEASE}resmlp_12_no_dist.pth",
        "s24": f"{_RELEASE}resmlp_24_no_dist.pth",
        "s36": f"{_RELEASE}resmlp_36_no_dist.pth",
        "b24_8": f"{_RELEASE}resmlpB_24_no_dist.pth",
    }

    checkpoint_layouts = (
        CheckpointLayout(
            name="ResMLP release",
            signature=r"^blocks\.\d+\.gamma_1$",
            renames=(
                (r"^patch_embed\.", "stem."),
                (r"^(blocks\.\d+)\.attn\.", r"\1.mixer."),
                (r"^(blocks\.\d+)\.gamma_([12])$", r"\1.layer_scale\2.gamma"),
            ),
        ),
        CheckpointLayout(
            name="timm",
            signature=r"^blocks\.\d+\.linear_tokens\.bias$",
            renames=(
                (r"^(blocks\.\d+)\.linear_tokens\.", r"\1.mixer."),
                (r"^(blocks\.\d+)\.mlp_channels\.", r"\1.mlp."),
                (r"^(blocks\.\d+)\.ls([12])$", r"\1.layer_scale\2.gamma"),
            ),
        ),
    )
