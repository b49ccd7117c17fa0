"""Derivatives of the statistical functions."""

from math import prod
from typing import Any

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
    spread = xp.square(x - xp.mean(x, axis=axis, keepdims=True))
    return xp.sum(spread, axis=axis, keepdims=keepdims) / (_count(x, axis) - correction)


def _std(xp: Any, x: Any, **settings: Any) -> Any:
    return xp.sqrt(xp.var(x, **settings))


RULES["sum"] = Linear(_sum)
RULES["mean"] = Composed(_mean)
RULES["var"] = Composed(_var)
RULES["std"] = Composed(_std)
RULES["max"] = Reduction(_extremum)
RULES["min"] = Reduction(_extremum)
