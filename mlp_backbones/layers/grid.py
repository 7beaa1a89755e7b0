"""Token mixers whose weights belong to one token grid, on any other grid."""

from abc import ABCMeta, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlp_backbones.ops.compiling import is_compiling

GRID_MODES = ("interpolate", "window")
_MAX_CACHED_GRIDS = 2


class WeightCache:
    """What a module derives from its weights, kept while they stay as they are.

    Only evaluation without gradients keeps anything. The module must call
    :meth:`clear` where weights can change unseen (see :class:`GridMixer`); changes in
    place, such as an optimizer's, are seen.

    Args:
        size: How many values are kept; the ones used longest ago go first.
    """

    def __init__(self, size: int = _MAX_CACHED_GRIDS) -> None:
        self.size = size
        self._values: OrderedDict[Hashable, tuple[Any, Any, Any]] = OrderedDict()

    def get(self, module: nn.Module, key: Hashable, compute: Callable[[], Any]) -> Any:
        """Return ``compute()``, or what it gave the last time for these weights."""
        if module.training or torch.is_grad_enabled() or is_compiling():
            return compute()
        # aliases keep the memory of the weights: else a new tensor at the same address
        # would pass for the old one
        weights = [parameter.detach() for parameter in module.parameters()]
        state = [_state(weight) for weight in weights]
        if not state or None in state:  # replicas of DataParallel own no parameters
            return compute()
        # other threads may use this module: nothing is looked up twice
        _, known, value = self._values.pop(key, (None, None, None))
        if known != state:
            value = compute()
        self._values[key] = (weights, state, value)
        while len(self._values) > self.size:
            self._values.popitem(last=False)
        return value

    def clear(self) -> None:
        """Forget everything."""
        self._values.clear()

    def __len__(self) -> int:
        return len(self._values)

    def __getstate__(self) -> dict[str, Any]:
        return {"size": self.size}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(state["size"])  # type: ignore[misc]


def _state(weight: Tensor) -> Hashable | None:
    """Return what changes with a weight, or None where nothing tells."""
    if weight.is_inference():  # changes in place are not counted
        return None
    try:
        address = weight.data_ptr()
    except RuntimeError:  # under vmap there is none
        return None
    return address, weight._version, weight.dtype, weight.device


