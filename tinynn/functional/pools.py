"""The largest element of each window, or the mean: by slices, or in one call of a library's.

Of equal elements of a window the first is its largest; of several that are NaN, the last.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import backends
from backends.pooling import AnyWindows, Parts, Windows
from tinynn.rules.batching import BATCHING, everywhere
from tinynn.rules.kinds import RULES, Linear, Rule, Tangents
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


def _slices(xp: Any, x: Array, axis: int, window: int, stride: int, dilation: int) -> list[Array]:
    """For each place in the window, the elements that all windows have there."""
    out = (x.shape[axis] - (window - 1) * dilation - 1) // stride + 1
    if window == stride and dilation == 1:  # windows side by side: no strides, an axis of its own
        x = x[at(axis, slice(out * window))] if out * window < x.shape[axis] else x
        x = xp.reshape(x, (*x.shape[:axis], out, window, *x.shape[axis + 1 :]))
        return [x[at(axis + 1, i)] for i in range(window)]
    starts = [i * dilation for i in range(window)]
    return [x[at(axis, slice(i, i + (out - 1) * stride + 1, stride))] for i in starts]


def _joined(parts: list[Array], join: Callable[[Array, Array], Array]) -> Array:
    """The parts, one joined to the next."""
    total = parts[0]
    for part in parts[1:]:
        total = join(total, part)
    return total


def _largest_of_each(xp: Any, x: Array, axis: int, window: int, stride: int, dilation: int,
                     padding: tuple[int, int]) -> Array:  # fmt: skip
    x = filled(xp, x, axis, *padding, float("-inf"))
    return _joined(_slices(xp, x, axis, window, stride, dilation), first_maximum)


def _mean_of_each(xp: Any, x: Array, axis: int, window: int, stride: int, dilation: int,
                  padding: tuple[int, int]) -> Array:  # fmt: skip
    n, (low, high) = x.shape[axis], padding
    starts = range(-low, n + high - window + 1, stride)
    x = filled(xp, x, axis, low, high, 0.0)
    x = _joined(_slices(xp, x, axis, window, stride, dilation), xp.add)
    counts = [min(start + window, n) - max(start, 0) for start in starts]
    if set(counts) == {window}:
        return x * (1.0 / window)
    shares = backend_of(x).asarray([1.0 / count for count in counts], dtype=x.dtype)
    return xp.multiply(x, xp.reshape(shares, (-1, *(1,) * (x.ndim - axis - 1))))


def _largest_of_parts(xp: Any, part: Array, axis: int) -> Array:
    parts = [part[at(axis, slice(i, i + 1))] for i in range(part.shape[axis])]
    return _joined(parts, first_maximum)


def _mean_of_part(xp: Any, part: Array, axis: int) -> Array:
    return xp.mean(part, axis=axis, keepdims=True)


def _by_slices(each: Any, of_part: Any, x: Array, windows: AnyWindows) -> Array:
    """In functions of the standard, an axis after the other."""
    xp = namespace(x)
    for axis, settings in reversed(list(enumerate(zip(*windows, strict=True), 1))):
        n, count = x.shape[axis], settings[0]
        if isinstance(windows, Windows):
            x = each(xp, x, axis, *settings)
        elif count == 1:
            x = of_part(xp, x, axis)
        elif n % count == 0:
            x = each(xp, x, axis, n // count, n // count, 1, (0, 0))
        else:
            ends = [(i * n // count, -(-(i + 1) * n // count)) for i in range(count)]
            parts = [of_part(xp, x[at(axis, slice(*pair))], axis) for pair in ends]
            x = xp.concat(parts, axis=axis)
    return x


def _windows(settings: dict[str, Any]) -> AnyWindows:
    return Parts(**settings) if "size" in settings else Windows(**settings)


def _defined(by_slices: Callable[..., Array]) -> Callable[..., Array]:
    return lambda xp, x, **settings: by_slices(x, _windows(settings))


_largest_by_slices = partial(_by_slices, _largest_of_each, _largest_of_parts)
_means_by_slices = partial(_by_slices, _mean_of_each, _mean_of_part)
_largest, _means = _defined(_largest_by_slices), _defined(_means_by_slices)


def _largest_pulled(xp: Any, g: Array, x: Array, **settings: Any) -> Array:
    return vjp(partial(_largest, xp, **settings), x)[1](g)[0]


def _largest_pushed(xp: Any, t: Array, x: Array, **settings: Any) -> Array:
    return jvp(partial(_largest, xp, **settings), (x,), (t,))[1]


def _means_pulled(xp: Any, g: Array, *, lengths: Any, **settings: Any) -> Array:
    one = xp.zeros_like(g[(slice(None), *(slice(1),) * len(lengths), slice(None))])
    x = xp.broadcast_to(one, (g.shape[0], *lengths, g.shape[-1]))
    return vjp(partial(_means, xp, **settings), x)[1](g)[0]


def _function(name: str, definition: Callable[..., Array] | None) -> Function:
    """The backend's method of that name; or its definition, where it does not take the arrays."""

    def call(*arrays: Array, **settings: Any) -> Any:
        backend, given = backends.of(*arrays), dict(settings)
        lengths = (given.pop("lengths"),) if "lengths" in given else ()
        windows = _windows(given)
        if definition is not None and not backend.takes_pool(arrays[-1], windows):
            return definition(backend.xp, *arrays, **settings)
        with backend.scope():
            return getattr(backend, name)(*arrays, *lengths, windows)

    return Function(name, call)


