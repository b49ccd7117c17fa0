"""Starting values: functions of (key, shape, dtype), on the library and device of the key.

The uniform and normal ones give the same bits on every backend. The fans of a weight of shape
(..., inputs, outputs) count the axes in front as its window: (product of the front) * inputs, and
so for outputs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from backends import random, scoped
from tinynn.trace import backend_of, namespace

__all__ = [
    "Constant",
    "Normal",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "lecun_normal",
    "lecun_uniform",
    "ones",
    "orthogonal",
    "zeros",
]

Array: TypeAlias = Any
Initializer: TypeAlias = Callable[[Array, tuple[int, ...], Any], Array]


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) < 2:
        return math.prod(shape), math.prod(shape)
    window = math.prod(shape[:-2])
    return window * shape[-2], window * shape[-1]


def _uniform(key: Array, shape: tuple[int, ...], dtype: Any, variance: float) -> Array:
    limit = math.sqrt(3.0 * variance)
    return random.uniform(key, shape, dtype, -limit, limit)


def _normal(key: Array, shape: tuple[int, ...], dtype: Any, variance: float) -> Array:
    return random.normal(key, shape, dtype) * math.sqrt(variance)


@scoped
def glorot_uniform(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Uniform of variance 2 / (inputs + outputs): for tanh, sigmoid and linear layers.

    Source: Glorot and Bengio 2010.

    Parameters
    ----------
    key
        (2,) int32, a key of `backends.random`, on the device wanted.
    shape
        (inputs, outputs), or more axes, of which the last is the outputs.
    dtype
        The library's, or its name: float32 or float64.

    Examples
    --------
    >>> import backends, numpy as np
    >>> key = backends.random.key(0, "numpy")
    >>> w = glorot_uniform(key, (2, 4), np.float32)
    >>> w.shape, w.dtype.name, bool(abs(w).max() <= 1.0)
    ((2, 4), 'float32', True)
    """
    return _uniform(key, shape, dtype, 2.0 / max(1, sum(_fans(shape))))


@scoped
def glorot_normal(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Normal of variance 2 / (inputs + outputs) (Glorot and Bengio 2010).

    Parameters
    ----------
    key
        (2,) int32, a key of `backends.random`, on the device wanted.
    shape
        (inputs, outputs), or more axes, of which the last is the outputs.
    dtype
        The library's, or its name: float32 or float64.
    """
    return _normal(key, shape, dtype, 2.0 / max(1, sum(_fans(shape))))


@scoped
def he_uniform(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Uniform of variance 2 / inputs, for relu and the like (He et al. 2015, arXiv:1502.01852).

    Parameters
    ----------
    key
        (2,) int32, a key of `backends.random`, on the device wanted.
    shape
        (inputs, outputs), or more axes, of which the last is the outputs.
    dtype
        The library's, or its name: float32 or float64.
    """
    return _uniform(key, shape, dtype, 2.0 / max(1, _fans(shape)[0]))


@scoped
def he_normal(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Normal of variance 2 / inputs (He et al. 2015, arXiv:1502.01852).

    Parameters
    ----------
    key
        (2,) int32, a key of `backends.random`, on the device wanted.
    shape
        (inputs, outputs), or more axes, of which the last is the outputs.
    dtype
        The library's, or its name: float32 or float64.
    """
    return _normal(key, shape, dtype, 2.0 / max(1, _fans(shape)[0]))


@scoped
def lecun_uniform(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Uniform of variance 1 / inputs (LeCun et al. 1998, "Efficient BackProp").

    Parameters
    ----------
    key
        (2,) int32, a key of `backends.random`, on the device wanted.
    shape
        (inputs, outputs), or more axes, of which the last is the outputs.
    dtype
        The library's, or its name: float32 or float64.
    """
    return _uniform(key, shape, dtype, 1.0 / max(1, _fans(shape)[0]))


@scoped
def lecun_normal(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Normal of variance 1 / inputs (LeCun et al. 1998, "Efficient BackProp").

    Parameters
    ----------
    key
        (2,) int32, a key of `backends.random`, on the device wanted.
    shape
        (inputs, outputs), or more axes, of which the last is the outputs.
    dtype
        The library's, or its name: float32 or float64.
    """
    return _normal(key, shape, dtype, 1.0 / max(1, _fans(shape)[0]))


@scoped
def orthogonal(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Columns (or, where there are fewer, rows) that are orthonormal, uniformly distributed.

    The factorisation is the library's own, so backends agree to rounding, not to the bit.
    Source: Saxe et al. 2013, arXiv:1312.6120; the signs after Mezzadri 2007, math-ph/0609050.

    Parameters
    ----------
    key
        (2,) int32, a key of `backends.random`, on the device wanted.
    shape
        (..., outputs), at least two axes; the axes in front are taken as one.
    dtype
        The library's, or its name: float32 or float64.

    Examples
    --------
    >>> import backends, numpy as np
    >>> q = orthogonal(backends.random.key(0, "numpy"), (4, 2), np.float64)
    >>> bool(np.allclose(q.T @ q, np.eye(2)))
    True
    """
    if len(shape) < 2:
        raise ValueError(f"orthogonal: expected a shape of two axes or more, got {shape}")
    xp = namespace(key)
    rows, columns = math.prod(shape[:-1]), shape[-1]
    q, r = xp.linalg.qr(random.normal(key, (max(rows, columns), min(rows, columns)), dtype))
    diagonal = xp.linalg.diagonal(r)
    q = xp.where(diagonal < 0, -q, q)
    return xp.reshape(q if rows >= columns else q.mT, shape)


@dataclass(frozen=True)
class Constant:
    """Every entry the same value.

    Parameters
    ----------
    value
        Of every entry.

    Examples
    --------
    >>> import backends, numpy as np
    >>> Constant(0.5)(backends.random.key(0, "numpy"), (2,), np.float32).tolist()
    [0.5, 0.5]
    """

    value: float

    def __call__(self, key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        backend = backend_of(key)
        with backend.scope():
            return backend.xp.full(shape, self.value, dtype=dtype, device=backend.device)


@dataclass(frozen=True)
class Normal:
    """Normal of mean 0 and a given standard deviation, whatever the shape.

    Parameters
    ----------
    deviation
        The standard deviation.

    Examples
    --------
    >>> import backends, numpy as np
    >>> Normal(0.02)(backends.random.key(0, "numpy"), (2, 3), np.float32).shape
    (2, 3)
    """

    deviation: float = 1.0

    def __call__(self, key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        return _normal(key, shape, dtype, self.deviation**2)


def zeros(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Every entry 0.

    Parameters
    ----------
    key
        (2,) int32, a key of `backends.random`, on the device wanted.
    shape
        Any.
    dtype
        The library's, or its name: float32 or float64.
    """
    return Constant(0.0)(key, shape, dtype)


def ones(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Every entry 1.

    Parameters
    ----------
    key
        (2,) int32, a key of `backends.random`, on the device wanted.
    shape
        Any.
    dtype
        The library's, or its name: float32 or float64.
    """
    return Constant(1.0)(key, shape, dtype)
