"""Longer spatial axes: each element repeated, or linear between centres."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, TypeAlias

import backends
from tinynn.functional.pools import at, in_one_batch
from tinynn.rules.batching import BATCHING
from tinynn.rules.kinds import RULES, Linear
from tinynn.trace import Function, backend_of, namespace
from tinynn.transforms import vjp

Array: TypeAlias = Any


def repeated(x: Array, scale: Sequence[int]) -> Array:
    """Each element so many times along each spatial axis of (batch, *spatial, channels)."""
    xp, (batch, *lengths, channels) = namespace(x), x.shape
    pairs = list(zip(lengths, scale, strict=True))
    y = xp.reshape(x, (batch, *chain(*[(n, 1) for n in lengths]), channels))
    y = xp.broadcast_to(y, (batch, *chain(*pairs), channels))
    return xp.reshape(y, (batch, *[n * times for n, times in pairs], channels))


def interpolated(x: Array, scale: Sequence[int]) -> Array:
    """Linear between the centres of the elements of (batch, *spatial, channels)."""
    if backend_of(x).takes_upsample(x):
        return upsample_linear(x, scale=tuple(scale))
    return _between(namespace(x), x, scale=scale)


def _between(xp: Any, x: Array, *, scale: Sequence[int]) -> Array:
    # Each phase of the result is a fixed mixture of neighbours, the ends repeated.
    for axis, times in enumerate(scale, 1):
        if times == 1:
            continue
        n = x.shape[axis]
        first, final = x[at(axis, slice(1))], x[at(axis, slice(n - 1, n))]
        before = xp.concat([first, x[at(axis, slice(n - 1))]], axis=axis)
        behind = xp.concat([x[at(axis, slice(1, n))], final], axis=axis)
        phases = []
        for i in range(times):
            place = (i + 0.5) / times - 0.5
            other = before if place < 0 else behind
            phases.append((1.0 - abs(place)) * x + abs(place) * other)
        y = xp.stack(phases, axis=axis + 1)
        x = xp.reshape(y, (*x.shape[:axis], n * times, *x.shape[axis + 1 :]))
    return x


def _gathered(xp: Any, g: Array, *, scale: Sequence[int]) -> Array:
    batch, *lengths, channels = g.shape
    one = xp.zeros_like(g[(slice(None), *(slice(1),) * len(scale), slice(None))])
    shape = [n // times for n, times in zip(lengths, scale, strict=True)]
    x = xp.broadcast_to(one, (batch, *shape, channels))
    return vjp(lambda x: _between(namespace(x), x, scale=scale), x)[1](g)[0]


def _function(name: str, definition: Callable[..., Array]) -> Function:
    """The backend's method of that name; or its definition, where it does not take the array."""

    def call(x: Array, *, scale: Sequence[int]) -> Array:
        backend = backends.of(x)
        if not backend.takes_upsample(x):
            return definition(backend.xp, x, scale=scale)
        with backend.scope():
            return getattr(backend, name)(x, scale)

    return Function(name, call)


upsample_linear = _function("upsample_linear", _between)
upsample_linear_pullback = _function("upsample_linear_pullback", _gathered)


def _transposed(by: Function) -> Callable[..., Array]:
    return lambda xp, g, i, args, **settings: by(g, **settings)


for _each, _other, _definition in (
    (upsample_linear, upsample_linear_pullback, _between),
    (upsample_linear_pullback, upsample_linear, _gathered),
):
    RULES[_each], BATCHING[_each] = Linear(_transposed(_other)), in_one_batch
    RULES[_each].definition = _definition
