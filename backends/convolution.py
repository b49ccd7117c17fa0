"""The convolution of `Backend.conv`, written in the standard: slices and matrix products."""

from itertools import product
from math import prod
from typing import Any, NamedTuple

Array = Any
Ints = tuple[int, ...]
Pairs = tuple[tuple[int, int], ...]


class Settings(NamedTuple):
    """The settings of a convolution, with an entry for each spatial axis.

    Negative padding cuts. `input_dilation` - 1 zeros come between neighbours of the input,
    `dilation` - 1 between those of the kernel.
    """

    stride: Ints
    padding: Pairs
    input_dilation: Ints
    dilation: Ints
    groups: int

    def lengths(self, spatial: Ints, kernel: Ints) -> Ints:
        """The spatial lengths of the result, for an input that is dilated and padded already."""
        return tuple(
            (n - (k - 1) * d - 1) // s + 1
            for n, k, d, s in zip(spatial, kernel, self.dilation, self.stride, strict=True)
        )


#: Up to so many channels the shifted slices are joined to one wide matrix; copying more of them
#: costs more than the products of few columns that it spares.
FEW = 8


def conv(xp: Any, x: Array, weight: Array, settings: Settings) -> Array:
    """The convolution (a cross-correlation) of `x` with `weight`, channels last.

    x: (batch, *spatial, inputs), weight: (*kernel, inputs // groups, outputs) of x's dtype.

    >>> import numpy as np
    >>> x, weight = np.asarray([[[1.0], [2.0], [4.0]]]), np.ones((2, 1, 1))
    >>> conv(np, x, weight, Settings((1,), ((0, 0),), (1,), (1,), 1)).tolist()
    [[[3.0], [6.0]]]
    """
    x = padded(xp, dilated(xp, x, settings.input_dilation), settings.padding)
    kernel = tuple(weight.shape[:-2])
    out = settings.lengths(x.shape[1:-1], kernel)
    if not (prod(out) and prod(x.shape) and prod(weight.shape)):
        shape = (x.shape[0], *out, weight.shape[-1])
        return xp.zeros(shape, dtype=x.dtype, device=x.device)
    if prod(out) < prod(kernel):
        return _by_output(xp, x, weight, out, settings)
    parts = [x[key] for key in _keys(kernel, out, settings.dilation, settings.stride)]
    taps = xp.reshape(weight, (prod(kernel), *weight.shape[-2:]))
    if weight.shape[-2] == 1 and settings.groups > 1:
        y = _depthwise(xp, parts, taps, settings.groups)
    else:
        y = _products(xp, parts, taps, settings.groups)
    return xp.reshape(y, (x.shape[0], *out, weight.shape[-1]))


def dilated(xp: Any, x: Array, dilation: Ints) -> Array:
    """`x`: (batch, *spatial, channels) with `dilation - 1` zeros between neighbours."""
    for axis, d in enumerate(dilation, 1):
        if d > 1 and x.shape[axis] > 0:
            front, n, rest = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
            gaps = xp.zeros((*front, n, d - 1, *rest), dtype=x.dtype, device=x.device)
            x = xp.concat([xp.expand_dims(x, axis=axis + 1), gaps], axis=axis + 1)
            x = xp.reshape(x, (*front, n * d, *rest))
            x = x[(*(slice(None),) * axis, slice((n - 1) * d + 1), ...)]
    return x


def padded(xp: Any, x: Array, padding: Pairs) -> Array:
    """`x`: (batch, *spatial, channels) with zeros around it; negative numbers cut."""
    for axis, pair in enumerate(padding, 1):
        ends = [
            xp.zeros((*x.shape[:axis], n, *x.shape[axis + 1 :]), dtype=x.dtype, device=x.device)
            if n > 0
            else None
            for n in pair
        ]
        rows = [part for part in (ends[0], x, ends[1]) if part is not None]
        x = xp.concat(rows, axis=axis) if len(rows) > 1 else x
    if any(min(pair) < 0 for pair in padding):  # zeros too, where more is cut than there was
        cut = [
            slice(max(-low, 0), n - max(-high, 0))
            for n, (low, high) in zip(x.shape[1:-1], padding, strict=True)
        ]
        x = x[(slice(None), *cut, ...)]
    return x


