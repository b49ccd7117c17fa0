"""Running means that are kept as sums.

A running mean m = b * m + (1 - b) * g is kept as s = m / (1 - b), so that s = b * s + g: the factor
1 - b goes into what is computed once a step, and costs nothing for each parameter. Where b is a
schedule, so does what it takes to go from one b to the next.
"""

import math
from typing import Any, TypeAlias

from tinynn.trace import namespace

from .base import previous

Array: TypeAlias = Any


def decay_of(setting: Any, value: Any, step: Array) -> Any:
    """The factor of the old sum. setting: the field; value: its value at this step, from 1 on."""
    if not callable(setting):
        return value
    return value * ((1.0 - previous(setting, value, step)) / (1.0 - value))


def corrected(step: Array, beta: Any) -> Array:
    """1 - beta**step; near 0 for a beta near 1, where the power would lose float32's digits."""
    xp = namespace(step)
    if hasattr(beta, "dtype"):  # log(0) would be right, and warn
        logarithm = xp.log(xp.maximum(beta, 1e-30))
    elif beta == 0.0:
        return xp.ones_like(step)
    else:
        logarithm = math.log(beta)
    return -xp.expm1(logarithm * step)


def sqrt(value: Any) -> Any:
    """The root of a number or an array."""
    return namespace(value).sqrt(value) if hasattr(value, "dtype") else math.sqrt(value)
