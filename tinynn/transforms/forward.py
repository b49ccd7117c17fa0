"""Forward mode: jvp.

An array of a `Forward` trace carries its tangent beside its value, and every call computes the
tangent of its result at once.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from backends import scope_of
from tinynn import tree
from tinynn.trace import Traced, constant, namespace, plain, regrouped
from tinynn.transforms.base import (
    Derivative,
    Entry,
    applied,
    is_inexact,
    is_traced,
    name_of,
    space_of_leaf,
)


class Forward(Derivative):
    """Carries a tangent with each array: in its slot."""

    def follow(self, result: Any, space: Any, entry: Entry) -> Any:
        return self._with(space, result, _pushed(entry))

    def follow_several(self, results: Any, space: Any, entry: Entry) -> Any:
        pairs = zip(results, _pushed(entry), strict=True)
        return regrouped(results, [self._with(space, item, t) for item, t in pairs])

    def _with(self, space: Any, value: Any, tangent: Any) -> Any:
        if not is_inexact(value, space):
            return constant(value, space)
        return Traced(value, self, plain(like(space, tangent, value)), space)


def _pushed(entry: Entry) -> Any:
    """The tangent by the rule, on the library's own namespace where nothing is Traced."""
    rule, function, space, values, tangents, y, kwargs = entry
    xp = space.xp
    if is_traced(y) or any(map(is_traced, tangents.values())):
        values, y = [constant(a, space) for a in values], constant(y, space)
        xp, tangents = space, {i: constant(t, space) for i, t in tangents.items()}
    return rule.jvp(function, xp, tangents, y, values, kwargs)


def like(xp: Any, t: Any, y: Any) -> Any:
    """The tangent `t` with the shape and data type of the value `y`."""
    if t.dtype != y.dtype:
        real = not xp.isdtype(y.dtype, "complex floating")
        t = xp.real(t) if real and xp.isdtype(t.dtype, "complex floating") else t
        t = xp.astype(t, y.dtype)
    return t if t.shape == y.shape else xp.broadcast_to(t, y.shape)


def jvp(
    f: Callable[..., Any], primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Any, Any]:
    """The value of `f(*primals)`, and its directional derivative along the tangents.

    Parameters
    ----------
    f
        A function of trees of arrays that returns a tree of arrays.
    primals
        Its arguments, trees of floating-point arrays.
    tangents
        A tree like each of the primals, each array of its shape and dtype.

    Returns
    -------
    (out, tangent_out)
        Two trees alike.

    Raises
    ------
    TypeError
        A primal is not of floating-point arrays.
    ValueError
        Tangents and primals are not alike.

    Examples
    --------
    >>> import numpy as np
    >>> out, change = jvp(lambda x: x * x, (np.asarray([1.0, 3.0]),), (np.asarray([1.0, 10.0]),))
    >>> change
    array([ 2., 60.])
    """
    name = name_of("jvp", f)
    if len(primals) != len(tangents):
        raise ValueError(f"{name}: got {len(primals)} primals but {len(tangents)} tangents")
    trace = Forward(name)
    moving, leaves = [], tree.leaves(primals)
    for place, (primal, tangent) in enumerate(zip(primals, tangents, strict=True)):
        spaces = [space_of_leaf(name, place, primal, leaf) for leaf in tree.leaves(primal)]
        _check_tangent(name, place, primal, tangent)
        supply = iter(spaces)
        moving.append(
            tree.map(
                lambda x, t: Traced(plain(x), trace, plain(t), next(supply)),  # noqa: B023
                primal,
                tangent,
            )
        )
    with scope_of(plain(leaves[0])) if leaves else nullcontext():
        result = applied(f, *moving)
    trace.open = False
    out = tree.map(trace.leave, result)
    return out, tree.map(lambda leaf: _tangent_of(trace, leaf), result)


def _tangent_of(trace: Forward, leaf: Any) -> Any:
    if type(leaf) is Traced and leaf.trace is trace:
        return leaf.slot
    leaf = plain(leaf)
    return namespace(leaf).zeros_like(leaf)


def _check_tangent(name: str, place: int, primal: Any, tangent: Any) -> None:
    expected, got = dict(tree.paths(primal)), dict(tree.paths(tangent))
    if expected.keys() != got.keys():
        raise ValueError(
            f"{name}: tangent {place}: expected a tree like the primal, with the leaves "
            f"{list(expected)}, got {list(got)}"
        )
    for path, x in expected.items():
        t = got[path]
        where = f"tangent {place}" + (f", {path!r}" if path else "")
        if not hasattr(t, "dtype") or t.shape != x.shape or t.dtype != x.dtype:
            seen = (
                f"shape {tuple(t.shape)} and dtype {t.dtype}"
                if hasattr(t, "dtype")
                else type(t).__name__
            )
            raise ValueError(
                f"{name}: {where}: expected an array of shape {tuple(x.shape)} and dtype "
                f"{x.dtype} like the primal's, got {seen}"
            )
