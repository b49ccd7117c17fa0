"""Reverse mode: grad, value_and_grad, vjp.

A call on arrays of a `Reverse` trace is carried out below and written on the trace's tape. The
pullback reads the tape backwards, once: every entry turns the cotangent of its result into
cotangents of its arguments. The tape is in order of execution, so no sorting and no recursion.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from tinynn import tree
from tinynn.rules import RULES
from tinynn.rules.kinds import CONSTANT, Composed, Rule
from tinynn.trace import (
    BASE,
    Function,
    Namespace,
    Trace,
    Traced,
    constant,
    namespace,
    plain,
)


class Entry(NamedTuple):
    """One call, as the pullback needs it."""

    rule: Rule
    space: Any
    args: list[Any]
    result: Any
    settings: dict[str, Any]
    parents: list[int | None]


class Reverse(Trace):
    """Writes down what is done to its arrays, so that cotangents can be pulled back through it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.open = True
        self.tape: list[Entry | None] = []

    def watch(self, value: Any) -> Traced:
        """An input: the derivative by it will be asked for."""
        self.tape.append(None)
        return Traced(value, self, len(self.tape) - 1, Namespace(namespace(value)))

    def process(self, function: Function, args: tuple[Any, ...], settings: dict[str, Any]) -> Any:
        if not self.open:
            raise EscapedError(
                f"{function.name}: an array of a finished {self.name} was used: a value made "
                "inside the function was kept (in a list, a global, a closure) and used outside "
                "of it, where no derivative can reach it; return it from the function "
                "(has_aux=True), or keep stop_gradient(x)"
            )
        rule, space = RULES.get(function.key), function.space_of(args)
        if isinstance(rule, Composed):
            return rule.definition(space, *args, **settings)
        values, parents = [], []
        for a in args:
            mine = type(a) is Traced and a.trace is self
            values.append(a.value if mine else plain(a))
            parents.append(a.slot if mine else None)
        result = function(*values, **settings)
        if rule is CONSTANT or not _has_derivative(result, space):
            return constant(result, space)
        if rule is None:
            raise NotDifferentiableError(
                f"{function.name}: {self.name} knows no derivative of it; write it with other "
                "functions of the standard, or use stop_gradient(x) if none is wanted"
            )
        self.tape.append(Entry(rule, space, values, result, settings, parents))
        return Traced(result, self, len(self.tape) - 1, space)

    def read(self, array: Traced, kind: type) -> Any:
        if kind in (float, complex):
            raise TypeError(
                f"{kind.__name__}(x) inside {self.name}: the number would have no derivative; keep "
                f"x as an array, or write {kind.__name__}(stop_gradient(x)) to look at its value"
            )
        return kind(array.value)

    def pullback(self, slots: list[int | None], cotangents: list[Any], inputs: int) -> list[Any]:
        """The cotangents of the first `inputs` entries, None where nothing reaches them."""
        tape, waiting = self.tape, [None] * len(self.tape)
        for slot, g in zip(slots, cotangents, strict=True):
            if slot is not None:
                waiting[slot] = g if waiting[slot] is None else namespace(g).add(waiting[slot], g)
        for slot in range(len(tape) - 1, inputs - 1, -1):
            g, entry = waiting[slot], tape[slot]
            if g is None:
                continue
            waiting[slot] = None
            rule, space, args, result, settings, parents = entry
            if type(g) is Traced or type(result) is Traced:
                g, result = constant(g, space), constant(result, space)
                args = [constant(a, space) for a in args]
            for i, parent in enumerate(parents):
                if parent is not None:
                    share = rule.vjp(i, space, g, result, args, settings)
                    share = plain(_like(space, share, args[i]))
                    before = waiting[parent]
                    waiting[parent] = share if before is None else space.add(before, share)
        return waiting[:inputs]


