"""The convolution of `Backend.conv` where a library can view its windows: a copy, then a product.

All windows of an array are a view of it with more axes. Copied a few images at a time, they are the
rows of a matrix that is small enough for the processor's cache, and BLAS does the rest (im2col,
Chellapilla, Puri and Simard 2006). In (kernel, channels) order a row of the kernel is one run of
memory.
"""

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

from backends.convolution import Array, Ints, Settings

#: A view of an array, from its shape and strides in bytes.
View = Callable[[Array, Ints, Ints], Array]


def pay(weight: Array, groups: int) -> bool:
    """True if copies of windows pay: not where a group is one channel, a sum of few products."""
    return weight.shape[-2] > 1 or groups == 1


def conv(
    xp: Any, as_strided: View, x: Array, weight: Array, settings: Settings, *, block: int
) -> Array:
    """The convolution of `backends.convolution.conv`; `block` is of how many bytes a copy may be.

    >>> import numpy as np
    >>> x, weight = np.asarray([[[1.0], [2.0], [4.0]]]), np.ones((2, 1, 1))
    >>> settings = Settings((1,), ((0, 0),), (1,), (1,), 1)
    >>> conv(np, np.lib.stride_tricks.as_strided, x, weight, settings, block=1024).tolist()
    [[[3.0], [6.0]]]
    """
    whole = _padded(xp, x, settings)
    kernel, outputs = weight.shape[:-2], weight.shape[-1]
    out, groups = settings.lengths(whole.shape[1:-1], tuple(kernel)), settings.groups
    if not (prod(out) and prod(x.shape) and prod(weight.shape)):
        return xp.zeros((x.shape[0], *out, outputs), dtype=x.dtype)
    if prod(out) < prod(kernel):
        return _by_output(xp, as_strided, whole, weight, out, settings, block)
    w = _grouped(xp, xp.reshape(weight, (-1, groups, outputs // groups)))
    y = xp.empty((whole.shape[0], *out, outputs), dtype=x.dtype)
    rows = xp.reshape(y, (whole.shape[0], prod(out), groups, outputs // groups))
    steps = (out, settings.stride, tuple(kernel), settings.dilation)
    for part, matrix in _matrices(xp, as_strided, whole, groups, *steps, block):
        if groups == 1:
            xp.matmul(matrix[0], w[0], out=xp.reshape(rows[part], (-1, outputs)))
        else:
            product = xp.matmul(matrix, w)
            rows[part] = xp.reshape(xp.moveaxis(product, 0, 1), rows[part].shape)
    return y


def _padded(xp: Any, x: Array, settings: Settings) -> Array:
    """`x` with the zeros between its elements and around them; negative padding cuts."""
    if max(settings.input_dilation) == 1 and not any(map(any, settings.padding)):
        return x
    shape, kept, into = [x.shape[0]], [slice(None)], [slice(None)]
    for n, (low, high), gap in zip(
        x.shape[1:-1], settings.padding, settings.input_dilation, strict=True
    ):
        length = max(low + (n - 1) * gap + 1 + high, 0) if n else max(low + high, 0)
        first = max(-(low // gap), 0)  # the first and last element that are not cut
        last = min((length - 1 - low) // gap, n - 1)
        shape.append(length)
        kept.append(slice(first, max(last + 1, first)))
        into.append(slice(low + first * gap, max(low + last * gap + 1, 0), gap))
    whole = xp.zeros((*shape, x.shape[-1]), dtype=x.dtype)
    whole[tuple(into)] = x[tuple(kept)]
    return whole


def _by_output(
    xp: Any, as_strided: View, x: Array, weight: Array, out: Ints, settings: Settings, block: int
) -> Array:
    """A result that is smaller than the kernel: the gradient by a weight, whose batch is the sum's.

    There the batch was the channels, so the windows are those of the axes exchanged.
    """
    *kernel, inputs, outputs = weight.shape
    groups, count = settings.groups, x.shape[0]
    # (count, *spatial, groups * inputs) was (inputs, *spatial, groups * count).
    x = xp.reshape(x, (*x.shape[:-1], groups, inputs))
    x = xp.moveaxis(xp.moveaxis(x, 0, -1), -2, 0)
    x = xp.reshape(x, (*x.shape[:-2], groups * count))
    g = xp.moveaxis(weight, -2, 0)
    g = xp.reshape(g, (inputs, prod(kernel), groups, outputs // groups))
    steps = (tuple(kernel), settings.dilation, out, settings.stride)
    total = None
    for part, matrix in _matrices(xp, as_strided, x, groups, *steps, block):
        rows = _grouped(xp, xp.reshape(g[part], (-1, groups, outputs // groups)))
        product = xp.matmul(xp.swapaxes(matrix, 1, 2), rows)
        total = product if total is None else xp.add(total, product, out=total)
    total = xp.reshape(total, (groups, *out, count, outputs // groups))
    total = xp.moveaxis(xp.moveaxis(total, 0, -2), -3, 0)
    return xp.reshape(total, (count, *out, outputs))


def _grouped(xp: Any, rows: Array) -> Array:
    """(rows, groups, columns) as (groups, rows, columns)."""
    return xp.moveaxis(rows, 1, 0)


def _matrices(
    xp: Any, as_strided: View, x: Array, groups: int, out: Ints, stride: Ints, kernel: Ints,
    dilation: Ints, block: int,
) -> Iterator[tuple[slice, Array]]:  # fmt: skip
    """Parts of the batch, and their windows: (groups, part * prod(out), prod(kernel) * inputs).

    `out` windows, `stride` apart, of `kernel` elements, `dilation` apart, along each spatial axis.
    """
    batch, inputs = x.shape[0], x.shape[-1] // groups
    first, *spatial, last = x.strides
    moved = [n * s for n, s in zip(spatial, stride, strict=True)]
    gaps = [n * d for n, d in zip(spatial, dilation, strict=True)]
    size = prod(out) * prod(kernel) * x.shape[-1] * x.dtype.itemsize
    count = min(batch, max(1, block // size))
    # Rows of windows of one channel are longer runs than rows of the kernel: their matrix is made
    # transposed.
    turned = x.shape[-1] == 1
    if turned:
        shape, strides = (*kernel, batch, *out), (*gaps, first, *moved)
    else:
        shape = (groups, batch, *out, *kernel, inputs)
        strides = (inputs * last, first, *moved, *gaps, last)
    windows, axis = as_strided(x, shape, strides), len(kernel) if turned else 1
    buffer = xp.empty((*shape[:axis], count, *shape[axis + 1 :]), dtype=x.dtype)
    for start in range(0, batch, count):
        part = slice(start, min(start + count, batch))
        n, before = part.stop - start, (slice(None),) * axis
        copy = buffer[(*before, slice(n))]
        copy[...] = windows[(*before, part)]
        if turned:
            yield part, xp.swapaxes(xp.reshape(copy, (1, prod(kernel), -1)), 1, 2)
        else:
            yield part, xp.reshape(copy, (groups, n * prod(out), -1))
