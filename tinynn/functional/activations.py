"""Activations, of each element and over an axis.

All take arrays of any backend, or traced ones, and keep dtype, shape, library and device.
"""

import math
from typing import Any, TypeAlias

from backends import scoped
from tinynn.functional.errors import ShapeError
from tinynn.rules import special
from tinynn.trace import namespace
from tinynn.trace.scopes import composite

__all__ = [
    "celu",
    "elu",
    "gelu",
    "glu",
    "leaky_relu",
    "log_sigmoid",
    "log_softmax",
    "mish",
    "relu",
    "selu",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "softsign",
    "sparsemax",
    "squareplus",
    "tanh",
    "tanh_shrink",
]

Array: TypeAlias = Any


def relu(x: Array) -> Array:
    """max(x, 0); its slope at 0 is 0.

    Parameters
    ----------
    x
        (...) floats.

    Examples
    --------
    >>> import numpy as np
    >>> relu(np.asarray([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    return special.relu(x)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow.

    Parameters
    ----------
    x
        (...) floats.

    Examples
    --------
    >>> import numpy as np
    >>> sigmoid(np.asarray([-1000.0, 0.0, 1000.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    return special.sigmoid(x)


@composite
@scoped
def leaky_relu(x: Array, slope: Array | float = 0.01) -> Array:
    """x where positive, slope * x elsewhere.

    Parameters
    ----------
    x
        (...) floats.
    slope
        Where x is negative: a number, or an array that broadcasts with x.

    Examples
    --------
    >>> import numpy as np
    >>> leaky_relu(np.asarray([-1.0, 2.0])).tolist()
    [-0.01, 2.0]
    """
    return namespace(x, slope).where(x > 0, x, slope * x)


@composite
@scoped
def elu(x: Array, alpha: float = 1.0) -> Array:
    """x where positive, alpha * (exp(x) - 1) elsewhere (Clevert et al. 2015, arXiv:1511.07289).

    Parameters
    ----------
    x
        (...) floats.
    alpha
        Minus the limit for small x.

    Examples
    --------
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
def gelu(x: Array, approximate: bool = False) -> Array:
    """x times the normal distribution function of x (Hendrycks and Gimpel, arXiv:1606.08415).

    Parameters
    ----------
    x
        (...) floats.
    approximate
        By a tanh, as GPT-2 has it, at most 5e-4 away; otherwise exactly.

    Examples
    --------
    >>> import numpy as np
    >>> gelu(np.asarray([0.0, 1.0])).round(6).tolist()
    [0.0, 0.841345]
    """
    if approximate:
        return 0.5 * x * (1.0 + tanh(math.sqrt(2.0 / math.pi) * x * (1.0 + 0.044715 * (x * x))))
    return 0.5 * x * (1.0 + special.erf(x * math.sqrt(0.5)))


@composite
@scoped
def silu(x: Array) -> Array:
    """x * sigmoid(x) (arXiv:1702.03118).

    Parameters
    ----------
    x
        (...) floats.

    Examples
    --------
    >>> import numpy as np
    >>> silu(np.asarray([0.0, 1.0])).round(6).tolist()
    [0.0, 0.731059]
    """
    return x * sigmoid(x)


@composite
@scoped
def softplus(x: Array) -> Array:
    """log(1 + exp(x)), without overflow.

    Parameters
    ----------
    x
        (...) floats.

    Examples
    --------
    >>> import numpy as np
    >>> softplus(np.asarray([-1000.0, 0.0, 1000.0])).round(6).tolist()
    [0.0, 0.693147, 1000.0]
    """
    xp = namespace(x)
    # not maximum(x, 0) + log1p(exp(-abs(x))): two kinks at 0 whose derivatives need not cancel
    return xp.logaddexp(x, xp.zeros_like(x))


def tanh(x: Array) -> Array:
    """The hyperbolic tangent.

    Parameters
    ----------
    x
        (...) floats.

    Examples
    --------
    >>> import numpy as np
    >>> tanh(np.asarray([0.0, 1000.0])).tolist()
    [0.0, 1.0]
    """
    return namespace(x).tanh(x)


@composite
@scoped
def celu(x: Array, alpha: float = 1.0) -> Array:
    """x where positive, alpha * (exp(x / alpha) - 1) elsewhere (Barron 2017, arXiv:1704.07483).

    Parameters
    ----------
    x
        (...) floats.
    alpha
        How far below 0 the values go.

    Examples
    --------
    >>> import numpy as np
    >>> celu(np.asarray([0.0, 2.0]), alpha=2.0).tolist()
    [0.0, 2.0]
    """
    return namespace(x).where(x > 0, x, alpha * elu(x / alpha))


@composite
@scoped
def selu(x: Array) -> Array:
    """scale * elu(x, alpha), which keeps mean 0 and variance 1 (arXiv:1706.02515).

    Parameters
    ----------
    x
        (...) floats.

    Examples
    --------
    >>> import numpy as np
    >>> selu(np.asarray([0.0, 1.0])).round(6).tolist()
    [0.0, 1.050701]
    """
    return 1.0507009873554804934 * elu(x, 1.6732632423543772848)


@composite
@scoped
def mish(x: Array) -> Array:
    """x * tanh(softplus(x)) (Misra 2019, arXiv:1908.08681).

    Parameters
    ----------
    x
        (...) floats.

    Examples
    --------
    >>> import numpy as np
    >>> mish(np.asarray([0.0, 1.0])).round(6).tolist()
    [0.0, 0.865098]
    """
    return x * tanh(softplus(x))


