"""cond and while_loop: what a value decides, as one call.

A branch is a graph. The derivative of a branch is a branch, which computes again what it needs.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from backends import scope_of
from tinynn import tree
from tinynn.rules.batching import BATCHING
from tinynn.rules.kinds import RULES, Composed, Rule
from tinynn.trace import Function, backend_of, bottom, example, is_readable, namespace
from tinynn.trace.scopes import scopes
from tinynn.transforms.base import place_of
from tinynn.transforms.batch import vmap
from tinynn.transforms.forward import jvp
from tinynn.transforms.graph import Graph, Input, Interpreter
from tinynn.transforms.reverse import vjp
from tinynn.transforms.scan import scan
from tinynn.transforms.subgraph import (
    check_alike,
    check_pure,
    is_foreign,
    is_recorded,
    leaves_of,
    subgraph,
)


def cond(
    predicate: Any,
    true_fun: Callable[..., Any],
    false_fun: Callable[..., Any],
    *operands: Any,
) -> Any:
    """`true_fun(*operands)` if a value is true, else `false_fun(*operands)`.

    Only the one that is chosen is computed, except under `vmap` with a predicate that differs from
    entry to entry: then both are, and the results chosen between. A recording (`compile`,
    `record`, the engines of `fit`, `jax.jit`) holds both, as one call.

    Parameters
    ----------
    predicate
        A boolean array of shape (), or a Python boolean.
    true_fun, false_fun
        Functions of the operands. They give trees of the same structure, shapes and dtypes, and may
        use arrays from outside. A recording calls both once, so they always do the same operations.
    operands
        Trees of arrays.

    Raises
    ------
    TypeError
        The predicate is not one boolean, or a leaf is not an array.
    ValueError
        The two results differ in structure, shape or dtype, in a recording.
    RecordingError
        One of them reads the value of an array in a recording, or has an effect there.

    Notes
    -----
    The names are those of `jax.lax.cond`. On a GPU the program waits for the predicate.

    Examples
    --------
    >>> import numpy as np
    >>> safe_log = lambda x: cond(x > 0, lambda x: np.log(x), lambda x: 0 * x, x)
    >>> float(safe_log(np.asarray(1.0))), float(safe_log(np.asarray(-1.0)))
    (0.0, -0.0)
    """
    where = place_of("cond", true_fun)
    if isinstance(predicate, bool):
        return true_fun(*operands) if predicate else false_fun(*operands)
    _check_predicate(where, "the predicate", predicate)
    if is_readable(predicate):
        return true_fun(*operands) if bool(predicate) else false_fun(*operands)
    leaves, structure = leaves_of(where, operands, "operands")
    if is_foreign([predicate, *leaves]):
        return backend_of(predicate).cond(predicate, true_fun, false_fun, operands)
    with scope_of(bottom(predicate)), backend_of(predicate).quiet():
        examples = list(map(example, leaves)) or [example(predicate)]
        results, branches = [], []
        for f, said in ((true_fun, "true_fun"), (false_fun, "false_fun")):

            def body(*given: Any, f: Any = f, said: str = said) -> list[Any]:
                results.append(f(*structure.unflatten(given[: len(leaves)])))
                return leaves_of(where, results[-1], f"the result of {said}")[0]

            branches.append(subgraph(body, examples))
            check_pure(where, branches[-1][0])
        check_alike(where, "the results", results[0], results[1], "the one of true_fun")
        (then, first), (otherwise, second) = branches
        captured = list({id(a): a for a in (*first, *second)}.values())
        outs = COND(
            predicate,
            *captured,
            *(leaves or [predicate]),
            then=_taking(then, first, captured),
            otherwise=_taking(otherwise, second, captured),
        )
    return tree.flatten(results[0])[1].unflatten(outs)


def _check_predicate(where: str, said: str, value: Any) -> None:
    if not hasattr(value, "dtype") or value.shape != ():
        got = f"shape {tuple(value.shape)}" if hasattr(value, "shape") else type(value).__name__
        raise TypeError(
            f"{where}: {said}: expected a boolean array of shape (), got {got}. To fix it: reduce "
            "it, for instance with xp.all, or write xp.where(condition, a, b)"
        )
    if not namespace(value).isdtype(value.dtype, "bool"):
        raise TypeError(
            f"{where}: {said}: expected a boolean array, got {value.dtype}. To fix it: compare it, "
            "for instance x != 0"
        )


def _taking(graph: Graph, own: Sequence[Any], captured: Sequence[Any]) -> Graph:
    """A branch that takes what both have captured, of which it uses its own."""
    mine = {id(a): i for a, i in zip(own, graph.inputs, strict=False)}
    inputs = [
        mine.get(id(a)) or Input(None, (), {}, tuple(a.shape), a.dtype, label="captured")
        for a in captured
    ]
    return replace(graph, inputs=[*inputs, *graph.inputs[len(own) :]])


def _chosen(predicate: Any, *operands: Any, then: Graph, otherwise: Graph) -> tuple[Any, ...]:
    backend = backend_of(predicate)
    return tuple(backend.cond(predicate, _run(then), _run(otherwise), operands))


def _run(graph: Any) -> Callable[..., list[Any]]:
    """A graph, or what the compiler has made of it, as a function of arrays."""
    return graph if callable(graph) else lambda *operands: Interpreter(graph)(operands)


#: `cond(predicate, *operands, then=, otherwise=)`: two graphs of the same inputs.
COND = Function("cond", _chosen)


class CondRule(Rule):
    """The derivative of the branch that is taken."""

    takes_none = True

    def vjps(self, positions: Any, xp: Any, g: Any, y: Any, args: Any, kwargs: Any) -> list[Any]:
        kinds = kwargs["then"].space.kinds
        out_moving = [place for place, out in enumerate(y) if kinds[out.dtype]]
        gs = [xp.zeros_like(y[i]) if g[i] is None else g[i] for i in out_moving]
        places = [position - 1 for position in positions]
        count = len(args) - 1

        def pulled(graph: Graph) -> Callable[..., list[Any]]:
            def branch(*leaves: Any) -> list[Any]:
                def of_moving(*moving: Any) -> list[Any]:
                    outs = graph.run(_put(leaves[:count], places, moving))
                    return [outs[i] for i in out_moving]

                _, pull = vjp(of_moving, *[leaves[i] for i in places])
                return list(pull(list(leaves[count:])))

            return branch

        return list(_branched(args[0], kwargs, [*args[1:], *gs], pulled))

    def jvp(self, f: Any, xp: Any, tangents: Any, y: Any, args: Any, kwargs: Any) -> Any:
        kinds = kwargs["then"].space.kinds
        out_moving = [place for place, out in enumerate(y) if kinds[out.dtype]]
        places = [position - 1 for position in tangents]
        count = len(args) - 1

        def pushed(graph: Graph) -> Callable[..., list[Any]]:
            def branch(*leaves: Any) -> list[Any]:
                def of_moving(*moving: Any) -> list[Any]:
                    outs = graph.run(_put(leaves[:count], places, moving))
                    return [outs[i] for i in out_moving]

                primals = tuple(leaves[i] for i in places)
                return jvp(of_moving, primals, tuple(leaves[count:]))[1]

            return branch

        found = _branched(args[0], kwargs, [*args[1:], *tangents.values()], pushed)
        changes = dict(zip(out_moving, found, strict=True))
        return [changes.get(i, xp.zeros_like(out)) for i, out in enumerate(y)]


def _put(values: Sequence[Any], places: Sequence[int], moving: Sequence[Any]) -> list[Any]:
    """The values, with others at these places."""
    new = list(values)
    for place, value in zip(places, moving, strict=True):
        new[place] = value
    return new


def _branched(
    predicate: Any,
    branches: Any,
    operands: Sequence[Any],
    derived: Callable[[Graph], Callable[..., list[Any]]],
) -> Any:
    """`COND` of what is derived from both branches, whose operands these are."""
    examples = list(map(example, operands))
    then, first = subgraph(derived(branches["then"]), examples)
    otherwise, second = subgraph(derived(branches["otherwise"]), examples)
    captured = [*first, *second]
    return COND(
        predicate,
        *captured,
        *operands,
        then=_taking(then, first, captured),
        otherwise=_taking(otherwise, second, captured),
    )


RULES[COND] = CondRule()


def _batched(f: Any, xp: Any, args: Any, batched: list[bool], size: int, kwargs: Any) -> Any:
    """A branch for the whole batch, or both where the predicate differs from entry to entry."""
    predicate, operands = args[0], list(args[1:])
    axes = tuple(0 if own else None for own in batched[1:])
    if not batched[0]:
        return _branched(predicate, kwargs, operands, lambda graph: vmap(_run(graph), axes))

    def both(chosen: Any, *given: Any) -> list[Any]:
        pairs = [_run(kwargs[name])(*given) for name in ("then", "otherwise")]
        where = namespace(chosen).where
        return [where(chosen, a, b) for a, b in zip(*pairs, strict=True)]

    return tuple(vmap(both, (0, *axes))(predicate, *operands))


BATCHING[COND] = _batched


class LoopBoundError(ValueError):
    """A `while_loop` was not done after as many steps as its bound allows."""


def while_loop(
    cond_fun: Callable[[Any], Any], body_fun: Callable[[Any], Any], init: Any, bound: int
) -> Any:
    """`carry = body_fun(carry)` for as long as `cond_fun(carry)` is true.

    Parameters
    ----------
    cond_fun
        Gives a boolean array of shape ().
    body_fun
        Gives the next carry, a tree of the same shapes and dtypes. Both may use arrays from
        outside. A recording calls both once, so they always do the same operations.
    init
        The first carry, a tree of arrays.
    bound
        How many steps there are at most. In a recording, derivatives and batches are computed by a
        `scan` of so many steps, in which those after the last do nothing.

    Returns
    -------
    carry
        The last one.

    Raises
    ------
    LoopBoundError
        There would be more steps than `bound`. Where the values are not known yet (inside
        `jax.jit`), the floating-point leaves are NaN instead.
    TypeError, ValueError
        As for `scan` and `cond`.

    Examples
    --------
    >>> import numpy as np
    >>> root = while_loop(lambda x: abs(x * x - 2) > 1e-9, lambda x: (x + 2 / x) / 2,
    ...                   np.asarray(1.0), bound=20)
    >>> round(float(root), 8)
    1.41421356
    """
    where = place_of("while_loop", body_fun)
    if type(bound) is not int or bound < 0:
        raise ValueError(f"{where}: bound: expected an integer of 0 or more, got {bound!r}")
    carry, structure = leaves_of(where, init, "init")
    if not carry:
        raise ValueError(f"{where}: expected an array in init, got none")

    def going(*leaves: Any) -> list[Any]:
        result = cond_fun(structure.unflatten(leaves))
        _check_predicate(where, "the result of cond_fun", result)
        return [result]

    def body(*leaves: Any) -> list[Any]:
        given = structure.unflatten(leaves)
        result = body_fun(given)
        leaves_of(where, result, "the result of body_fun")
        check_alike(where, "the result of body_fun", given, result, "the carry it is given")
        return tree.leaves(result)

    with scope_of(bottom(carry[0])):
        if not is_recorded(carry):
            outs = _looped(where, going, body, carry, bound)
        elif is_foreign(carry):
            outs = _bounded(where, going, body, carry, bound)
        else:
            outs = _recorded(where, going, body, carry, bound)
    return structure.unflatten(outs)


def _looped(where: str, going: Any, body: Any, carry: Any, bound: int) -> Any:
    """The last carry of a loop of Python. Of a batch, an entry that is done stays as it is."""
    [active] = going(*carry)
    some = backend_of(active).xp.any
    for _ in range(bound):
        if not bool(some(bottom(active))):
            break
        carry = cond(active, body, lambda *carry: list(carry), *carry)
        [active] = going(*carry)
    if bool(some(bottom(active))) and not scopes.supposed:
        raise exceeded(where, bound)
    return carry


def exceeded(where: str, bound: int) -> LoopBoundError:
    """The error of a loop that was not done."""
    return LoopBoundError(
        f"{where}: expected cond_fun to be false after {bound} steps at most, got true. To fix it: "
        "raise bound, or have cond_fun count the steps and give up"
    )


def _bounded(where: str, going: Any, body: Any, carry: Any, bound: int) -> Any:
    """The last carry of so many steps, those after the last of which do nothing."""

    def step(carry: Any, _: None) -> Any:
        return cond(going(*carry)[0], body, lambda *carry: list(carry), *carry), None

    if bound:  # else there is nothing to go through, and what would be stacked is empty
        carry, _ = scan(step, list(carry), None, bound)
    return CHECKED(going(*carry)[0], *carry, where=where, bound=bound)


def _recorded(where: str, going: Any, body: Any, carry: list[Any], bound: int) -> Any:
    """The loop as one call."""
    examples = list(map(example, carry))
    with backend_of(carry[0]).quiet():
        predicate, first = subgraph(going, examples)
        step, second = subgraph(body, examples)
    check_pure(where, predicate)
    check_pure(where, step)
    return WHILE(
        *first,
        *second,
        *carry,
        going=predicate,
        body=step,
        consts=(len(first), len(second)),
        bound=bound,
        where=where,
    )


def _repeated(
    *args: Any, going: Graph, body: Graph, consts: tuple[int, int], bound: int, where: str
) -> Any:
    """The loop over plain arrays, which ends as soon as it may."""
    concrete = backend_of(*args).is_concrete
    loop = _looped if all(map(concrete, args)) else _bounded
    return tuple(loop(where, *_functions(args, going, body, consts), bound))


def _example(*args: Any, consts: tuple[int, int], **kwargs: Any) -> tuple[Any, ...]:
    """Results of the right shapes: what the loop starts from, which it gives if it ends at once."""
    return args[sum(consts) :]


def _composed(
    space: Any,
    *args: Any,
    going: Graph,
    body: Graph,
    consts: tuple[int, int],
    bound: int,
    where: str,
) -> Any:
    """The loop as a scan, for whoever transforms it."""
    return _bounded(where, *_functions(args, going, body, consts), bound)


def _functions(
    args: Sequence[Any], going: Graph, body: Graph, consts: tuple[int, int]
) -> tuple[Any, Any, list[Any]]:
    """The condition and the body as functions of the carry, and the carry."""
    first, second = args[: consts[0]], args[consts[0] : sum(consts)]
    carry = list(args[sum(consts) :])
    conditions, bodies = _run(going), _run(body)
    return (
        lambda *carry: conditions(*first, *carry),
        lambda *carry: bodies(*second, *carry),
        carry,
    )


#: `while_loop(*consts, *carry, going=, body=, consts=, bound=, where=)`.
WHILE = Function("while_loop", _repeated)
WHILE.example = _example
RULES[WHILE] = Composed(_composed)


def _checked(active: Any, *carry: Any, where: str, bound: int) -> Any:
    """The carry of a loop that has ended; LoopBoundError, or NaN, if it has not."""
    backend = backend_of(active)
    if backend.is_concrete(active):
        if bool(backend.xp.any(active)) and not scopes.supposed:
            raise exceeded(where, bound)
        return carry
    xp = backend.xp
    return tuple(
        xp.where(active, xp.nan, c) if xp.isdtype(c.dtype, ("real floating",)) else c for c in carry
    )


class CheckedRule(Rule):
    """Cotangents and tangents go through the same check, since the value may not be wanted."""

    takes_none = True

    def vjps(self, positions: Any, xp: Any, g: Any, y: Any, args: Any, kwargs: Any) -> list[Any]:
        gs = [xp.zeros_like(c) if each is None else each for each, c in zip(g, y, strict=True)]
        gs = CHECKED(args[0], *gs, **kwargs)
        return [gs[i - 1] for i in positions]

    def jvp(self, f: Any, xp: Any, tangents: Any, y: Any, args: Any, kwargs: Any) -> Any:
        changes = [tangents.get(i + 1, xp.zeros_like(out)) for i, out in enumerate(y)]
        return CHECKED(args[0], *changes, **kwargs)


#: `while_loop_end(active, *carry, where=, bound=)`.
CHECKED = Function("while_loop_end", _checked)
RULES[CHECKED] = CheckedRule()


def _checked_batch(f: Any, xp: Any, args: Any, batched: list[bool], size: int, kwargs: Any) -> Any:
    active = xp.any(args[0]) if batched[0] else args[0]
    carry = [
        a if own else xp.broadcast_to(a, (size, *a.shape))
        for a, own in zip(args[1:], batched[1:], strict=True)
    ]
    return f(active, *carry, **kwargs)


BATCHING[CHECKED] = _checked_batch
