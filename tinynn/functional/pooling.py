"""Pooling, padding and upsampling: of images and other arrays with spatial axes and channels."""

from collections.abc import Sequence
from numbers import Complex, Real
from typing import Any, TypeAlias

from backends import scoped
from backends.pooling import Parts, Windows
from tinynn.functional.errors import DtypeError, ShapeError
from tinynn.functional.pools import filled, largest, means, pooled
from tinynn.functional.upsampling import interpolated, repeated
from tinynn.functional.windows import (
    Padding,
    around,
    channels_first,
    channels_last,
    per_axis,
    resolved,
)
from tinynn.trace import namespace
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

    A window that holds NaN gives NaN, and its gradient to the last of them, as in PyTorch.

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
    return channels_first(xp, pooled(largest, x, windows), last)


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
    return channels_first(xp, pooled(means, x, windows), last)


def _adaptive(name: str, function: Any, x: Array, size: Any, channels: str) -> Array:
    xp, x, last = _moved(name, x, channels, _count(size))
    sizes = per_axis(name, "size", size, x.ndim - 2)
    if function is largest and xp.isdtype(x.dtype, "complex floating"):
        raise TypeError(
            f"{name}: expected real input, got {x.dtype}. To fix it: give xp.abs(x), for one"
        )
    if function is means and set(sizes) == {1}:
        y = xp.mean(x, axis=tuple(range(1, x.ndim - 1)), keepdims=True)
    else:
        y = pooled(function, x, Parts(tuple(sizes)))
    return channels_first(xp, y, last)


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
    return _adaptive("adaptive_avg_pool", means, x, size, channels)


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
    return _adaptive("adaptive_max_pool", largest, x, size, channels)


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
    _check_value(xp, x, value)
    if any(n + low + high < 1 for n, (low, high) in zip(x.shape[1:-1], pairs, strict=True)):
        raise ShapeError(
            "pad: expected one element or more to be left along each spatial axis, got input of "
            f"shape {tuple(x.shape)} and padding {padding!r}. To fix it: cut less"
        )
    for axis, (low, high) in enumerate(pairs, 1):
        x = filled(xp, x, axis, low, high, value)
    return channels_first(xp, x, last)


def _check_value(xp: Any, x: Array, value: Any) -> None:
    if not isinstance(value, Complex) and not hasattr(value, "dtype"):
        raise TypeError(f"pad: expected a number as the value, got {value!r}. To fix it: give one")
    if isinstance(value, Complex) and not isinstance(value, Real):
        expected, wide, least = "a real number", "complex64", []
    elif isinstance(value, Real) and float(value) % 1:
        expected, wide, least = "a whole number", "float32", ["real floating"]
    else:
        return
    if not xp.isdtype(x.dtype, (*least, "complex floating")):
        raise DtypeError(
            f"pad: expected {expected} as the value beside input of {x.dtype}, got {value!r}. "
            f"To fix it: convert the input, xp.astype(x, xp.{wide})"
        )


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
    scales = per_axis("upsample", "scale", scale, x.ndim - 2)
    y = repeated(x, scales) if method == "nearest" else interpolated(x, scales)
    return channels_first(xp, y, last)
