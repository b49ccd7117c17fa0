"""Activations of straight pieces: their slopes at the corners are those of JAX."""

from typing import Any, TypeAlias

from backends import scoped
from tinynn.functional.activations import relu
from tinynn.trace import namespace
from tinynn.trace.scopes import composite

__all__ = [
    "hard_shrink",
    "hard_sigmoid",
    "hard_silu",
    "hard_tanh",
    "relu6",
    "soft_shrink",
    "threshold",
]

Array: TypeAlias = Any


@composite
@scoped
def relu6(x: Array) -> Array:
    """min(max(x, 0), 6); its slopes at 0 and at 6 are 0.

    Parameters
    ----------
    x
        (...) floats.

    Examples
    --------
    >>> import numpy as np
    >>> relu6(np.asarray([-1.0, 2.0, 7.0])).tolist()
    [0.0, 2.0, 6.0]
    """
    return namespace(x).where(x >= 6.0, 6.0, relu(x))


@composite
@scoped
def hard_sigmoid(x: Array) -> Array:
    """relu6(x + 3) / 6, the sigmoid in straight lines.

    Parameters
    ----------
    x
        (...) floats.

    Examples
    --------
    >>> import numpy as np
    >>> hard_sigmoid(np.asarray([-4.0, 0.0, 4.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    return relu6(x + 3.0) / 6.0


@composite
@scoped
def hard_silu(x: Array) -> Array:
    """x * hard_sigmoid(x), also called hard_swish (Howard et al. 2019, arXiv:1905.02244).

    Parameters
    ----------
    x
        (...) floats.

    Examples
    --------
    >>> import numpy as np
    >>> hard_silu(np.asarray([-4.0, 1.5, 4.0])).tolist()
    [-0.0, 1.125, 4.0]
    """
    return x * hard_sigmoid(x)


@composite
@scoped
def hard_tanh(x: Array) -> Array:
    """x, at least -1 and at most 1; its slopes there are 1, as in JAX.

    Parameters
    ----------
    x
        (...) floats.

    Examples
    --------
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

    Parameters
    ----------
    x
        (...) floats.
    threshold
        0 or more.

    Examples
    --------
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

    Parameters
    ----------
    x
        (...) floats.
    threshold
        0 or more.

    Examples
    --------
    >>> import numpy as np
    >>> soft_shrink(np.asarray([-1.0, 0.5, 2.0])).tolist()
    [-0.5, 0.0, 1.5]
    """
    xp = namespace(x)
    moved = xp.where(x > 0, x - threshold, x + threshold)
    return xp.where(xp.abs(x) <= threshold, 0.0, moved)


@composite
@scoped
def threshold(x: Array, threshold: float = 0.0, value: float = 0.0) -> Array:
    """x where it is above the threshold, `value` elsewhere.

    Parameters
    ----------
    x
        (...) floats.
    threshold
        The number that x is compared with.
    value
        What takes the place of the others.

    Examples
    --------
    >>> import numpy as np
    >>> threshold(np.asarray([0.5, 2.0]), 1.0, -1.0).tolist()
    [-1.0, 2.0]
    """
    return namespace(x).where(x <= threshold, value, x)
