"""sMLPNet: "Sparse MLP for Image Recognition: Is Self-Attention Really Necessary?".

Paper: arXiv 2109.05422, AAAI 2022. Weights and facts follow the authors' release
(microsoft/SPACH, MIT licence, ``models/smlp.py``); the code is written anew.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from mlp_backbones.arguments import one_of, positive, switch
from mlp_backbones.backbones.arch import PyramidArch
from mlp_backbones.backbones.base import CommonArguments, MLPBackbone
from mlp_backbones.checkpoints import CheckpointLayout
from mlp_backbones.layers import (
    ChannelLinear,
    TokenGrid,
    TransposedLinear,
    grid_to_map,
    map_to_grid,
    plan_windows,
)
from mlp_backbones.registry import MODELS

_RELEASE = "https://github.com/microsoft/SPACH/releases/download/v1.0/"


class PatchConv(nn.Module):
    """A convolution over patches that do not overlap, without bias and norm.

    Sides that are no whole number of patches are filled up with zeros at the right and
    the bottom, but for those of the training images and maps: there the release drops
    the remainder.

    Args:
        in_channels: Channels of the input.
        dim: Channels of the output.
        patch_size: Side of a patch, in cells of the input.
        official_sides: Heights and widths whose remainder is dropped, in cells.
        channels_last: Whether the input is (B, H, W, C); a stem takes (B, C, H, W).
    """

    def __init__(
        self,
        in_channels: int,
        dim: int,
        patch_size: int,
        official_sides: tuple[range, range],
        *,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.official_sides = official_sides
        self.channels_last = channels_last
        self.proj = nn.Conv2d(in_channels, dim, patch_size, patch_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the embedded map, (B, H', W', C')."""
        if self.channels_last:
            x = x.permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W)
        bottom, right = (
            0 if official.start <= side < official.stop else -side % self.patch_size
            for side, official in zip(x.shape[2:], self.official_sides, strict=True)
        )
        if bottom or right:
            x = F.pad(x, (0, right, 0, bottom))
        # (B, C', H', W') -> (B, H', W', C')
        return self.proj(x).permute(0, 2, 3, 1).contiguous()


class SparseMixer(nn.Module):
    """A depthwise convolution, then lines of tokens mixed along either axis.

    The activated map, its rows mixed along the width and its columns mixed along the
    height are fused by one linear layer. All channels and all lines share one matrix
    for each axis, which belongs to the training grid. Source: paper, section 3.2, and
    the release's class ``sMLPBlock``.

    With ``grid="window"`` each line is cut into runs of the training length, rows and
    columns independently; zeros fill up a shorter run at the border. With
    ``grid="interpolate"`` the matrices are resampled to whole lines.

    Args:
        dim: Channels in and out.
        grid_size: Height and width of the training grid, in tokens.
        norm_eps: Epsilon of the batch norm.
        grid: ``"window"`` or ``"interpolate"``.
        window_offset: Where the first whole run begins along height and width.
    """

    def __init__(
        self,
        dim: int,
        grid_size: tuple[int, int],
        *,
        norm_eps: float = 1e-5,
        grid: str = "window",
        window_offset: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__()
        self.grid_size = grid_size
        self.grid = grid
        self.window_offset = window_offset
        height, width = grid_size
        self.act = nn.GELU()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)
        self.norm = nn.BatchNorm2d(dim, eps=norm_eps)
        self.along_width = TransposedLinear(width, width)  # the release's proj_h
        self.along_height = TransposedLinear(height, height)  # the release's proh_w
        self.fuse = ChannelLinear(3 * dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        x = self.act(x).permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W)
        x = self.norm(self.dwconv(x)).permute(0, 2, 3, 1)  # and back
        x = self.act(x)
        rows = self._mix(self.along_width, x, 2)
        columns = self._mix(self.along_height, x, 1)
        return self.fuse(torch.cat((x, rows, columns), dim=-1))

    def _mix(self, linear: TransposedLinear, x: Tensor, axis: int) -> Tensor:
        """Mix the lines of maps (B, H, W, C) along the height (1) or the width (2)."""
        size, length = x.shape[axis], self.grid_size[axis - 1]
        before = after = 0
        if self.grid == "interpolate":
            x = map_to_grid(x, axis, length)
        else:
            offset = self.window_offset[axis - 1] if size > length else 0
            before, _, after = plan_windows(size, length, offset)
        if before or after:
            x = F.pad(x, (0, 0) * (3 - axis) + (before, after))
        runs = x.unflatten(axis, (-1, length))
        # (..., runs, L, ...) -> (N, L, K): no layout is changed
        lines = runs.flatten(0, axis).flatten(2)
        mixed = linear(lines.transpose(1, 2)).transpose(1, 2).reshape(runs.shape)
        mixed = mixed.flatten(axis, axis + 1)
        if self.grid == "interpolate":
            return grid_to_map(mixed, axis, size)
        return mixed.narrow(axis, before, size)

    def extra_repr(self) -> str:
        """Show the grid and the mode."""
        return f"grid_size={self.grid_size}, grid={self.grid!r}"


