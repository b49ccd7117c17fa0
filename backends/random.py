"""A portable random generator: one seed gives the same bits on every library and device.

Threefry-2x32 with 20 rounds, written in the standard's operations on int32 (PyTorch lacks uint32,
JAX without x64 lacks int64). Source: J. K. Salmon et al., "Parallel random numbers: as easy as
1, 2, 3", SC 2011. Keys, `fold_in`, `split` and the order of the bits are those of JAX's threefry
(`bits` with its option jax_threefry_partitionable off). Integers and exact sums go through the
library's compiler, where it has one; what rounds does not.

Everything follows the key's library and device, and a (2,) int32 array of any library will do as
a key, wrapped ones included. A key is used once: to draw, or to make further keys.

With `first_row`, draws are counted by row: the rows from number `first_row` on get the values that
they have in a draw of all rows, so that a part of a batch draws what the whole would.

>>> from backends import random
>>> key = random.key(0, "numpy")
>>> random.normal(key, (2,), "float64").round(3)
array([ 1.816, -0.755])
"""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from backends.base import Array, Backend, DType
from backends.numpy_random import PARITY, ROTATIONS
from backends.registry import get, of
from backends.special import normal_quantile

Shape = int | tuple[int, ...]
Draw = TypeVar("Draw", bound=Callable[..., Any])


def _near_key(draw: Draw) -> Draw:
    """Run `draw` in the device context of its first argument, the key."""

    @wraps(draw)
    def scoped(key: Array, *args: Any, **settings: Any) -> Any:
        with of(key).scope():
            return draw(key, *args, **settings)

    return scoped  # type: ignore[return-value]


def key(seed: int, backend: Backend | str) -> Array:
    """The key of a seed on that backend: a (2,) int32 array.

    Raises ValueError for a seed of more than 64 bits.

    >>> from backends import random
    >>> random.key(7, "numpy")
    array([0, 7], dtype=int32)
    """
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"expected a seed from -2**63 to 2**64 - 1, got {seed}")
    return get(backend).asarray([_signed(seed >> 32), _signed(seed)], dtype="int32")


@_near_key
def fold_in(key: Array, data: int) -> Array:
    """The key of item number `data` (its low 32 bits count): one of 2**32 that `key` leads to.

    >>> from backends import random
    >>> random.fold_in(random.key(0, "numpy"), 1)
    array([ 928981903, -841280227], dtype=int32)
    """
    return of(key).compile(_fold_in)(key, _signed(data))


def _fold_in(key: Array, data: int) -> Array:
    zero = key[:1] * 0
    return of(key).xp.concat(_threefry(key, zero, zero + data))


@_near_key
def split(key: Array, n: int) -> list[Array]:
    """`n` keys, the same as `fold_in` of 0 to n - 1 but made at one go.

    >>> from backends import random
    >>> random.split(random.key(0, "numpy"), 2)[1]
    array([ 928981903, -841280227], dtype=int32)
    """
    backend = of(key)
    keys = backend.compile(_split, static=(0, 2))(backend, key, n)
    return [keys[i, :] for i in range(n)]


def _split(backend: Backend, key: Array, n: int) -> Array:
    xp = backend.xp
    items = xp.arange(n, dtype=xp.int32, device=backend.device)
    return xp.stack(_threefry(key, xp.zeros_like(items), items), axis=1)


@_near_key
def bits(key: Array, shape: Shape, first_row: int | None = None) -> Array:
    """Random int32, every value equally likely.

    >>> from backends import random
    >>> key = random.key(0, "numpy")
    >>> random.bits(key, 2)
    array([ 928981903, -841280227], dtype=int32)
    >>> bool((random.bits(key, (3, 2), 0)[2:] == random.bits(key, (1, 2), 2)).all())
    True
    """
    backend = of(key)
    return backend.compile(_bits, static=(0, 2))(backend, key, _tuple(shape), first_row)


def bits_between(key: Array, size: int, start: int, stop: int) -> Array:
    """The numbers `start` to `stop` of `bits(key, size)`, without the others: (stop - start,).

    >>> from backends import random
    >>> key = random.key(0, "numpy")
    >>> bool((random.bits_between(key, 9, 3, 7) == random.bits(key, 9)[3:7]).all())
    True
    """
    backend = of(key)
    xp, device, half = backend.xp, backend.device, (size + 1) // 2
    place = xp.arange(start, stop, dtype=xp.int32, device=device)
    first = place < half  # as `_bits_in_order` has its counters, of which an odd one is 0
    low = xp.where(first, place, place - half)
    high = xp.where(low + half < size, low + half, xp.zeros_like(low))
    return xp.where(first, *_threefry(key, low, high))


def _bits(backend: Backend, key: Array, shape: tuple[int, ...], first_row: int | None) -> Array:
    size = math.prod(shape)
    if size >= 2**31:
        raise ValueError(f"expected a shape of fewer than 2**31 elements, got {shape}; draw twice")
    if first_row is None or not shape:
        return _bits_in_order(backend, key, shape)
    # The counter of a block is (row, column); its two words go to columns half a row apart.
    xp, device, rows, width = backend.xp, backend.device, shape[0], math.prod(shape[1:])
    half = (width + 1) // 2
    place = xp.arange(rows * half, dtype=xp.int32, device=device)
    row, column = place // max(half, 1) + first_row, place % max(half, 1)
    words = [xp.reshape(word, (rows, half)) for word in _threefry(key, row, column)]
    return xp.reshape(xp.concat(words, axis=1)[:, :width], shape)


