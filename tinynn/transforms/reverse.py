"""Reverse mode: grad, value_and_grad, vjp.

A call on arrays of a `Reverse` trace is carried out below and written on the trace's tape. The
pullback reads the tape backwards, once: every entry turns the cotangent of its result into
cotangents of its arguments. The tape is in order of execution, so no sorting and no recursion.
"""

from collections.abc import Callable
from itertools import islice
from typing import Any, NamedTuple

from tinynn import tree
from tinynn.rules.kinds import Rule
from tinynn.trace import (
    Function,
    Namespace,
    Traced,
    constant,
    namespace,
    plain,
    regrouped,
)
from tinynn.trace.places import origin_of, places
from tinynn.transforms.derivative import (
    Derivative,
    NotDifferentiableError,
    changes,
    is_traced,
    name_of,
    space_of_leaf,
)

#: One call, as the pullback needs it: (rule, space, args, result, settings, parents), `parents`
#: being the slots of arguments by position. A plain tuple, since one is made for every call.
Entry = tuple[Rule, Any, list[Any], Any, dict[str, Any], dict[int, int]]


class Item(NamedTuple):
    """One of the results of a call that has several: which slot the call has, and which of them."""

    call: int
    which: int
    among: int


class Reverse(Derivative):
    """Writes down what is done to its arrays, so that cotangents can be pulled back through it."""

    inputs = 0

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.tape: list[Any] = []  # the inputs, as they are; then an Entry or Item for each result

    def watch(self, value: Any, space: Any) -> Traced:
        """An input: the derivative by it will be asked for. All inputs come before all calls."""
        slot = self.inputs
        self.inputs = slot + 1
        self.tape.append(value)
        return Traced(value, self, slot, space)

    def follow(
        self,
        function: Function,
        rule: Rule,
        space: Any,
        values: list[Any],
        followed: dict[int, Any],
        result: Any,
        settings: dict[str, Any],
    ) -> Any:
        tape = self.tape
        tape.append((rule, space, values, result, settings, followed))
        return Traced(result, self, len(tape) - 1, space)

    def follow_several(
        self,
        function: Function,
        rule: Rule,
        space: Any,
        values: list[Any],
        followed: dict[int, Any],
        results: Any,
        settings: dict[str, Any],
    ) -> Any:
        tape = self.tape
        call = len(tape)
        tape.append((rule, space, values, results, settings, followed))
        items = []
        for which, item in enumerate(results):
            if changes(item, space):
                tape.append(Item(call, which, len(results)))
                items.append(Traced(item, self, len(tape) - 1, space))
            else:
                items.append(constant(item, space))
        return regrouped(results, items)

    def pullback(self, results: list[Any], cotangents: list[Any]) -> list[Any]:
        """The cotangents of the inputs from those of these results."""
        tape, inputs = self.tape, self.inputs
        waiting: list[Any] = [None] * len(tape)
        around, places.pulled = places.pulled, None
        for y, g in zip(results, cotangents, strict=True):
            if type(y) is Traced and y.trace is self:
                before = waiting[y.slot]
                waiting[y.slot] = g if before is None else y.space.add(before, g)
        for slot in range(len(tape) - 1, inputs - 1, -1):
            g = waiting[slot]
            if g is None:
                continue
            waiting[slot] = None
            entry = tape[slot]
            if type(entry) is Item:
                if waiting[entry.call] is None:
                    waiting[entry.call] = [None] * entry.among
                waiting[entry.call][entry.which] = g
                continue
            rule, space, args, result, settings, parents = entry
            xp = space.xp
            if type(g) is Traced or type(result) is Traced or type(g) is list:
                xp, g, result, args = _lifted(space, g, result, args)
                places.pulled = origin_of(result)
            shares = rule.vjps(parents, xp, g, result, args, settings)
            for i, share in zip(parents, shares, strict=True):
                x, parent = args[i], parents[i]
                if share.shape != x.shape or share.dtype != x.dtype:
                    share = _like(xp, share, x)
                if type(share) is Traced:
                    share = plain(share)
                before = waiting[parent]
                waiting[parent] = share if before is None else space.add(before, share)
        places.pulled = around
        found = waiting[:inputs]
        for slot, g in enumerate(found):
            if g is None:
                found[slot] = namespace(tape[slot]).zeros_like(tape[slot])
        return found