@MODELS.register_module()
class SMLPNet(MLPBackbone):
    """sMLPNet, four stages, any image size.

    Only the matrices that mix rows and columns belong to the training grid; see
    :class:`SparseMixer` for other grids. Token mixers hold batch norms: train in small
    batches with ``norm_eval``, or synchronise them.

    Args:
        arch: ``tiny``, ``small``, ``base``, ``mini``, or a mapping with
            ``embed_dims``, ``depths`` and ``mlp_ratios``, four numbers each.
        image_size: Side of the training images, or height and width, in pixels.
        grid: ``"window"`` mixes runs of the training length along each axis,
            ``"interpolate"`` resamples the matrices to the whole map.
        shift_windows: Whether runs of every second block begin half a run away, so
            that neighbours exchange.
        recompute: Whether training computes the channel MLP's normed and activated
            maps again instead of storing them, which costs no matrix product: a
            quarter less memory for some more time.
        norm_eps: Epsilon of the channel MLPs' layer norms.
        batch_norm_eps: Epsilon of the batch norms, the output norms among them.
        common: See :class:`MLPBackbone`.

    Example:
        >>> import torch
        >>> backbone = SMLPNet("tiny", out_indices=(1, 2, 3))
        >>> [tuple(m.shape) for m in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 160, 8, 12), (1, 320, 4, 6), (1, 640, 2, 3)]
    """

    family = "smlpnet"

    arch_settings: ClassVar[Mapping[str, PyramidArch]] = {
        name: PyramidArch(
            embed_dims=(dim, 2 * dim, 4 * dim, 8 * dim),
            depths=depths,
            mlp_ratios=(3, 3, 3, 3),
        )
        for name, dim, depths in (
            ("tiny", 80, (2, 8, 14, 2)),
            ("small", 96, (2, 10, 24, 2)),
            ("base", 112, (2, 10, 24, 2)),
        )
    }
    mini_arch = PyramidArch(
        embed_dims=(32, 64, 128, 192), depths=(2, 2, 2, 1), mlp_ratios=(3, 3, 3, 3)
    )

    grid_modes = ("window", "interpolate")
    mini_options: ClassVar[dict[str, Any]] = {"image_size": 64}

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "tiny",
        *,
        image_size: int | Sequence[int] = 224,
        grid: str = "window",
        shift_windows: bool = False,
        recompute: bool = False,
        norm_eps: float = 1e-5,
        batch_norm_eps: float = 1e-5,
        **common: Unpack[CommonArguments],
    ) -> None:
        self.token_grid = TokenGrid.of_image(
            image_size,
            self.stage_strides,
            mode=one_of("grid", grid, self.grid_modes),
            shift_windows=switch("shift_windows", shift_windows),
        )
        self.recompute = switch("recompute", recompute)
        self.norm_eps = norm_eps
        self.batch_norm_eps = positive("batch_norm_eps", batch_norm_eps)
        super().__init__(arch, **common)

    def build_stem(self) -> nn.Module:
        """Build the patch embedding, stride 4."""
        height, width = (4 * side for side in self.token_grid.sizes[0])
        return PatchConv(
            self.in_channels,
            self.embed_dims[0],
            4,
            (range(height, height + 4), range(width, width + 4)),
            channels_last=False,
        )

    def build_downsample(self, stage: int) -> nn.Module:
        """Build the convolution that halves both sides."""
        height, width = self.token_grid.sizes[stage - 1]
        return PatchConv(
            self.embed_dims[stage - 1],
            self.embed_dims[stage],
            2,
            (range(height, height + 1), range(width, width + 1)),
        )

    def build_block(self, stage: int, block: int, drop_path_rate: float) -> nn.Module:
        """Build one block, whose mixer has a batch norm in front."""
        built = super().build_block(stage, block, drop_path_rate)
        built.norm1 = self.build_out_norm(self.embed_dims[stage])
        return built

    def build_mixer(self, stage: int, block: int) -> SparseMixer:
        """Build one mixer; those of a stage differ in where their runs begin."""
        return SparseMixer(
            self.embed_dims[stage],
            norm_eps=self.batch_norm_eps,
            **self.token_grid.options(stage, self.block_number(stage, block)),
        )

    def build_out_norm(self, dim: int) -> nn.Module:
        """Build the batch norm of one returned map."""
        return nn.BatchNorm2d(dim, eps=self.batch_norm_eps)

    def _init_module(self, module: nn.Module) -> None:
        """Keep torch's start, as the release does."""

    released_weights: ClassVar[Mapping[str, str]] = {
        name: f"{_RELEASE}smlp_{name[0]}.pth" for name in ("small", "base")
    }
    checkpoint_layouts = (
        CheckpointLayout(
            name="sMLPNet release",
            signature=r"^token_mix\.\d+\.1\.proh_w\.",
            renames=(
                (r"^to_patch_embedding\.0\.0\.", "stem.proj."),
                (r"^to_patch_embedding\.(\d+)\.0\.", r"stages.\1.downsample.proj."),
                (r"^token_mix\.(\d+)\.0\.conv_merge\.BN\.", r"blocks.\1.norm1."),
                (
                    r"^token_mix\.(\d+)\.0\.conv_merge\.Conv\.",
                    r"blocks.\1.mixer.dwconv.",
                ),
                (r"^token_mix\.(\d+)\.1\.BN\.", r"blocks.\1.mixer.norm."),
                (r"^token_mix\.(\d+)\.1\.proj_h\.", r"blocks.\1.mixer.along_width."),
                (r"^token_mix\.(\d+)\.1\.proh_w\.", r"blocks.\1.mixer.along_height."),
                (r"^token_mix\.(\d+)\.1\.fuse\.", r"blocks.\1.mixer.fuse."),
                (r"^channel_mix\.(\d+)\.1\.", r"blocks.\1.norm2."),
                (r"^channel_mix\.(\d+)\.2\.net\.0\.", r"blocks.\1.mlp.fc1."),
                (r"^channel_mix\.(\d+)\.2\.net\.3\.", r"blocks.\1.mlp.fc2."),
                (r"^batch_norm\.", "norm."),
                (r"^mlp_head\.0\.", "head.fc."),
            ),
        ),
    )
