"""The largest element of each window: by slices, or in one call of a library that has it."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import backends
from backends.pooling import Windows
from tinynn.rules.batching import BATCHING, everywhere
from tinynn.rules.kinds import RULES, Composed, Rule, Tangents
from tinynn.rules.special import first_maximum
from tinynn.trace import Function, backend_of, namespace
from tinynn.transforms import jvp, vjp

Array: TypeAlias = Any


def at(axis: int, key: Any) -> tuple[Any, ...]:
    """The index of a key along one axis."""
    return (*(slice(None),) * axis, key, ...)


def filled(xp: Any, x: Array, axis: int, low: int, high: int, value: float) -> Array:
    """`x` with so many more elements of that value at the ends of one axis; negative ones cut."""
    n = x.shape[axis]
    if min(low, high) < 0:
        x = x[at(axis, slice(max(-low, 0), n - max(-high, 0)))]
    if max(low, high) <= 0:
        return x
    one = xp.full_like(x[at(axis, slice(1))], value)  # of x, so that the batch stays its batch
    ends = [
        xp.broadcast_to(one, (*x.shape[:axis], count, *x.shape[axis + 1 :])) if count > 0 else None
        for count in (low, high)
    ]
    return xp.concat([part for part in (ends[0], x, ends[1]) if part is not None], axis=axis)


def slices(xp: Any, x: Array, axis: int, window: int, stride: int, dilation: int) -> list[Array]:
    """For each place in the window, the elements that all windows have there."""
    out = (x.shape[axis] - (window - 1) * dilation - 1) // stride + 1
    if window == stride and dilation == 1:  # windows side by side: no strides, an axis of its own
        x = x[at(axis, slice(out * window))] if out * window < x.shape[axis] else x
        x = xp.reshape(x, (*x.shape[:axis], out, window, *x.shape[axis + 1 :]))
        return [x[at(axis + 1, i)] for i in range(window)]
    starts = [i * dilation for i in range(window)]
    return [x[at(axis, slice(i, i + (out - 1) * stride + 1, stride))] for i in starts]


def joined(parts: list[Array], join: Callable[[Array, Array], Array]) -> Array:
    """The parts, one joined to the next."""
    total = parts[0]
    for part in parts[1:]:
        total = join(total, part)
    return total


def largest(x: Array, windows: Windows) -> Array:
    """The largest element of each window of `x`: (batch, *spatial, channels)."""
    if backend_of(x).takes_max_pool(x, windows):
        return in_one_call(x, **windows._asdict())
    return by_slices(x, windows)


def by_slices(x: Array, windows: Windows) -> Array:
    """The same in functions of the standard, an axis after the other."""
    xp, axes = namespace(x), list(enumerate(zip(*windows, strict=True), 1))
    for axis, (length, step, gap, (low, high)) in reversed(axes):
        x = filled(xp, x, axis, low, high, float("-inf"))
        x = joined(slices(xp, x, axis, length, step, gap), first_maximum)
    return x


def _definition(xp: Any, x: Array, **settings: Any) -> Array:
    return by_slices(x, Windows(**settings))


def _pullback(xp: Any, g: Array, x: Array, **settings: Any) -> Array:
    return vjp(partial(by_slices, windows=Windows(**settings)), x)[1](g)[0]


class _Largest(Rule):
    """The derivative is one call, too."""

    definition = staticmethod(_definition)

    def vjps(self, positions: Any, xp: Any, g: Any, y: Any, args: Any, kwargs: Any) -> list[Any]:
        return [pulled(g, args[0], **kwargs)]

    def jvp(self, f: Any, xp: Any, tangents: Tangents, y: Any, args: Any, kwargs: Any) -> Any:
        return jvp(partial(_definition, xp, **kwargs), (args[0],), (tangents[0],))[1]


def _raw(name: str, otherwise: Callable[..., Array] | None = None) -> Callable[..., Any]:
    """The backend's method of that name; or another function, where it does not take the arrays."""

    def call(*arrays: Array, **settings: Any) -> Any:
        backend, windows = backends.of(*arrays), Windows(**settings)
        if otherwise is not None and not backend.takes_max_pool(arrays[-1], windows):
            return otherwise(backend.xp, *arrays, **settings)
        with backend.scope():
            return getattr(backend, name)(*arrays, windows)

    return call


def _batched(f: Any, xp: Any, args: Any, batched: list[bool], size: int, kwargs: Any) -> Any:
    """One longer batch."""
    every = everywhere(xp, args, batched, size)
    y = f(*[xp.reshape(a, (size * a.shape[1], *a.shape[2:])) for a in every], **kwargs)
    return xp.reshape(y, (size, y.shape[0] // size, *y.shape[1:]))


in_one_call = Function("max_pool", _raw("max_pool", _definition))
pulled = Function("max_pool_pullback", _raw("max_pool_pullback", _pullback))
pulled.kept = (
    in_one_call,
    Function("max_pool_with_indices", _raw("max_pool_with_indices")),
    Function("max_pool_from_indices", _raw("max_pool_from_indices")),
)
RULES[in_one_call], RULES[pulled] = _Largest(), Composed(_pullback)
BATCHING[in_one_call] = BATCHING[pulled] = _batched
