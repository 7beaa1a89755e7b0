"""Moving groups of channels one cell along the axes of a map, borders replicated."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mlp_backbones.ops.dispatch import is_compiling, is_transformed

# axis and step of each direction
_MOVES = {
    "down": (1, 1),
    "up": (1, -1),
    "right": (2, 1),
    "left": (2, -1),
    "stay": (1, 0),
}

DIRECTIONS = tuple(_MOVES)
"""Where the content of a group of channels can go; ``stay`` moves nothing."""


def spatial_shift(x: Tensor, directions: Sequence[str]) -> Tensor:
    """Move each group of channels by one cell; border cells keep their own value.

    Every group is read from the map as it came: the published in-place slices of
    S2-MLP smear the first row and column over the whole map.

    Source: S2-MLP (arXiv 2106.07477), equation 3.

    Args:
        x: Feature map, (B, H, W, C).
        directions: For each group one of :data:`DIRECTIONS`; group i of G holds the
            channels from C * i // G up to C * (i + 1) // G.

    Returns:
        The shifted map, (B, H, W, C).

    Raises:
        ValueError: If a direction is unknown, or there is none.
    """
    _check(directions)
    if _takes_plain_form():
        return _shift_by_concatenation(x, directions)
    return _Shift.apply(x, directions)


def shifted_means(x: Tensor, directions: Sequence[Sequence[str]]) -> Tensor:
    """Average K branches over their cells, each shifted in its own way.

    Nothing is shifted: a shift drops the cells of one border and doubles those of the
    border opposite, so its mean differs from the map's by what these two borders hold.

    Args:
        x: The branches side by side, (B, H, W, K * C).
        directions: The directions of each branch, as in :func:`spatial_shift`.

    Returns:
        The means, (B, K * C).

    Raises:
        ValueError: If a direction is unknown, or the channels are no multiple of K.
    """
    _check_branches(x, directions)
    if _takes_plain_form():
        return _means(x, directions)
    return _Means.apply(x, directions)


def blend_shifted(
    x: Tensor, weights: Tensor, directions: Sequence[Sequence[str]]
) -> Tensor:
    """Shift K branches, each in its own way, and add them up with weights.

    A weight that is the same for all cells can stand before or behind the shift, so
    no branch is shifted in memory: its cells are added where they belong.

    Args:
        x: The branches side by side, (B, H, W, K * C).
        weights: A weight for each sample, branch and channel, (B, K * C); it is
            taken in the precision of ``x``.
        directions: The directions of each branch, as in :func:`spatial_shift`.

    Returns:
        The sum over the branches, (B, H, W, C).

    Raises:
        ValueError: If a direction is unknown, or the channels are no multiple of K.
    """
    _check_branches(x, directions)
    weights = weights.to(x.dtype)
    if _takes_plain_form():
        return _blend_by_concatenation(x, weights, directions)
    return _Blend.apply(x, weights, directions)


class _Shift(torch.autograd.Function):
    """One copy each way; autograd would clone the whole map for every slice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, directions: Sequence[str]) -> Tensor:
        ctx.directions = directions
        shifted = _empty(x)
        for source, target, _ in _pieces(x, shifted, directions):
            target.copy_(source)
        return shifted

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        if torch.is_grad_enabled():
            plain = functools.partial(
                _shift_by_concatenation, directions=ctx.directions
            )
            return _differentiate(plain, grad, torch.zeros_like(grad))[0], None
        grad_x = _empty(grad)
        _shift_back(grad, grad_x, ctx.directions)
        return grad_x, None


class _Means(torch.autograd.Function):
    """Autograd would fill a whole map with zeros for each of the four borders."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, directions: Sequence[Sequence[str]]) -> Tensor:
        ctx.shape, ctx.directions = x.shape, directions
        return _means(x, directions)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        if torch.is_grad_enabled():
            plain = functools.partial(_means, directions=ctx.directions)
            return _differentiate(plain, grad, grad.new_zeros(ctx.shape))[0], None
        share = grad / (ctx.shape[1] * ctx.shape[2])
        grad_x = grad.new_empty(ctx.shape)
        grad_x.copy_(share[:, None, None])
        for channels, axis, step in _branch_groups(ctx.shape[-1], ctx.directions):
            if step:  # what doubles, and what leaves the map
                border = step * share[:, None, channels]
                grad_x[..., channels].select(axis, 0).add_(border)
                grad_x[..., channels].select(axis, -1).sub_(border)
        return grad_x, None


class _Blend(torch.autograd.Function):
    """Keeps the branches alone for the backward pass, and no shifted map."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weights: Tensor, directions: Sequence[Sequence[str]]
    ) -> Tensor:
        ctx.save_for_backward(x, weights)
        ctx.directions = directions
        branches = x.chunk(len(directions), -1)
        factors = weights[:, None, None].chunk(len(directions), -1)  # (B, 1, 1, C)
        blended = _empty(branches[0])
        for index, branch in enumerate(branches):
            pieces = _pieces(branch, blended, directions[index])
            for source, target, channels in pieces:
                factor = factors[index][..., channels]
                if index == 0:
                    torch.mul(source, factor, out=target)
                else:
                    target.addcmul_(source, factor)
        return blended

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weights = ctx.saved_tensors
        if torch.is_grad_enabled():
            plain = functools.partial(
                _blend_by_concatenation, directions=ctx.directions
            )
            grad_x, grad_weights = _differentiate(plain, grad, x, weights)
            return grad_x, grad_weights, None
        grad_x = _empty(x)
        parts = grad_x.chunk(len(ctx.directions), -1)
        for part, branch in zip(parts, ctx.directions, strict=True):
            _shift_back(grad, part, branch)
        grad_weights = (x * grad_x).sum((1, 2))
        return grad_x.mul_(weights[:, None, None]), grad_weights, None