def _bits_in_order(backend: Backend, key: Array, shape: tuple[int, ...]) -> Array:
    """Bits in the order of JAX's: the counters are halves of the flat index."""
    xp, device, size = backend.xp, backend.device, math.prod(shape)
    half = (size + 1) // 2
    first = xp.arange(half, dtype=xp.int32, device=device)
    second = xp.arange(half, size, dtype=xp.int32, device=device)
    if size % 2:
        second = xp.concat((second, xp.zeros(1, dtype=xp.int32, device=device)))
    words = xp.concat(_threefry(key, first, second))
    return xp.reshape(words[:size], shape)


@_near_key
def uniform(
    key: Array,
    shape: Shape,
    dtype: DType | str,
    low: float = 0.0,
    high: float = 1.0,
    first_row: int | None = None,
) -> Array:
    """Uniform draws from [low, high) (where high - low is coarse, rounding may give `high`).

    dtype: float32 (24 random bits a draw) or float64 (53), the library's or its name.

    >>> from backends import random
    >>> random.uniform(random.key(0, "numpy"), 2, "float32", -1.0, 1.0).round(4)
    array([-0.5674,  0.6082], dtype=float32)
    """
    backend = of(key)
    width = _width(backend, dtype)
    draw = backend.compile(_unit, static=(0, 2, 3, 4))
    draws = draw(backend, key, _tuple(shape), width, first_row)
    # Not compiled: fusing * with + would round once less than other libraries do.
    return draws if (low, high) == (0.0, 1.0) else draws * (high - low) + low


def _unit(
    backend: Backend, key: Array, shape: tuple[int, ...], width: int, first_row: int | None
) -> Array:
    """Uniform draws from [0, 1). Every product and sum is exact, so nothing can round otherwise."""
    xp = backend.xp
    if width == 32:
        words = _bits(backend, key, shape, first_row)
        return xp.astype(words >> 8 & 0xFFFFFF, xp.float32) * 2.0**-24
    # Without rows to count by, all is one row.
    by_row = first_row is not None and shape
    rows, size = (shape[0], math.prod(shape[1:])) if by_row else (1, math.prod(shape))
    words = _bits(backend, key, (rows, 2 * size), first_row if by_row else None)
    upper = xp.astype(words[:, :size] >> 5 & 0x7FFFFFF, xp.float64)
    lower = xp.astype(words[:, size:] >> 6 & 0x3FFFFFF, xp.float64)
    return xp.reshape((upper * 2.0**26 + lower) * 2.0**-53, shape)


@_near_key
def normal(key: Array, shape: Shape, dtype: DType | str, first_row: int | None = None) -> Array:
    """Draws from the normal distribution of mean 0 and variance 1.

    dtype: float32 (at most 5.4 from 0) or float64 (8.2), the library's or its name.

    >>> from backends import random
    >>> random.normal(random.key(0, "numpy"), 2, "float32").round(4)
    array([-0.7848,  0.8564], dtype=float32)
    """
    backend = of(key)
    width = _width(backend, dtype)
    # From the middle of each of the intervals of `uniform`: never 0 or 1, and symmetric.
    q = (uniform(key, shape, dtype, first_row=first_row) - 0.5) + (
        2.0**-25 if width == 32 else 2.0**-54
    )
    return normal_quantile(q, width, backend.xp)


@_near_key
def bernoulli(key: Array, p: float, shape: Shape, first_row: int | None = None) -> Array:
    """True with probability `p`.

    >>> from backends import random
    >>> random.bernoulli(random.key(0, "numpy"), 0.5, 4)
    array([ True, False,  True, False])
    """
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"expected a probability from 0 to 1, got {p}")
    words = bits(key, shape, first_row)
    threshold = round(p * 2**32) - 2**31  # the words are at or above -2^31
    return words < threshold if threshold < 2**31 else words == words


@_near_key
def permutation(key: Array, n: int) -> Array:
    """0 to n - 1 in random order, as the library's index dtype.

    >>> from backends import random
    >>> random.permutation(random.key(0, "numpy"), 5)
    array([0, 4, 3, 1, 2])
    """
    return of(key).xp.argsort(bits(key, n), stable=True)


def _threefry(key: Array, x0: Array, x1: Array) -> tuple[Array, Array]:
    """The block cipher on counters x0, x1: (n,) int32. Sums wrap, as in every library's int32."""
    backend = of(key)
    done = backend.threefry(key, x0, x1)
    if done is not None:
        return done
    xp = backend.xp
    k0, k1 = key[:1], key[1:]
    schedule = (k0, k1, k0 ^ k1 ^ PARITY)
    x0, x1 = xp.add(x0, k0), xp.add(x1, k1)
    for turn in range(5):
        for rotation in ROTATIONS[turn % 2]:
            x0 = x0 + x1
            low = (x1 >> 32 - rotation) & (1 << rotation) - 1  # >> brings in copies of the sign
            x1 = (x1 << rotation | low) ^ x0
        x0 = x0 + schedule[(turn + 1) % 3]
        x1 = x1 + (schedule[(turn + 2) % 3] + (turn + 1))
    return x0, x1


def _signed(word: int) -> int:
    """The low 32 bits as a signed integer."""
    return (word + 2**31) % 2**32 - 2**31


def _tuple(shape: Shape) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else tuple(shape)


def _width(backend: Backend, dtype: DType | str) -> int:
    name = backend.dtype_name(dtype)
    if name not in ("float32", "float64"):
        raise TypeError(f"random draws are float32 or float64; expected one of them, got {name}")
    return 32 if name == "float32" else 64
