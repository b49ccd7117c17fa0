"""Activations, and the few functions that dense layers are made of.

All take arrays of any backend, or traced ones, and keep dtype, shape, library and device.
"""

import math
from typing import Any, TypeAlias

from backends import random, scoped
from tinynn.functional.errors import ShapeError
from tinynn.rules import special
from tinynn.trace import backend_of, namespace
from tinynn.trace.scopes import composite

__all__ = [
    "celu",
    "dropout",
    "elu",
    "gelu",
    "glu",
    "hard_shrink",
    "hard_sigmoid",
    "hard_silu",
    "hard_tanh",
    "leaky_relu",
    "linear",
    "log_sigmoid",
    "log_softmax",
    "mish",
    "one_hot",
    "relu",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "soft_shrink",
    "softmax",
    "softplus",
    "softsign",
    "squareplus",
    "tanh",
    "tanh_shrink",
    "threshold",
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

    >>> import numpy as np
    >>> celu(np.asarray([0.0, 2.0]), alpha=2.0).tolist()
    [0.0, 2.0]
    """
    return namespace(x).where(x > 0, x, alpha * elu(x / alpha))


@composite
@scoped
def selu(x: Array) -> Array:
    """scale * elu(x, alpha), which keeps mean 0 and variance 1 (arXiv:1706.02515).

    >>> import numpy as np
    >>> selu(np.asarray([0.0, 1.0])).round(6).tolist()
    [0.0, 1.050701]
    """
    return 1.0507009873554804934 * elu(x, 1.6732632423543772848)


@composite
@scoped
def mish(x: Array) -> Array:
    """x * tanh(softplus(x)) (Misra 2019, arXiv:1908.08681).

    >>> import numpy as np
    >>> mish(np.asarray([0.0, 1.0])).round(6).tolist()
    [0.0, 0.865098]
    """
    return x * tanh(softplus(x))


@composite
@scoped
def log_sigmoid(x: Array) -> Array:
    """log(sigmoid(x)), without overflow or log(0).

    >>> import numpy as np
    >>> log_sigmoid(np.asarray([-1000.0, 0.0])).round(6).tolist()
    [-1000.0, -0.693147]
    """
    return -softplus(-x)


@composite
@scoped
def softsign(x: Array) -> Array:
    """x / (1 + abs(x)).

    >>> import numpy as np
    >>> softsign(np.asarray([-1.0, 3.0])).tolist()
    [-0.5, 0.75]
    """
    return x / (1.0 + namespace(x).abs(x))


@composite
@scoped
def squareplus(x: Array, b: float = 4.0) -> Array:
    """(x + sqrt(x**2 + b)) / 2, a softplus without exponentials (Barron 2021, arXiv:2112.11687).

    >>> import numpy as np
    >>> squareplus(np.asarray([0.0, 1e30])).tolist()
    [1.0, 1e+30]
    """
    xp = namespace(x)
    positive = x > 0
    # b / (sum / 2) where x is negative: the difference of two large numbers would be 0 there
    total = xp.hypot(x, xp.zeros_like(x) + math.sqrt(b)) + xp.where(positive, x, -x)
    return xp.where(positive, 0.5 * total, 0.5 * b / total)


@composite
@scoped
def relu6(x: Array) -> Array:
    """min(max(x, 0), 6); its slopes at 0 and at 6 are 0.

    >>> import numpy as np
    >>> relu6(np.asarray([-1.0, 2.0, 7.0])).tolist()
    [0.0, 2.0, 6.0]
    """
    return namespace(x).where(x >= 6.0, 6.0, relu(x))


@composite
@scoped
def hard_sigmoid(x: Array) -> Array:
    """relu6(x + 3) / 6, the sigmoid in straight lines.

    >>> import numpy as np
    >>> hard_sigmoid(np.asarray([-4.0, 0.0, 4.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    return relu6(x + 3.0) / 6.0


@composite
@scoped
def hard_silu(x: Array) -> Array:
    """x * hard_sigmoid(x), also called hard_swish (Howard et al. 2019, arXiv:1905.02244).

    >>> import numpy as np
    >>> hard_silu(np.asarray([-4.0, 1.5, 4.0])).tolist()
    [-0.0, 1.125, 4.0]
    """
    return x * hard_sigmoid(x)


@composite
@scoped
def hard_tanh(x: Array) -> Array:
    """x, at least -1 and at most 1; its slopes there are 1, as in JAX.

    >>> import numpy as np
    >>> hard_tanh(np.asarray([-2.0, 0.5, 2.0])).tolist()
    [-1.0, 0.5, 1.0]
    """
    xp = namespace(x)
    return xp.where(x > 1.0, 1.0, xp.where(x < -1.0, -1.0, x))


@composite
@scoped
def hard_shrink(x: Array, threshold: float = 0.5) -> Array:
    """x where abs(x) > threshold, 0 elsewhere.

    >>> import numpy as np
    >>> hard_shrink(np.asarray([-1.0, 0.5, 2.0])).tolist()
    [-1.0, 0.0, 2.0]
    """
    xp = namespace(x)
    return xp.where(xp.abs(x) <= threshold, 0.0, x)


@composite
@scoped
def soft_shrink(x: Array, threshold: float = 0.5) -> Array:
    """x moved towards 0 by the threshold, and 0 where it would pass it.

    >>> import numpy as np
    >>> soft_shrink(np.asarray([-1.0, 0.5, 2.0])).tolist()
    [-0.5, 0.0, 1.5]
    """
    xp = namespace(x)
    moved = xp.where(x > 0, x - threshold, x + threshold)
    return xp.where(xp.abs(x) <= threshold, 0.0, moved)


@composite
@scoped
def tanh_shrink(x: Array) -> Array:
    """x - tanh(x).

    >>> import numpy as np
    >>> tanh_shrink(np.asarray([0.0, 1000.0])).tolist()
    [0.0, 999.0]
    """
    return x - tanh(x)


@composite
@scoped
def threshold(x: Array, threshold: float = 0.0, value: float = 0.0) -> Array:
    """x where it is above the threshold, `value` elsewhere.

    >>> import numpy as np
    >>> threshold(np.asarray([0.5, 2.0]), 1.0, -1.0).tolist()
    [-1.0, 2.0]
    """
    return namespace(x).where(x <= threshold, value, x)


@composite
@scoped
def glu(x: Array, axis: int = -1) -> Array:
    """The first half of x along the axis, times the sigmoid of the second (arXiv:1612.08083).

    Raises `ShapeError` for an axis of odd length.

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
    return x - special.logsumexp(x, axis=axis, keepdims=True)


@composite
@scoped
def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """The affine map x @ weight + bias.

    Parameters
    ----------
    x
        (..., inputs) floats.
    weight
        (inputs, outputs).
    bias
        (outputs,); None adds nothing.

    Returns
    -------
    array
        (..., outputs).

    Examples
    --------
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

    Source: Srivastava et al. 2014, in its "inverted" form.

    Parameters
    ----------
    x
        (batch, ...) floats.
    rate
        The probability of a 0, at least 0 and below 1.
    key
        (2,) of `backends.random`, on the device of x. The same key drops the same entries
        everywhere.
    first_row
        The number of x's first row in the whole batch, to draw by row; None draws for x as a
        whole.

    Examples
    --------
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

    Parameters
    ----------
    labels
        (...), integers or booleans.
    classes
        The length of the new axis.
    dtype
        Of the result.

    Returns
    -------
    array
        (..., classes).

    Examples
    --------
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
