"""Backbones of one or two strides, and the pyramid that is made of them."""

import itertools
from abc import ABCMeta
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from mlp_backbones.arguments import one_of, switch
from mlp_backbones.backbones.base import CommonArguments, MLPBackbone
from mlp_backbones.layers import PyramidResample, TokenGrid, resample_patch_kernel


class ResampledArguments(CommonArguments, total=False):
    """Arguments that every :class:`ResampledBackbone` takes."""

    pyramid: bool


class ResampledBackbone(MLPBackbone, metaclass=ABCMeta):
    """A backbone whose stages lie at one stride, or at two, instead of four.

    With ``pyramid`` the maps come at strides 4, 8, 16 and 32 for any image size:

    - a patch of 7 pixels becomes one of 8, one of 14 becomes one of 16; kernels of
      official weights are resampled when they are loaded;
    - the image is padded with zeros at the right and the bottom to whole patches;
    - each level is taken from one stage, its *tap*, and resampled as in ViTDet's simple
      feature pyramid (transposed convolutions up, max pooling down). A backbone of one
      stride is tapped after each quarter of its depth. One of two strides is tapped at
      the end of its finer part for strides 4 and 8, and at its end for 16 and 32. One
      that has all four strides is tapped at each, and nothing is resampled;
    - maps are cropped to ``ceil(side / stride)``, then normed.

    Without it this is the official network: the official patch size, a remainder of
    the image that fills no patch is dropped, and maps keep the strides they have.

    Args:
        arch: See :class:`MLPBackbone`. ``patch_size`` is among its fields, with
            ``embed_dim`` and ``depth`` for backbones of one stride, ``embed_dims``,
            ``depths`` and ``transitions`` for those of two: ``transitions`` says after
            which stage the stride doubles.
        pyramid: Whether the maps are brought to strides 4, 8, 16 and 32.
        common: See :class:`MLPBackbone`.
    """

    classifier_arguments: ClassVar[dict[str, Any]] = {"pyramid": False}

    def __init__(
        self,
        arch: str | Mapping[str, Any],
        *,
        pyramid: bool = True,
        **common: Unpack[CommonArguments],
    ) -> None:
        self.pyramid = switch("pyramid", pyramid)
        super().__init__(arch, **common)

    @property
    def patch_size(self) -> int:
        """Side of the patches of the stem, in pixels."""
        patch_size: int = self.arch.patch_size
        if self.pyramid:
            return {7: 8, 14: 16}.get(patch_size, patch_size)
        return patch_size

    @property
    def native_strides(self) -> tuple[int, ...]:
        """Stride of each stage's map, in pixels of the image."""
        return _strides(self.arch, self.patch_size)

    @property
    def fills_up_images(self) -> bool:
        """Whether a pyramid fills images up to whole patches instead of cutting."""
        return True

    @property
    def taps(self) -> tuple[int, ...]:
        """The stage that each level of the pyramid is taken from."""
        native = self.native_strides
        if not self.pyramid or native[0] == native[-1]:
            return tuple(range(len(native)))
        return tuple(
            max(i for i, own in enumerate(native) if own <= max(stride, native[0]))
            for stride in self.stage_strides
        )

    @property
    def num_built_stages(self) -> int:
        """The stages up to the last one that an output is taken from."""
        return max(self.taps[index] for index in self.out_indices) + 1

    def build_stem(self) -> nn.Module:
        """Build the patch embedding: one convolution, kernel and stride alike."""
        return self.build_embed(0, kernel_size=self.patch_size, stride=self.patch_size)

    def build_downsample(self, stage: int) -> nn.Module | None:
        """Build the convolution between two stages where stride or width change."""
        size = 2 if _transitions(self.arch)[stage - 1] else 1
        before, after = self.embed_dims[stage - 1 : stage + 1]
        if size == 1 and before == after:
            return None
        return self.build_embed(stage, kernel_size=size, stride=size)

    def adapt_weights(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Resample the patch kernel of official weights to the patch size built.

        Args:
            weights: Tensors under this package's names.
        """
        key = "stem.proj.weight"
        official = self.arch.patch_size
        if key in weights and weights[key].shape[-2:] == (official, official):
            kernel = resample_patch_kernel(weights[key], self.patch_size)
            return {**weights, key: kernel}
        return weights

    def _describe_outputs(self) -> tuple[list[int], list[int]]:
        native = self.native_strides
        strides = self.stage_strides if self.pyramid else native
        channels = []
        for index in self.out_indices:
            tap = self.taps[index]
            ratio = native[tap] // strides[index]  # 0 where the map is pooled
            channels.append(self.embed_dims[tap] // max(ratio, 1))
        return channels, [strides[index] for index in self.out_indices]

    def _build_resampling(self) -> None:
        if not self.pyramid:
            return
        if self.patch_size & (self.patch_size - 1):
            raise ValueError(
                f"a pyramid needs patches of 7, 14 or a power of two pixels, the arch "
                f"has {self.patch_size}; pyramid=False takes any"
            )
        self.resamplers = nn.ModuleDict(
            {
                str(index): PyramidResample(
                    self.embed_dims[self.taps[index]],
                    self.native_strides[self.taps[index]] / self.stage_strides[index],
                )
                for index in sorted(self.out_indices)
            }
        )

    def _pyramid(self, x: Tensor) -> list[Tensor]:
        if not self.pyramid:
            return super()._pyramid(x)
        self._check_input(x)
        height, width = x.shape[2:]
        if self.fills_up_images:
            whole = self.native_strides[-1]
            x = F.pad(x, (0, -width % whole, 0, -height % whole))
        maps = self.forward_stages(x)
        levels = []
        for index in self.out_indices:
            level = self.resamplers[str(index)](maps[self.taps[index]])
            stride = self.stage_strides[index]
            levels.append(level[:, : -(-height // stride), : -(-width // stride)])
        return levels


def _transitions(arch: Any) -> tuple[bool, ...]:
    """Return behind which stages of an architecture the stride doubles."""
    return getattr(arch, "transitions", (False,) * 4)


def _strides(arch: Any, patch_size: int) -> tuple[int, ...]:
    """Return the stride of each stage of an architecture with such patches."""
    doublings = itertools.accumulate(_transitions(arch)[:-1], initial=0)
    return tuple(patch_size << count for count in doublings)


class GridArguments(ResampledArguments, total=False):
    """Arguments that every :class:`GridBackbone` takes."""

    image_size: int | Sequence[int] | None
    grid: str | None
    shift_windows: bool


class GridBackbone(ResampledBackbone, metaclass=ABCMeta):
    """A backbone whose mixing weights belong to the token grid of training images.

    On other grids it mixes by one of its ``grid_modes``. At the training size all
    modes are the official network.

    Args:
        arch: See :class:`ResampledBackbone`.
        image_size: Side of the training images, or height and width, in pixels of the
            official network; with the patch size it says the grid that the weights
            belong to. None for the grid that the arch names, or else for 224.
        grid: ``"window"`` mixes inside windows of the training grid;
            ``"interpolate"`` mixes as weights resampled to the map's grid would. None
            for the first of ``grid_modes``.
        shift_windows: Whether the windows of every second block are half a window
            away, so that neighbours exchange.
        common: See :class:`ResampledBackbone`.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any],
        *,
        image_size: int | Sequence[int] | None = None,
        grid: str | None = None,
        shift_windows: bool = False,
        **common: Unpack[ResampledArguments],
    ) -> None:
        fields = self.resolve_arch(arch)
        mode = self.grid_modes[0] if grid is None else grid
        one_of("grid", mode, self.grid_modes)
        if switch("shift_windows", shift_windows) and "window" not in self.grid_modes:
            raise ValueError(f"{type(self).__name__} has no windows that shift_windows")
        sides = getattr(fields, "grid_sides", None)
        if image_size is None and sides is not None:
            sizes = tuple((side, side) for side in sides)
            self.token_grid = TokenGrid(sizes, mode, shift_windows)
        else:
            self.token_grid = TokenGrid.of_image(
                224 if image_size is None else image_size,
                _strides(fields, fields.patch_size),
                mode=mode,
                shift_windows=shift_windows,
            )
        super().__init__(arch, **common)

    def grid_options(self, stage: int, block: int) -> dict[str, Any]:
        """Return the arguments of a block's :class:`mlp_backbones.layers.GridMixer`.

        Args:
            stage: Number of the stage.
            block: Number of the block in it.
        """
        return self.token_grid.options(stage, self.block_number(stage, block))
