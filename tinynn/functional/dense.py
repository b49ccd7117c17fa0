"""Functions of dense networks that are no activations."""

from typing import Any, TypeAlias

from backends import random, scoped
from tinynn.rules.special import stop_gradient
from tinynn.trace import backend_of, namespace
from tinynn.trace.scopes import composite

__all__ = ["dropout", "linear", "one_hot"]

Array: TypeAlias = Any


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
def dropout(x: Array, rate: Any, key: Array, first_row: int | None = None) -> Array:
    """Each entry of x set to 0 with probability `rate`, the rest scaled by 1 / (1 - rate).

    Source: Srivastava et al. 2014, in its "inverted" form.

    Parameters
    ----------
    x
        (batch, ...) floats.
    rate
        The probability of a 0, at least 0 and below 1: a number, or a 0-d array of floats, which
        is not differentiated by.
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
    xp, shape = namespace(x, key), tuple(x.shape)
    if not hasattr(rate, "dtype"):
        if not 0.0 <= rate < 1.0:
            raise ValueError(
                f"dropout: expected a rate of 0 or more and below 1, got {rate!r}. To fix it: give "
                "the share that becomes 0"
            )
        keep = random.bernoulli(key, 1.0 - rate, shape, first_row)
        return xp.multiply(x, xp.astype(keep, x.dtype) / (1.0 - rate))
    kept = stop_gradient(1.0 - rate)
    xp = namespace(x, key, kept)
    keep = _below(random.bits(key, shape, first_row), kept)
    return xp.multiply(x, xp.astype(keep, x.dtype) / xp.astype(kept, x.dtype))


def _below(words: Array, p: Array) -> Array:
    """True where a random word, as a number from 0 to 1, lies below p: exact in every dtype of p.

    Words and p are compared by their upper and lower 16 bits, which float32 holds in full.
    """
    xp = namespace(words, p)
    scaled = p * 2.0**16
    upper = xp.floor(scaled)
    lower = xp.astype(xp.round((scaled - upper) * 2.0**16), xp.int32)
    above = xp.astype(upper, xp.int32) - 2**15  # as the upper half of a word with its sign
    high, low = words >> 16, words & 0xFFFF
    return xp.logical_or(high < above, xp.logical_and(high == above, low < lower))


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
