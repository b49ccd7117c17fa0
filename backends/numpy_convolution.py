"""The convolution of `Backend.conv` on NumPy: rows of the image, and products of BLAS.

Arrays lie in memory with the batch innermost: (first spatial axis, channels, other spatial axes,
batch), whatever the order of their axes. Then, with the kernel's columns beside one another, each
row of the result is one product of matrices in which the windows of neighbouring rows overlap in
memory: they are copied once for each column of the kernel, not once for each of its elements
(memory-efficient convolution, Cho and Brand 2017, arXiv:1706.06873). Elementwise functions keep the
memory order, and find long runs in it: over the batch, and over the width where nothing is cut.
"""

import threading
from collections.abc import Callable, Iterator
from itertools import product as combinations
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from backends.convolution import Array, Ints, Settings

#: Of so many bytes at a time are the copies of windows, and what is to be added up.
_BLOCK = 1 << 21
#: Products of fewer columns, as of one image that is narrow, are better made of whole images.
_COLUMNS = 64
#: Runs of memory of fewer elements fill no vectors.
_RUN = 16
#: Products of so many channels of the input are worth their copies.
_CHANNELS = 32
#: At most so many elements has a gradient by the weight that is made of a vector for each.
_TOTAL = 1 << 18
#: What adding up costs, in multiplications.
_ADDED = 8
#: Rows that begin so many bytes apart fall on the same places of a processor's cache.
_PAGE, _LINE = 4096, 64


def order(axes: int) -> Ints:
    """The axes of an array (batch, *spatial, channels) from the outermost in memory inwards."""
    return (1, axes + 1, *range(2, axes + 1), 0)


def empty(shape: Ints, dtype: Any, places: Ints | None = None) -> Array:
    """A new array (batch, *spatial, channels) in this memory order, or in another one."""
    places = places or order(len(shape) - 2)
    return np.empty([shape[i] for i in places], dtype).transpose(np.argsort(places))


#: Of so many bytes at most is memory that is kept for copies.
_KEEP = 1 << 23
_kept = threading.local()


def memory(name: str, shape: Any, dtype: Any) -> Array:
    """Memory for a copy, which each thread keeps: new memory costs as much as what is done in it.

    What was in the memory of this name is lost.
    """
    size = prod(shape) * dtype.itemsize
    if size > _KEEP:
        return np.empty(shape, dtype)
    there = vars(_kept).get(name)
    if there is None or there.nbytes < size:
        there = vars(_kept)[name] = np.empty(size, np.uint8)
    whole: Array = there[:size].view(dtype).reshape(shape)
    return whole


def in_order(name: str, x: Array) -> Array:
    """`x`, or its copy in the memory of this name, in the order of its axes."""
    if x.flags.c_contiguous:
        return x
    copy = memory(name, x.shape, x.dtype)
    np.copyto(copy, x)
    return copy


