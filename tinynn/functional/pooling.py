"""Pooling, and upsampling: an axis after the other, in functions of the standard.

Derivatives, batching and export follow from those of slices and of the reduction.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

from backends import scoped
from backends.pooling import Windows
from tinynn.functional.errors import DtypeError, ShapeError
from tinynn.functional.max_pooling import at, filled, joined, largest, slices
from tinynn.functional.windows import (
    Padding,
    around,
    channels_first,
    channels_last,
    per_axis,
    resolved,
)
from tinynn.rules.special import first_maximum
from tinynn.trace import backend_of, namespace
from tinynn.trace.scopes import composite

__all__ = [
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "avg_pool",
    "max_pool",
    "pad",
    "upsample",
]

Array: TypeAlias = Any


def _moved(name: str, x: Array, channels: str, axes: int | None) -> tuple[Any, Array, bool]:
    last, xp = channels_last(name, channels), namespace(x)  # TypeError for what is no array
    if x.ndim < 3 or (axes is not None and x.ndim != axes + 2):
        order = "(batch, *spatial, channels)" if last else "(batch, channels, *spatial)"
        count = "one or more" if axes is None else str(axes)
        raise ShapeError(
            f"{name}: expected input of shape {order} with {count} spatial axes, got "
            f"{tuple(x.shape)}. To fix it: reshape it, or give settings for its axes"
        )
    if 0 in x.shape[1:]:
        raise ShapeError(
            f"{name}: expected no axis but the batch to be empty, got {tuple(x.shape)}. To fix it: "
            "give samples of one element or more"
        )
    return xp, x if last else xp.moveaxis(x, 1, -1), last


def _count(given: Any) -> int | None:
    return len(given) if isinstance(given, Sequence) and not isinstance(given, str) else None


@composite
@scoped
def max_pool(
    x: Array,
    window: int | Sequence[int] = 2,
    *,
    stride: int | Sequence[int] | None = None,
    padding: Padding = "valid",
    dilation: int | Sequence[int] = 1,
    channels: str = "last",
) -> Array:
    """The largest element of each window; the gradient goes to the first of equals, as in JAX.

    Parameters
    ----------
    x
        (batch, spatial, channels), or (batch, channels, spatial) with `channels="first"`.
    window
        The lengths of the window: one for all axes, or each its own.
    stride
        The step of the window; None is the window itself.
    padding
        As in `conv`; what is added is -infinity, so it is never the largest.
    dilation
        The step between elements of a window.
    channels
        "last" or "first".

    Examples
    --------
    >>> import numpy as np
    >>> max_pool(np.asarray([[[1.0], [3.0], [2.0], [0.0]]])).tolist()
    [[[3.0], [2.0]]]
    """
    xp, x, last = _moved("max_pool", x, channels, _count(window))
    if not xp.isdtype(x.dtype, "real floating"):
        raise TypeError(
            f"max_pool: expected real floating input, got {x.dtype}. To fix it: convert it with "
            "xp.astype"
        )
    windows = _windows("max_pool", x, window, stride, padding, dilation)
    return channels_first(xp, largest(x, windows), last)


def _windows(
    name: str, x: Array, window: Any, stride: Any, padding: Padding, dilation: Any
) -> Windows:
    axes = x.ndim - 2
    lengths = per_axis(name, "window", window, axes)
    steps = lengths if stride is None else per_axis(name, "stride", stride, axes)
    gaps = per_axis(name, "dilation", dilation, axes)
    ends = resolved(name, padding, tuple(x.shape[1:-1]), lengths, steps, gaps)
    for length, gap, pair in zip(lengths, gaps, ends, strict=True):
        if max(pair) > (length - 1) * gap:
            raise ShapeError(
                f"{name}: expected padding of less than the window, which would else hold nothing "
                f"but padding, got padding {pair} for a window of {length}. To fix it: pad less"
            )
    return Windows(tuple(lengths), tuple(steps), tuple(gaps), tuple(ends))


@composite
@scoped
def avg_pool(
    x: Array,
    window: int | Sequence[int] = 2,
    *,
    stride: int | Sequence[int] | None = None,
    padding: Padding = "valid",
    channels: str = "last",
) -> Array:
    """The mean of each window; padding is not counted, as PyTorch's `count_include_pad=False`.

    Parameters
    ----------
    x, window, stride, padding, channels
        As in `max_pool`.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.asarray([[[1.0], [3.0], [2.0]]])
    >>> avg_pool(x, 2).tolist(), avg_pool(x, 2, padding="same").tolist()
    ([[[2.0]]], [[[2.0], [2.0]]])
    """
    xp, x, last = _moved("avg_pool", x, channels, _count(window))
    windows = _windows("avg_pool", x, window, stride, padding, 1)
    axes = list(enumerate(zip(*windows, strict=True), 1))
    for axis, (length, step, gap, (low, high)) in reversed(axes):
        n = x.shape[axis]
        x = filled(xp, x, axis, low, high, 0.0)
        starts = range(-low, n + high - length + 1, step)
        x = joined(slices(xp, x, axis, length, step, gap), xp.add)
        counts = [min(start + length, n) - max(start, 0) for start in starts]
        if set(counts) == {length}:
            x = x * (1.0 / length)
        else:
            shares = backend_of(x).asarray([1.0 / count for count in counts], dtype=x.dtype)
            x = xp.multiply(x, xp.reshape(shares, (-1, *(1,) * (x.ndim - axis - 1))))
    return channels_first(xp, x, last)


def _adaptive(name: str, x: Array, size: Any, channels: str, reduce: Any) -> Array:
    xp, x, last = _moved(name, x, channels, _count(size))
    sizes = per_axis(name, "size", size, x.ndim - 2)
    for axis, count in reversed(list(enumerate(sizes, 1))):
        n = x.shape[axis]
        parts = [x[at(axis, slice(i * n // count, -(-(i + 1) * n // count)))] for i in range(count)]
        pooled = [reduce(xp, part, axis) for part in parts]
        x = xp.concat(pooled, axis=axis) if count > 1 else pooled[0]
    return channels_first(xp, x, last)


@composite
@scoped
def adaptive_avg_pool(x: Array, size: int | Sequence[int] = 1, *, channels: str = "last") -> Array:
    """The means of `size` windows along each axis, of nearly equal lengths, that cover all of it.

    Window i reaches from floor(i * length / size) to ceil((i + 1) * length / size), as in PyTorch.

    Parameters
    ----------
    x
        (batch, spatial axes..., channels), or as `channels` says.
    size
        Windows along each axis; a number for all axes.
    channels
        "last" or "first": where the axis of the channels is.

    Examples
    --------
    >>> import numpy as np
    >>> adaptive_avg_pool(np.asarray([[[1.0], [3.0], [2.0]]]), 2).tolist()
    [[[2.0], [2.5]]]
    """

    def mean(xp: Any, part: Array, axis: int) -> Array:
        return xp.mean(part, axis=axis, keepdims=True)

    return _adaptive("adaptive_avg_pool", x, size, channels, mean)


@composite
@scoped
def adaptive_max_pool(x: Array, size: int | Sequence[int] = 1, *, channels: str = "last") -> Array:
    """The largest of the windows of `adaptive_avg_pool`; the gradient goes to the first of equals.

    Parameters
    ----------
    x
        (batch, spatial axes..., channels), or as `channels` says.
    size
        Windows along each axis; a number for all axes.
    channels
        "last" or "first": where the axis of the channels is.

    Examples
    --------
    >>> import numpy as np
    >>> adaptive_max_pool(np.asarray([[[1.0], [3.0], [2.0]]]), 2).tolist()
    [[[3.0], [3.0]]]
    """

    def largest(xp: Any, part: Array, axis: int) -> Array:
        parts = [part[at(axis, slice(i, i + 1))] for i in range(part.shape[axis])]
        return joined(parts, first_maximum)

    return _adaptive("adaptive_max_pool", x, size, channels, largest)


@composite
@scoped
def pad(x: Array, padding: Any, value: float = 0.0, *, channels: str = "last") -> Array:
    """`x` with elements of that value around its spatial axes; negative numbers cut.

    Parameters
    ----------
    x
        (batch, spatial axes..., channels), or as `channels` says.
    padding
        A number for both ends of all axes, or a pair (before, after) for each.
    value
        Of the new elements.
    channels
        "last" or "first": where the axis of the channels is.

    Examples
    --------
    >>> import numpy as np
    >>> pad(np.ones((1, 2, 1)), ((1, 0),)).tolist()
    [[[0.0], [1.0], [1.0]]]
    """
    axes = None if isinstance(padding, int) else _count(padding)
    around("pad", padding, axes or 1)
    xp, x, last = _moved("pad", x, channels, axes)
    pairs = around("pad", padding, x.ndim - 2)
    if value % 1 and not xp.isdtype(x.dtype, ("real floating", "complex floating")):
        raise DtypeError(
            f"pad: expected a whole number as the value beside input of {x.dtype}, got {value!r}. "
            "To fix it: convert the input, xp.astype(x, xp.float32)"
        )
    if any(n + low + high < 1 for n, (low, high) in zip(x.shape[1:-1], pairs, strict=True)):
        raise ShapeError(
            "pad: expected one element or more to be left along each spatial axis, got input of "
            f"shape {tuple(x.shape)} and padding {padding!r}. To fix it: cut less"
        )
    for axis, (low, high) in enumerate(pairs, 1):
        x = filled(xp, x, axis, low, high, value)
    return channels_first(xp, x, last)


@composite
@scoped
def upsample(
    x: Array, scale: int | Sequence[int] = 2, *, method: str = "nearest", channels: str = "last"
) -> Array:
    """Each spatial axis `scale` times as long: "nearest" repeats, "linear" goes between centres.

    Linear is PyTorch's `align_corners=False`: element i of the result lies at
    (i + 0.5) / scale - 0.5 of x, no further out than the first and last.

    Parameters
    ----------
    x
        (batch, spatial axes..., channels), or as `channels` says.
    scale
        A whole number for each axis, or for all.
    method
        "nearest" or "linear".
    channels
        "last" or "first": where the axis of the channels is.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.asarray([[[0.0], [4.0]]])
    >>> upsample(x).ravel().tolist(), upsample(x, method="linear").ravel().tolist()
    ([0.0, 0.0, 4.0, 4.0], [0.0, 1.0, 3.0, 4.0])
    """
    if method not in ("nearest", "linear"):
        raise ValueError(f'upsample: expected method to be "nearest" or "linear", got {method!r}')
    xp, x, last = _moved("upsample", x, channels, _count(scale))
    for axis, times in enumerate(per_axis("upsample", "scale", scale, x.ndim - 2), 1):
        if times > 1:
            x = (
                _repeated(xp, x, axis, times)
                if method == "nearest"
                else _between(xp, x, axis, times)
            )
    return channels_first(xp, x, last)


def _repeated(xp: Any, x: Array, axis: int, times: int) -> Array:
    shape = (*x.shape[: axis + 1], times, *x.shape[axis + 1 :])
    y = xp.broadcast_to(xp.expand_dims(x, axis=axis + 1), shape)
    return xp.reshape(y, (*x.shape[:axis], x.shape[axis] * times, *x.shape[axis + 1 :]))


def _between(xp: Any, x: Array, axis: int, times: int) -> Array:
    # Each phase of the result is a fixed mixture of neighbours, the ends repeated.
    n = x.shape[axis]
    first, final = x[at(axis, slice(1))], x[at(axis, slice(n - 1, n))]
    before = xp.concat([first, x[at(axis, slice(n - 1))]], axis=axis)
    behind = xp.concat([x[at(axis, slice(1, n))], final], axis=axis)
    phases = []
    for i in range(times):
        place = (i + 0.5) / times - 0.5
        other = before if place < 0 else behind
        phases.append((1.0 - abs(place)) * x + abs(place) * other)
    y = xp.stack(phases, axis=axis + 1)
    return xp.reshape(y, (*x.shape[:axis], n * times, *x.shape[axis + 1 :]))
