"""Backbones of one stride whose weights belong to one token grid."""

from abc import ABCMeta
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mlp_backbones.backbones.resampled import ResampledBackbone
from mlp_backbones.layers import resolve_image_size


class IsotropicGridBackbone(ResampledBackbone, metaclass=ABCMeta):
    """A stack of equal blocks that mix all tokens of one grid.

    Args:
        arch: See :class:`ResampledBackbone`; its fields hold ``embed_dim``, ``depth``
            and ``patch_size``.
        image_size: Side of the training images, or height and width, in pixels; with
            the patch size it says the grid that the weights belong to.
        grid: How other grids are mixed, one of ``grid_modes``; see
            :class:`mlp_backbones.layers.GridMixer`.
        shift_windows: Whether the windows of every second block are half a window
            away, so that neighbours exchange.
        options: The other arguments of :class:`ResampledBackbone`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument has an impossible value.

    Attributes:
        grid_size: Height and width of the grid of the weights, in tokens.
    """

    grid_modes: ClassVar[tuple[str, ...]] = ("window", "interpolate")
    classifier_arguments: ClassVar[dict[str, Any]] = {"pyramid": False}

    def __init__(
        self,
        arch: str | Mapping[str, Any],
        *,
        image_size: int | Sequence[int],
        grid: str,
        shift_windows: bool,
        **options: Any,
    ) -> None:
        patch_size = self.resolve_arch(arch)["patch_size"]
        height, width = resolve_image_size(image_size, patch_size)
        self.grid_size = height // patch_size, width // patch_size
        if grid not in self.grid_modes:
            raise ValueError(f"grid must be one of {self.grid_modes}, got {grid!r}")
        if not isinstance(shift_windows, bool):
            raise TypeError(
                f"shift_windows must be True or False, got {shift_windows!r}"
            )
        self.grid = grid
        self.shift_windows = shift_windows
        super().__init__(arch, **options)

    def grid_options(self, stage: int, block: int) -> dict[str, Any]:
        """Return the arguments of the :class:`GridMixer` of one block.

        Args:
            stage: Number of the stage.
            block: Number of the block in it.
        """
        height, width = self.grid_size
        shifts = self.shift_windows and (sum(self.depths[:stage]) + block) % 2 == 1
        return {
            "grid_size": self.grid_size,
            "grid": self.grid,
            "window_offset": (height // 2, width // 2) if shifts else (0, 0),
        }