def _lifted(space: Any, g: Any, result: Any, args: list[Any]) -> tuple[Any, Any, Any, list[Any]]:
    """What a rule is given where some of it is Traced by a trace below, or results are several.

    All of it Traced then, so that operators work between any two; and zeros for the results that
    no cotangent reached.
    """
    if isinstance(g, list):
        pairs = zip(g, result, strict=True)
        g = [space.zeros_like(plain(item)) if each is None else each for each, item in pairs]
    if not is_traced(g) and not is_traced(result):
        return space.xp, g, result, args
    return space, constant(g, space), constant(result, space), [constant(a, space) for a in args]


def _like(xp: Any, g: Any, x: Any) -> Any:
    """`g` with the shape and data type of `x`: the one place where broadcasting is undone."""
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
    """`f(*args)`, and the function that pulls a cotangent of it back to cotangents of `args`.

    Args:
        f: a function of trees of arrays that returns a tree of arrays, written with functions of
            the standard.
        *args: trees of floating-point arrays.

    Returns:
        `(out, pullback)`: `pullback(g)`, for `g` a tree like `out`, gives a tuple of trees like
        `args`, each array with the dtype, shape and device of its argument. It may be called any
        number of times.

    Raises:
        TypeError: a leaf of `args` is not a floating-point array.
        ValueError: `g` is not a tree like `out`.

    >>> import numpy as np
    >>> out, pullback = vjp(lambda x: x * x, np.asarray([1.0, 2.0]))
    >>> pullback(np.asarray([1.0, 10.0]))
    (array([ 2., 40.]),)
    """
    name = name_of("vjp", f)
    trace, pull, result, _ = _run(name, f, args, tuple(range(len(args))))
    results, structure = tree.flatten(result)

    def pullback(cotangent: Any) -> tuple[Any, ...]:
        gs, given = tree.flatten(cotangent)
        if given != structure:
            raise ValueError(f"{name}: the cotangent is not a tree like the function's result")
        return pull(results, [plain(g) for g in gs])

    return structure.unflatten([trace.leave(leaf) for leaf in results]), pullback


def value_and_grad(
    f: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that gives `f`'s value and its gradient.

    Args:
        f: a function that returns a real scalar (an array of shape ()), or with `has_aux` a pair
            of it and anything else.
        argnums: which arguments to differentiate by: trees of floating-point arrays.

    Returns:
        A function of `f`'s arguments that gives `(value, gradient)`, or `((value, aux), gradient)`;
        the gradient is a tree like the argument (a tuple of them if `argnums` is a tuple), each
        array with the dtype, shape and device of its own. Of a complex argument z = x + iy it is
        df/dx - i df/dy, as JAX has it.

    Raises (when called):
        TypeError: the result is not a real scalar, or an argument not of floating-point arrays.

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
        trace, pull, result, aux = _run(name, f, args, places, kwargs, has_aux)
        out = trace.leave(result)
        gradients = pull([result], [_one(name, out)])
        gradient = gradients[0] if single else gradients
        return ((out, aux), gradient) if has_aux else (out, gradient)

    return value_and_gradient


def grad(
    f: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that gives the gradient of `f`; see `value_and_grad`, whose arguments it takes.

    With `has_aux` it gives `(gradient, aux)`.

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


def _run(
    name: str,
    f: Callable[..., Any],
    args: tuple[Any, ...],
    places: tuple[int, ...],
    kwargs: dict[str, Any] | None = None,
    has_aux: bool = False,
) -> tuple[Reverse, Callable[..., tuple[Any, ...]], Any, Any]:
    """Run `f`, watching the arguments at these places.

    Returns:
        `(trace, pull, result, aux)`: `result` as `f` returned it, `aux` (what came beside it) as
        the world outside sees it. `pull(leaves, cotangents)` takes cotangents of leaves of the
        result to trees like the watched arguments.
    """
    trace = Reverse(name)
    watched, opened = list(args), []
    for place in places:
        argument = args[place]
        leaves, structure = tree.flatten(argument)
        opened.append((structure, len(leaves)))
        watched[place] = structure.unflatten([
            trace.watch(plain(leaf), space_of_leaf(name, place, argument, leaf)) for leaf in leaves
        ])  # fmt: skip
    result, aux = f(*watched, **(kwargs or {})), None
    trace.open = False
    if has_aux:
        if not (isinstance(result, tuple) and len(result) == 2):
            raise TypeError(f"{name}: with has_aux=True the function returns a pair (value, aux)")
        result, aux = result[0], tree.map(trace.leave, result[1])

    def pull(leaves: list[Any], cotangents: list[Any]) -> tuple[Any, ...]:
        found = iter(trace.pullback(leaves, cotangents))
        return tuple([structure.unflatten(islice(found, count)) for structure, count in opened])

    return trace, pull, result, aux


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