@composite
@scoped
def log_sigmoid(x: Array) -> Array:
    """log(sigmoid(x)), without overflow or log(0).

    Parameters
    ----------
    x
        (...) floats.

    Examples
    --------
    >>> import numpy as np
    >>> log_sigmoid(np.asarray([-1000.0, 0.0])).round(6).tolist()
    [-1000.0, -0.693147]
    """
    return -softplus(-x)


@composite
@scoped
def softsign(x: Array) -> Array:
    """x / (1 + abs(x)).

    Parameters
    ----------
    x
        (...) floats.

    Examples
    --------
    >>> import numpy as np
    >>> softsign(np.asarray([-1.0, 3.0])).tolist()
    [-0.5, 0.75]
    """
    return x / (1.0 + namespace(x).abs(x))


@composite
@scoped
def squareplus(x: Array, b: float = 4.0) -> Array:
    """(x + sqrt(x**2 + b)) / 2, a softplus without exponentials (Barron 2021, arXiv:2112.11687).

    Parameters
    ----------
    x
        (...) floats.
    b
        0 or more; the value at 0 is sqrt(b) / 2.

    Examples
    --------
    >>> import numpy as np
    >>> squareplus(np.asarray([0.0, 1e30])).tolist()
    [1.0, 1e+30]
    """
    xp = namespace(x)
    positive = x > 0
    # b / (sum / 2) where x is negative: the difference of two large numbers would be 0 there
    total = xp.hypot(x, xp.zeros_like(x) + math.sqrt(b)) + xp.where(positive, x, -x)
    # The sum is 0 at 0 alone, and only without b.
    return xp.where(positive, 0.5 * total, 0.5 * b / xp.where(total == 0, 1.0, total))


@composite
@scoped
def tanh_shrink(x: Array) -> Array:
    """x - tanh(x).

    Parameters
    ----------
    x
        (...) floats.

    Examples
    --------
    >>> import numpy as np
    >>> tanh_shrink(np.asarray([0.0, 1000.0])).tolist()
    [0.0, 999.0]
    """
    return x - tanh(x)


@composite
@scoped
def glu(x: Array, axis: int = -1) -> Array:
    """The first half of x along the axis, times the sigmoid of the second (arXiv:1612.08083).

    Raises `ShapeError` for an axis of odd length.

    Parameters
    ----------
    x
        (...) floats, of an even length along the axis.
    axis
        The one that is halved.

    Examples
    --------
    >>> import numpy as np
    >>> glu(np.asarray([[1.0, 2.0, 0.0, 1000.0]])).tolist()
    [[0.5, 2.0]]
    """
    if x.shape[axis] % 2:
        raise ShapeError(
            f"glu: expected an even number of elements along axis {axis}, got shape "
            f"{tuple(x.shape)}. To fix it: give the layer before twice the features"
        )
    before, half = (slice(None),) * (axis % x.ndim), x.shape[axis] // 2
    return x[(*before, slice(half), ...)] * sigmoid(x[(*before, slice(half, None), ...)])


@composite
@scoped
def softmax(x: Array, axis: int = -1) -> Array:
    """exp(x) / sum(exp(x)) along the axis, without overflow; each slice sums to one.

    Parameters
    ----------
    x
        (...) floats.
    axis
        Of the classes.

    Examples
    --------
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

    Parameters
    ----------
    x
        (...) floats.
    axis
        Of the classes.

    Examples
    --------
    >>> import numpy as np
    >>> log_softmax(np.asarray([[0.0, 1000.0]])).tolist()
    [[-1000.0, 0.0]]
    """
    xp = namespace(x)
    # Shifted first: beside a large maximum the logarithm of the sum would lose its digits.
    x = xp.subtract(x, xp.max(special.stop_gradient(x), axis=axis, keepdims=True))
    return x - special.logsumexp(x, axis=axis, keepdims=True)


@composite
@scoped
def sparsemax(x: Array, axis: int = -1) -> Array:
    """The nearest probabilities to x along the axis, most of which may be 0.

    It is the p >= 0 with sum 1 for which sum((p - x) ** 2) is least: max(0, x - t), where t is such
    that the sum is 1. Unlike `softmax` it gives zeros, and its slope at them is 0.

    Parameters
    ----------
    x
        (...) floats.
    axis
        Of the classes.

    References
    ----------
    Martins and Astudillo 2016, From Softmax to Sparsemax, arXiv:1602.02068, algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> sparsemax(np.asarray([[0.5, 0.25, -3.0], [9.0, 0.0, 0.0]])).tolist()
    [[0.625, 0.375, 0.0], [1.0, 0.0, 0.0]]
    """
    xp = namespace(x)
    x = xp.subtract(x, xp.max(special.stop_gradient(x), axis=axis, keepdims=True))
    found = special.stop_gradient(x)
    down = xp.flip(xp.sort(found, axis=axis), axis=axis)
    ranks = xp.cumulative_sum(xp.ones_like(down), axis=axis)
    # Which elements are above 0 does not change with a small change of x: a constant.
    among = xp.greater(1.0 + ranks * down, xp.cumulative_sum(down, axis=axis))
    least = xp.min(xp.where(among, down, xp.zeros_like(down)), axis=axis, keepdims=True)
    support = xp.logical_not(xp.less(found, least))  # so that NaN stays NaN
    count = xp.sum(xp.astype(support, x.dtype), axis=axis, keepdims=True)
    total = xp.sum(xp.where(support, x, xp.zeros_like(x)), axis=axis, keepdims=True)
    return xp.where(support, x - (total - 1.0) / count, xp.zeros_like(x))
