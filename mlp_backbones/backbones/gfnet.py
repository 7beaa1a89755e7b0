"""GFNet: "Global Filter Networks for Image Classification".

Paper: arXiv 2107.00645, NeurIPS 2021; extended in IEEE TPAMI 2023. Facts follow the
authors' release (raoyongming/GFNet, MIT licence); the code is written anew.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from mlp_backbones.arguments import not_negative, one_of, positive_int, switch
from mlp_backbones.backbones.arch import PyramidArch, single
from mlp_backbones.backbones.resampled import GridArguments, GridBackbone
from mlp_backbones.checkpoints import CheckpointLayout
from mlp_backbones.layers import ChainedBlock, LayerScale
from mlp_backbones.registry import MODELS

FILTER_RESIZES = ("spectrum", "kernel")


class GlobalFilter(nn.Module):
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
        if len(x) == 0:  # there is no Fourier transform of no image
            return x * self.complex_weight.sum().to(x.dtype)
        # single precision at least: transforms of half precision are rare and poor
        dtype = torch.promote_types(x.dtype, torch.float32)
        weight = self.complex_weight.to(dtype)
        weight = resize_filter(weight, self.grid_size, size, self.resize)
        # FFTs run along the last axes: (B, H, W, C) -> (B, C, H, W)
        image = x.permute(0, 3, 1, 2).to(dtype).contiguous()
        spectrum = torch.fft.rfft2(image) * _as_complex(weight.permute(2, 0, 1, 3))
        # the factors of orthonormal transforms there and back cancel
        mixed = torch.fft.irfft2(spectrum, s=size)
        return mixed.permute(0, 2, 3, 1).to(x.dtype)  # (B, C, H, W) -> (B, H, W, C)

    def extra_repr(self) -> str:
        """Show the grid and how it is left."""
        return f"grid_size={self.grid_size}, resize={self.resize!r}"


def _as_complex(pairs: Tensor) -> Tensor:
    """Read (..., 2) as complex numbers."""
    # where a side is 1, contiguous() keeps strides that torch 2.1 refuses to view
    return torch.view_as_complex(pairs.clone(memory_format=torch.contiguous_format))


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
        image = weight.permute(2, 3, 0, 1).flatten(0, 1)[None]  # (1, 2C, h, w')
        image = F.interpolate(
            image, (new[0], new[1] // 2 + 1), mode="bicubic", align_corners=True
        )
        return image[0].unflatten(0, (-1, 2)).permute(2, 3, 0, 1)
    kernel = torch.fft.irfft2(_as_complex(weight), s=old, dim=(0, 1))
    kernel = kernel.roll((old[0] // 2, old[1] // 2), (0, 1))  # offset 0 to the centre
    top, left = (
        after // 2 - before // 2 for before, after in zip(old, new, strict=True)
    )
    bottom, right = new[0] - old[0] - top, new[1] - old[1] - left
    kernel = F.pad(kernel, (0, 0, left, right, top, bottom))  # crops where negative
    kernel = kernel.roll((-(new[0] // 2), -(new[1] // 2)), (0, 1))
    return torch.view_as_real(torch.fft.rfft2(kernel, dim=(0, 1)))


def _resize_positions(
    vectors: Tensor, old: tuple[int, int], new: tuple[int, int]
) -> Tensor:
    """Resample a vector for each token of a grid, (1, N, C), row by row."""
    if new == old:
        return vectors
    image = vectors.transpose(1, 2).unflatten(2, old)  # (1, N, C) -> (1, C, H, W)
    image = F.interpolate(image, new, mode="bicubic", align_corners=False)
    return image.flatten(2).transpose(1, 2)


class PositionedEmbed(nn.Module):
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
        positions = _resize_positions(self.pos_embed, self.grid_size, size)
        return (x + positions.unflatten(1, size)).contiguous()


def _read_old_stem(weights: dict[str, Tensor], backbone: Any) -> dict[str, Tensor]:
    """Give the stem of very old files, a matrix, the shape of a convolution."""
    key, size = "stem.proj.weight", backbone.arch.patch_size
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


def _layer_scale(name: str, value: float | None) -> float | None:
    return None if value is None else not_negative(name, value)


@dataclass(frozen=True, kw_only=True)
class GFNetArch(PyramidArch):
    """One stride, or four stages if ``hierarchical``.

    Without a ``layer_scale``, four stages have 1e-3 and one stride has none.
    """

    patch_size: int = single(positive_int)
    hierarchical: bool = single(switch)
    layer_scale: float | None = single(_layer_scale, default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer_scale is None:
            object.__setattr__(self, "layer_scale", 1e-3 if self.hierarchical else 0.0)
        if not self.hierarchical and len(set(self.embed_dims)) > 1:
            raise ValueError(
                "arch field 'embed_dims' must hold one number four times where "
                f"'hierarchical' is False, got {self.embed_dims!r}"
            )

    @property
    def transitions(self) -> tuple[bool, ...]:
        """Whether the stride doubles behind each stage."""
        return (self.hierarchical,) * 3 + (False,)


@MODELS.register_module()
class GFNet(GridBackbone):
    """GFNet: one stride with a pyramid made of it, or four stages, any image size.

    ``ti``, ``xs``, ``s`` and ``b`` have one stride, ``h_ti``, ``h_s`` and ``h_b`` four
    stages. Filters and position embedding belong to the training grid and are resampled
    to others, by the authors' rule for fine-tuning or by one that keeps the kernels'
    reach. Filters are circular: what is at one border reaches the opposite one.

    Args:
        arch: One of the names above, or a mapping with ``embed_dims``, ``depths``,
            ``mlp_ratios``, four numbers each, ``patch_size``, ``hierarchical`` and
            optionally ``layer_scale``.
        filter_resize: ``"spectrum"`` is the authors' rule, ``"kernel"`` the other; see
            :func:`resize_filter`.
        layer_scale: Initial value of the learnt scale of each branch, 0 for no scale,
            or None for that of the arch.
        norm_eps: Epsilon of the blocks' and output layer norms.
        common: See :class:`GridBackbone`.

    Example:
        >>> import torch
        >>> backbone = GFNet("h_ti", out_indices=(1, 2, 3))
        >>> [tuple(m.shape) for m in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 128, 8, 12), (1, 256, 4, 6), (1, 512, 2, 3)]
    """

    family = "gfnet"
    grid_modes = ("interpolate",)

    # fmt: off
    arch_settings: ClassVar[Mapping[str, GFNetArch]] = {
        name: GFNetArch(
            embed_dims=dims, depths=depths, mlp_ratios=(4, 4, 4, 4),
            patch_size=4 if scale else 16, hierarchical=scale > 0, layer_scale=scale,
        )
        for name, dims, depths, scale in (
            ("ti", (256,) * 4, (3, 3, 3, 3), 0.0),
            ("xs", (384,) * 4, (3, 3, 3, 3), 0.0),
            ("s", (384,) * 4, (4, 5, 5, 5), 0.0),
            ("b", (512,) * 4, (4, 5, 5, 5), 0.0),
            ("h_ti", (64, 128, 256, 512), (3, 3, 10, 3), 1e-3),
            ("h_s", (96, 192, 384, 768), (3, 3, 10, 3), 1e-5),
            ("h_b", (96, 192, 384, 768), (3, 3, 27, 3), 1e-6),
        )
    }
    # fmt: on
    mini_arch = GFNetArch(
        embed_dims=(32, 64, 128, 192),
        depths=(2, 2, 2, 1),
        mlp_ratios=(4, 4, 4, 4),
        patch_size=4,
        hierarchical=True,
        layer_scale=1e-3,
    )
    mini_options: ClassVar[dict[str, Any]] = {"image_size": 64}

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "h_ti",
        *,
        filter_resize: str = "spectrum",
        layer_scale: float | None = None,
        norm_eps: float = 1e-6,
        **common: Unpack[GridArguments],
    ) -> None:
        self.filter_resize = one_of("filter_resize", filter_resize, FILTER_RESIZES)
        self.layer_scale = self.resolve_arch(arch).layer_scale
        if layer_scale is not None:
            self.layer_scale = not_negative("layer_scale", layer_scale)
        self.norm_eps = norm_eps
        super().__init__(arch, **common)

    @property
    def fills_up_images(self) -> bool:
        """Whether images are filled up: four stages take any size by themselves."""
        return not self.arch.hierarchical

    def build_stem(self) -> nn.Module:
        """Build the patch embedding with its vectors of position."""
        return PositionedEmbed(
            self.in_channels,
            self.embed_dims[0],
            self.patch_size,
            self.token_grid.sizes[0],
        )

    def build_block(self, stage: int, block: int, drop_path_rate: float) -> nn.Module:
        """Build one block; all blocks of a stage are alike."""
        dim = self.embed_dims[stage]
        return ChainedBlock(
            norm1=self.build_norm(dim),
            mixer=GlobalFilter(
                dim, self.token_grid.sizes[stage], resize=self.filter_resize
            ),
            norm2=self.build_norm(dim),
            mlp=self.build_mlp(stage),
            layer_scale=LayerScale(dim, self.layer_scale) if self.layer_scale else None,
            drop_path_rate=drop_path_rate,
        )

    def adapt_weights(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Resample filters and positions of training images of another size.

        Args:
            weights: Tensors under this package's names.
        """
        adapted = dict(super().adapt_weights(weights))
        grid = _grid_of(adapted)
        if grid is None or grid == self.token_grid.sizes[0]:
            return adapted  # nothing to do, or a file that the loader will refuse
        for key, weight in adapted.items():
            if key == "stem.pos_embed":
                new = self.token_grid.sizes[0]
                adapted[key] = _resize_positions(weight, grid, new)
            match = re.match(r"stages\.([0-3])\..*\.complex_weight$", key)
            if match is None:
                continue
            stage = int(match[1])
            halvings = stage if self.arch.hierarchical else 0
            old = grid[0] >> halvings, grid[1] >> halvings
            if weight.ndim == 4 and weight.shape[:2] == (old[0], old[1] // 2 + 1):
                adapted[key] = resize_filter(
                    weight, old, self.token_grid.sizes[stage], self.filter_resize
                )
        return adapted

    official_names: ClassVar[Mapping[str, str]] = {
        name: f"gfnet-{name.replace('_', '-')}" for name in arch_settings
    }
    checkpoint_layouts = (
        CheckpointLayout(
            name="GFNet release",
            signature=r"^blocks\.\d+\.filter\.complex_weight",
            renames=(
                (r"^patch_embed\.", "stem."),
                (r"^pos_embed$", "stem.pos_embed"),
                (r"\.filter\.", ".mixer."),
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
                (r"\.gamma$", ".layer_scale.gamma"),
            ),
        ),
    )
