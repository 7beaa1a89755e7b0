"""ResMLP: feedforward networks for image classification.

Paper: "ResMLP: Feedforward networks for image classification with data-efficient
training", arXiv 2105.03404, TPAMI 2022. Facts and the layout of weights follow the
authors' release (facebookresearch/deit, Apache-2.0 licence); the code is written anew.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from mlp_backbones.backbones.isotropic import IsotropicGridBackbone
from mlp_backbones.checkpoints import CheckpointLayout
from mlp_backbones.layers import Affine, ChannelMLP, ScaledBlock, TokenLinear
from mlp_backbones.registry import MODELS

_RELEASE = "https://dl.fbaipublicfiles.com/deit/"
_FINAL_AFFINE = re.compile(r"^(norm|out_norms\.\d+)\.(alpha|beta)$")


@MODELS.register_module()
class ResMLP(IsotropicGridBackbone):
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
        pyramid: See :class:`ResampledBackbone`: whether the maps are brought to
            strides 4, 8, 16 and 32.
        image_size: See :class:`IsotropicGridBackbone`, as the next two: side of the
            training images, or height and width, in pixels.
        grid: ``"window"`` mixes inside windows of the training grid;
            ``"interpolate"`` resamples the token matrices, which grow with the square
            of the area.
        shift_windows: Whether the windows of every second block are half a window
            away.
        in_channels: See :class:`MLPBackbone`, as all that follow.
        out_indices: The levels whose maps are returned.
        out_norm: Whether each returned map passes a norm of its own.
        frozen_stages: How many stages are frozen.
        norm_eval: Without effect here: no norm keeps statistics.
        drop_path_rate: Stochastic depth rate of every block.
        with_cp: Whether blocks are recomputed in the backward pass.
        init_cfg: MMEngine's initialisation config.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument has an impossible value.

    Example:
        >>> import torch
        >>> backbone = ResMLP("s12", out_indices=(1, 2, 3))
        >>> [tuple(m.shape) for m in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 192, 8, 12), (1, 384, 4, 6), (1, 384, 2, 3)]
    """

    family = "res_mlp"

    arch_settings: ClassVar[dict[str, dict[str, Any]]] = {
        name: {
            "embed_dim": dim,
            "depth": depth,
            "patch_size": patch_size,
            "mlp_ratio": 4,
            "init_scale": init_scale,
        }
        for name, dim, depth, patch_size, init_scale in (
            ("s12", 384, 12, 16, 0.1),
            ("s24", 384, 24, 16, 1e-5),
            ("s36", 384, 36, 16, 1e-6),
            ("b24", 768, 24, 16, 1e-6),
            ("b24_8", 768, 24, 8, 1e-6),
        )
    }
    mini_arch: ClassVar[dict[str, Any]] = {
        "embed_dim": 32,
        "depth": 4,
        "patch_size": 16,
        "mlp_ratio": 4,
        "init_scale": 0.1,
    }
    official_names: ClassVar[dict[str, str]] = {
        "s12": "resmlp_12",
        "s24": "resmlp_24",
        "s36": "resmlp_36",
        "b24": "resmlpB_24_patch16",
        "b24_8": "resmlpB_24",
    }
    released_weights: ClassVar[dict[str, str]] = {
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
                (r"^(blocks\.\d+)\.gamma_([12])$", r"\1.scale\2"),
                (r"^head\.", "head.fc."),
            ),
        ),
        CheckpointLayout(
            name="timm",
            signature=r"^blocks\.\d+\.linear_tokens\.bias$",
            renames=(
                (r"^(blocks\.\d+)\.linear_tokens\.", r"\1.mixer."),
                (r"^(blocks\.\d+)\.mlp_channels\.", r"\1.mlp."),
                (r"^(blocks\.\d+)\.ls([12])$", r"\1.scale\2"),
                (r"^head\.", "head.fc."),
            ),
        ),
    )

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "s12",
        *,
        pyramid: bool = True,
        image_size: int | Sequence[int] = 224,
        grid: str = "window",
        shift_windows: bool = False,
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        out_norm: bool = True,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        init_cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
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
        return ScaledBlock(
            dim,
            norm1=Affine(dim),
            mixer=TokenLinear(**self.grid_options(stage, block)),
            norm2=Affine(dim),
            mlp=ChannelMLP(dim, int(dim * self.arch["mlp_ratio"])),
            init_scale=self.arch["init_scale"],
            drop_path_rate=drop_path_rate,
        )

    def build_out_norm(self, dim: int) -> nn.Module:
        """Build the norm of one level, or the classifier's affine map."""
        return nn.LayerNorm(dim) if self.pyramid else Affine(dim)

    def adapt_weights(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Leave out the classifier's affine map where levels have norms.

        Args:
            weights: Tensors under this package's names.
        """
        return super().adapt_weights(without_final_affine(weights, self.pyramid))

    def _drop_path_rates(self, drop_path_rate: float) -> list[list[float]]:
        rates = super()._drop_path_rates(drop_path_rate)
        return [[drop_path_rate] * len(stage) for stage in rates]

    def _init_module(self, module: nn.Module) -> None:
        if isinstance(module, TokenLinear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
        else:
            super()._init_module(module)


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
