"""Pools on CuPy: a kernel each, where slices would be many launches.

A kernel is made for each shape, which stands in its text as numbers: loops over a window are
unrolled, and places are found without divisions of unknown numbers.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cupy
from cupy import ElementwiseKernel

from backends.cupy_convolution import decoded
from backends.pooling import Array, Ints, Windows

_HELPERS = "#include <cupy/math_constants.h>\n"
_DTYPES = ("float32", "float64")


def takes(x: Array, windows: Windows) -> bool:
    """True for what `max_pool` and `max_pool_pullback` take."""
    return x.dtype.name in _DTYPES and min(map(min, windows.padding)) >= 0


def max_pool(x: Array, windows: Windows) -> Array:
    """`Backend.max_pool` in one launch."""
    _, *lengths, channels = x.shape
    out = _results(lengths, windows)
    y = cupy.empty((x.shape[0], *out, channels), x.dtype)
    return _largest(tuple(lengths), channels, windows)(x, y)


def max_pool_pullback(g: Array, x: Array, windows: Windows) -> Array:
    """`Backend.max_pool_pullback` in one launch."""
    _, *lengths, channels = x.shape
    y = cupy.empty(x.shape, x.dtype)
    return _pulled(tuple(lengths), channels, windows)(g, x, y)


def _results(lengths: Sequence[int], windows: Windows) -> Ints:
    rows = zip(lengths, *windows, strict=True)
    return tuple((n + low + high - (k - 1) * d - 1) // s + 1 for n, k, s, d, (low, high) in rows)


def _place(lengths: Sequence[int], names: Sequence[str], channels: int) -> str:
    """The number of an element: of the image `rest`, at these places, of channel `c`."""
    at = "rest"
    for n, name in zip(lengths, names, strict=True):
        at = f"({at} * {n} + {name})"
    return f"{at} * {channels} + c"


def _names(letter: str, axes: int) -> list[str]:
    return [f"{letter}{axis}" for axis in range(axes)]


def _each(windows: Windows, lengths: Ints, place: str, element: str) -> list[str]:
    """Loops over what is inside of a window of the results `o`: for `element`, at `place`."""
    lines = []
    for axis, (k, s, d, (low, _)) in enumerate(zip(*windows, strict=True)):
        e, p = f"{element}{axis}", f"{place}{axis}"
        lines += [
            f"for (int {e} = 0; {e} < {k}; ++{e}) {{",
            f"const int {p} = o{axis} * {s} - {low} + {e} * {d};",
            f"if ({p} < 0 || {p} >= {lengths[axis]}) continue;",
        ]
    return lines


@lru_cache(256)
def _largest(lengths: Ints, channels: int, windows: Windows) -> Any:
    axes = len(lengths)
    out = _results(lengths, windows)
    lines = [
        *decoded([*_names("o", axes), "c"], [*out, channels]),
        "T best = -CUDART_INF;",
        *_each(windows, lengths, "p", "k"),
        f"const T v = x[{_place(lengths, _names('p', axes), channels)}];",
        "if (v > best || v != v) best = v;",
        "}" * axes,
        "y = best;",
    ]
    return ElementwiseKernel(
        "raw T x", "T y", "\n".join(lines), "tinynn_max_pool", preamble=_HELPERS
    )


@lru_cache(256)
def _pulled(lengths: Ints, channels: int, windows: Windows) -> Any:
    """An element gets the cotangents of the windows whose first largest element it is."""
    axes = len(lengths)
    out = _results(lengths, windows)
    lines = [
        *decoded([*_names("q", axes), "c"], [*lengths, channels]),
        f"const T mine = x[{_place(lengths, _names('q', axes), channels)}];",
        "T sum = 0;",
    ]
    for axis, (k, s, d, (low, _)) in enumerate(zip(*windows, strict=True)):
        lines += [
            f"for (int k{axis} = 0; k{axis} < {k}; ++k{axis}) {{",
            f"const int m{axis} = q{axis} + {low} - k{axis} * {d}, o{axis} = m{axis} / {s};",
            f"if (m{axis} < 0 || m{axis} % {s} || o{axis} >= {out[axis]}) continue;",
        ]
    order = {"j": "0", "k": "0"}
    for axis, k in enumerate(windows.window):
        order = {name: f"({before} * {k} + {name}{axis})" for name, before in order.items()}
    lines += [
        "bool first = true;",
        *_each(windows, lengths, "p", "j"),
        f"const T v = x[{_place(lengths, _names('p', axes), channels)}];",
        f"if (v > mine || (v == mine && {order['j']} < {order['k']})) first = false;",
        "}" * axes,
        f"if (first) sum += g[{_place(out, _names('o', axes), channels)}];",
        "}" * axes,
        "y = sum;",
    ]
    return ElementwiseKernel(
        "raw T g, raw T x", "T y", "\n".join(lines), "tinynn_max_pool_back", preamble=_HELPERS
    )
