"""Reverse mode: grad, value_and_grad, vjp.

A call on arrays of a `Reverse` trace is carried out below and written on the trace's tape. The
pullback reads the tape backwards, once: every entry turns the cotangent of its result into
cotangents of its arguments. The tape is in order of execution, so no sorting and no recursion.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any, NamedTuple

from backends import scope_of
from tinynn import tree
from tinynn.trace import (
    Namespace,
    Traced,
    constant,
    namespace,
    plain,
    regrouped,
)
from tinynn.trace.scopes import pullback_origin, scopes
from tinynn.transforms.base import (
    Derivative,
    Entry,
    NotDifferentiableError,
    applied,
    is_inexact,
    is_traced,
    name_of,
    space_of_leaf,
)


class Item(NamedTuple):
    """One of the results of a call that has several: which slot the call has, and which of them."""

    call: int
    which: int
    results: int


class Reverse(Derivative):
    """Writes down what is done to its arrays, so that cotangents can be pulled back through it."""

    pulls = True
    inputs = 0

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.watched: list[tuple[tree.Structure, int]] = []  # and how many leaves each has
        self.tape: list[Any] = []  # the inputs, as they are; then an Entry or Item for each result

    def watch(self, place: int, argument: Any) -> Any:
        """A tree like this argument, whose cotangent will be asked for, its leaves followed.

        All inputs come before all calls.
        """
        leaves, structure = tree.flatten(argument)
        tape, inputs = self.tape, []
        for leaf in leaves:
            space = space_of_leaf(self.name, place, argument, leaf)
            value = plain(leaf)
            inputs.append(Traced(value, self, len(tape), space))
            tape.append(value)
        self.inputs = len(tape)
        self.watched.append((structure, len(leaves)))
        return structure.unflatten(inputs)

    def scope(self) -> AbstractContextManager[Any]:
        """The context in which the function and the pullback run."""
        return scope_of(self.tape[0]) if self.inputs else nullcontext()

    def follow(self, result: Any, space: Any, entry: Entry) -> Any:
        tape = self.tape
        tape.append(entry)
        return Traced(result, self, len(tape) - 1, space)

    def follow_several(self, results: Any, space: Any, entry: Entry) -> Any:
        tape = self.tape
        slot = len(tape)
        tape.append(entry)
        items = []
        for which, item in enumerate(results):
            if is_inexact(item, space):
                tape.append(Item(slot, which, len(results)))
                items.append(Traced(item, self, len(tape) - 1, space))
            else:
                items.append(constant(item, space))
        return regrouped(results, items)

    def pull(self, results: list[Any], cotangents: list[Any], keep: bool) -> tuple[Any, ...]:
        """The cotangents of what is watched, trees like it, from those of these results.

        Args:
            keep: it will be called again. If not, what a call saved is freed once it is used.
        """
        tape, inputs = self.tape.copy() if keep else self.tape, self.inputs
        waiting: list[Any] = [None] * len(tape)
        around, scopes.pulled = scopes.pulled, None
        try:
            for y, g in zip(results, cotangents, strict=True):
                if type(y) is Traced and y.trace is self:
                    before = waiting[y.slot]
                    waiting[y.slot] = g if before is None else y.space.add(before, g)
            while len(tape) > inputs:
                entry, g = tape.pop(), waiting.pop()
                if g is None:
                    continue
                if type(entry) is Item:
                    if waiting[entry.call] is None:
                        waiting[entry.call] = [None] * entry.results
                    waiting[entry.call][entry.which] = g
                    continue
                rule, _, space, args, parents, y, kwargs = entry
                if type(y) is Traced or type(g) in _LIFTED:
                    shares = _lifted(entry, g)
                else:
                    shares = rule.vjps(parents, space.xp, g, y, args, kwargs)
                for (i, parent), share in zip(parents.items(), shares, strict=True):
                    x = args[i]
                    if share.shape != x.shape or share.dtype != x.dtype:
                        share = _like(space, share, x)
                    before = waiting[parent]
                    waiting[parent] = share if before is None else space.add(before, share)
        finally:
            scopes.pulled = around
        for slot, g in enumerate(waiting):
            if g is None:
                waiting[slot] = namespace(tape[slot]).zeros_like(tape[slot])
        found = iter(waiting)
        return tuple([structure.unflatten(islice(found, n)) for structure, n in self.watched])


#: What a cotangent is where a trace below follows it, or where a call has several results.
_LIFTED = (Traced, list)


def _lifted(entry: Entry, g: Any) -> list[Any]:
    """The cotangents by the rule where some of it is Traced by a trace below, or results are many.

    The rule is given Traced alone then, so that operators work between any two; and zeros for the
    results that no cotangent reached.
    """
    rule, _, space, args, parents, y, kwargs = entry
    scopes.pulled = pullback_origin(y, g)
    if type(g) is list and not rule.takes_none:
        pairs = zip(g, y, strict=True)
        g = [space.zeros_like(plain(item)) if each is None else each for each, item in pairs]
    if not is_traced(g) and not is_traced(y):
        return rule.vjps(parents, space.xp, g, y, args, kwargs)
    args = [constant(a, space) for a in args]
    shares = rule.vjps(parents, space, constant(g, space), constant(y, space), args, kwargs)
    return [plain(share) for share in shares]


def _like(space: Any, g: Any, x: Any) -> Any:
    """`g` with the shape and data type of `x`: the one place where broadcasting is undone."""
    xp = space if type(g) is Traced else space.xp
    if g.shape != x.shape:
        extra = g.ndim - x.ndim
        stretched = tuple(
            axis for axis in range(g.ndim) if axis < extra or x.shape[axis - extra] == 1
        )
        g = xp.sum(g, axis=stretched)
        if g.shape != x.shape:
            g = xp.reshape(g, x.shape)
    if g.dtype == x.dtype:
        return g
    if xp.isdtype(g.dtype, "complex floating") and not xp.isdtype(x.dtype, "complex floating"):
        g = xp.real(g)
    return xp.astype(g, x.dtype)


def vjp(f: Callable[..., Any], *args: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """The value of `f(*args)`, and its pullback from a cotangent of it to cotangents of `args`.

    Parameters
    ----------
    f
        A function of trees of arrays that returns a tree of arrays, written with functions of the
        standard.
    *args
        Trees of floating-point arrays.

    Returns
    -------
    (out, pullback)
        `pullback(g)`, for `g` a tree like `out`, gives a tuple of trees like `args`, each array
        with the dtype, shape and device of its argument. It may be called any number of times.

    Raises
    ------
    TypeError
        A leaf of `args` is not a floating-point array.
    ValueError
        `g` is not a tree like `out`.

    Examples
    --------
    >>> import numpy as np
    >>> out, pullback = vjp(lambda x: x * x, np.asarray([1.0, 2.0]))
    >>> pullback(np.asarray([1.0, 10.0]))
    (array([ 2., 40.]),)
    """
    name = name_of("vjp", f)
    trace = Reverse(name)
    watched = [trace.watch(place, argument) for place, argument in enumerate(args)]
    with trace.scope():
        result = applied(f, *watched)
    trace.open = False
    results, structure = tree.flatten(result)

    def pullback(cotangent: Any) -> tuple[Any, ...]:
        gs, given = tree.flatten(cotangent)
        if given != structure:
            raise ValueError(f"{name}: the cotangent is not a tree like the function's result")
        for leaf, g in zip(results, gs, strict=True):
            _check_cotangent(name, leaf, g)
        with trace.scope():
            return trace.pull(results, [plain(g) for g in gs], keep=True)

    return structure.unflatten([trace.leave(leaf) for leaf in results]), pullback


def _check_cotangent(name: str, result: Any, g: Any) -> None:
    kinds = [(tuple(a.shape), a.dtype) if hasattr(a, "dtype") else None for a in (result, g)]
    if kinds[0] is not None and kinds[0] != kinds[1]:
        seen = f"shape {kinds[1][0]} and {kinds[1][1]}" if kinds[1] else type(g).__name__
        raise ValueError(
            f"{name}: cotangent: expected an array of shape {kinds[0][0]} and {kinds[0][1]} like "
            f"the result's, got {seen}"
        )


def value_and_grad(
    f: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that returns the value of `f` and its gradient.

    Parameters
    ----------
    f
        A function that returns a real scalar (an array of shape ()), or with `has_aux` a pair of it
        and anything else.
    argnums
        Which arguments to differentiate by: trees of floating-point arrays.
    has_aux
        The function returns `(scalar, aux)`.

    Returns
    -------
    callable
        A function of `f`'s arguments that gives `(value, gradient)`, or `((value, aux), gradient)`;
        the gradient is a tree like the argument (a tuple of them if `argnums` is a tuple), each
        array with the dtype, shape and device of its own. They may share memory with one another:
        copy them before you change them in place. Of a complex argument z = x + iy it is df/dx - i
        df/dy, as JAX has it.

    Raises
    ------
    TypeError
        The result is not a real scalar, or an argument not of floating-point arrays.

    Examples
    --------
    >>> import numpy as np
    >>> def f(x):
    ...     xp = x.__array_namespace__()
    ...     return xp.sum(x * x)
    >>> value, gradient = value_and_grad(f)(np.asarray([1.0, 2.0]))
    >>> float(value), gradient
    (5.0, array([2., 4.]))
    """
    name = name_of("grad", f)
    single = isinstance(argnums, int)
    places = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    def value_and_gradient(*args: Any, **kwargs: Any) -> Any:
        trace = Reverse(name)
        watched = list(args)
        if len({place % max(len(args), 1) for place in places}) < len(places):
            raise ValueError(f"{name}: argnums {places}: an argument is named twice")
        for place in places:
            watched[place] = trace.watch(place, args[place])
        with trace.scope():
            result, aux = applied(f, *watched, **kwargs), None
            trace.open = False
            if has_aux:
                result, aux = _pair(name, result)
            out = trace.leave(result)
            gradients = trace.pull([result], [_one(name, out)], keep=False)
        gradient = gradients[0] if single else gradients
        return ((out, tree.map(trace.leave, aux)), gradient) if has_aux else (out, gradient)

    return value_and_gradient


