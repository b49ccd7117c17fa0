"""The convolution of `Backend.conv` by copies of its windows: a matrix, and a product of BLAS.

Copied a few images at a time, the windows are the rows of a matrix that is small enough for the
processor's cache, and BLAS does the rest (im2col, Chellapilla, Puri and Simard 2006). In (kernel,
channels) order a row of the kernel is one run of memory.
"""

from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from typing import Any, NamedTuple

from backends.convolution import Array, Ints, Settings

#: A view of an array, from its shape and strides in bytes.
View = Callable[[Array, Ints, Ints], Array]


class Layout(NamedTuple):
    """The windows of an array (batch, *spatial, channels), with an entry for each spatial axis.

    `out` windows, `stride` apart from -`low` on, of `kernel` elements, `dilation` apart, of an
    array between whose elements lie `gap` - 1 zeros, and zeros around it.
    """

    out: Ints
    stride: Ints
    kernel: Ints
    dilation: Ints
    low: Ints
    gap: Ints


#: Of an array and the layout of its windows, a number of groups of channels, and how many bytes a
#: copy may have: parts of the batch, and their windows (groups, part * prod(out), prod(kernel) *
#: inputs).
Matrices = Callable[[Array, Layout, int, int], Iterator[tuple[slice, Array]]]


def pay(weight: Array, groups: int) -> bool:
    """True if copies of windows pay: not where a group is one channel, a sum of few products."""
    return weight.shape[-2] > 1 or groups == 1


