"""Pools and upsampling on CuPy: a kernel each, where slices would be many launches.

A kernel is made for each shape, which stands in its text as numbers: loops over a window are
unrolled, and places are found without divisions of unknown numbers.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any

import cupy
from cupy import ElementwiseKernel

from backends.cupy_convolution import decoded
from backends.pooling import AnyWindows, Array, Ints, Parts, Pooling, Windows

_DTYPES = ("float32", "float64")
# The elements of a window up to which a pullback finds the largest again, in one launch. Above, it
# is found once for each window, not once for each element of it.
_FOUND_AGAIN = 9


class CuPyPooling(Pooling):
    """Pools in one launch, and so their derivatives."""

    def takes_pool(self, x: Array, windows: AnyWindows) -> bool:
        padding = () if isinstance(windows, Parts) else windows.padding
        return x.dtype.name in _DTYPES and min(map(min, padding), default=0) >= 0

    def max_pool(self, x: Array, windows: AnyWindows) -> Array:
        return _pooled("max", x, windows)

    def max_pool_pullback(self, g: Array, x: Array, windows: AnyWindows) -> Array:
        _, *lengths, channels = x.shape
        y, settings = cupy.empty(x.shape, x.dtype), (tuple(lengths), channels, windows)
        if _volume(lengths, windows) <= _FOUND_AGAIN:
            return _pulled("max", *settings)(g, x, y)
        return _pulled("places", *settings)(g, _pooled("places", x, windows, dtype="int64"), y)

    def max_pool_pushforward(self, t: Array, x: Array, windows: AnyWindows) -> Array:
        return _pooled("chosen", x, windows, t)

    def avg_pool(self, x: Array, windows: AnyWindows) -> Array:
        return _pooled("mean", x, windows)

    def avg_pool_pullback(self, g: Array, lengths: Ints, windows: AnyWindows) -> Array:
        y = cupy.empty((g.shape[0], *lengths, g.shape[-1]), g.dtype)
        return _pulled("mean", tuple(lengths), g.shape[-1], windows)(g, y)

    def takes_upsample(self, x: Array) -> bool:
        return x.dtype.name in _DTYPES

    def upsample_linear(self, x: Array, scale: Ints) -> Array:
        batch, *lengths, channels = x.shape
        longer = [n * times for n, times in zip(lengths, scale, strict=True)]
        y = cupy.empty((batch, *longer, channels), x.dtype)
        return _interpolated(tuple(lengths), channels, scale)(x, y)

    def upsample_linear_pullback(self, g: Array, scale: Ints) -> Array:
        batch, *longer, channels = g.shape
        lengths = tuple(n // times for n, times in zip(longer, scale, strict=True))
        y = cupy.empty((batch, *lengths, channels), g.dtype)
        return _uninterpolated(lengths, channels, scale)(g, y)


def _pooled(kind: str, x: Array, windows: AnyWindows, *more: Array, dtype: Any = None) -> Array:
    batch, *lengths, channels = x.shape
    y = cupy.empty((batch, *_results(lengths, windows), channels), dtype or x.dtype)
    return _pool(kind, tuple(lengths), channels, windows)(x, *more, y)


def _results(lengths: Sequence[int], windows: AnyWindows) -> Ints:
    """How many windows there are along each axis."""
    if isinstance(windows, Parts):
        return windows.size
    rows = zip(lengths, *windows, strict=True)
    return tuple((n + low + high - (k - 1) * d - 1) // s + 1 for n, k, s, d, (low, high) in rows)


def _volume(lengths: Sequence[int], windows: AnyWindows) -> int:
    """The elements of a window, about."""
    if isinstance(windows, Parts):
        return prod(-(-n // size) for n, size in zip(lengths, windows.size, strict=True))
    return prod(windows.window)


def _place(lengths: Sequence[int], letter: str, channels: int) -> str:
    """The number of an element: of the image `rest`, at the places of this letter, of channel c."""
    at = "rest"
    for axis, n in enumerate(lengths):
        at = f"({at} * {n} + {letter}{axis})"
    return f"{at} * {channels} + c"


def _ends(o: str, n: int, size: int) -> tuple[str, str]:
    """Where part `o` of so many elements begins and ends."""
    return f"(int)({o} * {n}LL / {size})", f"(int)((({o} + 1) * {n}LL + {size - 1}) / {size})"


def _along(windows: Windows, axis: int) -> Ints:
    """Window, stride, dilation and padding before the first element, along an axis."""
    return (*(s[axis] for s in windows[:3]), windows.padding[axis][0])


def _elements(lengths: Ints, windows: AnyWindows) -> list[str]:
    """Loops over the places `p` of what is inside of the window of the results `o`."""
    lines = []
    for axis, n in enumerate(lengths):
        o, p, e = f"o{axis}", f"p{axis}", f"e{axis}"
        if isinstance(windows, Parts):
            first, end = _ends(o, n, windows.size[axis])
            lines.append(f"for (int {p} = {first}, {e} = {end}; {p} < {e}; ++{p}) {{")
            continue
        k, s, d, low = _along(windows, axis)
        lines += [
            f"for (int {e} = 0; {e} < {k}; ++{e}) {{",
            f"const int {p} = {o} * {s} - {low} + {e} * {d};",
            f"if ({p} < 0 || {p} >= {n}) continue;",
        ]
    return lines


def _holding(lengths: Ints, windows: AnyWindows) -> list[str]:
    """Loops over the results `o` in whose windows the element at `q` is."""
    lines = []
    for axis, (n, count) in enumerate(zip(lengths, _results(lengths, windows), strict=True)):
        o, q, m = f"o{axis}", f"q{axis}", f"m{axis}"
        if isinstance(windows, Parts):
            first, last = f"{q} * {count}LL / {n}", f"(({q} + 1) * {count}LL - 1) / {n}"
            lines.append(f"for (int {o} = {first}, {m} = {last}; {o} <= {m}; ++{o}) {{")
            continue
        k, s, d, low = _along(windows, axis)
        lines += [
            f"for (int k{axis} = 0; k{axis} < {k}; ++k{axis}) {{",
            f"const int {m} = {q} + {low} - k{axis} * {d}, {o} = {m} / {s};",
            f"if ({m} < 0 || {m} % {s} || {o} >= {count}) continue;",
        ]
    return lines


def _largest(lengths: Ints, channels: int, windows: AnyWindows) -> list[str]:
    """Lines that find the largest element of the window of the results `o`, and its place."""
    return [
        "T best = 0;",
        "long long place = -1;",
        *_elements(lengths, windows),
        f"const long long here = {_place(lengths, 'p', channels)};",
        "const T v = x[here];",
        "if (place < 0 || v > best || v != v) { best = v; place = here; }",
        "}" * len(lengths),
    ]


def _counted(lengths: Ints, windows: AnyWindows) -> list[str]:
    """Lines that count what is inside of the window of the results `o`, which has no dilation."""
    lines = []
    for axis, n in enumerate(lengths):
        o = f"o{axis}"
        if isinstance(windows, Parts):
            first, end = _ends(o, n, windows.size[axis])
        else:
            k, s, _, low = _along(windows, axis)
            start = f"{o} * {s} - {low}"
            first, end = f"max({start}, 0)", f"min({start} + {k}, {n})"
        lines.append(f"const int n{axis} = {end} - {first};")
    return [*lines, f"const int count = {' * '.join(f'n{axis}' for axis in range(len(lengths)))};"]


@lru_cache(256)
def _pool(kind: str, lengths: Ints, channels: int, windows: AnyWindows) -> Any:
    """For each window its largest element, its place, the element of `t` there; or the mean."""
    axes, out = len(lengths), _results(lengths, windows)
    if kind == "mean":
        lines = [
            "T sum = 0;",
            *_counted(lengths, windows),
            *_elements(lengths, windows),
            f"sum += x[{_place(lengths, 'p', channels)}];",
            "}" * axes,
            "y = sum / count;",
        ]
    else:
        result = {"max": "best", "places": "place", "chosen": "t[place]"}[kind]
        lines = [*_largest(lengths, channels, windows), f"y = {result};"]
    lines = [*decoded([*(f"o{axis}" for axis in range(axes)), "c"], [*out, channels]), *lines]
    inputs = "raw T x, raw T t" if kind == "chosen" else "raw T x"
    output = "int64 y" if kind == "places" else "T y"
    return ElementwiseKernel(inputs, output, "\n".join(lines), f"tinynn_pool_{kind}")


@lru_cache(256)
def _pulled(kind: str, lengths: Ints, channels: int, windows: AnyWindows) -> Any:
    """For each element, its share of the cotangents of the windows that it is in."""
    axes, out = len(lengths), _results(lengths, windows)
    cotangent = f"g[{_place(out, 'o', channels)}]"
    inner = {
        "max": [*_largest(lengths, channels, windows), f"if (place == i) sum += {cotangent};"],
        "places": [f"if (places[{_place(out, 'o', channels)}] == i) sum += {cotangent};"],
        "mean": [*_counted(lengths, windows), f"sum += {cotangent} / count;"],
    }[kind]
    lines = [
        *decoded([*(f"q{axis}" for axis in range(axes)), "c"], [*lengths, channels]),
        "T sum = 0;",
        *_holding(lengths, windows),
        *inner,
        "}" * axes,
        "y = sum;",
    ]
    more = {"max": ", raw T x", "places": ", raw int64 places", "mean": ""}[kind]
    return ElementwiseKernel(f"raw T g{more}", "T y", "\n".join(lines), f"tinynn_pulled_{kind}")


def _between(axis: int, n: int, times: int) -> list[str]:
    """Lines: the result `o` is (1 - w) of the element at `m` and w of its neighbour at `r`."""
    o, m, r = f"o{axis}", f"m{axis}", f"r{axis}"
    return [
        f"const int {m} = {o} / {times}, d{axis} = 2 * ({o} - {m} * {times}) + 1 - {times};",
        f"const int {r} = d{axis} < 0 ? max({m} - 1, 0) : min({m} + 1, {n - 1});",
        f"const T w{axis} = T(abs(d{axis})) / {2 * times};",
    ]


def _added(scale: Ints, element: str) -> str:
    """A line that adds an element times its share along each axis that becomes longer.

    Along others it has no neighbours, which would add NaN where they are not finite.
    """
    shares = [f"s{axis}" for axis, times in enumerate(scale) if times > 1]
    return f"y += {' * '.join([*shares, element])};"


def _closed(scale: Ints) -> str:
    """The ends of the loops along the axes that become longer."""
    return "}" * sum(times > 1 for times in scale)


@lru_cache(256)
def _interpolated(lengths: Ints, channels: int, scale: Ints) -> Any:
    axes = len(lengths)
    longer = [n * times for n, times in zip(lengths, scale, strict=True)]
    lines = [*decoded([*(f"o{axis}" for axis in range(axes)), "c"], [*longer, channels]), "y = 0;"]
    for axis, (n, times) in enumerate(zip(lengths, scale, strict=True)):
        if times == 1:
            lines.append(f"const int p{axis} = o{axis};")
            continue
        lines += [
            *_between(axis, n, times),
            f"for (int e{axis} = 0; e{axis} < 2; ++e{axis}) {{",
            f"const int p{axis} = e{axis} ? r{axis} : m{axis};",
            f"const T s{axis} = e{axis} ? w{axis} : 1 - w{axis};",
        ]
    lines += [_added(scale, f"x[{_place(lengths, 'p', channels)}]"), _closed(scale)]
    return ElementwiseKernel("raw T x", "T y", "\n".join(lines), "tinynn_upsample")


@lru_cache(256)
def _uninterpolated(lengths: Ints, channels: int, scale: Ints) -> Any:
    axes = len(lengths)
    longer = [n * times for n, times in zip(lengths, scale, strict=True)]
    lines = [*decoded([*(f"q{axis}" for axis in range(axes)), "c"], [*lengths, channels]), "y = 0;"]
    for axis, (n, times) in enumerate(zip(lengths, scale, strict=True)):
        o, q = f"o{axis}", f"q{axis}"
        if times == 1:
            lines.append(f"const int {o} = {q};")
            continue
        first, end = f"max({q} - 1, 0) * {times}", f"min({q} + 2, {n}) * {times}"
        lines += [
            f"for (int {o} = {first}; {o} < {end}; ++{o}) {{",
            *_between(axis, n, times),
            f"const T s{axis} = (m{axis} == {q} ? 1 - w{axis} : T(0))",
            f"+ (r{axis} == {q} ? w{axis} : T(0));",
        ]
    lines += [_added(scale, f"g[{_place(longer, 'o', channels)}]"), _closed(scale)]
    return ElementwiseKernel("raw T g", "T y", "\n".join(lines), "tinynn_upsample_back")
