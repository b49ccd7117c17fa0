"""Slices that begin where an array says: linear, and each the other's transpose."""

from typing import Any

import backends
from tinynn.rules.batching import BATCHING, batch_take, everywhere
from tinynn.rules.complex import device_of
from tinynn.rules.kinds import Linear
from tinynn.rules.special import differentiable


def _slice_back(xp: Any, g: Any, i: int, args: Any, *, size: int, axis: int = 0) -> Any:
    return dynamic_update_slice(xp.zeros_like(args[0]), g, args[1], axis=axis)


def _update_back(xp: Any, g: Any, i: int, args: Any, *, axis: int = 0) -> Any:
    update, start = args[1:]
    if i == 0:
        return dynamic_update_slice(g, xp.zeros_like(update), start, axis=axis)
    return dynamic_slice(g, start, size=update.shape[axis], axis=axis)


@differentiable(Linear(_slice_back, slice(0, 1)))
def dynamic_slice(x: Any, start: Any, *, size: int, axis: int = 0) -> Any:
    """`backends.Backend.dynamic_slice`."""
    backend = backends.of(x)
    with backend.scope():
        return backend.dynamic_slice(x, start, size=size, axis=axis)


@differentiable(Linear(_update_back, slice(0, 2)))
def dynamic_update_slice(x: Any, update: Any, start: Any, *, axis: int = 0) -> Any:
    """`backends.Backend.dynamic_update_slice`."""
    backend = backends.of(x)
    with backend.scope():
        return backend.dynamic_update_slice(x, update, start, axis=axis)


def batch_dynamic_slice(
    f: Any, xp: Any, args: Any, batched: list[bool], size: int, kwargs: Any
) -> Any:
    """dynamic_slice: each entry may begin at a place of its own."""
    x, start = args
    axis, wanted = kwargs.get("axis", 0) % (x.ndim - batched[0]), kwargs["size"]
    if not batched[1]:
        return f(x, start, size=wanted, axis=axis + 1)
    x, start = everywhere(xp, args, batched, size)
    start = xp.clip(start, 0, x.shape[axis + 1] - wanted)
    places = xp.arange(wanted, dtype=start.dtype, device=device_of(x))
    places = xp.add(xp.expand_dims(start, axis=1), places)
    return batch_take(xp.take, xp, [x, places], [True, True], size, {"axis": axis})


def batch_dynamic_update_slice(
    f: Any, xp: Any, args: Any, batched: list[bool], size: int, kwargs: Any
) -> Any:
    """dynamic_update_slice: each entry may begin at a place of its own."""
    axis = kwargs.get("axis", 0) % (args[0].ndim - batched[0])
    x, update, start = *everywhere(xp, args[:2], batched[:2], size), args[2]
    if not batched[2]:
        return f(x, update, start, axis=axis + 1)
    length, wanted = x.shape[axis + 1], update.shape[axis + 1]
    if not wanted:
        return x
    start = xp.expand_dims(xp.clip(start, 0, length - wanted), axis=1)
    places = xp.arange(length, dtype=start.dtype, device=device_of(x))
    ahead = xp.subtract(places, start)
    new = xp.logical_and(xp.greater_equal(ahead, 0), xp.less(ahead, wanted))
    ahead = xp.where(new, ahead, xp.zeros_like(ahead))
    taken = batch_take(xp.take, xp, [update, ahead], [True, True], size, {"axis": axis})
    shape = (size, *(1,) * axis, length, *(1,) * (x.ndim - axis - 2))
    return xp.where(xp.reshape(new, shape), taken, x)


BATCHING[dynamic_slice] = batch_dynamic_slice
BATCHING[dynamic_update_slice] = batch_dynamic_update_slice
