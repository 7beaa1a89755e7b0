"""Backbones of one or two strides, and the pyramid that is made of them."""

from abc import ABCMeta
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from mlp_backbones.arguments import switch
from mlp_backbones.backbones.arch import TwoStrideArch
from mlp_backbones.backbones.base import CommonArguments, MLPBackbone
from mlp_backbones.layers import (
    ConvEmbed,
    PyramidResample,
    TokenGrid,
    resample_patch_kernel,
)


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
        stride, strides = self.patch_size, []
        for transition in self._transitions():
            strides.append(stride)
            stride *= 2 if transition else 1
        return tuple(strides)

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
        return self.build_patch_embed()

    def build_patch_embed(self) -> ConvEmbed:
        """Build the convolution (B, C, H, W) to (B, H / patch, W / patch, C')."""
        return ConvEmbed(
            self.in_channels,
            self.embed_dims[0],
            kernel_size=self.patch_size,
            stride=self.patch_size,
            channels_last=False,
        )

    def build_downsample(self, stage: int) -> nn.Module | None:
        """Build the convolution between two stages where stride or width change."""
        merges = self._transitions()[stage - 1]
        before, after = self.embed_dims[stage - 1 : stage + 1]
        if not merges and before == after:
            return None
        size = 2 if merges else 1
        return ConvEmbed(before, after, kernel_size=size, stride=size)

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

    def _transitions(self) -> tuple[bool, ...]:
        return getattr(self.arch, "transitions", (False,) * len(self.stage_strides))

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


def two_stride_grid(
    arch: TwoStrideArch,
    sides: Sequence[int],
    image_size: int | Sequence[int] | None,
    mode: str,
    shift_windows: bool,
) -> TokenGrid:
    """Return the grids that the weights of a backbone of two strides belong to.

    Args:
        arch: The architecture.
        sides: Side of the square grid of each stage, in tokens, as the arch has it.
        image_size: Side of the training images, or height and width, in pixels of the
            official patch size, where the weights belong to another grid; or None.
        mode: See :class:`TokenGrid`.
        shift_windows: See :class:`TokenGrid`.
    """
    if image_size is None:
        sizes = tuple((side, side) for side in sides)
        return TokenGrid(sizes, mode, shift_windows)
    stride, strides = arch.patch_size, []
    for doubles in arch.transitions:
        strides.append(stride)
        stride *= 2 if doubles else 1
    return TokenGrid.of_image(
        image_size, strides, mode=mode, shift_windows=shift_windows
    )
