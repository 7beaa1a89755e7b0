"""MLP-Mixer: "MLP-Mixer: An all-MLP Architecture for Vision".

Paper: arXiv 2105.01601, NeurIPS 2021. Facts follow the authors' release
(google-research/vision_transformer) and timm (huggingface/pytorch-image-models), which
also has the gated sizes, both Apache-2.0 licence; the code is written anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from logging import WARNING
from typing import Any, ClassVar

import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn
from typing_extensions import Unpack

from mlp_backbones.arguments import image_size as image_size_of
from mlp_backbones.arguments import one_of, positive, positive_int, switch
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
    ChannelMLP,
    ConvEmbed,
    GatedActivation,
    TokenMLP,
    init_lecun_normal,
)
from mlp_backbones.registry import MODELS

_TIMM = "https://github.com/rwightman/pytorch-image-models/releases/download/"
GELUS = {"erf": "none", "tanh": "tanh"}  # our names, and torch's
REMAINDERS = ("cut", "same", "corner")


class GatedChannelMLP(ChannelMLP):
    """A channel MLP in which half of the hidden channels gates the other.

    Args:
        dim: Channels in and out.
        hidden_dim: Channels before the gate, which halves them.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__(dim, hidden_dim)
        self.act = GatedActivation()  # type: ignore[assignment]
        self.fc2 = ChannelLinear(hidden_dim // 2, dim)


def _from_flax(weights: dict[str, Tensor], _: Any) -> dict[str, Tensor]:
    """Bring kernels from (..., inputs, outputs) to (outputs, inputs, ...)."""
    orders = {2: (1, 0), 4: (3, 2, 0, 1)}
    return {
        key: tensor.permute(orders[tensor.ndim]) if tensor.ndim in orders else tensor
        for key, tensor in weights.items()
    }


@dataclass(frozen=True, kw_only=True)
class MixerArch(IsotropicArch):
    """Width, depth, patches, the hidden widths of both MLPs, and whether they gate."""

    tokens_mlp_dim: int = single(positive_int)
    channels_mlp_dim: int = single(positive_int)
    gated: bool = single(switch)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tokens_mlp_dim", "channels_mlp_dim"):
            if self.gated and getattr(self, name) % 2:
                raise ValueError(
                    f"arch field {name!r} must be even for a gate to halve it, got "
                    f"{getattr(self, name)}"
                )


@MODELS.register_module()
class MlpMixer(GridBackbone):
    """MLP-Mixer, one stride, and a pyramid made of it for any image size.

    Paper, section 2; sizes of table 1. ``gmixer_12`` and ``gmixer_24`` are timm's, with
    gated MLPs, and stand in no paper.

    The three sources of weights compute different functions: the authors' use the tanh
    form of GELU, timm's the exact one, mmpretrain's the exact one and another epsilon;
    and each does something else with pixels that fill no patch. Loading weights sets
    what is left at None here accordingly, and checkpoints of ``torch.save`` remember
    it. Other formats, safetensors among them, do not: name the arguments for those.

    Args:
        arch: ``s32``, ``s16``, ``b32``, ``b16``, ``l32``, ``l16``, ``h14``,
            ``gmixer_12``, ``gmixer_24``, ``mini``, or a mapping with ``embed_dim``,
            ``depth``, ``patch_size``, ``tokens_mlp_dim``, ``channels_mlp_dim`` and
            ``gated``.
        gelu: ``"erf"``, ``"tanh"``, or None for that of the weights loaded, and erf
            before that. Without effect on gated sizes.
        norm_eps: Epsilon of the blocks' and output layer norms, or None for that of
            the weights loaded, and 1e-6 before that.
        remainder: What becomes of rows and columns of the image that fill no patch:
            ``"cut"`` drops them as timm does, ``"same"`` fills zeros in on both sides
            as the authors do, ``"corner"`` at the right and the bottom as mmpretrain
            does; or None for that of the weights loaded, and cut before that. Weights
            of an ``image_size`` that is not in whole patches need it named. Without
            effect on a pyramid, which fills images up by itself.
        common: See :class:`GridBackbone`.

    Example:
        >>> import torch
        >>> backbone = MlpMixer("s32", out_indices=(1, 2, 3))
        >>> [tuple(m.shape) for m in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 128, 8, 12), (1, 256, 4, 6), (1, 512, 2, 3)]
    """

    family = "mlp_mixer"
    zero_head = True
    grid_modes = ("window", "interpolate")
    noted_arguments = ("gelu", "norm_eps", "remainder")

    arch_settings: ClassVar[Mapping[str, MixerArch]] = {
        name: MixerArch(
            embed_dim=dim,
            depth=depth,
            patch_size=patch_size,
            tokens_mlp_dim=tokens_mlp_dim,
            channels_mlp_dim=4 * dim,
            gated=name.startswith("gmixer"),
        )
        for name, dim, depth, patch_size, tokens_mlp_dim in (
            ("s32", 512, 8, 32, 256),
            ("s16", 512, 8, 16, 256),
            ("b32", 768, 12, 32, 384),
            ("b16", 768, 12, 16, 384),
            ("l32", 1024, 24, 32, 512),
            ("l16", 1024, 24, 16, 512),
            ("h14", 1280, 32, 14, 640),
            ("gmixer_12", 384, 12, 16, 384),
            ("gmixer_24", 384, 24, 16, 384),
        )
    }
    mini_arch = MixerArch(
        embed_dim=128,
        depth=6,
        patch_size=8,
        tokens_mlp_dim=72,
        channels_mlp_dim=384,
        gated=False,
    )
    mini_options: ClassVar[dict[str, Any]] = {"image_size": 64}

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "s32",
        *,
        gelu: str | None = None,
        norm_eps: float | None = None,
        remainder: str | None = None,
        **common: Unpack[GridArguments],
    ) -> None:
        asked = {"gelu": gelu, "norm_eps": norm_eps, "remainder": remainder}
        self._asked = {key: value for key, value in asked.items() if value is not None}
        self._check_noted_arguments(self._asked)
        self.gelu = "erf" if gelu is None else gelu
        self.norm_eps = 1e-6 if norm_eps is None else norm_eps
        self.remainder = "cut" if remainder is None else remainder
        patch_size = self.resolve_arch(arch).patch_size
        image_size = common.get("image_size")
        sides = image_size_of(224 if image_size is None else image_size, patch_size)
        if self.remainder != "cut":
            sides = tuple(side + -side % patch_size for side in sides)
        common["image_size"] = sides
        super().__init__(arch, **common)

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """Compute the raw map of every stage that is built, without output norms.

        Args:
            x: Images, (B, C, H, W), with H and W at least 32 pixels.

        Returns:
            The maps behind the last block of each stage, (B, H_i, W_i, C_i).

        Raises:
            ValueError: If the shape of ``x`` does not fit.
        """
        self._check_input(x)
        if self.remainder != "cut":
            bottom, right = (-side % self.patch_size for side in x.shape[2:])
            both = self.remainder == "same"
            top, left = (bottom // 2, right // 2) if both else (0, 0)
            x = F.pad(x, (left, right - left, top, bottom - top))
        return super().forward_stages(x)

    @classmethod
    def _check_noted_arguments(cls, arguments: Mapping[str, Any]) -> None:
        for key, value in arguments.items():
            one_of(f"argument of {cls.__name__}", key, cls.noted_arguments)
            if key == "norm_eps":
                positive(key, value)
            else:
                one_of(key, value, tuple(GELUS) if key == "gelu" else REMAINDERS)

    def apply_noted_arguments(self, arguments: Mapping[str, Any]) -> list[str]:
        """Compute as the weights that were loaded want it.

        What the caller of the class named stays; where it differs, a warning is
        logged.

        Args:
            arguments: ``gelu``, ``norm_eps`` and ``remainder``, or some of them.

        Returns:
            What has changed, in words.

        Raises:
            ValueError: If an argument is unknown or its value impossible.
        """
        self._check_noted_arguments(arguments)
        changed = []
        for key, value in arguments.items():
            if getattr(self, key) == value:
                continue
            if key in self._asked:
                print_log(
                    f"the layout of these weights goes with {key}={value!r}, but the "
                    f"model was asked for {key}={self._asked[key]!r} and keeps it",
                    logger="current",
                    level=WARNING,
                )
                continue
            setattr(self, key, value)
            changed.append(f"{key} is now {value!r}, as these weights want it")
        for part in (*self.stages.modules(), *self.out_norms.modules()):
            if isinstance(part, nn.LayerNorm):
                part.eps = self.norm_eps
            elif isinstance(part, nn.GELU):
                part.approximate = GELUS[self.gelu]
        return changed

    def build_mixer(self, stage: int, block: int) -> TokenMLP:
        """Build one token MLP; all blocks are alike."""
        return TokenMLP(
            hidden_dim=self.arch.tokens_mlp_dim,
            gelu=GELUS[self.gelu],
            gated=self.arch.gated,
            **self.grid_options(stage, block),
        )

    def build_mlp(self, stage: int) -> ChannelMLP:
        """Build one channel MLP; all blocks are alike."""
        dim, hidden_dim = self.arch.embed_dim, self.arch.channels_mlp_dim
        if self.arch.gated:
            return GatedChannelMLP(dim, hidden_dim)
        return ChannelMLP(dim, hidden_dim, gelu=GELUS[self.gelu])

    def _init_module(self, module: nn.Module) -> None:
        """Initialise as timm does: where there are gates, they begin half open."""
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.normal_(module.bias, std=1e-6)
        elif isinstance(module, ConvEmbed):
            init_lecun_normal(module.proj)
        elif self.arch.gated and isinstance(module, TokenMLP | GatedChannelMLP):
            half = len(module.fc1.weight) // 2  # comes behind its linear layers
            nn.init.normal_(module.fc1.weight[half:], std=1e-6)
            nn.init.ones_(module.fc1.bias[half:])

    official_names: ClassVar[Mapping[str, str]] = {
        name: f"mixer_{name}" for name in arch_settings if "gmixer" not in name
    }
    timm_names: ClassVar[Mapping[str, str]] = {
        name: f"{name}_224" if "gmixer" in name else f"mixer_{name}_224"
        for name in arch_settings
        if name != "h14"
    }
    default_preprocessing = CENTERED
    arch_preprocessing: ClassVar[Mapping[str, Preprocessing]] = dict.fromkeys(
        ("gmixer_12", "gmixer_24", "mini"), IMAGENET
    )
    released_weights: ClassVar[Mapping[str, str]] = {
        "b16": f"{_TIMM}v0.1-vitjx/jx_mixer_b16_224-76587d61.pth",
        "l16": f"{_TIMM}v0.1-vitjx/jx_mixer_l16_224-92f9adc4.pth",
        "gmixer_24": f"{_TIMM}v0.1-weights/gmixer_24_224_raa-7daf7ae6.pth",
    }
    checkpoint_layouts = (
        CheckpointLayout(
            name="timm",
            signature=r"^blocks\.\d+\.mlp_tokens\.fc1\.weight",
            renames=(
                (r"\.mlp_tokens\.", ".mixer."),
                (r"\.mlp_channels\.", ".mlp."),
            ),
            arguments={"gelu": "erf", "norm_eps": 1e-6, "remainder": "cut"},
        ),
        CheckpointLayout(
            name="Flax (the authors')",
            signature=r"MixerBlock_\d+/token_mixing/Dense_0/kernel$",
            renames=(
                (r"^params/", ""),
                (r"^MixerBlock_(\d+)/", r"blocks.\1."),
                (r"LayerNorm_0/", "norm1."),
                (r"LayerNorm_1/", "norm2."),
                (r"token_mixing/", "mixer."),
                (r"channel_mixing/", "mlp."),
                (r"Dense_0/", "fc1."),
                (r"Dense_1/", "fc2."),
                (r"^stem/", "stem.proj."),
                (r"^pre_head_layer_norm/", "norm."),
                (r"^head/", "head.fc."),
                (r"\.(kernel|scale)$", ".weight"),
            ),
            convert=_from_flax,
            arguments={"gelu": "tanh", "norm_eps": 1e-6, "remainder": "same"},
        ),
        CheckpointLayout(
            name="mmpretrain",
            signature=r"^layers\.\d+\.token_mix\.layers\.0\.0\.weight",
            renames=(
                (r"^patch_embed\.projection\.", "stem.proj."),
                (r"^ln1\.", "norm."),
                (r"^layers\.(\d+)\.", r"blocks.\1."),
                (r"\.ln([12])\.", r".norm\1."),
                (r"\.token_mix\.", ".mixer."),
                (r"\.channel_mix\.", ".mlp."),
                (r"\.layers\.0\.0\.", ".fc1."),
                (r"\.layers\.1\.", ".fc2."),
            ),
            arguments={"gelu": "erf", "norm_eps": 1e-5, "remainder": "corner"},
        ),
    )