largest = _function("max_pool", _largest)
largest_pulled = _function("max_pool_pullback", _largest_pulled)
largest_pushed = _function("max_pool_pushforward", _largest_pushed)
means = _function("avg_pool", _means)
means_pulled = _function("avg_pool_pullback", _means_pulled)
largest_pulled.kept = (
    largest,
    _function("max_pool_with_indices", None),
    _function("max_pool_from_indices", None),
)


class _Largest(Rule):
    definition = staticmethod(_largest)

    def vjps(self, positions: Any, xp: Any, g: Any, y: Any, args: Any, kwargs: Any) -> list[Any]:
        return [largest_pulled(g, args[0], **kwargs)]

    def jvp(self, f: Any, xp: Any, tangents: Tangents, y: Any, args: Any, kwargs: Any) -> Any:
        return largest_pushed(tangents[0], args[0], **kwargs)


class _Chosen(Rule):
    """Linear in the first array; the second only says which of its elements count."""

    def __init__(self, definition: Callable[..., Array], transpose: Function) -> None:
        self.definition, self.transpose = definition, transpose

    def vjps(self, positions: Any, xp: Any, g: Any, y: Any, args: Any, kwargs: Any) -> list[Any]:
        x = args[1]
        return [xp.zeros_like(x) if i else self.transpose(g, x, **kwargs) for i in positions]

    def jvp(self, f: Any, xp: Any, tangents: Tangents, y: Any, args: Any, kwargs: Any) -> Any:
        return f(tangents[0], args[1], **kwargs) if 0 in tangents else xp.zeros_like(y)


def _means_back(xp: Any, g: Array, i: int, args: Any, **settings: Any) -> Array:
    return means_pulled(g, lengths=tuple(args[0].shape[1:-1]), **settings)


def _means_again(xp: Any, g: Array, i: int, args: Any, *, lengths: Any, **settings: Any) -> Array:
    return means(g, **settings)


def in_one_batch(f: Any, xp: Any, args: Any, batched: list[bool], size: int, kwargs: Any) -> Any:
    """How these functions are batched: one longer batch."""
    every = everywhere(xp, args, batched, size)
    y = f(*[xp.reshape(a, (size * a.shape[1], *a.shape[2:])) for a in every], **kwargs)
    return xp.reshape(y, (size, y.shape[0] // size, *y.shape[1:]))


RULES[largest] = _Largest()
RULES[largest_pulled] = _Chosen(_largest_pulled, largest_pushed)
RULES[largest_pushed] = _Chosen(_largest_pushed, largest_pulled)
RULES[means], RULES[means_pulled] = Linear(_means_back), Linear(_means_again)
RULES[means].definition, RULES[means_pulled].definition = _means, _means_pulled
BATCHING.update(
    dict.fromkeys((largest, largest_pulled, largest_pushed, means, means_pulled), in_one_batch)
)


def pooled(function: Function, x: Array, windows: AnyWindows) -> Array:
    """`largest` or `means` of the windows of `x`: (batch, *spatial, channels)."""
    if backend_of(x).takes_pool(x, windows):
        return function(x, **windows._asdict())
    return (_largest_by_slices if function is largest else _means_by_slices)(x, windows)
