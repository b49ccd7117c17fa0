"""The windows of convolutions on CuPy: copied by one kernel, with their gaps and padding.

A kernel is made for each shape, which stands in its text as numbers.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import prod
from typing import Any

import cupy
from cupy import ElementwiseKernel

from backends.convolution import Array, Ints
from backends.windows import Layout, is_turned, parts


def matrices(x: Array, layout: Layout, groups: int, block: int) -> Iterator[tuple[slice, Array]]:
    """Parts of the batch, and their windows: `backends.windows.Matrices`."""
    turned, divided = is_turned(x), parts(x, layout, block)
    strides = tuple(n // x.itemsize for n in x.strides)
    kernel = _copy(tuple(x.shape[1:]), strides, layout, groups, turned)
    out, elements = prod(layout.out), prod(layout.kernel) * x.shape[-1] // groups
    for part in divided:
        n = part.stop - part.start
        shape = (elements, n * out) if turned else (groups, n * out, elements)
        copy = kernel(x, part.start, n, cupy.empty(shape, x.dtype))
        yield part, copy.T[None] if turned else copy


def decoded(names: Sequence[str], lengths: Sequence[int | str]) -> list[str]:
    """Lines that take the number `i` of an element apart, from its last axis on; `rest` is left."""
    lines = ["long long rest = i;"]
    for name, length in reversed(list(zip(names, lengths, strict=True))):
        lines += [f"const int {name} = rest % {length};", f"rest /= {length};"]
    return lines


@lru_cache(256)
def _copy(shape: Ints, strides: Ints, layout: Layout, groups: int, turned: bool) -> Any:
    """copy(x, first image, images, matrix): the windows of these images."""
    axes, inputs = len(shape) - 1, shape[-1] // groups
    lengths: list[int | str]
    outs, elements = [[f"{letter}{axis}" for axis in range(axes)] for letter in "ok"]
    names, lengths = ["image", *outs], ["images", *layout.out]
    if turned:
        names, lengths = [*elements, *names], [*layout.kernel, *lengths]
    else:
        names, lengths = ["g", *names, *elements, "c"], [groups, *lengths, *layout.kernel, inputs]
    at = [f"(first + image) * {strides[0]}LL"]
    at += [] if turned else [f"(g * {inputs} + c) * {strides[-1]}LL"]
    inside = []
    lines = decoded(names, lengths)
    for axis in range(axes):
        stride, dilation = layout.stride[axis], layout.dilation[axis]
        low, gap, length = layout.low[axis], layout.gap[axis], shape[axis]
        lines.append(f"const int p{axis} = o{axis} * {stride} + k{axis} * {dilation} - {low};")
        inside.append(f"p{axis} >= 0 && p{axis} % {gap} == 0 && p{axis} < {length * gap}")
        at.append(f"p{axis} / {gap} * {strides[axis + 1]}LL")
    lines.append(f"const bool inside = {' && '.join(inside)};")
    lines.append(f"y = inside ? (&x[0])[{' + '.join(at)}] : T(0);")
    given = "raw T x, int64 first, int64 images"
    return ElementwiseKernel(given, "T y", "\n".join(lines), "tinynn_windows")