def grad(
    f: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that returns the gradient of `f`; it takes the arguments of `value_and_grad`.

    Parameters
    ----------
    f
        A function that returns a real scalar (an array of shape ()), or with `has_aux` a pair of it
        and anything else.
    argnums
        Which arguments to differentiate by: trees of floating-point arrays.
    has_aux
        The function returns `(scalar, aux)`, and the gradient comes as `(gradient, aux)`.

    Returns
    -------
    callable
        A function of `f`'s arguments that gives a tree like the argument (a tuple of them if
        `argnums` is a tuple), each array with the dtype, shape and device of its own.

    Raises
    ------
    TypeError
        The result is not a real scalar, or an argument not of floating-point arrays.

    Examples
    --------
    >>> import numpy as np
    >>> float(grad(lambda x: x**3)(np.asarray(2.0)))
    12.0
    >>> float(grad(grad(lambda x: x**3))(np.asarray(2.0)))
    12.0
    """
    both = value_and_grad(f, argnums, has_aux)

    def gradient(*args: Any, **kwargs: Any) -> Any:
        value, gradient = both(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return gradient


def _pair(name: str, result: Any) -> Any:
    """The result of a function with `has_aux`."""
    if not (isinstance(result, tuple) and len(result) == 2):
        raise TypeError(f"{name}: with has_aux=True the function returns a pair (value, aux)")
    return result


def _one(name: str, out: Any) -> Any:
    """The cotangent of a loss: one. NotDifferentiableError unless it is a real number."""
    is_array = hasattr(out, "dtype")
    if is_array and out.shape == ():
        xp = namespace(out)
        kind = Namespace(xp).kinds[out.dtype]
        if kind == "real floating":
            return xp.ones_like(out)
    got = (
        f"an array of shape {tuple(out.shape)} and dtype {out.dtype}"
        if is_array
        else type(out).__name__
    )
    raise NotDifferentiableError(
        f"{name}: expected the function to return one real number (an array of shape ()), got "
        f"{got}; reduce it, for instance with xp.sum, or use vjp"
    )