def _like(xp: Any, g: Any, x: Any) -> Any:
    """`g` with the shape and data type of `x`: the one place where broadcasting is undone."""
    if g.shape != x.shape:
        extra = g.ndim - x.ndim
        stretched = tuple(
            axis for axis in range(g.ndim) if axis < extra or x.shape[axis - extra] == 1
        )
        g = xp.reshape(xp.sum(g, axis=stretched, keepdims=True), x.shape)
    return g if g.dtype == x.dtype else xp.astype(g, x.dtype)


def _has_derivative(result: Any, space: Any) -> bool:
    if isinstance(result, tuple | list):
        return any(_has_derivative(item, space) for item in result)
    return bool(space.is_inexact(result.dtype))


class EscapedError(ValueError):
    """A value left the transformation it belongs to."""


class NotDifferentiableError(TypeError):
    """Something has no derivative: a function, an argument's data type, a result."""


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
    out, pullback, _ = _run("vjp", f, args, tuple(range(len(args))), has_aux=False)
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
        array with the dtype, shape and device of its own.

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
    name = f"grad of {getattr(f, '__name__', 'a function')}"

    def value_and_gradient(*args: Any, **kwargs: Any) -> Any:
        places = (argnums,) if isinstance(argnums, int) else tuple(argnums)
        out, pullback, aux = _run(name, f, args, places, has_aux, kwargs)
        _check_scalar(name, out)
        gradients = pullback(namespace(out).ones_like(out))
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
    opened = [tree.flatten(args[place]) for place in places]
    for place in places:
        _check_argument(name, place, args[place])
    values = [plain(leaf) for leaves, _ in opened for leaf in leaves]
    supply = iter([trace.watch(value) for value in values])
    watched = list(args)
    for place, (leaves, structure) in zip(places, opened, strict=True):
        watched[place] = structure.unflatten([next(supply) for _ in leaves])
    result = f(*watched, **(kwargs or {}))
    trace.open = False
    if has_aux and not (isinstance(result, tuple) and len(result) == 2):
        raise TypeError(f"{name}: with has_aux=True the function returns a pair (value, aux)")
    result, aux = result if has_aux else (result, None)
    outs, out_structure = tree.flatten(result)
    slots = [_slot(trace, leaf) for leaf in outs]
    outs = [_leave(trace, leaf) for leaf in outs]

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

    left = tree.map(lambda leaf: _leave(trace, leaf), aux)
    return out_structure.unflatten(outs), pullback, left


def _slot(trace: Trace, leaf: Any) -> int | None:
    return leaf.slot if type(leaf) is Traced and leaf.trace is trace else None


def _leave(trace: Trace, leaf: Any) -> Any:
    """The value that the world outside a trace sees."""
    mine = type(leaf) is Traced and (leaf.trace is trace or leaf.trace is BASE)
    return leaf.value if mine else leaf


def _check_argument(name: str, place: int, argument: Any) -> None:
    for path, leaf in tree.paths(argument):
        where = f"argument {place}" + (f", {path!r}" if path else "")
        if not hasattr(leaf, "dtype"):
            raise NotDifferentiableError(
                f"{name}: {where}: expected a floating-point array, got {type(leaf).__name__} "
                f"{leaf!r}; place it on a device with backends.get(...).asarray(x), or leave it "
                "out of argnums"
            )
        if not _has_derivative(leaf, Namespace(namespace(leaf))):
            raise NotDifferentiableError(
                f"{name}: {where}: expected a floating-point array, got dtype {leaf.dtype}; "
                "integers have no small changes: cast it, or leave it out of argnums"
            )


def _check_scalar(name: str, out: Any) -> None:
    is_array = hasattr(out, "dtype")
    if not (is_array and out.shape == () and _has_derivative(out, Namespace(namespace(out)))):
        got = (
            f"an array of shape {tuple(out.shape)} and dtype {out.dtype}"
            if is_array
            else type(out).__name__
        )
        raise NotDifferentiableError(
            f"{name}: expected the function to return one real number (an array of shape ()), got "
            f"{got}; reduce it, for instance with xp.sum, or use vjp"
        )
