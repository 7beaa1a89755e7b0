"""GFNet: "Global Filter Networks for Image Classification".

Paper: arXiv 2107.00645, NeurIPS 2021; extended in IEEE TPAMI 2023. Facts follow the
authors' release (raoyongming/GFNet, MIT licence); the code is written anew.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlp_backbones.backbones.resampled import ResampledBackbone
from mlp_backbones.checkpoints import CheckpointLayout
from mlp_backbones.layers import (
    CachingModule,
    ChannelMLP,
    DropPath,
    resize_tokens,
    resolve_image_size,
)
from mlp_backbones.registry import MODELS

FILTER_RESIZES = ("spectrum", "kernel")
_LAYER_SCALES = {"h_ti": 1e-3, "h_s": 1e-5, "h_b": 1e-6}


class GlobalFilter(CachingModule):
    """A circular depthwise convolution as large as the map, in the frequency domain.

    Source: paper, section 3.2.

    Args:
        dim: Channels in and out.
        grid_size: Height and width of the grid the filter belongs to, in tokens.
        resize: How the filter is brought to another grid: ``"spectrum"`` or
            ``"kernel"``, see :func:`resize_filter`.
    """

    def __init__(self, dim: int, grid_size: tuple[int, int], *, resize: str) -> None:
        super().__init__()
        self.grid_size = grid_size
        self.resize = resize
        height, width = grid_size
        # real, as (real, imaginary) pairs: optimizers and mixed precision know no other
        self.complex_weight = nn.Parameter(
            torch.randn(height, width // 2 + 1, dim, 2) * 0.02
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        size = (x.shape[1], x.shape[2])
        spectrum = self.cache.get(self, size, lambda: self._spectrum(size))
        # FFTs run along the last axes: (B, H, W, C) -> (B, C, H, W), always float32
        image = x.permute(0, 3, 1, 2).float().contiguous()
        # the factors of orthonormal transforms there and back cancel
        mixed = torch.fft.irfft2(torch.fft.rfft2(image) * spectrum, s=size)
        return mixed.permute(0, 2, 3, 1).to(x.dtype)  # (B, C, H, W) -> (B, H, W, C)

    def _spectrum(self, size: tuple[int, int]) -> Tensor:
        """Return the filter at a grid of ``size``, complex, (C, H, W // 2 + 1)."""
        weight = resize_filter(self.complex_weight, self.grid_size, size, self.resize)
        weight = weight.float().permute(2, 0, 1, 3)  # (C, H, W', 2)
        # where a side is 1, contiguous() keeps strides that torch 2.1 refuses to view
        return torch.view_as_complex(
            weight.clone(memory_format=torch.contiguous_format)
        )

    def extra_repr(self) -> str:
        """Show the grid and how it is left."""
        return f"grid_size={self.grid_size}, resize={self.resize!r}"


def resize_filter(
    weight: Tensor, old: tuple[int, int], new: tuple[int, int], how: str
) -> Tensor:
    """Bring a global filter to another grid.

    Args:
        weight: The filter, (h, w // 2 + 1, C, 2).
        old: Height and width of the grid it belongs to, in tokens.
        new: Height and width of the grid wanted, in tokens.
        how: ``"spectrum"`` interpolates the frequencies like an image, bicubically and
            with aligned corners, as the authors do when they fine-tune.
            ``"kernel"`` pads the kernel with zeros or crops it, which keeps its reach
            in tokens.

    Returns:
        The filter, (H, W // 2 + 1, C, 2); itself where the grids are equal.
    """
    if new == old:
        return weight
    if how == "spectrum":
        image = weight.float().permute(2, 3, 0, 1).flatten(0, 1)[None]  # (1, 2C, h, w')
        image = F.interpolate(
            image, (new[0], new[1] // 2 + 1), mode="bicubic", align_corners=True
        )
        resized = image[0].unflatten(0, (-1, 2)).permute(2, 3, 0, 1)
        return resized.to(weight.dtype)
    spectrum = torch.view_as_complex(weight.float().contiguous())
    kernel = torch.fft.irfft2(spectrum, s=old, dim=(0, 1))
    kernel = kernel.roll((old[0] // 2, old[1] // 2), (0, 1))  # offset 0 to the centre
    top, left = (
        after // 2 - before // 2 for before, after in zip(old, new, strict=True)
    )
    bottom, right = new[0] - old[0] - top, new[1] - old[1] - left
    kernel = F.pad(kernel, (0, 0, left, right, top, bottom))  # crops where negative
    kernel = kernel.roll((-(new[0] // 2), -(new[1] // 2)), (0, 1))
    resized = torch.view_as_real(torch.fft.rfft2(kernel, dim=(0, 1)))
    return resized.to(weight.dtype)


class PositionedEmbed(CachingModule):
    """Patch embedding with a learnt vector for each position of the training grid.

    Args:
        in_channels: Channels of the image.
        dim: Channels of the tokens.
        patch_size: Side of the patches, in pixels.
        grid_size: Height and width of the training grid, in tokens.
    """

    def __init__(
        self, in_channels: int, dim: int, patch_size: int, grid_size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.grid_size = grid_size
        self.proj = nn.Conv2d(in_channels, dim, patch_size, patch_size)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid_size[0] * grid_size[1], dim))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, H', W', C'); other grids take resampled vectors."""
        x = self.proj(x).permute(0, 2, 3, 1)  # (B, C', H', W') -> (B, H', W', C')
        size = (x.shape[1], x.shape[2])
        positions = self.cache.get(
            self,
            size,
            lambda: resize_tokens(
                self.pos_embed, 1, self.grid_size, size, mode="bicubic"
            ).unflatten(1, size),
        )
        return (x + positions).contiguous()


class FilterBlock(nn.Module):
    """``x + scale * mlp(norm2(mixer(norm1(x))))``: one skip around both.

    Source: paper, figure 2; the scale is that of the hierarchical release.

    Args:
        norm1: Norm in front of the filter.
        mixer: Global filter, (B, H, W, C) to (B, H, W, C).
        norm2: Norm between filter and channel MLP.
        mlp: Channel MLP.
        layer_scale: Start of a learnt scale for each channel, or None for no scale.
        drop_path_rate: Stochastic depth rate of the branch.
    """

    gamma: nn.Parameter | None

    def __init__(
        self,
        *,
        norm1: nn.LayerNorm,
        mixer: nn.Module,
        norm2: nn.Module,
        mlp: nn.Module,
        layer_scale: float | None,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        self.norm1 = norm1
        self.mixer = mixer
        self.norm2 = norm2
        self.mlp = mlp
        self.gamma = None
        if layer_scale is not None:
            self.gamma = nn.Parameter(
                torch.full((norm1.normalized_shape[0],), float(layer_scale))
            )
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        branch = self.mlp(self.norm2(self.mixer(self.norm1(x))))
        if self.gamma is not None:
            branch = branch * self.gamma
        return x + self.drop_path(branch)


def _read_old_stem(weights: dict[str, Tensor], backbone: Any) -> dict[str, Tensor]:
    """Give the stem of very old files, a matrix, the shape of a convolution."""
    key, size = "stem.proj.weight", backbone.arch["patch_size"]
    weight = weights.get(key)
    if weight is None or weight.ndim != 2 or weight.shape[1] % size**2:
        return weights
    return {**weights, key: weight.reshape(len(weight), -1, size, size)}


def _grid_of(weights: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """Return the training grid that weights belong to, or None if they name none.

    The first filter holds the height as it is and the width halved, the position
    embedding their product.
    """
    positions = weights.get("stem.pos_embed")
    filters = weights.get("stages.0.blocks.0.mixer.complex_weight")
    if positions is None or positions.ndim != 3 or filters is None or filters.ndim != 4:
        return None
    height = filters.shape[0]
    width, rest = divmod(positions.shape[1], height)
    if rest or width // 2 + 1 != filters.shape[1]:
        return None
    return height, width


@MODELS.register_module()
class GFNet(ResampledBackbone):
    """GFNet: one stride with a pyramid made of it, or four stages, any image size.

    ``ti``, ``xs``, ``s`` and ``b`` have one stride, ``h_ti``, ``h_s`` and ``h_b`` four
    stages. Filters and position embedding belong to the training grid and are resampled
    to others, by the authors' rule for fine-tuning or by one that keeps the kernels'
    reach. Filters are circular: what is at one border reaches the opposite one.

    Args:
        arch: One of the names above, or a mapping with ``embed_dims``, ``depths``,
            ``mlp_ratios``, four numbers each, ``patch_size`` and ``hierarchical``.
        pyramid: Whether the maps come at strides 4, 8, 16 and 32, see
            :class:`ResampledBackbone`; without it, borders that fill no patch are
            dropped as in the official code. Archs with four stages have the strides
            anyway, and the official sizes with it.
        image_size: Side of the training images, or height and width, in pixels.
        grid: ``"interpolate"``: filters are resampled to other grids.
        filter_resize: ``"spectrum"`` is the authors' rule, ``"kernel"`` the other; see
            :func:`resize_filter`.
        layer_scale: Start of the learnt scale of each branch, 0 for no scale. None
            takes that of the arch: hierarchical ones of your own have 1e-3, those of
            one stride none.
        norm_eps: Epsilon of the blocks' and output layer norms.
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
        >>> backbone = GFNet("h_ti", out_indices=(1, 2, 3))
        >>> [tuple(m.shape) for m in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 128, 8, 12), (1, 256, 4, 6), (1, 512, 2, 3)]
    """

    family = "gf_net"

    # fmt: off
    arch_settings: ClassVar[dict[str, dict[str, Any]]] = {
        name: {
            "embed_dims": dims,
            "depths": depths,
            "mlp_ratios": (4, 4, 4, 4),
            "patch_size": 4 if name.startswith("h_") else 16,
            "hierarchical": name.startswith("h_"),
        }
        for name, dims, depths in (
            ("ti", (256,) * 4, (3, 3, 3, 3)),
            ("xs", (384,) * 4, (3, 3, 3, 3)),
            ("s", (384,) * 4, (4, 5, 5, 5)),
            ("b", (512,) * 4, (4, 5, 5, 5)),
            ("h_ti", (64, 128, 256, 512), (3, 3, 10, 3)),
            ("h_s", (96, 192, 384, 768), (3, 3, 10, 3)),
            ("h_b", (96, 192, 384, 768), (3, 3, 27, 3)),
        )
    }
    # fmt: on
    mini_arch: ClassVar[dict[str, Any]] = {
        "embed_dims": (16, 32, 48, 64),
        "depths": (1, 1, 2, 1),
        "mlp_ratios": (4, 4, 2, 2),
        "patch_size": 4,
        "hierarchical": True,
    }
    official_names: ClassVar[dict[str, str]] = {
        name: f"gfnet-{name.replace('_', '-')}" for name in arch_settings
    }
    classifier_arguments: ClassVar[dict[str, Any]] = {"pyramid": False}
    grid_modes: ClassVar[tuple[str, ...]] = ("interpolate",)
    reference_constants: ClassVar[dict[str, Any]] = {"gelu": "erf"}

    checkpoint_layouts = (
        CheckpointLayout(
            name="GFNet release",
            signature=r"^blocks\.\d+\.filter\.complex_weight",
            renames=(
                (r"^patch_embed\.", "stem."),
                (r"^pos_embed$", "stem.pos_embed"),
                (r"\.filter\.", ".mixer."),
                (r"^head\.", "head.fc."),
            ),
            convert=_read_old_stem,
        ),
        CheckpointLayout(
            name="hierarchical GFNet release",
            signature=r"^blocks\.\d+\.\d+\.filter\.complex_weight",
            renames=(
                (r"^patch_embed\.0\.", "stem."),
                (r"^patch_embed\.(\d+)\.", r"stages.\1.downsample."),
                (r"^pos_embed$", "stem.pos_embed"),
                (r"^blocks\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
                (r"\.filter\.", ".mixer."),
                (r"^head\.", "head.fc."),
            ),
        ),
    )

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "h_ti",
        *,
        pyramid: bool = True,
        image_size: int | Sequence[int] = 224,
        grid: str = "interpolate",
        filter_resize: str = "spectrum",
        layer_scale: float | None = None,
        norm_eps: float = 1e-6,
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        out_norm: bool = True,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        init_cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        if grid not in self.grid_modes:
            raise ValueError(f"grid must be one of {self.grid_modes}, got {grid!r}")
        if filter_resize not in FILTER_RESIZES:
            raise ValueError(
                f"filter_resize must be one of {FILTER_RESIZES}, got {filter_resize!r}"
            )
        if layer_scale is not None and not layer_scale >= 0:
            raise ValueError(
                f"layer_scale must be positive, 0 or None, got {layer_scale}"
            )
        fields = self.resolve_arch(arch)
        halvings = 3 if fields["hierarchical"] else 0
        sides = resolve_image_size(image_size, fields["patch_size"] << halvings)
        self.grid_size = (
            sides[0] // fields["patch_size"],
            sides[1] // fields["patch_size"],
        )
        self.filter_resize = filter_resize
        self.layer_scale = layer_scale or None
        if layer_scale is None and fields["hierarchical"]:
            self.layer_scale = _LAYER_SCALES.get(str(arch), 1e-3)
        self.norm_eps = norm_eps
        super().__init__(
            arch,
            pyramid=pyramid,
            in_channels=in_channels,
            out_indices=out_indices,
            out_norm=out_norm,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            drop_path_rate=drop_path_rate,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )

    @classmethod
    def arguments_from_reference(
        cls, config: Mapping[str, Any], input_size: tuple[int, int]
    ) -> dict[str, Any]:
        """Turn the config of a reference case into arguments of this class.

        Args:
            config: The recorded fields of an isotropic or a hierarchical network;
                ``weights_input_size`` where the weights belong to another size.
            input_size: Height and width of the recorded image, in pixels.

        Raises:
            ValueError: If a constant is not the one this class is built on.
        """
        fields = dict(config)
        fields["hierarchical"] = fields.pop("variant") == "pyramid"
        has_scale = fields.pop("layer_scale", fields["hierarchical"])
        if has_scale and not fields["hierarchical"]:
            raise ValueError(
                "GFNet of one stride has no layer scale, the case says "
                f"layer_scale={has_scale!r}"
            )
        if not has_scale:
            fields["layer_scale"] = 0.0
        if "depth" in fields:
            depth = fields.pop("depth")
            quarters = [depth * part // 4 for part in range(1, 5)]
            ends = fields.pop("stage_ends", None) or quarters
            fields["depths"] = tuple(
                end - start for start, end in zip([0, *ends], ends, strict=False)
            )
            fields["embed_dims"] = (fields.pop("embed_dim"),) * 4
            fields["mlp_ratios"] = (fields.pop("mlp_ratio"),) * 4
        size = fields.pop("weights_input_size", input_size)
        return super().arguments_from_reference(fields, tuple(size))

    @classmethod
    def _check_arch(cls, arch: dict[str, Any]) -> None:
        super()._check_arch(arch)
        if not arch["hierarchical"] and len(set(arch["embed_dims"])) > 1:
            raise ValueError(
                "arch field 'embed_dims' of GFNet must hold one number four times "
                f"where 'hierarchical' is False, got {arch['embed_dims']!r}"
            )

    @property
    def fills_up_images(self) -> bool:
        """Whether images are filled up: four stages take any size by themselves."""
        return not self.arch["hierarchical"]

    def _transitions(self) -> tuple[bool, ...]:
        hierarchical = self.arch["hierarchical"]
        return (hierarchical, hierarchical, hierarchical, False)

    def build_stem(self) -> nn.Module:
        """Build the patch embedding with its vectors of position."""
        return PositionedEmbed(
            self.in_channels, self.embed_dims[0], self.patch_size, self._grid(0)
        )

    def build_block(self, stage: int, block: int, drop_path_rate: float) -> nn.Module:
        """Build one block; all blocks of a stage are alike."""
        dim = self.embed_dims[stage]
        return FilterBlock(
            norm1=nn.LayerNorm(dim, eps=self.norm_eps),
            mixer=GlobalFilter(dim, self._grid(stage), resize=self.filter_resize),
            norm2=nn.LayerNorm(dim, eps=self.norm_eps),
            mlp=ChannelMLP(dim, int(dim * self.arch["mlp_ratios"][stage])),
            layer_scale=self.layer_scale,
            drop_path_rate=drop_path_rate,
        )

    def build_out_norm(self, dim: int) -> nn.Module:
        """Build the layer norm of one returned map."""
        return nn.LayerNorm(dim, eps=self.norm_eps)

    def adapt_weights(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Resample filters and positions of training images of another size.

        Args:
            weights: Tensors under this package's names.
        """
        adapted = dict(super().adapt_weights(weights))
        grid = _grid_of(adapted)
        if grid is None or grid == self.grid_size:
            return adapted  # nothing to do, or a file that the loader will refuse
        for key, weight in adapted.items():
            if key == "stem.pos_embed":
                adapted[key] = resize_tokens(
                    weight, 1, grid, self._grid(0), mode="bicubic"
                )
            match = re.match(r"stages\.([0-3])\..*\.complex_weight$", key)
            if match is None:
                continue
            stage = int(match[1])
            old = self._halved(grid, stage)
            if weight.ndim == 4 and weight.shape[:2] == (old[0], old[1] // 2 + 1):
                adapted[key] = resize_filter(
                    weight, old, self._grid(stage), self.filter_resize
                )
        return adapted

    def _grid(self, stage: int) -> tuple[int, int]:
        """Return the training grid of a stage."""
        return self._halved(self.grid_size, stage)

    def _halved(self, grid: tuple[int, int], stage: int) -> tuple[int, int]:
        """Halve a grid, rounded down, as often as a stage lies behind the stem."""
        halvings = stage if self.arch["hierarchical"] else 0
        return grid[0] >> halvings, grid[1] >> halvings