def _keys(places: Ints, lengths: Ints, jump: Ints, step: Ints) -> Any:
    """For each place, the index of `lengths` elements, `step` apart, that begin at place * jump."""
    for place in product(*map(range, places)):
        starts = [i * d for i, d in zip(place, jump, strict=True)]
        yield (
            slice(None),
            *[
                slice(i, i + (n - 1) * s + 1, s)
                for i, n, s in zip(starts, lengths, step, strict=True)
            ],
            ...,
        )


def _depthwise(xp: Any, parts: list[Array], taps: Array, groups: int) -> Array:
    """One channel a group: products of elements."""
    taps = xp.reshape(taps, (taps.shape[0], groups, taps.shape[-1] // groups))
    y = xp.expand_dims(parts[0], axis=-1) * taps[0, ...]
    for i, part in enumerate(parts[1:], 1):
        y = y + xp.expand_dims(part, axis=-1) * taps[i, ...]
    return y


def _products(xp: Any, parts: list[Array], taps: Array, groups: int) -> Array:
    """The sum over the kernel's positions of slice @ taps, or one product of all in a row."""
    if groups == 1 and taps.shape[1] <= FEW:
        parts = [xp.concat(parts, axis=-1) if len(parts) > 1 else parts[0]]
        taps = xp.reshape(taps, (1, taps.shape[0] * taps.shape[1], taps.shape[2]))
    rows = prod(parts[0].shape[:-1])
    y = None
    for i, part in enumerate(parts):
        part = xp.reshape(part, (rows, part.shape[-1]))
        term = _grouped(xp, part, taps[i, ...], groups)
        y = term if y is None else y + term
    return y


def _grouped(xp: Any, a: Array, b: Array, groups: int) -> Array:
    """(rows, groups * inputs) times (inputs, groups * outputs), each group by itself."""
    if groups == 1:
        return xp.matmul(a, b)
    a = xp.permute_dims(xp.reshape(a, (a.shape[0], groups, -1)), (1, 0, 2))
    b = xp.permute_dims(xp.reshape(b, (b.shape[0], groups, -1)), (1, 0, 2))
    y = xp.permute_dims(xp.matmul(a, b), (1, 0, 2))
    return xp.reshape(y, (y.shape[0], -1))


def _by_output(xp: Any, x: Array, weight: Array, out: Ints, settings: Settings) -> Array:
    """A product for each place of a small result, as the gradient by the weight is.

    There, the batch was the channels; so the axes are brought into that order, which costs no copy.
    """
    *kernel, inputs, outputs = weight.shape
    groups, axes = settings.groups, range(len(kernel))
    length = inputs * prod(kernel)
    w = xp.reshape(weight, (*kernel, inputs, groups, outputs // groups))
    w = xp.permute_dims(w, (len(kernel) + 1, len(kernel), *axes, len(kernel) + 2))
    w = xp.reshape(w, (groups, length, outputs // groups))
    x = xp.permute_dims(x, (len(kernel) + 1, *[axis + 1 for axis in axes], 0))
    parts = [
        xp.reshape(x[key], (groups, length, x.shape[-1]))
        for key in _keys(out, tuple(kernel), settings.stride, settings.dilation)
    ]
    if x.shape[-1] <= FEW:
        rows = xp.matmul(xp.matrix_transpose(xp.concat(parts, axis=-1)), w)
        y = xp.reshape(rows, (groups, len(parts), x.shape[-1], -1))
    else:
        y = xp.stack([xp.matmul(xp.matrix_transpose(part), w) for part in parts], axis=1)
    return xp.reshape(xp.permute_dims(y, (2, 1, 0, 3)), (x.shape[-1], *out, outputs))