class _Window(NamedTuple):
    """The way of a kernel along one axis: `results` times, `stride` apart, from -`low` on."""

    kernel: int
    results: int
    stride: int
    dilation: int
    low: int

    def inside(self, length: int, element: int) -> tuple[slice, slice]:
        """The windows in which an element of the kernel meets the input, and where it does."""
        start = element * self.dilation - self.low
        first = max(-(start // self.stride), 0)
        last = min((length - 1 - start) // self.stride, self.results - 1)
        if last < first:
            return slice(0, 0), slice(0, 0)
        at = start + first * self.stride
        until = start + last * self.stride + 1
        return slice(first, last + 1), slice(at, until, self.stride)


def pays(x: Any, weight: Any, settings: Settings) -> bool:
    """True for convolutions that `conv` knows, and has rows for that are long enough."""
    if not (prod(x.shape) and prod(weight.shape)):
        return False
    if max(settings.input_dilation) > 1 and max(settings.groups, *settings.stride) > 1:
        return False
    kernel, out = weight.shape[:-2], lengths(x, weight, settings)
    if not prod(out):
        return False
    if prod(out) < prod(kernel):
        return max(settings.input_dilation) == 1 and prod(weight.shape[1:-1]) >= _COLUMNS
    return prod(out[1:]) * x.shape[0] >= _COLUMNS


def runs_pay(x: Any, weight: Any, settings: Settings) -> bool:
    """True for what `direct_convolution` is to take.

    Its runs fill the vectors of a processor, and of many channels BLAS makes more.
    """
    out = lengths(x, weight, settings)
    if not (prod(x.shape) and prod(weight.shape) and prod(out)):
        return False
    small = prod(out) < prod(weight.shape[:-2])
    channels = x.shape[0] if small else weight.shape[-2]
    if channels > _CHANNELS and pays(x, weight, settings):
        return False
    if small:
        total = prod(out) * x.shape[0] * weight.shape[-1]
        return prod(weight.shape[1:-1]) >= _RUN and total <= _TOTAL
    joined = len(out) > 1 and settings.stride[-1] == settings.input_dilation[-1] == 1
    return x.shape[0] * (out[-1] if joined else 1) >= _RUN


def order_of(x: Any, weight: Any, settings: Settings) -> Ints:
    """The order of the result of `conv` in memory, where `pays`."""
    kernel = weight.shape[:-2]
    if prod(lengths(x, weight, settings)) < prod(kernel):
        return (*range(1, len(kernel) + 1), 0, len(kernel) + 1)
    return order(len(kernel))


def lengths(x: Any, weight: Any, settings: Settings) -> Ints:
    """The spatial lengths of the result."""
    whole = [
        max(low + (n - 1) * gap + 1 + high, 0)
        for n, (low, high), gap in zip(
            x.shape[1:-1], settings.padding, settings.input_dilation, strict=True
        )
    ]
    return tuple(max(n, 0) for n in settings.lengths(tuple(whole), weight.shape[:-2]))


def multiplied(a: Array, b: Array, out: Array) -> None:
    """The products of stacks of matrices, into as many, or added to what has one axis less."""
    if out.ndim == b.ndim:
        np.matmul(a, b, out=out)
        return
    for each in np.matmul(a, b):
        np.add(out, each, out=out)


def conv(
    x: Array,
    weight: Array,
    settings: Settings,
    out: Array | None = None,
    product: Callable[[Array, Array, Array], None] = multiplied,
) -> Array:
    """The convolution of `backends.convolution.conv`, where `pays`, into `out` if it is given.

    >>> x, weight = np.asarray([[[1.0], [2.0], [4.0]]]), np.ones((2, 1, 1))
    >>> conv(x, weight, Settings((1,), ((0, 0),), (1,), (1,), 1)).tolist()
    [[[3.0], [6.0]]]
    """
    spatial = lengths(x, weight, settings)
    shape = (x.shape[0], *spatial, weight.shape[-1])
    small = prod(spatial) < prod(weight.shape[:-2])
    if settings.groups > 1 and (x.shape[0] if small else weight.shape[-2]) > 1:
        y = empty(shape, x.dtype, order_of(x, weight, settings)) if out is None else out
        _each_group(x, weight, y, settings, product)
        return y
    if small:
        y = _by_weight(x, weight, spatial, settings, product)
        return y if out is None else _copied(y, out)
    there = out is not None and _lies(out)[0, 0].flags.c_contiguous
    y = out if there else empty(shape, x.dtype)
    spreads = max(settings.input_dilation) > 1 or _grows(x, spatial)
    if spreads and max(settings.groups, *settings.stride) == 1:
        _spread(x, weight, y, settings, product)
    else:
        windows = _windows(weight.shape[:-2], spatial, settings)
        _gathered(x, weight, y, windows, settings.groups, product)
    return y if there or out is None else _copied(y, out)


def _copied(y: Array, out: Array) -> Array:
    out[...] = y
    return out


def _each_group(x: Array, weight: Array, y: Array, settings: Settings, product: Any) -> None:
    """The convolution of each group, of several channels each, by itself."""
    given, made = weight.shape[-2], weight.shape[-1] // settings.groups
    alone = settings._replace(groups=1)
    for group in range(settings.groups):
        inputs = slice(group * given, (group + 1) * given)
        outputs = slice(group * made, (group + 1) * made)
        conv(x[..., inputs], weight[..., outputs], alone, y[..., outputs], product)


def _lies(x: Array) -> Array:
    """`x` with its axes as they lie in memory, if it is in this order."""
    return x.transpose(order(x.ndim - 2))


def _grows(x: Array, out: Ints) -> bool:
    """True if it costs less to add up what each element gives than to gather for each result."""
    return (prod(out) / prod(x.shape[1:-1]) - 1) * x.shape[-1] > _ADDED


def _windows(kernel: Ints, out: Ints, settings: Settings) -> list[_Window]:
    lows = [low for low, _ in settings.padding]
    rows = zip(kernel, out, settings.stride, settings.dilation, lows, strict=True)
    return [_Window(*row) for row in rows]


def _gathered(
    x: Array, weight: Array, y: Array, windows: list[_Window], groups: int, product: Any
) -> None:
    """For each row of the result the product of the weights with its windows.

    Several groups are of one channel of the input each: a row is a product for each of them.
    """
    matrix = weight.reshape(-1, weight.shape[-1]).T
    rows = _lies(y).reshape(y.shape[1], y.shape[-1], -1)
    if groups > 1:
        matrix = np.ascontiguousarray(matrix).reshape(groups, -1, matrix.shape[-1])
        rows = rows.reshape(len(rows), groups, -1, rows.shape[-1])
    for part, columns in _rows(x, windows, apart=groups > 1):
        product(matrix, columns, rows[part])


def _by_weight(x: Array, weight: Array, out: Ints, settings: Settings, product: Any) -> Array:
    """A result that is smaller than the kernel: the gradient by a weight, whose batch is the sum's.

    There the channels were the batch, and the kernel the cotangent.
    """
    windows = [
        _Window(n, k, dilation, stride, low)
        for n, k, stride, dilation, (low, _) in zip(
            out, weight.shape, settings.stride, settings.dilation, settings.padding, strict=False
        )
    ]
    g = _lies(np.moveaxis(weight, -2, 0))
    g = in_order("cotangent", g).reshape(g.shape[0], g.shape[1], -1)
    groups, inputs = settings.groups, x.shape[0]
    if groups > 1:  # of one channel of the input each, which now are an axis of their own
        x = np.moveaxis(x.reshape(*x.shape[1:-1], groups, -1), -1, 0)
        g = g.reshape(len(g), groups, -1, g.shape[-1])
        total = np.zeros((groups, prod(out), g.shape[2]), x.dtype)
    else:
        x = np.moveaxis(np.moveaxis(x, 0, -1), -2, 0)
        total = np.zeros((prod(out) * inputs, g.shape[1]), x.dtype)
    for part, columns in _rows(x, windows, apart=groups > 1):
        product(columns, np.swapaxes(g[part], -1, -2), total)
    if groups > 1:
        return np.ascontiguousarray(np.moveaxis(total, 0, 1)).reshape(1, *out, -1)
    return np.moveaxis(total.reshape(*out, inputs, -1), -2, 0)


def _rows(x: Array, windows: list[_Window], apart: bool) -> Iterator[tuple[slice, Array]]:
    """Parts of the rows of the result, and their windows.

    These are (rows, kernel * channels, other spatial axes * batch), the rows overlapping in memory
    where the kernel's are next to each other; with the channels `apart` they are (rows, channels,
    kernel, other spatial axes * batch).
    """
    first, *others = windows
    batch, channels = x.shape[0], x.shape[-1]
    source = in_order("image", _lies(x)) if others else _lies(x)  # which is read several times
    together = first.dilation == 1
    width = prod(w.results for w in others) * batch
    places, item = prod(w.kernel for w in others), x.dtype.itemsize
    length = width + (_LINE // item if width * item % _PAGE == 0 else 0)
    row = places * channels * length * item  # bytes
    count = max(_BLOCK // (row * (first.stride if together else first.kernel)), 1)
    for start in range(0, first.results, count):
        part = slice(start, min(start + count, first.results))
        n = part.stop - start
        band = first._replace(results=n, low=first.low - start * first.stride)
        if together:
            rows = (n - 1) * first.stride + first.kernel
            band = _Window(1, rows, 1, 1, band.low)
        room = memory("windows", (band.results, band.kernel, places, channels, length), x.dtype)
        for element in range(band.kernel):
            _lay_out(room[:, element, :, :, :width], source, band, element, others)
        moved, *_, place, channel, last = room.strides
        moved, elements = moved * (first.stride if together else 1), first.kernel * places
        if apart:
            shape, steps = [n, channels, elements, width], [moved, channel, place, last]
        else:
            shape, steps = [n, elements * channels, width], [moved, channel, last]
        yield part, as_strided(room, shape, steps)


def _lay_out(
    room: Array, source: Array, first: _Window, element: int, others: list[_Window]
) -> None:
    """Copy the rows that one element of the kernel's first axis meets, for all of the others."""
    counts = [w.results for w in others]
    room = room.reshape(*room.shape[:3], *counts, source.shape[-1])
    into, taken = first.inside(source.shape[0], element)
    room[: into.start] = 0
    room[into.stop :] = 0
    for place, elements in enumerate(combinations(*[range(w.kernel) for w in others])):
        here, keys, them = room[into, place], [], []
        for axis, (w, n, e) in enumerate(zip(others, source.shape[2:], elements, strict=False), 2):
            inside, there = w.inside(n, e)
            before = (slice(None),) * axis
            here[(*before, slice(inside.start))] = 0
            here[(*before, slice(inside.stop, None))] = 0
            keys.append(inside)
            them.append(there)
        here[(..., *keys, slice(None))] = source[(taken, slice(None), *them)]


def _spread(x: Array, weight: Array, y: Array, settings: Settings, product: Any) -> None:
    """Every element of the input gives its share to all results that see it.

    First to all rows, for each column of the kernel apart, then to the columns.
    """
    *kernel, inputs, outputs = weight.shape
    places = prod(kernel[1:])
    matrix = np.ascontiguousarray(np.swapaxes(weight, -1, -2)).reshape(-1, inputs)
    source = in_order("image", _lies(x))
    source = source.reshape(source.shape[0], inputs, -1)
    shape = (kernel[0], places * outputs, source.shape[-1])
    result = _lies(y)
    sums = np.zeros((result.shape[0], *shape[1:]), x.dtype)
    first, *others = _shares(kernel, x.shape[1:-1], y.shape[1:-1], settings)
    count = max(_BLOCK // (prod(shape) * x.dtype.itemsize), 1)
    for start in range(0, len(source), count):
        part = source[start : start + count]
        shares = memory("windows", (len(part), len(matrix), part.shape[-1]), x.dtype)
        product(matrix, part, shares)
        shares = shares.reshape(len(part), *shape)
        low = first.low - start * first.stride
        for element in range(kernel[0]):
            _add(sums, shares[:, element], [first._replace(low=low)], [element], 0)
    sums = sums.reshape(len(sums), places, outputs, *x.shape[2:-1], x.shape[0])
    result[...] = 0
    for place, elements in enumerate(combinations(*map(range, kernel[1:]))):
        _add(result, sums[:, place], others, elements, 2)


def _shares(kernel: Any, given: Ints, out: Ints, settings: Settings) -> list[_Window]:
    """For each axis, where the shares of the input's elements go: from -`low` on, stride apart."""
    lows = [low for low, _ in settings.padding]
    rows = zip(kernel, given, settings.input_dilation, settings.dilation, lows, strict=True)
    return [_Window(k, n, gap, -dilation, -low) for k, n, gap, dilation, low in rows]


def _add(y: Array, shares: Array, windows: list[_Window], elements: Any, axis: int) -> None:
    """Add the shares for one element of the kernel, those within, to `y` from this axis on."""
    to, of = [slice(None)] * axis, [slice(None)] * axis
    for n, window, element in zip(y.shape[axis:], windows, elements, strict=False):
        given = window._replace(results=min(window.results, shares.shape[len(of)]))
        inside, there = given.inside(n, element)
        of.append(inside)
        to.append(there)
    part = y[tuple(to)]
    np.add(part, shares[tuple(of)], out=part)
