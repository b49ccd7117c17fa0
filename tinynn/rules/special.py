"""Functions that networks need and the standard lacks, with their derivatives.

Each takes plain arrays and arrays of a transformation alike. `Backend` has the versions that a
library computes faster.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import backends
from backends import special
from tinynn import tree
from tinynn.rules.kinds import CONSTANT, RULES, Elementwise, Linear, Reduction, Rule
from tinynn.trace import Function, namespace


def differentiable(rule: Rule) -> Callable[[Callable[..., Any]], Function]:
    """A decorator: a function of plain arrays becomes one step with a derivative of its own."""

    def decorate(body: Callable[..., Any]) -> Function:
        function = Function(body.__name__, body)
        RULES[function] = rule
        return function

    return decorate


def elementwise(
    *partials: Callable[..., Any], c: str = ""
) -> Callable[[Callable[..., Any]], Function]:
    """A decorator: a function of the elements, `body(xp, *args)` of the standard, and its row.

    Plain arrays go to the backend's method of that name, if there is one. Loops call the function
    of C, `c`, and without one hold what the body does; so do programs for libraries that have no
    form of it.
    """

    def decorate(body: Callable[..., Any]) -> Function:
        name = body.__name__

        @wraps(body)
        def raw(*args: Any) -> Any:
            ours = getattr(backends.of(*args), name, None) if own else None
            return ours(*args) if ours else body(namespace(*args), *args)

        own = hasattr(backends.Backend, name)
        return differentiable(Elementwise(*partials, c=c, scalar=body))(raw)

    return decorate


@elementwise(lambda xp, g, y, x: g * (y * (1 - y)))
def sigmoid(xp: Any, x: Any) -> Any:
    """1 / (1 + exp(-x)), for each element."""
    return xp.reciprocal(xp.exp(-x) + 1)


@elementwise(lambda xp, g, y, x: g * xp.astype(xp.greater(x, 0), g.dtype))
def relu(xp: Any, x: Any) -> Any:
    """max(x, 0), for each element; its derivative at 0 is 0."""
    return xp.maximum(x, 0)


def _is_second(xp: Any, y: Any, a: Any, b: Any) -> Any:
    return xp.logical_or(xp.greater(y, a), xp.not_equal(b, b))


@elementwise(
    lambda xp, g, y, a, b: xp.where(_is_second(xp, y, a, b), 0.0, g),
    lambda xp, g, y, a, b: xp.where(_is_second(xp, y, a, b), g, 0.0),
)
def first_maximum(xp: Any, a: Any, b: Any) -> Any:
    """max(a, b), for each element; of equals the derivative is that of `a`, of NaN that of `b`."""
    return xp.maximum(a, b)


@elementwise(lambda xp, g, y, x: g * (1.1283791670955126 * xp.exp(-(x * x))), c="erf")
def erf(xp: Any, x: Any) -> Any:
    """The error function, for each element."""
    return special.erf(x, xp)


@differentiable(Reduction(lambda xp, y, x, axis: xp.exp(x - y)))
def logsumexp(x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    """log(sum(exp(x))) over `axis`, without overflow."""
    return backends.of(x).logsumexp(x, axis=axis, keepdims=keepdims)


def _scatter_back(xp: Any, g: Any, i: int, args: Any, *, axis: int = 0) -> Any:
    return g if i == 0 else xp.take(g, args[1], axis=axis)


@differentiable(Linear(_scatter_back, slice(0, None, 2)))
def scatter_add(x: Any, indices: Any, updates: Any, *, axis: int = 0) -> Any:
    """`x` with `updates` added at `indices` along `axis`; an index that comes twice adds twice."""
    backend = backends.of(x)
    with backend.scope():
        return backend.scatter_add(x, indices, updates, axis=axis)


@differentiable(CONSTANT)
def stop_gradient(x: Any) -> Any:
    """Return `x`, treated as a constant by every derivative.

    By those of PyTorch and JAX, too, in a compiled program as outside of one.

    Parameters
    ----------
    x
        (...) of any dtype, or a tree of such arrays.
    """
    if backends.is_array(x):
        return backends.of(x).stop_gradient(x)
    leaves, structure = tree.flatten(x)
    if any(leaf is x for leaf in leaves):  # a number, or what no derivative knows
        return x
    return structure.unflatten([stop_gradient(leaf) for leaf in leaves])
