"""Derivatives of the functions that make, move, pick and join elements: all of them linear."""

from collections.abc import Callable
from itertools import zip_longest
from math import prod
from operator import attrgetter
from typing import Any

from tinynn.rules.complex import device_of
from tinynn.rules.kinds import CONSTANT, RULES, Composed, Linear
from tinynn.rules.special import scatter_add
from tinynn.trace.core import getitem, put_back, to_device


def _at(axis: int, key: Any) -> tuple[Any, ...]:
    """The index that applies `key` along one axis."""
    return (*(slice(None),) * axis, key, ...)


def _reshape_back(xp: Any, g: Any, i: int, args: Any, **_: Any) -> Any:
    return xp.reshape(g, args[0].shape)


def _as_it_came(xp: Any, g: Any, i: int, args: Any, **_: Any) -> Any:
    return g  # broadcasting and data type are put right for every rule alike


def _permute_back(xp: Any, g: Any, i: int, args: Any, *, axes: tuple[int, ...]) -> Any:
    places = {axis % args[0].ndim: place for place, axis in enumerate(axes)}
    return xp.permute_dims(g, tuple(places[axis] for axis in range(args[0].ndim)))


def _roll_back(xp: Any, g: Any, i: int, args: Any, *, shift: Any, axis: Any = None) -> Any:
    back = tuple(-s for s in shift) if isinstance(shift, tuple) else -shift
    return xp.roll(g, back, axis=axis)


def _concat_part(xp: Any, g: Any, i: int, args: Any, *, axis: int | None = 0) -> Any:
    if axis is None:
        start = sum(prod(a.shape) for a in args[:i])
        return xp.reshape(g[start : start + prod(args[i].shape)], args[i].shape)
    axis %= g.ndim
    start = sum(a.shape[axis] for a in args[:i])
    return g[_at(axis, slice(start, start + args[i].shape[axis]))]


def _stack_part(xp: Any, g: Any, i: int, args: Any, *, axis: int = 0) -> Any:
    return g[_at(axis % g.ndim, i)]


def _take_back(xp: Any, g: Any, i: int, args: Any, *, axis: int = 0) -> Any:
    return scatter_add(xp.zeros_like(args[0]), args[1], g, axis=axis)


def _picked_back(xp: Any, g: Any, x: Any, pick: Callable[[Any], Any]) -> Any:
    # One rule for every way of picking: which elements does it take? Add g to those.
    size = prod(x.shape)
    picked = pick(xp.reshape(xp.arange(size, device=device_of(x)), x.shape))
    zeros = xp.reshape(xp.zeros_like(x), (size,))
    filled = scatter_add(zeros, xp.reshape(picked, (-1,)), xp.reshape(g, (-1,)), axis=0)
    return xp.reshape(filled, x.shape)


def _ranges(key: Any, shape: tuple[int, ...]) -> list[range] | None:
    """The range that an index takes of each axis; None if not all are integers and slices ahead."""
    parts = list(key) if isinstance(key, tuple) else [key]
    if not all(part in (None, ...) or type(part) in (int, slice) for part in parts):
        return None
    parts = [part for part in parts if part is not None]
    place = parts.index(...) if ... in parts else len(parts)
    parts[place : place + 1] = [slice(None)] * (len(shape) - len(parts) + (... in parts))
    ranges = []
    for part, length in zip(parts, shape, strict=True):
        if type(part) is int:
            part = slice(part % length, part % length + 1)
        ranges.append(range(*part.indices(length)))
        if ranges[-1].step < 1:
            return None
    return ranges


def _spread(xp: Any, g: Any, axis: int, step: int) -> Any:
    """`g` with `step - 1` zeros between neighbours along the axis."""
    n = g.shape[axis]
    if step == 1 or n < 2:
        return g
    g = xp.expand_dims(g, axis=axis + 1)
    gap = xp.broadcast_to(xp.zeros_like(g), (*g.shape[: axis + 1], step - 1, *g.shape[axis + 2 :]))
    g = xp.reshape(
        xp.concat([g, gap], axis=axis + 1), (*g.shape[:axis], n * step, *g.shape[axis + 2 :])
    )
    return g[_at(axis, slice((n - 1) * step + 1))]


def _slice_back(xp: Any, g: Any, x: Any, ranges: list[range]) -> Any:
    # Zeros around it, an axis after the other: most libraries are slow to add at places.
    g = xp.reshape(g, tuple(map(len, ranges)))
    for axis, each in enumerate(ranges):
        g = _spread(xp, g, axis, each.step)
    ends = [(each.start, each[-1] + 1 if each else each.start) for each in ranges]
    zeros, part = xp.zeros_like(x, dtype=g.dtype), [slice(*each) for each in ends]
    for axis, (start, stop) in enumerate(ends):
        around = []
        for low, high in ((0, start), (stop, x.shape[axis])):
            part[axis] = slice(low, high)
            around.append(zeros[tuple(part)] if low < high else None)
        rows = [each for each in (around[0], g, around[1]) if each is not None]
        g = xp.concat(rows, axis=axis) if len(rows) > 1 else g
        part[axis] = slice(None)
    return g