def _check(directions: Sequence[str]) -> None:
    unknown = [direction for direction in directions if direction not in _MOVES]
    if unknown or not directions:
        raise ValueError(
            f"directions must be some of {', '.join(_MOVES)}, got {directions!r}"
        )


def _check_branches(x: Tensor, directions: Sequence[Sequence[str]]) -> None:
    for branch in directions:
        _check(branch)
    if not directions or x.shape[-1] % len(directions):
        raise ValueError(
            f"{x.shape[-1]} channels cannot hold {len(directions)} branches alike"
        )


def _differentiate(
    plain: Callable[..., Tensor], grad: Tensor, *inputs: Tensor
) -> tuple[Tensor, ...]:
    """Return gradients of a plain form that can be differentiated again."""
    # views of their own: one input may have been computed from another
    parts = [
        x.view_as(x) if x.requires_grad else x.detach().requires_grad_() for x in inputs
    ]
    return torch.autograd.grad(plain(*parts), parts, grad, create_graph=True)


def _takes_plain_form() -> bool:
    """Say whether what looks on knows no writing into slices: graphs, transforms."""
    return is_compiling() or torch.jit.is_tracing() or is_transformed()


def _empty(x: Tensor) -> Tensor:
    """Return a contiguous map of the shape of ``x``."""
    return x.new_empty(x.shape)


def _groups(dim: int, directions: Sequence[str]) -> Iterator[tuple[slice, int, int]]:
    """Yield channels, axis and step of each group."""
    count = len(directions)
    for index, direction in enumerate(directions):
        channels = slice(dim * index // count, dim * (index + 1) // count)
        yield channels, *_MOVES[direction]


def _branch_groups(
    dim: int, directions: Sequence[Sequence[str]]
) -> Iterator[tuple[slice, int, int]]:
    """Yield channels, axis and step of each group of branches side by side."""
    width = dim // len(directions)
    for index, branch in enumerate(directions):
        for channels, axis, step in _groups(width, branch):
            start = index * width
            yield slice(start + channels.start, start + channels.stop), axis, step


def _spans(length: int, step: int) -> list[tuple[int, int, int]]:
    """List start in the source, start in the target and length of what moves."""
    if step == 0:
        return [(0, 0, length)]
    if step > 0:
        return [(0, 1, length - 1), (0, 0, 1)]
    return [(1, 0, length - 1), (length - 1, length - 1, 1)]


def _pieces(
    source: Tensor, target: Tensor, directions: Sequence[str]
) -> Iterator[tuple[Tensor, Tensor, slice]]:
    """Yield views of two maps that correspond in a shift, and their channels."""
    for channels, axis, step in _groups(source.shape[-1], directions):
        for start, end, length in _spans(source.shape[axis], step):
            yield (
                source[..., channels].narrow(axis, start, length),
                target[..., channels].narrow(axis, end, length),
                channels,
            )


def _shift_back(grad: Tensor, grad_x: Tensor, directions: Sequence[str]) -> None:
    """Fill the gradient of a map from that of the shifted map."""
    for channels, axis, step in _groups(grad.shape[-1], directions):
        moved, came = grad[..., channels], grad_x[..., channels]
        (start, end, length), *border = _spans(grad.shape[axis], step)
        came.narrow(axis, start, length).copy_(moved.narrow(axis, end, length))
        for start, end, _ in border:
            came.select(axis, -1 if step > 0 else 0).zero_()  # what left the map
            came.select(axis, start).add_(moved.select(axis, end))


def _shift_by_concatenation(x: Tensor, directions: Sequence[str]) -> Tensor:
    groups = []
    for channels, axis, step in _groups(x.shape[-1], directions):
        group, length = x[..., channels], x.shape[axis]
        if step > 0:
            cells = (group.narrow(axis, 0, 1), group.narrow(axis, 0, length - 1))
            group = torch.cat(cells, axis)
        elif step < 0:
            border = group.narrow(axis, length - 1, 1)
            group = torch.cat((group.narrow(axis, 1, length - 1), border), axis)
        groups.append(group)
    return torch.cat(groups, -1)


def _blend_by_concatenation(
    x: Tensor, weights: Tensor, directions: Sequence[Sequence[str]]
) -> Tensor:
    weighted = (x * weights[:, None, None]).chunk(len(directions), -1)
    shifted = [  # torch 2.1 traces no zip that is strict
        _shift_by_concatenation(branch, directions[index])
        for index, branch in enumerate(weighted)
    ]
    return functools.reduce(torch.add, shifted)


def _means(x: Tensor, directions: Sequence[Sequence[str]]) -> Tensor:
    mean = x.mean((1, 2))
    borders = {
        1: (x[:, 0] - x[:, -1]).mean(1) / x.shape[1],
        2: (x[:, :, 0] - x[:, :, -1]).mean(1) / x.shape[2],
    }
    parts = [
        mean[:, channels] + step * borders[axis][:, channels]
        for channels, axis, step in _branch_groups(x.shape[-1], directions)
    ]
    return torch.cat(parts, -1)