def conv(
    xp: Any, matrices: Matrices, x: Array, weight: Array, settings: Settings, *, block: int
) -> Array:
    """The convolution of `backends.convolution.conv`; `block` is of how many bytes a copy may be.

    >>> import numpy as np
    >>> x, weight = np.asarray([[[1.0], [2.0], [4.0]]]), np.ones((2, 1, 1))
    >>> settings = Settings((1,), ((0, 0),), (1,), (1,), 1)
    >>> matrices = strided(np, np.lib.stride_tricks.as_strided)
    >>> conv(np, matrices, x, weight, settings, block=1024).tolist()
    [[[3.0], [6.0]]]
    """
    kernel, outputs = tuple(weight.shape[:-2]), weight.shape[-1]
    out, groups = settings.lengths(_lengths(x, settings), kernel), settings.groups
    if not (prod(out) and prod(x.shape) and prod(weight.shape)):
        return xp.zeros((x.shape[0], *out, outputs), dtype=x.dtype)
    low = tuple(low for low, _ in settings.padding)
    layout = Layout(out, settings.stride, kernel, settings.dilation, low, settings.input_dilation)
    if prod(out) < prod(kernel):
        return _by_output(xp, matrices, x, weight, layout, groups, block)
    w = _grouped(xp, xp.reshape(weight, (-1, groups, outputs // groups)))
    y = xp.empty((x.shape[0], *out, outputs), dtype=x.dtype)
    rows = xp.reshape(y, (x.shape[0], prod(out), groups, outputs // groups))
    for part, matrix in matrices(x, layout, groups, block):
        if groups == 1:
            xp.matmul(matrix[0], w[0], out=xp.reshape(rows[part], (-1, outputs)))
        else:
            product = xp.matmul(matrix, w)
            rows[part] = xp.reshape(xp.moveaxis(product, 0, 1), rows[part].shape)
    return y


def _lengths(x: Array, settings: Settings) -> Ints:
    """The spatial lengths of the array with its gaps and padding."""
    rows = zip(x.shape[1:-1], settings.padding, settings.input_dilation, strict=True)
    return tuple(
        max(low + (n - 1) * gap + 1 + high if n else low + high, 0) for n, (low, high), gap in rows
    )


def _by_output(
    xp: Any, matrices: Matrices, x: Array, weight: Array, layout: Layout, groups: int, block: int
) -> Array:
    """A result that is smaller than the kernel: the gradient by a weight, whose batch is the sum's.

    There the batch was the channels, so the windows are those of the axes exchanged.
    """
    *kernel, inputs, outputs = weight.shape
    out, count = layout.out, x.shape[0]
    # (count, *spatial, groups * inputs) was (inputs, *spatial, groups * count).
    x = xp.reshape(x, (*x.shape[:-1], groups, inputs))
    x = xp.moveaxis(xp.moveaxis(x, 0, -1), -2, 0)
    x = xp.reshape(x, (*x.shape[:-2], groups * count))
    g = xp.moveaxis(weight, -2, 0)
    g = xp.reshape(g, (inputs, prod(kernel), groups, outputs // groups))
    turned = layout._replace(
        out=layout.kernel, stride=layout.dilation, kernel=out, dilation=layout.stride
    )
    total = None
    for part, matrix in matrices(x, turned, groups, block):
        rows = _grouped(xp, xp.reshape(g[part], (-1, groups, outputs // groups)))
        product = xp.matmul(xp.swapaxes(matrix, 1, 2), rows)
        total = product if total is None else xp.add(total, product, out=total)
    total = xp.reshape(total, (groups, *out, count, outputs // groups))
    total = xp.moveaxis(xp.moveaxis(total, 0, -2), -3, 0)
    return xp.reshape(total, (count, *out, outputs))


def _grouped(xp: Any, rows: Array) -> Array:
    """(rows, groups, columns) as (groups, rows, columns)."""
    return xp.moveaxis(rows, 1, 0)


def is_turned(x: Array) -> bool:
    """True where the copies are made transposed.

    Rows of windows of one channel are longer runs of memory than rows of the kernel.
    """
    return bool(x.shape[-1] == 1)


def parts(x: Array, layout: Layout, block: int) -> list[slice]:
    """Parts of the batch whose windows are copied together."""
    size = prod(layout.out) * prod(layout.kernel) * x.shape[-1] * x.dtype.itemsize
    count = min(x.shape[0], max(1, block // size))
    return [slice(i, min(i + count, x.shape[0])) for i in range(0, x.shape[0], count)]


def strided(xp: Any, as_strided: View) -> Matrices:
    """`Matrices` for a library that can view the windows of an array as one with more axes."""
    return partial(_strided, xp, as_strided)


def _strided(
    xp: Any, as_strided: View, x: Array, layout: Layout, groups: int, block: int
) -> Iterator[tuple[slice, Array]]:
    out, stride, kernel, dilation, _, _ = layout
    x = _padded(xp, x, layout)
    batch, inputs = x.shape[0], x.shape[-1] // groups
    first, *spatial, last = x.strides
    moved = [n * s for n, s in zip(spatial, stride, strict=True)]
    gaps = [n * d for n, d in zip(spatial, dilation, strict=True)]
    turned = is_turned(x)
    if turned:
        shape, strides = (*kernel, batch, *out), (*gaps, first, *moved)
    else:
        shape = (groups, batch, *out, *kernel, inputs)
        strides = (inputs * last, first, *moved, *gaps, last)
    views, axis = as_strided(x, shape, strides), len(kernel) if turned else 1
    divided = parts(x, layout, block)
    count = divided[0].stop
    buffer = xp.empty((*shape[:axis], count, *shape[axis + 1 :]), dtype=x.dtype)
    for part in divided:
        n, before = part.stop - part.start, (slice(None),) * axis
        copy = buffer[(*before, slice(n))]
        copy[...] = views[(*before, part)]
        if turned:
            yield part, xp.swapaxes(xp.reshape(copy, (1, prod(kernel), -1)), 1, 2)
        else:
            yield part, xp.reshape(copy, (groups, n * prod(out), -1))


def _padded(xp: Any, x: Array, layout: Layout) -> Array:
    """`x` with the zeros between its elements and around them; negative padding cuts.

    It is as long as the windows reach.
    """
    shape, kept, into = [x.shape[0]], [slice(None)], [slice(None)]
    for n, out, stride, kernel, dilation, low, gap in zip(x.shape[1:-1], *layout, strict=True):
        length = (out - 1) * stride + (kernel - 1) * dilation + 1
        first = max(-(low // gap), 0)  # the first and last element that are not cut
        last = min((length - 1 - low) // gap, n - 1)
        shape.append(length)
        kept.append(slice(first, max(last + 1, first)))
        into.append(slice(low + first * gap, max(low + last * gap + 1, 0), gap))
    pairs = zip(shape, x.shape, strict=False)
    if max(layout.gap) == 1 and not any(layout.low) and all(n <= there for n, there in pairs):
        return x
    whole = xp.zeros((*shape, x.shape[-1]), dtype=x.dtype)
    whole[tuple(into)] = x[tuple(kept)]
    return whole
