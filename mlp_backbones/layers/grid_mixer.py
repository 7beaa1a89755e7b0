"""Token mixers whose weights belong to one token grid, on any other grid."""

from abc import ABCMeta, abstractmethod

from torch import Tensor, nn

from mlp_backbones.layers.resize import grid_to_map, map_to_grid
from mlp_backbones.layers.windows import join_windows, partition_windows

GRID_MODES = ("interpolate", "window")


class GridMixer(nn.Module, metaclass=ABCMeta):
    """Mix the tokens of maps of any size with weights made for one token grid.

    On a map of that size both modes use the weights as they are.

    Args:
        grid_size: Height and width of the grid the weights belong to, in tokens.
        grid: ``"interpolate"`` mixes as the weights, resampled to the map's size,
            would; ``"window"`` mixes inside windows of ``grid_size``, where tokens
            that fill up the last windows take no part.
        window_offset: Where the first whole window begins, in tokens, on maps larger
            than one window.

    Raises:
        ValueError: If ``grid`` is not one of the two.
    """

    def __init__(
        self,
        grid_size: tuple[int, int],
        *,
        grid: str,
        window_offset: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__()
        if grid not in GRID_MODES:
            raise ValueError(f"grid must be one of {GRID_MODES}, got {grid!r}")
        self.grid_size = grid_size
        self.grid = grid
        self.window_offset = window_offset

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        size = (x.shape[1], x.shape[2])
        if size == self.grid_size:
            return self.mix(x, None)
        if self.grid == "interpolate":
            return self.mix_resized(x)
        offset = tuple(
            start if side > window else 0
            for start, side, window in zip(
                self.window_offset, size, self.grid_size, strict=True
            )
        )
        windows, mask = partition_windows(x, self.grid_size, offset)  # type: ignore[arg-type]
        return join_windows(self.mix(windows, mask), size, offset)  # type: ignore[arg-type]

    @abstractmethod
    def mix(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Mix maps of the own grid.

        Args:
            x: Maps, (B, H, W, C), zero where ``mask`` is False.
            mask: True for real tokens, (B, H, W, 1), or None if all are real. What
                comes out for the others is thrown away.

        Returns:
            The mixed maps, (B, H, W, C).
        """

    def mix_resized(self, x: Tensor) -> Tensor:
        """Mix maps of another grid as resampled weights would, (B, H, W, C).

        This default is for a mixer whose first layer sums over all tokens and whose
        last one has an output for each.
        """
        size = x.shape[1:3]
        for axis in (1, 2):
            x = map_to_grid(x, axis, self.grid_size[axis - 1])
        x = self.mix(x, None)
        for axis in (1, 2):
            x = grid_to_map(x, axis, size[axis - 1])
        return x

    def extra_repr(self) -> str:
        """Show the grid and the mode."""
        return f"grid_size={self.grid_size}, grid={self.grid!r}"
