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
    ChannelMLP,
    GridMixer,
    MixerBlock,
    TokenGrid,
    apply_norm,
    resize_axis,
)
from mlp_backbones.ops import channel_linear, dispatch, fold_batch_norm
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


class SparseMixer(GridMixer):
    """A depthwise convolution, then lines of tokens mixed along either axis.

    The activated map, its rows mixed along the width and its columns mixed along the
    height are fused by one linear layer. All channels and all lines share one matrix
    for each axis, which belongs to the training grid. Source: paper, section 3.2, and
    the release's class ``sMLPBlock``.

    With ``grid="window"`` each line is cut into runs of the training length, rows and
    columns independently; a shorter run at the border takes a part of the matrix,
    which leaves the absent tokens out. With ``grid="interpolate"`` the matrices are
    resampled to whole lines.

    Args:
        dim: Channels in and out.
        grid_size: See :class:`GridMixer`, as all that follow.
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
        super().__init__(grid_size, grid=grid, window_offset=window_offset)
        height, width = grid_size
        self.act = nn.GELU()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)
        self.norm = nn.BatchNorm2d(dim, eps=norm_eps)
        self.along_width = nn.Linear(width, width)  # the release's proj_h
        self.along_height = nn.Linear(height, height)  # the release's proh_w
        self.fuse = nn.Linear(3 * dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        size = (x.shape[1], x.shape[2])
        whole = self.grid == "interpolate"
        weights = self.weights_for(size if whole else self.grid_size)
        return self.mix(self._activate(x), weights, None)

    def _activate(self, x: Tensor) -> Tensor:
        weight, bias, folded = fold_batch_norm(self.dwconv.weight, None, self.norm)
        x = self.act(x).permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W)
        x = F.conv2d(x, weight, bias, padding=1, groups=len(weight))
        x = x.permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)
        return self.act(x if folded else apply_norm(self.norm, x))

    def mix(
        self, x: Tensor, weights: tuple[Tensor, ...], mask: Tensor | None
    ) -> Tensor:
        """Fuse a map, its mixed rows and its mixed columns, (B, H, W, C)."""
        batch, height, width, dim = x.shape
        row, row_bias, column, column_bias = weights
        top, left = self.window_offset
        row_runs = _runs(width, len(row), left)
        column_runs = _runs(height, len(column), top)

        # (B, H, W, C) -> (B * H, W, C) and (B, H, W * C): no layout is changed
        rows = _mix_runs(x.reshape(-1, width, dim), row, row_runs)
        columns = _mix_runs(x.reshape(batch, height, -1), column, column_runs)

        _, to_rows, to_columns = self.fuse.weight.chunk(3, dim=1)
        # the biases pass the fusing layer before they meet the map
        bias = torch.outer(_cut(row_bias, row_runs), to_rows.sum(1)) + torch.outer(
            _cut(column_bias, column_runs), to_columns.sum(1)
        ).unsqueeze(1)  # (H, W, C)
        parts = (x, rows.view(x.shape), columns.view(x.shape))
        if dispatch.prefers_gpu_kernel(x):  # spares the map of three times the channels
            return _fuse_one_by_one(parts, self.fuse.weight, bias)
        return channel_linear(torch.cat(parts, dim=-1), self.fuse.weight) + bias

    def resize_weights(self, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """Return matrix and bias of rows and of columns for maps of ``size``."""
        resized: list[Tensor] = []
        for linear, length in (
            (self.along_width, size[1]),
            (self.along_height, size[0]),
        ):
            matrix = resize_axis(linear.weight, 1, length, scale=True)
            resized.append(resize_axis(matrix, 0, length))
            resized.append(resize_axis(linear.bias, 0, length))
        return tuple(resized)


def _runs(size: int, length: int, offset: int) -> list[tuple[int, int, int]]:
    """Cut a line into runs: where each begins and ends, and its place in a whole run.

    Args:
        size: Length of the line, in tokens.
        length: Length of a whole run, in tokens.
        offset: Where the first whole run begins, on lines longer than a run.
    """
    if size <= length:
        return [(0, size, 0)]
    runs, start, place = [], 0, -offset % length
    # compared step by step, so that torch.compile need not fix the size
    while start + length - place < size:
        runs.append((start, start + length - place, place))
        start, place = start + length - place, 0
    return [*runs, (start, size, place)]


def _mix_runs(x: Tensor, matrix: Tensor, runs: list[tuple[int, int, int]]) -> Tensor:
    """Multiply each run of lines (N, L, K) from the left with its part of a matrix."""
    mixed = []
    for start, stop, place in runs:
        end = place + stop - start
        part = matrix[place:end, place:end].expand(len(x), -1, -1)
        mixed.append(torch.bmm(part, x[:, start:stop]))
    return mixed[0] if len(mixed) == 1 else torch.cat(mixed, dim=1)


def _fuse_one_by_one(
    parts: tuple[Tensor, Tensor, Tensor], weight: Tensor, bias: Tensor
) -> Tensor:
    """Add up what three maps (B, H, W, C) give to a linear layer, (C, 3C)."""
    x, *others = parts
    to_self, *to_others = weight.chunk(3, dim=1)
    fused = (F.linear(x, to_self) + bias).view(-1, x.shape[-1])
    for part, to_part in zip(others, to_others, strict=True):
        fused = torch.addmm(fused, part.reshape(fused.shape), to_part.t())
    return fused.view(x.shape)


def _cut(bias: Tensor, runs: list[tuple[int, int, int]]) -> Tensor:
    """Lay the parts of a bias that belong to runs one behind the other."""
    parts = [bias[place : place + stop - start] for start, stop, place in runs]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


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
        """Build one block; those of a stage differ in where their runs begin."""
        dim = self.embed_dims[stage]
        return MixerBlock(
            norm1=nn.BatchNorm2d(dim, eps=self.batch_norm_eps),
            mixer=SparseMixer(
                dim,
                norm_eps=self.batch_norm_eps,
                **self.token_grid.options(stage, self.block_number(stage, block)),
            ),
            norm2=nn.LayerNorm(dim, eps=self.norm_eps),
            mlp=ChannelMLP(dim, int(dim * self.arch.mlp_ratios[stage])),
            drop_path_rate=drop_path_rate,
            recompute_mlp=self.recompute and not self.with_cp,
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
