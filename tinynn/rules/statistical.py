"""Derivatives of the statistical functions."""

from math import prod
from typing import Any

from tinynn.rules.complex import squared_size
from tinynn.rules.kinds import RULES, Composed, Linear, Reduction, axes_of, keep_axes


def _sum(
    xp: Any, g: Any, i: int, args: Any, *, axis: Any = None, keepdims: bool = False, **_: Any
) -> Any:
    return xp.broadcast_to(keep_axes(xp, g, args[0], axis, keepdims), args[0].shape)


def _extremum(xp: Any, y: Any, x: Any, axis: Any) -> Any:
    # Elements that tie share the derivative equally.
    ties = xp.astype(xp.equal(x, y), x.dtype)
    return ties / xp.sum(ties, axis=axis, keepdims=True)


def _count(x: Any, axis: Any) -> int:
    return prod(x.shape[a] for a in axes_of(axis, x.ndim))


def _mean(xp: Any, x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    return xp.sum(x, axis=axis, keepdims=keepdims) / _count(x, axis)


def _var(
    xp: Any, x: Any, *, axis: Any = None, correction: float = 0.0, keepdims: bool = False
) -> Any:
    spread = squared_size(xp, x - xp.mean(x, axis=axis, keepdims=True))
    return xp.sum(spread, axis=axis, keepdims=keepdims) / (_count(x, axis) - correction)


def _std(xp: Any, x: Any, **kwargs: Any) -> Any:
    var = xp.var(x, **kwargs)
    # Of one element both are 0 wherever it is, which the slope of sqrt there would not tell.
    return var if _count(x, kwargs.get("axis")) == 1 else xp.sqrt(var)


def products_of_others(xp: Any, x: Any) -> Any:
    """For each element, the product of all others along the last axis: no division, so no 0 / 0."""
    ahead = xp.cumulative_prod(x, axis=-1, include_initial=True)
    behind = xp.cumulative_prod(xp.flip(x, axis=-1), axis=-1, include_initial=True)
    return ahead[..., :-1] * xp.flip(behind, axis=-1)[..., 1:]


def _prod(xp: Any, y: Any, x: Any, axis: Any) -> Any:
    gone = axes_of(axis, x.ndim)
    order = tuple(a for a in range(x.ndim) if a not in gone) + gone
    moved = xp.permute_dims(x, order)
    kept = tuple(x.shape[a] for a in order[: x.ndim - len(gone)])
    others = products_of_others(xp, xp.reshape(moved, (*kept, _count(x, gone))))
    return xp.permute_dims(xp.reshape(others, moved.shape), tuple(map(order.index, range(x.ndim))))


def _along(x: Any, axis: int | None) -> tuple[int, tuple[Any, ...]]:
    """The axis, not negative, and the index of all axes before it."""
    axis = 0 if axis is None else axis % x.ndim
    return axis, (slice(None),) * axis


def _cumulative_sum_back(
    xp: Any,
    g: Any,
    i: int,
    args: Any,
    *,
    axis: int | None = None,
    include_initial: bool = False,
    **_: Any,
) -> Any:
    # An element reaches every sum from its own on.
    axis, before = _along(args[0], axis)
    g = g[(*before, slice(1, None), ...)] if include_initial else g
    return xp.flip(xp.cumulative_sum(xp.flip(g, axis=axis), axis=axis), axis=axis)


def _cumulative_prod(
    xp: Any, x: Any, *, axis: int | None = None, dtype: Any = None, include_initial: bool = False
) -> Any:
    # Products of 1, 2, 4, ... neighbours: without division, so that zeros do no harm.
    axis, before = _along(x, axis)
    x = x if dtype is None else xp.astype(x, dtype)
    one = xp.ones_like(xp.sum(x, axis=axis, keepdims=True))
    step = 1
    while step < x.shape[axis]:
        first, rest, partner = slice(step), slice(step, None), slice(-step)
        grown = x[(*before, rest, ...)] * x[(*before, partner, ...)]
        x = xp.concat([x[(*before, first, ...)], grown], axis=axis)
        step *= 2
    return xp.concat([one, x], axis=axis) if include_initial else x


RULES["sum"] = Linear(_sum)
RULES["mean"] = Composed(_mean)
RULES["var"] = Composed(_var)
RULES["std"] = Composed(_std)
RULES["max"] = Reduction(_extremum)
RULES["min"] = Reduction(_extremum)
RULES["prod"] = Reduction(_prod)
RULES["cumulative_sum"] = Linear(_cumulative_sum_back)
RULES["cumulative_prod"] = Composed(_cumulative_prod)