class CachingModule(nn.Module):
    """A module with a :class:`WeightCache` that forgets whenever weights may change.

    It forgets when the mode is switched (which MMEngine does before each validation,
    after it has put averaged weights in place), when weights are loaded, and when they
    are moved or cast.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cache = WeightCache()

    def train(self, mode: bool = True) -> "CachingModule":
        """Switch the mode, and forget what was derived from the weights."""
        self.cache.clear()
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self.cache.clear()
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.cache.clear()
        super()._load_from_state_dict(*args, **kwargs)


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


def resolve_image_size(
    image_size: int | Sequence[int], minimum: int
) -> tuple[int, int]:
    """Return height and width of the training images, in pixels.

    Args:
        image_size: One side for both, or height and width.
        minimum: The least that a side may measure.

    Raises:
        TypeError: If it is neither a number nor a sequence.
        ValueError: If it holds no two whole numbers of at least ``minimum``.
    """
    sides = (image_size,) * 2 if isinstance(image_size, int) else image_size
    if not isinstance(sides, Sequence):
        raise TypeError(
            "image_size must be one or two whole numbers, got "
            f"{image_size!r} of type {type(image_size).__name__}"
        )
    if len(sides) != 2 or not all(
        type(side) is int and side >= minimum for side in sides
    ):
        raise ValueError(
            "image_size must be one or two whole numbers of at least "
            f"{minimum} pixels, got {image_size!r}"
        )
    return sides[0], sides[1]


def partition_windows(
    x: Tensor, window: tuple[int, int], offset: tuple[int, int] = (0, 0)
) -> tuple[Tensor, Tensor | None]:
    """Cut maps into windows, filled up with zeros at the borders.

    Args:
        x: Maps, (B, H, W, C).
        window: Height h and width w of a window, in tokens.
        offset: Where the first whole window begins, in tokens.

    Returns:
        The windows, (B * number, h, w, C), and True for real tokens, (B * number, h,
        w, 1), or None where nothing was filled up.
    """
    batch, height, width, _ = x.shape
    top, rows, bottom = _plan(height, window[0], offset[0])
    left, columns, right = _plan(width, window[1], offset[1])
    mask = None
    if top or bottom or left or right:
        real_rows = _is_real(top, height, rows * window[0], x.device)
        real_columns = _is_real(left, width, columns * window[1], x.device)
        mask = (real_rows[:, None] & real_columns)[None, :, :, None]  # (1, H', W', 1)
        mask = _cut(mask.expand(batch, -1, -1, -1), window, rows, columns)
        x = F.pad(x, (0, 0, left, right, top, bottom))
    return _cut(x, window, rows, columns), mask


def join_windows(
    windows: Tensor, size: tuple[int, int], offset: tuple[int, int] = (0, 0)
) -> Tensor:
    """Put windows of :func:`partition_windows` together to maps of ``size``.

    Args:
        windows: Windows, (B * number, h, w, C).
        size: Height and width of the maps, in tokens.
        offset: As it was given when cutting.

    Returns:
        The maps, (B, H, W, C).
    """
    height, width = size
    h, w, channels = windows.shape[1:]
    top, rows, _ = _plan(height, h, offset[0])
    left, columns, _ = _plan(width, w, offset[1])
    x = windows.reshape(-1, rows, columns, h, w, channels)
    # (B, rows, columns, h, w, C) -> (B, rows * h, columns * w, C)
    x = x.transpose(2, 3).reshape(-1, rows * h, columns * w, channels)
    return x[:, top : top + height, left : left + width]


def _plan(side: int, step: int, start: int) -> tuple[int, int, int]:
    """Return tokens to fill up in front, number of windows, and tokens to fill up."""
    # one division and no nested remainders: symbolic sizes stay simple to compile
    before = -start % step
    number = (before + side + step - 1) // step
    return before, number, number * step - side - before


def _is_real(start: int, length: int, total: int, device: torch.device) -> Tensor:
    positions = torch.arange(total, device=device)
    return (positions >= start) & (positions < start + length)


def _cut(x: Tensor, window: tuple[int, int], rows: int, columns: int) -> Tensor:
    batch, channels = x.shape[0], x.shape[3]
    h, w = window
    x = x.reshape(batch, rows, h, columns, w, channels)
    # (B, rows, h, columns, w, C) -> (B * rows * columns, h, w, C)
    return x.transpose(2, 3).reshape(batch * rows * columns, h, w, channels)


def resize_tokens(
    weight: Tensor,
    dim: int,
    old: tuple[int, int],
    new: tuple[int, int],
    *,
    scale: bool = False,
    mode: str = "bilinear",
) -> Tensor:
    """Resample one axis of a weight that runs over a token grid, row by row.

    Args:
        weight: Any weight whose axis ``dim`` has one entry for each token.
        dim: The axis.
        old: Height and width of the grid it belongs to, in tokens.
        new: Height and width of the grid wanted, in tokens.
        scale: Whether to multiply by old over new number of tokens, as the axis that
            is summed over needs for a constant map to keep its response.
        mode: ``"bilinear"`` or ``"bicubic"``, both with ``align_corners=False``.

    Returns:
        The weight with ``new[0] * new[1]`` entries along ``dim``; itself where the
        grids are equal.
    """
    if new == old:
        return weight
    moved = weight.movedim(dim, -1)  # (..., N)
    image = moved.reshape(-1, 1, *old).float()
    image = F.interpolate(image, new, mode=mode, align_corners=False)
    if scale:
        image = image * (old[0] * old[1] / (new[0] * new[1]))
    resized = image.reshape(*moved.shape[:-1], new[0] * new[1]).to(weight.dtype)
    return resized.movedim(-1, dim)


def resize_axis(weight: Tensor, dim: int, size: int, *, scale: bool = False) -> Tensor:
    """Resample one axis of a weight that runs along one side of a token grid.

    Linear, ``align_corners=False``; used on two axes in turn it is bilinear.

    Args:
        weight: Any weight.
        dim: The axis.
        size: Entries wanted along it.
        scale: Whether to multiply by old over new length, as the axis that is summed
            over needs.

    Returns:
        The weight with ``size`` entries along ``dim``; itself where nothing changes.
    """
    old = weight.shape[dim]
    if size == old:
        return weight
    moved = weight.movedim(dim, -1)  # (..., length)
    line = moved.reshape(-1, 1, old).float()
    line = F.interpolate(line, size, mode="linear", align_corners=False)
    if scale:
        line = line * (old / size)
    resized = line.reshape(*moved.shape[:-1], size).to(weight.dtype)
    return resized.movedim(-1, dim)
