"""Token mixers whose weights belong to one token grid, on any other grid."""

from abc import ABCMeta, abstractmethod

from torch import Tensor

from mlp_backbones.layers.weight_cache import CachingModule
from mlp_backbones.layers.windows import join_windows, partition_windows

GRID_MODES = ("interpolate", "window")


class GridMixer(CachingModule, metaclass=ABCMeta):
    """Mix the tokens of maps of any size with weights made for one token grid.

    On a map of that size both modes use the weights as they are.

    Args:
        grid_size: Height and width of the grid the weights belong to, in tokens.
        grid: ``"interpolate"`` resamples the weights to the map's size;
            ``"window"`` mixes inside windows of ``grid_size``, where tokens that fill
            up the last windows take no part. The cost of windows grows with the area.
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
        if size == self.grid_size or self.grid == "interpolate":
            return self.mix(x, self.weights_for(size), None)
        offset = tuple(
            start if side > window else 0
            for start, side, window in zip(
                self.window_offset, size, self.grid_size, strict=True
            )
        )
        windows, mask = partition_windows(x, self.grid_size, offset)  # type: ignore[arg-type]
        windows = self.mix(windows, self.weights_for(self.grid_size), mask)
        return join_windows(windows, size, offset)  # type: ignore[arg-type]

    def weights_for(self, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """Return the weights of a grid of ``size``, kept in evaluation."""
        if size == self.grid_size:
            return self.resize_weights(size)
        return self.cache.get(self, size, lambda: self.resize_weights(size))

    @abstractmethod
    def mix(
        self, x: Tensor, weights: tuple[Tensor, ...], mask: Tensor | None
    ) -> Tensor:
        """Mix maps of one grid.

        Args:
            x: Maps, (B, H, W, C).
            weights: What :meth:`resize_weights` gives for (H, W).
            mask: True for real tokens, (B, H, W, 1), or None if all are real. What
                stands in the others must not reach the real ones; what comes out
                there is thrown away.

        Returns:
            The mixed maps, (B, H, W, C).
        """

    @abstractmethod
    def resize_weights(self, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """Return the weights for a grid of ``size``; the parameters for the own one."""

    def extra_repr(self) -> str:
        """Show the grid and the mode."""
        return f"grid_size={self.grid_size}, grid={self.grid!r}"
