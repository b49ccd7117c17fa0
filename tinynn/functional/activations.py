"""Activations, and the few functions that dense layers are made of.

All take arrays of any backend, or traced ones, and keep dtype, shape, library and device.
"""

import math
from typing import Any, TypeAlias

from backends import random, scoped
from tinynn.rules import special
from tinynn.trace import backend_of, namespace
from tinynn.trace.scopes import composite

__all__ = [
    "dropout",
    "elu",
    "gelu",
    "leaky_relu",
    "linear",
    "log_softmax",
    "one_hot",
    "relu",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "tanh",
]

Array: TypeAlias = Any


def relu(x: Array) -> Array:
    """max(x, 0); its slope at 0 is 0.

    >>> import numpy as np
    >>> relu(np.asarray([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    return special.relu(x)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow.

    >>> import numpy as np
    >>> sigmoid(np.asarray([-1000.0, 0.0, 1000.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    return special.sigmoid(x)


@composite
@scoped
def leaky_relu(x: Array, slope: float = 0.01) -> Array:
    """x where positive, slope * x elsewhere.

    >>> import numpy as np
    >>> leaky_relu(np.asarray([-1.0, 2.0])).tolist()
    [-0.01, 2.0]
    """
    return namespace(x).where(x > 0, x, slope * x)


@composite
@scoped
def elu(x: Array, alpha: float = 1.0) -> Array:
    """x where positive, alpha * (exp(x) - 1) elsewhere (Clevert et al. 2015, arXiv:1511.07289).

    >>> import numpy as np
    >>> elu(np.asarray([0.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    xp = namespace(x)
    positive = x > 0
    # exp is not given large x, since its infinity would make the derivative NaN
    low = xp.where(positive, xp.zeros_like(x), x)
    return xp.where(positive, x, alpha * xp.expm1(low))


@composite
@scoped
def gelu(x: Array) -> Array:
    """x times the normal distribution function of x, exactly (arXiv:1606.08415).

    >>> import numpy as np
    >>> gelu(np.asarray([0.0, 1.0])).round(6).tolist()
    [0.0, 0.841345]
    """
    return 0.5 * x * (1.0 + special.erf(x * math.sqrt(0.5)))


@composite
@scoped
def silu(x: Array) -> Array:
    """x * sigmoid(x) (arXiv:1702.03118).

    >>> import numpy as np
    >>> silu(np.asarray([0.0, 1.0])).round(6).tolist()
    [0.0, 0.731059]
    """
    return x * sigmoid(x)


@composite
@scoped
def softplus(x: Array) -> Array:
    """log(1 + exp(x)), without overflow.

    >>> import numpy as np
    >>> softplus(np.asarray([-1000.0, 0.0, 1000.0])).round(6).tolist()
    [0.0, 0.693147, 1000.0]
    """
    xp = namespace(x)
    # not maximum(x, 0) + log1p(exp(-abs(x))): two kinks at 0 whose derivatives need not cancel
    return xp.logaddexp(x, xp.zeros_like(x))


def tanh(x: Array) -> Array:
    """The hyperbolic tangent.

    >>> import numpy as np
    >>> tanh(np.asarray([0.0, 1000.0])).tolist()
    [0.0, 1.0]
    """
    return namespace(x).tanh(x)


@composite
@scoped
def softmax(x: Array, axis: int = -1) -> Array:
    """exp(x) / sum(exp(x)) along the axis, without overflow; each slice sums to one.

    >>> import numpy as np
    >>> softmax(np.asarray([[1000.0, 1000.0]])).tolist()
    [[0.5, 0.5]]
    """
    xp = namespace(x)
    # the shift cancels out of the result, and so out of its derivative
    powers = xp.exp(xp.subtract(x, xp.max(special.stop_gradient(x), axis=axis, keepdims=True)))
    return powers / xp.sum(powers, axis=axis, keepdims=True)


@composite
@scoped
def log_softmax(x: Array, axis: int = -1) -> Array:
    """log(softmax(x)) along the axis, without overflow or log(0).

    >>> import numpy as np
    >>> log_softmax(np.asarray([[0.0, 1000.0]])).tolist()
    [[-1000.0, 0.0]]
    """
    return x - special.logsumexp(x, axis=axis, keepdims=True)


@composite
@scoped
def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """The affine map x @ weight + bias.

    x: (..., inputs), weight: (inputs, outputs), bias: (outputs,). Returns (..., outputs).

    >>> import numpy as np
    >>> linear(np.ones((1, 2)), np.ones((2, 3)), np.zeros(3)).tolist()
    [[2.0, 2.0, 2.0]]
    """
    xp = namespace(x, weight, bias)
    y = xp.matmul(x, weight)
    return y if bias is None else xp.add(y, bias)


@composite
@scoped
def dropout(x: Array, rate: float, key: Array, first_row: int | None = None) -> Array:
    """Each entry of x set to 0 with probability `rate`, the rest scaled by 1 / (1 - rate).

    key: (2,) of backends.random, on x's device. The same key drops the same entries everywhere.
    first_row: the number of x's first row in the whole batch, to draw by row.
    Source: Srivastava et al. 2014, in its "inverted" form.

    >>> import backends, numpy as np
    >>> key = backends.random.key(0, backends.of(np.ones(1)))
    >>> sorted(set(dropout(np.ones(100), 0.5, key).tolist()))
    [0.0, 2.0]
    """
    if hasattr(rate, "dtype"):
        raise TypeError(
            "dropout: expected a number as rate, which is compared with random bits exactly, got "
            "an array. To fix it: give a number"
        )
    xp = namespace(x)
    keep = random.bernoulli(key, 1.0 - rate, tuple(x.shape), first_row)
    return xp.multiply(x, xp.astype(keep, x.dtype) / (1.0 - rate))


@composite
@scoped
def one_hot(labels: Array, classes: int, dtype: Any) -> Array:
    """1 at each label, 0 elsewhere; a label out of range gives a row of zeros.

    labels: (...), integers or booleans. Returns (..., classes) of `dtype`.

    >>> import numpy as np
    >>> one_hot(np.asarray([0, 2]), 3, np.float32).tolist()
    [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    xp = namespace(labels)
    backend = backend_of(labels)
    with backend.scope():
        positions = backend.xp.arange(classes, device=backend.device)
    # compared in one dtype: unsigned labels and signed positions have no common one everywhere
    labels = xp.expand_dims(xp.astype(labels, positions.dtype), axis=-1)
    return xp.astype(xp.equal(labels, positions), dtype)
