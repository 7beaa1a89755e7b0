"""The token grids that mixing weights belong to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlp_backbones.arguments import image_size as check_image_size
from mlp_backbones.arguments import switch


@dataclass(frozen=True)
class TokenGrid:
    """The grid of each stage's mixing weights, and how maps of other sizes are mixed.

    Args:
        sizes: Height and width of the grid of each stage, in tokens.
        mode: ``"window"`` or ``"interpolate"``, see
            :class:`mlp_backbones.layers.GridMixer`.
        shift_windows: Whether the windows of every second block are half a window
            away, so that neighbours exchange.
    """

    sizes: tuple[tuple[int, int], ...]
    mode: str
    shift_windows: bool = False

    def __post_init__(self) -> None:
        switch("shift_windows", self.shift_windows)

    @classmethod
    def of_image(
        cls,
        image_size: int | Sequence[int],
        strides: Sequence[int],
        *,
        mode: str,
        shift_windows: bool = False,
    ) -> "TokenGrid":
        """Derive the grids from the size of the training images.

        Args:
            image_size: Side of the images, or height and width, in pixels.
            strides: Stride of each stage's map, in pixels; what is left of an image
                and fills no token is dropped.
            mode: See the class.
            shift_windows: See the class.

        Raises:
            TypeError: If ``image_size`` is neither a number nor a sequence.
            ValueError: If a side makes no token of the last stage.
        """
        height, width = check_image_size(image_size, max(strides))
        sizes = tuple((height // stride, width // stride) for stride in strides)
        return cls(sizes, mode, shift_windows)

    def options(self, stage: int, block: int) -> dict[str, Any]:
        """Return the arguments of the :class:`GridMixer` of one block.

        Args:
            stage: Number of the stage.
            block: Number of the block, counted over all stages.
        """
        height, width = self.sizes[stage]
        shifts = self.shift_windows and block % 2 == 1
        return {
            "grid_size": (height, width),
            "grid": self.mode,
            "window_offset": (height // 2, width // 2) if shifts else (0, 0),
        }
