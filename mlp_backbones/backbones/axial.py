"""Backbones of two strides whose line weights belong to one token grid."""

import re
from abc import ABCMeta, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from mlp_backbones.backbones.resampled import ResampledBackbone
from mlp_backbones.layers import AxialMixer, ChannelMLP, MixerBlock, resolve_image_size


class AxialBackbone(ResampledBackbone, metaclass=ABCMeta):
    """The frame of Vision Permutator, which DynaMixer has taken over.

    Args:
        arch: See :class:`ResampledBackbone`. The field ``grid_field`` names the side
            of the square grid, in tokens, that the weights of each stage belong to.
        image_size: Side of the training images, or height and width, in pixels of
            the official patch size, where the weights belong to another grid than the
            arch says.
        grid: How other grids are mixed, one of ``grid_modes``; see
            :class:`mlp_backbones.layers.GridMixer`.
        shift_windows: Whether the windows of every second block are half a window
            away, so that neighbours exchange.
        qkv_bias: See :meth:`build_mixer`.
        skip_lam: Divisor of both residual branches.
        norm_eps: Epsilon of the blocks' and output layer norms.
        options: The other arguments of :class:`ResampledBackbone`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument has an impossible value.

    Attributes:
        grid_sizes: Height and width of the grid of the weights of each stage, in
            tokens.
    """

    grid_field: ClassVar[str]
    grid_modes: ClassVar[tuple[str, ...]] = ("window", "interpolate")
    classifier_arguments: ClassVar[dict[str, Any]] = {"pyramid": False}

    def __init__(
        self,
        arch: str | Mapping[str, Any],
        *,
        image_size: int | Sequence[int] | None,
        grid: str,
        shift_windows: bool,
        qkv_bias: bool,
        skip_lam: float,
        norm_eps: float,
        **options: Any,
    ) -> None:
        self.grid_sizes = self._grid_sizes(self.resolve_arch(arch), image_size)
        if grid not in self.grid_modes:
            raise ValueError(f"grid must be one of {self.grid_modes}, got {grid!r}")
        if not isinstance(shift_windows, bool):
            raise TypeError(
                f"shift_windows must be True or False, got {shift_windows!r}"
            )
        if not isinstance(skip_lam, int | float) or not skip_lam > 0:
            raise ValueError(f"skip_lam must be positive, got {skip_lam!r}")
        self.grid = grid
        self.shift_windows = shift_windows
        self.qkv_bias = qkv_bias
        self.skip_lam = skip_lam
        self.norm_eps = norm_eps
        super().__init__(arch, **options)

    @abstractmethod
    def build_mixer(self, stage: int, **options: Any) -> AxialMixer:
        """Build the token mixer of one block.

        Args:
            stage: Number of the stage.
            options: The arguments of :class:`AxialMixer` but for ``dim``.
        """

    def build_block(self, stage: int, block: int, drop_path_rate: float) -> nn.Module:
        """Build one block; those of a stage differ in where their windows begin."""
        dim = self.embed_dims[stage]
        height, width = self.grid_sizes[stage]
        shifts = self.shift_windows and (sum(self.depths[:stage]) + block) % 2 == 1
        return MixerBlock(
            norm1=nn.LayerNorm(dim, eps=self.norm_eps),
            mixer=self.build_mixer(
                stage,
                qkv_bias=self.qkv_bias,
                grid_size=(height, width),
                grid=self.grid,
                window_offset=(height // 2, width // 2) if shifts else (0, 0),
            ),
            norm2=nn.LayerNorm(dim, eps=self.norm_eps),
            mlp=ChannelMLP(dim, int(dim * self.arch["mlp_ratios"][stage])),
            drop_path_rate=drop_path_rate,
            branch_scale=1.0 / self.skip_lam,
        )

    def build_out_norm(self, dim: int) -> nn.Module:
        """Build the layer norm of one returned map."""
        return nn.LayerNorm(dim, eps=self.norm_eps)

    @classmethod
    def _grid_sizes(
        cls, arch: Mapping[str, Any], image_size: int | Sequence[int] | None
    ) -> tuple[tuple[int, int], ...]:
        if image_size is None:
            return tuple((side, side) for side in arch[cls.grid_field])
        coarsest = arch["patch_size"] * 2 ** sum(arch["transitions"][:-1])
        height, width = resolve_image_size(image_size, coarsest)
        stride, sizes = arch["patch_size"], []
        for transition in arch["transitions"]:
            # the remainder that fills no patch is dropped, as in the network
            sizes.append((height // stride, width // stride))
            stride *= 2 if transition else 1
        return tuple(sizes)


def name_stages(
    weights: dict[str, Tensor], backbone: AxialBackbone
) -> dict[str, Tensor]:
    """Tell stages from downsamplings, which official files number in one list.

    Args:
        weights: Tensors by name, ``network.{j}.proj.*`` for downsamplings and
            ``network.{j}.{b}.*`` for blocks.
        backbone: Not asked: the file says itself which numbers are downsamplings.

    Returns:
        The tensors under ``stages.{i}.downsample.*`` and ``stages.{i}.blocks.{b}.*``.
    """
    downsampling = re.compile(r"^network\.(\d+)\.proj\.")
    merges = {int(match[1]) for match in map(downsampling.match, weights) if match}

    def stage(number: str) -> int:
        return int(number) - sum(merge < int(number) for merge in merges)

    renamed = {}
    for key, tensor in weights.items():
        key = downsampling.sub(lambda m: f"stages.{stage(m[1])}.downsample.proj.", key)
        key = re.sub(
            r"^network\.(\d+)\.(\d+)\.",
            lambda m: f"stages.{stage(m[1])}.blocks.{m[2]}.",
            key,
        )
        renamed[key] = tensor
    return renamed