def _getitem_back(xp: Any, g: Any, i: int, args: Any, *, key: Any) -> Any:
    ranges = _ranges(key, args[0].shape)
    if ranges is not None:
        return _slice_back(xp, g, args[0], ranges)
    return _picked_back(xp, g, args[0], lambda places: places[put_back(key, args[1:])])


def _take_along_back(xp: Any, g: Any, i: int, args: Any, *, axis: int = -1) -> Any:
    pick = lambda places: xp.take_along_axis(places, args[1], axis=axis)  # noqa: E731
    return _picked_back(xp, g, args[0], pick)


def _repeat(xp: Any, x: Any, repeats: Any, *, axis: int | None = None) -> Any:
    if axis is None:
        x, axis = xp.reshape(x, (-1,)), 0
    places = xp.arange(x.shape[axis], device=device_of(x))
    return xp.take(x, xp.repeat(places, repeats), axis=axis)


def _tile(xp: Any, x: Any, *, repetitions: tuple[int, ...]) -> Any:
    ndim = max(x.ndim, len(repetitions))
    shape = (1,) * (ndim - x.ndim) + tuple(x.shape)
    times = (1,) * (ndim - len(repetitions)) + tuple(repetitions)
    pairs = list(zip(times, shape, strict=True))
    apart = xp.reshape(x, tuple(m for _, n in pairs for m in (1, n)))
    tiled = xp.broadcast_to(apart, tuple(m for pair in pairs for m in pair))
    return xp.reshape(tiled, tuple(r * n for r, n in pairs))


def _diff(
    xp: Any, x: Any, prepend: Any = None, append: Any = None, *, axis: int = -1, n: int = 1
) -> Any:
    x = xp.concat([part for part in (prepend, x, append) if part is not None], axis=axis)
    axis %= x.ndim
    for _ in range(n):
        length = x.shape[axis]
        shorter = max(length - 1, 0)
        x = x[_at(axis, slice(length - shorter, None))] - x[_at(axis, slice(shorter))]
    return x


def _meshgrid(xp: Any, *arrays: Any, indexing: str = "xy") -> Any:
    places = list(range(len(arrays)))
    if indexing == "xy":
        places[:2] = places[1::-1]
    lined = [
        xp.reshape(a, tuple(-1 if axis == place else 1 for axis in range(len(arrays))))
        for a, place in zip(arrays, places, strict=True)
    ]
    return tuple(xp.broadcast_arrays(*lined))


def _unstack(xp: Any, x: Any, *, axis: int = 0) -> Any:
    return tuple(x[_at(axis % x.ndim, i)] for i in range(x.shape[axis]))


def _broadcast_arrays(xp: Any, *arrays: Any) -> Any:
    backwards = zip_longest(*[a.shape[::-1] for a in arrays], fillvalue=1)
    shape = tuple(next((n for n in ns if n != 1), 1) for ns in backwards)[::-1]
    return [xp.broadcast_to(a, shape) for a in arrays]


def _same(name: str) -> Linear:
    """A function that is its own transpose."""

    def transpose(xp: Any, g: Any, i: int, args: Any, **given: Any) -> Any:
        return attrgetter(name)(xp)(g, **given)

    return Linear(transpose)


for name in ("reshape", "expand_dims", "squeeze"):
    RULES[name] = Linear(_reshape_back)
for name in ("broadcast_to", "astype"):
    RULES[name] = Linear(_as_it_came)
for name in ("matrix_transpose", "linalg.matrix_transpose", "flip", "tril", "triu"):
    RULES[name] = _same(name)
RULES["permute_dims"] = Linear(_permute_back)
RULES["moveaxis"] = Linear(
    lambda xp, g, i, args, *, source, destination: xp.moveaxis(g, destination, source),
)
RULES["roll"] = Linear(_roll_back)
RULES["concat"] = Linear(_concat_part)
RULES["stack"] = Linear(_stack_part)
RULES["take"] = Linear(_take_back, slice(0, 1))
RULES["take_along_axis"] = Linear(_take_along_back, slice(0, 1))
RULES[getitem] = Linear(_getitem_back, slice(0, 1))
RULES[to_device] = Linear(lambda xp, g, i, args, **_: to_device(g, device=args[0].device))
RULES["repeat"] = Composed(_repeat)
RULES["tile"] = Composed(_tile)
RULES["diff"] = Composed(_diff)
RULES["meshgrid"] = Composed(_meshgrid)
RULES["unstack"] = Composed(_unstack)
RULES["broadcast_arrays"] = Composed(_broadcast_arrays)
for name in ("zeros_like", "ones_like", "empty_like", "full_like"):
    RULES[name] = CONSTANT
