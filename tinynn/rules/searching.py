"""Derivatives of the sorting and set functions.

What they answer in integers has none; the values that they pick out of `x` do.
"""

from typing import Any

from tinynn.rules.complex import device_of
from tinynn.rules.kinds import RULES, Composed
from tinynn.rules.special import stop_gradient


def _sort(xp: Any, x: Any, *, axis: int = -1, **kwargs: Any) -> Any:
    # Elements that tie keep their order, and each its own derivative.
    order = xp.argsort(stop_gradient(x), axis=axis, **kwargs)
    return xp.take_along_axis(x, order, axis=axis)


def _distinct(xp: Any, x: Any, inverse: Any, count: int) -> Any:
    """The distinct elements of `x`, each taken where it comes first."""
    inverse = xp.reshape(inverse, (-1,))
    order = xp.argsort(inverse, stable=True)
    kinds = xp.arange(count, dtype=inverse.dtype, device=device_of(x))
    first = xp.searchsorted(xp.take(inverse, order, axis=0), kinds)
    return xp.take(xp.reshape(x, (-1,)), xp.take(order, first, axis=0), axis=0)


def _unique_values(xp: Any, x: Any) -> Any:
    values, inverse = xp.unique_inverse(stop_gradient(x))
    return _distinct(xp, x, inverse, values.shape[0])


def _with_values(name: str) -> Composed:
    """A function with several results, of which only `values` has a derivative."""

    def definition(xp: Any, x: Any) -> Any:
        found = getattr(xp, name)(stop_gradient(x))
        return found._replace(values=xp.unique_values(x))

    return Composed(definition)


RULES["sort"] = Composed(_sort)
RULES["unique_values"] = Composed(_unique_values)
for name in ("unique_all", "unique_counts", "unique_inverse"):
    RULES[name] = _with_values(name)
