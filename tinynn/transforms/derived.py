"""Transformations made of others: jacobian, hessian, hvp, checkpoint, custom rules."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from inspect import signature
from math import prod
from typing import Any

from tinynn import tree
from tinynn.rules.kinds import C_FUNCTIONS, Elementwise, Rule, Tangents
from tinynn.trace import Effect, Function, Namespace, backend_of, namespace
from tinynn.trace.scopes import composite
from tinynn.transforms.base import NotDifferentiableError, name_of, space_of_leaf
from tinynn.transforms.batch import vmap
from tinynn.transforms.forward import jvp
from tinynn.transforms.reverse import grad, vjp


def jacobian(f: Callable[..., Any], argnum: int = 0) -> Callable[..., Any]:
    """A function that returns all partial derivatives of `f`.

    Parameters
    ----------
    f
        A function of arrays that returns an array of shape `out`.
    argnum
        The argument to differentiate by, an array of shape `in`.

    Returns
    -------
    callable
        A function of `f`'s arguments that gives an array of shape `(*out, *in)`. It is computed a
        column at a time forward or a row at a time in reverse, whichever are fewer, all in one
        batch.

    Raises
    ------
    MemoryError
        For more partial derivatives than the device's memory holds: with the number of bytes, and
        before any is computed where the device says how much it has.

    Examples
    --------
    >>> import numpy as np
    >>> jacobian(lambda x: x * x)(np.asarray([1.0, 2.0]))
    array([[2., 0.],
           [0., 4.]])
    """
    name = name_of("jacobian", f)

    def all_partials(*args: Any, **kwargs: Any) -> Any:
        x = args[argnum]
        if not hasattr(x, "dtype"):
            raise NotDifferentiableError(
                f"{name}: argument {argnum}: expected an array, got {type(x).__name__}; for trees "
                "take vjp or jvp"
            )
        space_of_leaf(name, argnum, x, x)

        def alone(x: Any) -> Any:
            changed = list(args)
            changed[argnum] = x
            return f(*changed, **kwargs)

        out, pullback = vjp(alone, x)
        if not hasattr(out, "dtype"):
            raise NotDifferentiableError(
                f"{name}: expected the function to return an array, got {type(out).__name__}"
            )
        # Of what is real on one side alone, only this way asks for the real part of the other.
        kinds = Namespace(namespace(x)).kinds
        real = [kinds[each.dtype] == "real floating" for each in (x, out)]
        reverse = prod(out.shape) <= prod(x.shape) if real[0] == real[1] else real[1]
        with _memory_suffices(name, out, x, out if reverse else x):
            if reverse:
                rows = vmap(lambda g: pullback(g)[0])(_basis(out))
                return namespace(rows).reshape(rows, (*out.shape, *x.shape))
            columns = vmap(lambda t: jvp(alone, (x,), (t,))[1], out_axes=-1)(_basis(x))
            return namespace(columns).reshape(columns, (*out.shape, *x.shape))

    return all_partials


@contextmanager
def _memory_suffices(name: str, out: Any, x: Any, side: Any) -> Iterator[None]:
    """MemoryError, with the number of bytes, for more partial derivatives than memory holds.

    side: the one of the two whose unit arrays they are made of.
    """
    backend, (rows, columns) = backend_of(x), (prod(out.shape), prod(x.shape))
    item = (namespace(x).finfo(x.dtype).bits + 7) // 8
    needed = item * (rows * columns + prod(side.shape) ** 2)
    there = backend.memory_size()
    said = (
        f"{name}: expected {rows:,} by {columns:,} partial derivatives, and the unit arrays that "
        f"they are made of, {needed:,} bytes in all, to fit in the memory of {backend!r}"
        f"{'' if there is None else f', {there:,} bytes'}. To fix it: take products alone, "
        "tinynn.jvp, tinynn.vjp or tinynn.hvp, or fewer of either"
    )
    if there is not None and needed > there:
        raise MemoryError(said)
    try:
        yield
    except Exception as error:
        if not backend.is_out_of_memory(error):
            raise
        raise MemoryError(said) from error


def _basis(x: Any) -> Any:
    """The unit arrays of the shape of x, one after another: (size, *shape)."""
    xp, size = namespace(x), prod(x.shape)
    places = xp.arange(size, device=backend_of(x).device)
    unit = xp.equal(xp.expand_dims(places, axis=1), xp.expand_dims(places, axis=0))
    return xp.reshape(xp.astype(unit, x.dtype), (size, *x.shape))


def hessian(f: Callable[..., Any], argnum: int = 0) -> Callable[..., Any]:
    """A function that returns all second derivatives of a scalar function of one array.

    Parameters
    ----------
    f
        A function that returns a 0-d array.
    argnum
        Which argument is the array, by its place.

    Returns
    -------
    callable
        A function of `f`'s arguments that gives an array of shape `(*in, *in)`.

    Examples
    --------
    >>> import numpy as np
    >>> hessian(lambda x: x.__array_namespace__().sum(x**3))(np.asarray([1.0, 2.0]))
    array([[ 6.,  0.],
           [ 0., 12.]])
    """
    return jacobian(grad(f, argnum), argnum)


def hvp(f: Callable[..., Any], primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
    """The Hessian of a scalar function times a vector, without the matrix (Pearlmutter 1994).

    Parameters
    ----------
    f
        A function of trees of arrays that returns a real scalar.
    primals, tangents
        As for `jvp`.

    Returns
    -------
    tree of arrays
        A tree like the first primal: how the gradient by it changes along the tangents.

    Examples
    --------
    >>> import numpy as np
    >>> hvp(lambda x: x.__array_namespace__().sum(x**3), (np.asarray([1.0, 2.0]),),
    ...     (np.asarray([1.0, 10.0]),))
    array([  6., 120.])
    """
    return jvp(grad(f), primals, tangents)[1]


def custom_vjp(
    rule: Callable[..., Any], effect: Effect | str = Effect.NONE
) -> Callable[[Callable[..., Any]], Function]:
    """A decorator that gives a function of arrays a derivative of your own, in reverse mode.

    Parameters
    ----------
    rule
        `rule(g, y, *args)` gives the cotangents of all arguments, in order, from the cotangent `g`
        of the result `y`; None for an argument without one. Forward mode follows from it, since it
        is linear in `g`.
    effect
        What the function does beside giving its result: "none", "reads" (what may be another the
        next time, as a clock), "writes" (something outside, as a file) or "communicates" (with
        other processes). With an effect, every call is recorded in its order, and no pass of the
        compiler removes, repeats, merges or moves it.

    Notes
    -----
    The function's positional arguments are arrays, its keywords kwargs, which reach the rule.

    Examples
    --------
    >>> import numpy as np
    >>> @custom_vjp(lambda g, y, x: (3 * g,))
    ... def straight_through(x):
    ...     return x.__array_namespace__().round(x)
    >>> float(grad(straight_through)(np.asarray(1.2)))
    3.0
    """

    return _with_rule(CustomVJP(rule), effect)


class CustomVJP(Rule):
    """`rule(g, y, *args, **kwargs)` gives all cotangents at once."""

    def __init__(self, rule: Callable[..., Any]) -> None:
        self.rule = rule

    def vjps(self, positions: Any, xp: Any, g: Any, y: Any, args: Any, kwargs: Any) -> list[Any]:
        shares = self.rule(g, y, *args, **kwargs)
        shares = shares if isinstance(shares, tuple) else (shares,)
        return [xp.zeros_like(args[i]) if shares[i] is None else shares[i] for i in positions]

    def jvp(self, f: Any, xp: Any, tangents: Tangents, y: Any, args: Any, kwargs: Any) -> Any:
        # The cotangents are linear in g: the transpose of that is the derivative in its turn.
        def pulled(g: Any) -> list[Any]:
            return self.vjps(tangents, xp, g, y, args, kwargs)

        _, transpose = vjp(pulled, xp.zeros_like(y))
        return transpose(list(tangents.values()))[0]


def custom_jvp(
    rule: Callable[..., Any], effect: Effect | str = Effect.NONE
) -> Callable[[Callable[..., Any]], Function]:
    """A decorator that gives a function of arrays a derivative of your own, in forward mode.

    Parameters
    ----------
    rule
        `rule(tangents, y, *args)` gives the tangent of the result `y` from the tangents of all
        arguments, in order (zeros for those that do not change). Reverse mode follows from it,
        since it is linear in the tangents.
    effect
        As for `custom_vjp`.

    Examples
    --------
    >>> import numpy as np
    >>> @custom_jvp(lambda tangents, y, x: 3 * tangents[0])
    ... def straight_through(x):
    ...     return x.__array_namespace__().round(x)
    >>> float(grad(straight_through)(np.asarray(1.2)))
    3.0
    """

    return _with_rule(CustomJVP(rule), effect)


class CustomJVP(Rule):
    """`rule(tangents, y, *args, **kwargs)` gives the tangent of y from those of all arguments."""

    def __init__(self, rule: Callable[..., Any]) -> None:
        self.rule = rule

    def jvp(self, f: Any, xp: Any, tangents: Tangents, y: Any, args: Any, kwargs: Any) -> Any:
        every = tuple(
            tangents[i] if i in tangents else xp.zeros_like(a) if hasattr(a, "dtype") else None
            for i, a in enumerate(args)
        )
        return self.rule(every, y, *args, **kwargs)

    def vjps(self, positions: Any, xp: Any, g: Any, y: Any, args: Any, kwargs: Any) -> list[Any]:
        xp = Namespace(xp)

        def pushed(moving: Tangents) -> Any:
            return self.jvp(None, xp, moving, y, args, kwargs)

        _, pullback = vjp(pushed, {i: xp.zeros_like(args[i]) for i in positions})
        return list(pullback(g)[0].values())


def custom_elementwise(
    *partials: Callable[..., Any], c: str = ""
) -> Callable[[Callable[..., Any]], Function]:
    r"""A decorator that declares a function of the elements in one place, with its derivative.

    All transformations and engines know it then: it is differentiated by `partials` in both
    directions, batched, and compiled, in loops and in kernels of CUDA as well.

    Parameters
    ----------
    \*partials
        For each argument `partial(g, y, *args)`: `g`, a cotangent or a tangent, times the partial
        derivative by it, from the result `y` and the arguments.
    c
        The function of C's library that it is, if it is one: "cbrt", "erfc", "exp2", "fdim",
        "fmod", "lgamma", "tgamma", or one that the standard has too. Loops call that function, and
        NumPy's programs its ufunc of that name. Without, programs hold the calls that the function
        makes.

    Raises
    ------
    TypeError
        The function takes another number of arguments than there are partial derivatives.
    ValueError
        `c` is no function of this list.

    Notes
    -----
    The function's arguments are arrays that broadcast, floating-point ones with `c`, and it is
    written in elementwise functions of the standard.

    Examples
    --------
    >>> import numpy as np
    >>> @custom_elementwise(lambda g, y, x: g / (1 + abs(x)) ** 2)
    ... def softsign(x):
    ...     return x / (1 + abs(x))
    >>> float(grad(softsign)(np.asarray(1.0)))
    0.25
    """
    if c and c not in C_FUNCTIONS:
        known = ", ".join(sorted(C_FUNCTIONS))
        raise ValueError(
            f"custom_elementwise: c: expected one of {known}, got {c!r}. To fix it: write the "
            "function in those of the standard, without c"
        )

    def decorate(body: Callable[..., Any]) -> Function:
        count = len(signature(body).parameters)
        if len(partials) != count or (c and C_FUNCTIONS[c] != count):
            wanted = C_FUNCTIONS[c] if c else count
            raise TypeError(
                f"custom_elementwise: {body.__name__}: expected a partial derivative for each of "
                f"{wanted} arguments, got {len(partials)} for {count} arguments. To fix it: give "
                "lambda g, y, *args: g * 0 for an argument without one"
            )
        function = Function(c or body.__name__, body)
        function.listed = bool(c)
        function.definition = None if c else composite(body)
        scalar = (lambda xp, *args: body(*args)) if c else None
        function.rule = Elementwise(*map(_without_namespace, partials), c=c, scalar=scalar)
        return function

    return decorate


def _without_namespace(partial: Callable[..., Any]) -> Callable[..., Any]:
    return lambda xp, g, y, *args: partial(g, y, *args)


def _with_rule(rule: Rule, effect: Effect | str) -> Callable[[Callable[..., Any]], Function]:
    def decorate(body: Callable[..., Any]) -> Function:
        function = Function(body.__name__, body, effect=effect)
        function.rule = rule
        return function

    return decorate


def checkpoint(f: Callable[..., Any]) -> Callable[..., Any]:
    """A function like `f` whose gradient keeps only the arguments and recomputes the rest.

    This saves memory and costs time: the intermediate results of `f` are not kept.

    Parameters
    ----------
    f
        A function of trees of arrays that returns a tree of floating-point arrays. Arrays that
        gradients are asked for are among its arguments; it closes over none of them.

    Examples
    --------
    >>> import numpy as np
    >>> deep = checkpoint(lambda x: x.__array_namespace__().sin(x) * x)
    >>> float(grad(deep)(np.asarray(0.0)))
    0.0
    """

    @wraps(f)
    def recomputed(*args: Any) -> Any:
        leaves, structure = tree.flatten(args)
        results: list[Any] = []

        def body(*leaves: Any) -> Any:
            outs, results[:] = _flattened(f(*structure.unflatten(leaves)))
            return tuple(outs) if len(outs) != 1 else outs[0]

        outs = _with_rule(Recomputed(body), Effect.NONE)(body)(*leaves)
        return results[0].unflatten(list(outs) if isinstance(outs, tuple) else [outs])

    return recomputed


def _flattened(value: Any) -> tuple[list[Any], list[Any]]:
    leaves, structure = tree.flatten(value)
    return leaves, [structure]


class Recomputed(Rule):
    """Derivatives of the body, run again for them."""

    def __init__(self, body: Callable[..., Any]) -> None:
        self.body = body

    def _of(self, places: Any, args: Any) -> Callable[..., Any]:
        """The body as a function of the arguments at these places."""

        def alone(*moving: Any) -> Any:
            given = dict(zip(places, moving, strict=True))
            return self.body(*[given.get(i, a) for i, a in enumerate(args)])

        return alone

    def vjps(self, positions: Any, xp: Any, g: Any, y: Any, args: Any, kwargs: Any) -> list[Any]:
        alone, moving = self._of(positions, args), [args[i] for i in positions]
        return list(vjp(alone, *moving)[1](tuple(g) if isinstance(g, list) else g))

    def jvp(self, f: Any, xp: Any, tangents: Tangents, y: Any, args: Any, kwargs: Any) -> Any:
        moving = tuple(args[i] for i in tangents)
        return jvp(self._of(list(tangents), args), moving, tuple(tangents.values()))[1]
