"""MS-MLP: mix-shift blocks with layer scale.

Paper: "Mixing and Shifting: Exploiting Global and Local Dependencies in Vision MLPs",
arXiv 2202.06510. Weights and facts follow the authors' release (JegZheng/MS-MLP, MIT
licence); the code is written anew.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from mlp_backbones.arguments import switch
from mlp_backbones.backbones.arch import PyramidArch
from mlp_backbones.backbones.base import CommonArguments, MLPBackbone
from mlp_backbones.checkpoints import CheckpointLayout
from mlp_backbones.checkpoints.renames import trailing_downsample
from mlp_backbones.layers import ChannelMLP, DropPath, LayerScale, NormedConvEmbed
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


class MixShift(nn.Module):
    """Shift groups of channels along an axis, filter them, and add both axes' results.

    Group g moves ``shift_dist[g]`` cells and is then filtered by a depthwise kernel of
    its own. What both axes have in common is done once: the group that does not move
    is filtered once by the sum of its kernels, and a kernel of one cell is a scale.

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
                nn.Conv2d(dim, dim, size, padding=size // 2, groups=dim)
                for dim, size in zip(self.group_dims, mix_size, strict=True)
            )
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        groups = x.split(self.group_dims, dim=-1)
        mixed = [self._mix(group, index) for index, group in enumerate(groups)]
        return torch.cat(mixed, dim=-1)

    def _mix(self, x: Tensor, group: int) -> Tensor:
        along_width: Any = self.along_width[group]
        along_height: Any = self.along_height[group]
        kernels = (along_width.weight, along_height.weight)  # (C_g, 1, k, k)
        bias = along_width.bias + along_height.bias
        distance = self.shift_dist[group]
        if distance == 0:
            return _filter(x, kernels[0] + kernels[1], bias)
        across, down = self._shift(x, distance, 2), self._shift(x, distance, 1)
        if kernels[0].shape[-1] == 1:
            scaled = _filter(across, kernels[0], bias)
            return torch.addcmul(scaled, down, kernels[1].flatten())
        both = _filter(torch.cat((across, down), dim=-1), torch.cat(kernels), None)
        filtered_across, filtered_down = both.chunk(2, dim=-1)
        return filtered_across + filtered_down + bias

    def _shift(self, x: Tensor, distance: int, dim: int) -> Tensor:
        if self.circular:
            return torch.roll(x, distance, dim)
        size = x.shape[dim]
        distance = max(-size, min(distance, size))
        zeros = torch.zeros_like(x.narrow(dim, 0, abs(distance)))
        if distance > 0:
            return torch.cat((zeros, x.narrow(dim, 0, size - distance)), dim)
        return torch.cat((x.narrow(dim, -distance, size + distance), zeros), dim)


def _filter(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """Filter each channel of (B, H, W, C) by its kernel of (C, 1, k, k)."""
    size = kernel.shape[-1]
    if size == 1 and bias is not None:
        return torch.addcmul(bias, x, kernel.flatten())  # (C, 1, 1, 1) -> (C,)
    # (B, H, W, C) -> (B, C, H, W), a view in channels_last memory format, and back
    x = x.contiguous().permute(0, 3, 1, 2)
    x = F.conv2d(x, kernel, bias, padding=size // 2, groups=len(kernel))
    return x.permute(0, 2, 3, 1)


class MixShiftBlock(nn.Module):
    """``x + scale * mlp(norm2(mixer(x)))``: one residual around the whole block.

    Source: paper, section 3.2; layer scale as in ConvNeXt (arXiv 2201.03545).

    Args:
        mixer: The shifts and filters.
        norm2: The norm between mixer and channel MLP.
        mlp: The channel MLP.
        dim: Number of channels.
        drop_path_rate: Stochastic depth rate of the branch.
    """

    def __init__(
        self,
        *,
        mixer: MixShift,
        norm2: nn.Module,
        mlp: ChannelMLP,
        dim: int,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.layer_scale = LayerScale(dim, _INIT_SCALE)
        self.mixer = mixer
        self.norm2 = norm2
        self.mlp = mlp
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        branch = self.mlp(self.norm2(self.mixer(x)))
        return x + self.drop_path(self.layer_scale(branch))


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
        dim = self.embed_dims[0]
        return NormedConvEmbed(
            self.in_channels,
            dim,
            norm=self.build_out_norm(dim) if self.patch_norm else nn.Identity(),
            kernel_size=4,
            stride=4,
            channels_last=False,
        )

    def build_downsample(self, stage: int) -> nn.Module:
        """Build the convolution that halves both sides, and its norm."""
        dim = self.embed_dims[stage]
        return NormedConvEmbed(
            self.embed_dims[stage - 1],
            dim,
            norm=self.build_out_norm(dim),
            kernel_size=2,
            stride=2,
        )

    def build_block(self, stage: int, block: int, drop_path_rate: float) -> nn.Module:
        """Build one block; all blocks of a stage are alike."""
        dim = self.embed_dims[stage]
        return MixShiftBlock(
            mixer=MixShift(
                dim,
                mix_size=self.mix_size[stage],
                shift_dist=self.shift_dist,
                circular=self.circular,
            ),
            norm2=self.build_out_norm(dim),
            mlp=ChannelMLP(dim, int(dim * self.arch.mlp_ratios[stage])),
            dim=dim,
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
