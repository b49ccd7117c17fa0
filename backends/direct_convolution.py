"""The convolution of `Backend.conv` on NumPy in machine code: no copies of windows.

Arrays lie in memory as in `backends.numpy_convolution`, with the batch innermost. The result is
made of runs of memory that meet the same elements of the kernel: of one place of all images, or of
several where they lie beside one another. What a run meets, and where, is a table made once for
each shape; so strides, dilations, gaps of the input and padding cost nothing, and groups are a loop
around all.
"""

from collections.abc import Callable
from functools import lru_cache, reduce
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np

from backends import llvm_convolution, threads
from backends.convolution import Array, Ints, Settings
from backends.numpy_convolution import empty, in_order, order

#: So many multiplications are worth a thread.
_SHARED = 1 << 22


class _Met(NamedTuple):
    """What the places along an axis meet.

    first: (results,), for each place the first element of the input.
    kind: (results,), which of the patterns it meets.
    patterns: of the kernel the elements that are met, and how far from the first.
    """

    first: Array
    kind: Array
    patterns: list[list[tuple[int, int]]]


class _Axis(NamedTuple):
    """The way of a kernel along one axis: `results` times, `stride` apart, from -`low` on.

    `step` and `into` are the strides of the input and of the result, in elements.
    """

    kernel: int
    results: int
    stride: int
    dilation: int
    low: int
    gap: int
    length: int
    step: int
    into: int

    @property
    def moved(self) -> int:
        """Elements of the input from a place's first to that of the next, where both meet all."""
        return self.step * self.stride // self.gap

    def met(self) -> _Met:
        places = np.arange(self.results)[:, None] * self.stride
        places = places + np.arange(self.kernel) * self.dilation - self.low
        inside = (places % self.gap == 0) & (places >= 0) & (places < self.length * self.gap)
        at = np.where(inside, places // self.gap, self.length)
        first = at.min(axis=1) * inside.any(axis=1)
        apart = np.where(inside, at - first[:, None], -1)
        found, kind = np.unique(apart, axis=0, return_inverse=True)
        patterns = [[(e, f) for e, f in enumerate(row) if f >= 0] for row in found.tolist()]
        return _Met(first, kind.reshape(-1), patterns)


class _Plan(NamedTuple):
    """Tables for machine code.

    runs: (count, 6), where a run begins in the input and in the result, its positions and the
    columns of each, where its places begin in `places`, and how many they are.
    places: (count, 2), for each element of the kernel that is met, how far it lies in the input
    from the run's begin, and in the kernel.
    """

    runs: Array
    places: Array


@lru_cache(maxsize=64)
def _plan(axes: tuple[_Axis, ...], batch: int, apart: Ints, inner: Ints | None) -> _Plan:
    """The tables. An element of the kernel is `apart` elements behind that before it, along each
    axis. `inner`: channels are places too: how many, and how far apart they lie in both.
    """
    met, last = [axis.met() for axis in axes], axes[-1]
    breaks = np.diff(met[-1].kind) != 0
    breaks |= np.diff(met[-1].first) * last.step != last.moved
    begins = np.flatnonzero(np.append(True, breaks))
    where = [*(np.arange(axis.results) for axis in axes[:-1]), begins]
    x = _sums([m.first[i] * axis.step for m, i, axis in zip(met, where, axes, strict=True)])
    y = _sums([i * axis.into for i, axis in zip(where, axes, strict=True)])
    tables, places = _tables([m.patterns for m in met], axes, apart, inner or (1, 0, 0))
    sizes = [len(m.patterns) for m in met]
    kind = [
        m.kind[i] * prod(sizes[k + 1 :]) for k, (m, i) in enumerate(zip(met, where, strict=True))
    ]
    positions = np.tile(np.diff(np.append(begins, last.results)), x.size // begins.size)
    columns = np.full_like(x, batch)
    if last.moved == last.into == batch:  # positions lie one behind the other
        positions, columns = np.ones_like(x), positions * batch
    runs = np.stack([x, y, positions, columns, *tables[_sums(kind)].T], axis=1)
    return _Plan(np.ascontiguousarray(runs, "int64"), places)


def _sums(parts: list[Array]) -> Array:
    """The sums of one number from each part, the last part's going on first."""
    return reduce(np.add.outer, parts).ravel()


def _tables(
    patterns: list[Any], axes: tuple[_Axis, ...], apart: Ints, inner: Ints
) -> tuple[Array, Array]:
    """(where the places of each choice of patterns begin, and how many they are; the places)"""
    tables: list[tuple[int, int]] = []
    places: list[tuple[int, int]] = []
    channels, step, into = inner
    for chosen in product(*patterns):
        rows = [
            (
                sum(f * axis.step for (_, f), axis in zip(each, axes, strict=True)),
                sum(e * n for (e, _), n in zip(each, apart, strict=True)),
            )
            for each in product(*chosen)
        ]
        tables.append((len(places), channels * len(rows)))
        places += [(a + c * step, b + c * into) for c in range(channels) for a, b in rows]
    return np.asarray(tables, "int64"), np.asarray(places, "int64").reshape(-1, 2)


def conv(x: Array, weight: Array, settings: Settings, out: Array) -> Array:
    """The convolution of `backends.convolution.conv`, where `knows`, into `out`."""
    if prod(out.shape[1:-1]) < prod(weight.shape[:-2]):
        out[...] = _by_weight(x, weight, out.shape[1:-1], settings)
        return out
    y = out if out.strides[0] == out.itemsize else empty(out.shape, out.dtype)
    _gather(_near(x), np.ascontiguousarray(weight), y, settings)
    if y is not out:
        out[...] = y
    return out


def _near(x: Array) -> Array:
    """`x`, or a copy whose batch lies innermost."""
    if x.strides[0] == x.itemsize:
        return x
    lies = order(x.ndim - 2)
    return in_order("image", x.transpose(lies)).transpose(np.argsort(lies))


def _strides(x: Array) -> Ints:
    return tuple(n // x.itemsize for n in x.strides)


def _gather(x: Array, weight: Array, y: Array, settings: Settings) -> None:
    """Each run of the result is the sum over what it meets."""
    (_, *steps, xc), (_, *into, yo) = _strides(x), _strides(y)
    *kernel, inputs, outputs = weight.shape
    axes = _axes(kernel, y.shape[1:-1], settings, x.shape[1:-1], steps, into)
    apart = [prod(weight.shape[i + 1 :]) for i in range(len(kernel))]
    plan = _plan(axes, x.shape[0], tuple(apart), None)
    groups, few = settings.groups, outputs // settings.groups
    call, parts = llvm_convolution.gather(x.dtype.name, few)
    bias = np.zeros(outputs, x.dtype)
    least = np.asarray(-np.inf, x.dtype)
    numbers = [
        axes[-1].moved, axes[-1].into, groups, inputs, xc, outputs, 1, yo, inputs * xc, few,
        few * yo, few, parts.whole, parts.short,
    ]  # fmt: skip
    count = _threads(prod(y.shape[:-1]) * weight.size)
    _shared(plan, count, numbers, call, lambda _: (x, weight, y, bias, least))


def _axes(
    kernel: Any, out: Any, settings: Settings, given: Any, steps: Any, into: Any
) -> tuple[_Axis, ...]:
    lows = [low for low, _ in settings.padding]
    rows = zip(
        kernel, out, settings.stride, settings.dilation, lows, settings.input_dilation, given,
        steps, into, strict=True,
    )  # fmt: skip
    return tuple(_Axis(*row) for row in rows)


def _threads(multiplications: int) -> int:
    return max(min(threads.available(), multiplications // _SHARED), 1)


def _shared(
    plan: _Plan, count: int, numbers: Any, call: Callable[..., None], arrays: Callable[[int], Any]
) -> None:
    """Let so many threads carry out some of the runs each, on these arrays."""
    step = -(-len(plan.runs) // count)

    def one(i: int) -> None:
        runs = plan.runs[i * step : (i + 1) * step]
        table = np.asarray([len(runs), *numbers], "int64")
        call(*[a.ctypes.data for a in (*arrays(i), runs, plan.places, table)])

    if count == 1:
        one(0)
    else:
        threads.shared(one, count)


def _by_weight(x: Array, weight: Array, out: Ints, settings: Settings) -> Array:
    """A result that is smaller than the kernel: the gradient by a weight, whose batch is the sum's.

    There the channels were the batch, and the kernel the cotangent.
    """
    *kernel, batch, outputs = weight.shape
    groups, channels = settings.groups, x.shape[0]
    if x.strides[-1] != x.itemsize:
        x = in_order("image", x)
    g = weight
    if g.strides[-2] != g.itemsize:
        g = np.moveaxis(in_order("cotangent", np.moveaxis(g, -1, 0)), 0, -1)
    (xc, *steps, _), (*into, _, yo) = _strides(x), _strides(g)
    turned = settings._replace(stride=settings.dilation, dilation=settings.stride)
    axes = _axes(out, kernel, turned, x.shape[1:-1], steps, into)
    few, places = outputs // groups, prod(out)
    call, parts = llvm_convolution.by_weight(x.dtype.name, few)
    lanes = llvm_convolution.lanes(x.dtype.name)
    one = few * lanes
    apart = tuple(prod(out[i + 1 :]) * channels * one for i in range(len(out)))
    plan = _plan(axes, batch, apart, (channels, xc, one))
    whole = places * channels * one
    numbers = [
        axes[-1].moved, axes[-1].into, groups, batch, few * yo, whole, yo, parts.whole, parts.short,
    ]  # fmt: skip
    work = prod(weight.shape) * places * channels
    count = _threads(work)
    total = np.zeros((count, groups, *out, channels, few, lanes), x.dtype)
    _shared(plan, count, numbers, call, lambda i: (x, g, total[i]))
    summed = total.sum(axis=(0, -1))  # (groups, *out, channels, few)
    summed = np.moveaxis(np.moveaxis(summed, 0, -2), -3, 0)
    return summed.reshape(channels, *out, outputs)
