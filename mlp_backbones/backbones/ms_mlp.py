"""MS-MLP: mix-shift blocks with layer scale.

Paper: "Mixing and Shifting: Exploiting Global and Local Dependencies in Vision MLPs",
arXiv 2202.06510. Weights and facts follow the authors' release (JegZheng/MS-MLP, MIT
licence); the code is written anew.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from mlp_backbones.arguments import switch
from mlp_backbones.backbones.arch import PyramidArch
from mlp_backbones.backbones.base import CommonArguments, MLPBackbone
from mlp_backbones.checkpoints import CheckpointLayout
from mlp_backbones.checkpoints.renames import trailing_downsample
from mlp_backbones.layers import ChainedBlock, LayerScale
from mlp_backbones.registry import MODELS

_RELEASE = (
    "https://tsciencescu.blob.core.windows.net/projectshzheng/MSMLP/released_model/"
)
_INIT_SCALE = 1e-6  # the release's, at every depth


def split_channels(dim: int, num_groups: int) -> list[int]:
    """Return the channels of each group: all the same ceiling, the rest in the last.

    Args:
        dim: Number of channels.
        num_groups: Number of groups.

    Raises:
        ValueError: If the last group gets no channel.
    """
    size = -(-dim // num_groups)
    rest = dim - size * (num_groups - 1)
    if rest < 1:
        raise ValueError(
            f"embed_dims holds {dim}, which groups of {size} channels use up before "
            f"group {num_groups} of {num_groups}; choose another width"
        )
    return [size] * (num_groups - 1) + [rest]


class ChannelFilter(nn.Conv2d):
    """A depthwise convolution that keeps the map's size.

    It is torch's; only a kernel of one cell is applied as the scale that it is.

    Args:
        dim: Channels in and out.
        size: Side of the kernels, in cells, odd.
    """

    def __init__(self, dim: int, size: int) -> None:
        super().__init__(dim, dim, size, padding=size // 2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        if self.kernel_size == (1, 1) and self.bias is not None:
            return torch.addcmul(self.bias[:, None, None], x, self.weight[:, 0])
        return super().forward(x)


class MixShift(nn.Module):
    """Shift groups of channels along an axis, filter them, and add both axes' results.

    Group g moves ``shift_dist[g]`` cells and is then filtered by a depthwise kernel of
    its own.

    Source: paper, section 3.2. The figure there filters and then shifts; at the borders
    that differs, and the release, which is followed here, shifts first.

    Args:
        dim: Channels in and out.
        mix_size: Side of each group's kernels, in cells, odd.
        shift_dist: How far each group moves to the right, or down, in cells.
        circular: Whether what leaves the map on one side enters on the other, as the
            official weights know it; else zeros enter.
    """

    def __init__(
        self,
        dim: int,
        *,
        mix_size: Sequence[int],
        shift_dist: Sequence[int],
        circular: bool = True,
    ) -> None:
        super().__init__()
        self.group_dims = split_channels(dim, len(shift_dist))
        self.shift_dist = tuple(shift_dist)
        self.circular = circular
        self.along_width, self.along_height = (
            nn.ModuleList(
                ChannelFilter(dim, size)
                for dim, size in zip(self.group_dims, mix_size, strict=True)
            )
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        groups = x.split(self.group_dims, dim=-1)
        mixed = [
            along_width(self._shift(group, distance, 2))
            + along_height(self._shift(group, distance, 1))
            for group, distance, along_width, along_height in zip(
                groups,
                self.shift_dist,
                self.along_width,
                self.along_height,
                strict=True,
            )
        ]
        # (B, C, H, W) -> (B, H, W, C)
        return torch.cat([part.permute(0, 2, 3, 1) for part in mixed], dim=-1)

    def _shift(self, x: Tensor, distance: int, dim: int) -> Tensor:
        """Shift (B, H, W, C) along an axis, to (B, C, H, W) in channels_last memory."""
        size = x.shape[dim]
        if distance and self.circular:
            x = torch.roll(x, distance, dim)
        elif distance:
            distance = max(-size, min(distance, size))
            zeros = torch.zeros_like(x.narrow(dim, 0, abs(distance)))
            kept = x.narrow(dim, max(-distance, 0), size - abs(distance))
            x = torch.cat((zeros, kept) if distance > 0 else (kept, zeros), dim)
        return x.contiguous().permute(0, 3, 1, 2)


def _check_shift_dist(shift_dist: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(shift_dist, Sequence):
        raise TypeError(f"shift_dist must be a sequence, got {shift_dist!r}")
    if not shift_dist or not all(type(distance) is int for distance in shift_dist):
        raise ValueError(
            f"shift_dist must hold whole numbers, one a group, got {shift_dist!r}"
        )
    return tuple(shift_dist)


def _check_mix_size(
    mix_size: Sequence[Sequence[int]], num_groups: int
) -> tuple[tuple[int, ...], ...]:
    if not isinstance(mix_size, Sequence):
        raise TypeError(f"mix_size must be a sequence, got {mix_size!r}")
    num_stages = len(MSMLP.stage_strides)
    if len(mix_size) != num_stages or not all(
        isinstance(sizes, Sequence)
        and len(sizes) == num_groups
        and all(type(size) is int and size > 0 and size % 2 for size in sizes)
        for sizes in mix_size
    ):
        raise ValueError(
            f"mix_size must hold {num_groups} odd numbers, as many as shift_dist, for "
            f"each of {num_stages} stages, got {mix_size!r}"
        )
    return tuple(tuple(sizes) for sizes in mix_size)


@MODELS.register_module()
class MSMLP(MLPBackbone):
    """Mix-Shift-MLP, four stages, any image size.

    Args:
        arch: ``tiny``, ``small``, ``base``, ``mini``, or a mapping with ``embed_dims``,
            ``depths`` and ``mlp_ratios``, four numbers each.
        shift_dist: How far each group of channels moves, in cells; as many numbers as
            there are groups.
        mix_size: For each stage the side of each group's kernels, in cells, odd.
        circular: Whether what is shifted out of the map on one side enters on the
            other. The official weights are trained so, and on images that are padded
            to a common size it brings padding to the left and upper borders; with
            False zeros enter, which is another function.
        patch_norm: Whether the stem ends in a layer norm.
        norm_eps: Epsilon of all layer norms.
        common: See :class:`MLPBackbone`.

    Example:
        >>> import torch
        >>> backbone = MSMLP("tiny", out_indices=(1, 2, 3))
        >>> [tuple(m.shape) for m in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 192, 8, 12), (1, 384, 4, 6), (1, 768, 2, 3)]
    """

    family = "ms_mlp"

    arch_settings: ClassVar[Mapping[str, PyramidArch]] = {
        name: PyramidArch(
            embed_dims=(dim, 2 * dim, 4 * dim, 8 * dim),
            depths=depths,
            mlp_ratios=(4, 4, 4, 4),
        )
        for name, dim, depths in (
            ("tiny", 96, (3, 3, 9, 3)),
            ("small", 96, (3, 3, 27, 3)),
            ("base", 128, (3, 3, 27, 3)),
        )
    }
    mini_arch = PyramidArch(
        embed_dims=(40, 80, 120, 180), depths=(1, 2, 2, 1), mlp_ratios=(4, 4, 4, 4)
    )

    classifier_arguments: ClassVar[dict[str, Any]] = {"out_norm": False}
    norm_after_pool = True

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "tiny",
        *,
        shift_dist: Sequence[int] = (-2, -1, 0, 1, 2),
        mix_size: Sequence[Sequence[int]] = (
            (1, 1, 3, 5, 7),
            (1, 3, 3, 5, 7),
            (1, 5, 5, 5, 7),
            (1, 7, 7, 7, 7),
        ),
        circular: bool = True,
        patch_norm: bool = True,
        norm_eps: float = 1e-6,
        **common: Unpack[CommonArguments],
    ) -> None:
        self.shift_dist = _check_shift_dist(shift_dist)
        self.mix_size = _check_mix_size(mix_size, len(self.shift_dist))
        self.circular = switch("circular", circular)
        self.patch_norm = switch("patch_norm", patch_norm)
        self.norm_eps = norm_eps
        super().__init__(arch, **common)

    def build_stem(self) -> nn.Module:
        """Build the patch embedding, stride 4."""
        norm = self.build_norm(self.embed_dims[0]) if self.patch_norm else None
        return self.build_embed(0, kernel_size=4, stride=4, norm=norm)

    def build_downsample(self, stage: int) -> nn.Module:
        """Build the convolution that halves both sides, and its norm."""
        norm = self.build_norm(self.embed_dims[stage])
        return self.build_embed(stage, kernel_size=2, stride=2, norm=norm)

    def build_block(self, stage: int, block: int, drop_path_rate: float) -> nn.Module:
        """Build one block; all blocks of a stage are alike."""
        dim = self.embed_dims[stage]
        return ChainedBlock(
            mixer=MixShift(
                dim,
                mix_size=self.mix_size[stage],
                shift_dist=self.shift_dist,
                circular=self.circular,
            ),
            norm2=self.build_norm(dim),
            mlp=self.build_mlp(stage),
            layer_scale=LayerScale(dim, _INIT_SCALE),
            drop_path_rate=drop_path_rate,
        )

    released_weights: ClassVar[Mapping[str, str]] = {
        name: f"{_RELEASE}msmlp_{name}_patch4/msmlp_{name}_patch4_ckpt_epoch299.pth"
        for name in ("tiny", "small", "base")
    }
    checkpoint_layouts = (
        CheckpointLayout(
            name="MS-MLP release",
            signature=r"^layers\.\d+\.blocks\.\d+\.dwconv_lr\.",
            renames=(
                (r"^patch_embed\.", "stem."),
                (r"^layers\.(\d+)\.downsample\.", trailing_downsample),
                (r"^layers\.", "stages."),
                (r"\.dwconv_lr\.", ".mixer.along_width."),
                (r"\.dwconv_td\.", ".mixer.along_height."),
                (r"(\.blocks\.\d+)\.norm\.", r"\1.norm2."),
                (r"\.pwconv([12])\.", r".mlp.fc\1."),
                (r"\.gamma$", ".layer_scale.gamma"),
            ),
        ),
    )
