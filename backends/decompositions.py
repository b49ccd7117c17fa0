"""Functions written as others, for libraries in which the others cost less or can be merged."""

from typing import Any


def logsumexp(xp: Any, x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    """log(sum(exp(x))), without overflow."""
    largest = float(xp.finfo(x.dtype).max)  # an infinite peak would make inf - inf
    peak = xp.max(x, axis=axis, keepdims=True)
    peak = xp.minimum(xp.maximum(peak, -largest), largest)
    total = xp.log(xp.sum(xp.exp(x - peak), axis=axis, keepdims=True)) + peak
    shape = xp.max(x, axis=axis, keepdims=keepdims).shape
    return total if keepdims else xp.reshape(total, shape)


def mean(xp: Any, x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    """The sum over the number of elements, which meets other numbers there."""
    short = xp.isdtype(x.dtype, "real floating") and xp.finfo(x.dtype).bits < 32
    total = xp.sum(xp.astype(x, xp.float32) if short else x, axis=axis, keepdims=keepdims)
    result = total / (x.size // max(total.size, 1))  # the sum of a few may be beyond 16 bits
    return xp.astype(result, x.dtype) if short else result
