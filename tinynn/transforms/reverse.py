"""Reverse mode: grad, value_and_grad, vjp.

A call on arrays of a `Reverse` trace is carried out below and written on the trace's tape. The
pullback reads the tape backwards, once: every entry turns the cotangent of its result into
cotangents of its arguments. The tape is in order of execution, so no sorting and no recursion.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from tinynn import tree
from tinynn.rules.kinds import Rule
from tinynn.trace import (
    Function,
    Namespace,
    Traced,
    backend_of,
    constant,
    namespace,
    plain,
    regrouped,
)
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

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.tape: list[Entry | Item | None] = []

    def watch(self, value: Any, space: Any) -> Traced:
        """An input: the derivative by it will be asked for."""
        self.tape.append(None)
        return Traced(value, self, len(self.tape) - 1, space)

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
        call = len(tape)
        tape.append((rule, space, values, result, settings, followed))
        if not isinstance(result, (tuple, list)):
            return Traced(result, self, call, space)
        items = []
        for index, item in enumerate(result):
            if changes(item, space):
                tape.append(Item(call, index, len(result)))
                items.append(Traced(item, self, len(tape) - 1, space))
            else:
                items.append(constant(item, space))
        return regrouped(result, items)

    def pullback(self, slots: list[int | None], cotangents: list[Any], inputs: int) -> list[Any]:
        """The cotangents of the first `inputs` entries, None where nothing reaches them."""
        waiting: list[Any] = [None] * len(self.tape)
        for slot, g in zip(slots, cotangents, strict=True):
            if slot is not None:
                waiting[slot] = g if waiting[slot] is None else namespace(g).add(waiting[slot], g)
        for slot in range(len(waiting) - 1, inputs - 1, -1):
            g = waiting[slot]
            if g is None:
                continue
            waiting[slot] = None
            entry = self.tape[slot]
            if type(entry) is Item:
                if waiting[entry.call] is None:
                    waiting[entry.call] = [None] * entry.among
                waiting[entry.call][entry.which] = g
                continue
            rule, space, args, result, settings, parents = entry  # type: ignore[misc]
            xp = space.xp
            if type(g) is Traced or type(result) is Traced or type(g) is list:
                xp, g, result, args = _lifted(space, g, result, args)
            shares = rule.vjps(parents, xp, g, result, args, settings)
            for (i, parent), share in zip(parents.items(), shares, strict=True):
                x = args[i]
                if share.shape != x.shape or share.dtype != x.dtype:
                    share = _like(xp, share, x)
                if type(share) is Traced:
                    share = plain(share)
                before = waiting[parent]
                waiting[parent] = share if before is None else space.add(before, share)
        return waiting[:inputs]


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
    out, pullback, _ = _run(name_of("vjp", f), f, args, tuple(range(len(args))), has_aux=False)
    return out, pullback


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

    def value_and_gradient(*args: Any, **kwargs: Any) -> Any:
        places = (argnums,) if isinstance(argnums, int) else tuple(argnums)
        out, pullback, aux = _run(name, f, args, places, has_aux, kwargs)
        _check_scalar(name, out)
        one = namespace(out).asarray(1, dtype=out.dtype, device=backend_of(out).device)
        gradients = pullback(one)
        gradient = gradients[0] if isinstance(argnums, int) else gradients
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
    has_aux: bool,
    kwargs: dict[str, Any] | None = None,
) -> tuple[Any, Callable[[Any], tuple[Any, ...]], Any]:
    """Run `f` on watched arguments; its value, its pullback, and what came beside the value."""
    trace = Reverse(name)
    opened, values, watched = [], [], list(args)
    for place in places:
        leaves, structure = tree.flatten(args[place])
        opened.append((leaves, structure))
        inputs = []
        for leaf in leaves:
            values.append(plain(leaf))
            space = space_of_leaf(name, place, args[place], leaf)
            inputs.append(trace.watch(values[-1], space))
        watched[place] = structure.unflatten(inputs)
    result = f(*watched, **(kwargs or {}))
    trace.open = False
    if has_aux and not (isinstance(result, tuple) and len(result) == 2):
        raise TypeError(f"{name}: with has_aux=True the function returns a pair (value, aux)")
    result, aux = result if has_aux else (result, None)
    outs, out_structure = tree.flatten(result)
    slots = [leaf.slot if type(leaf) is Traced and leaf.trace is trace else None for leaf in outs]

    def pullback(cotangent: Any) -> tuple[Any, ...]:
        gs, given = tree.flatten(cotangent)
        if given != out_structure:
            raise ValueError(f"{name}: the cotangent is not a tree like the function's result")
        found = trace.pullback(slots, [plain(g) for g in gs], len(values))
        filled = iter(
            namespace(value).zeros_like(value) if g is None else g
            for g, value in zip(found, values, strict=True)
        )
        return tuple(structure.unflatten([next(filled) for _ in ls]) for ls, structure in opened)

    out = out_structure.unflatten([trace.leave(leaf) for leaf in outs])
    return out, pullback, tree.map(trace.leave, aux)


def _check_scalar(name: str, out: Any) -> None:
    is_array = hasattr(out, "dtype")
    if (
        is_array
        and out.shape == ()
        and Namespace(namespace(out)).kinds[out.dtype] == "real floating"
    ):
        return
    got = (
        f"an array of shape {tuple(out.shape)} and dtype {out.dtype}"
        if is_array
        else type(out).__name__
    )
    raise NotDifferentiableError(
        f"{name}: expected the function to return one real number (an array of shape ()), got "
        f"{got}; reduce it, for instance with xp.sum, or use vjp"
    )
