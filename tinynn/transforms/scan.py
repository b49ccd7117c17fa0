"""scan: a loop as one call, whatever the number of its steps.

The body is a graph, and `SCAN` a function like any other: the loop over it is written once, in
`Backend.scan`, and every transformation of a loop is a loop over another body.
"""

from collections.abc import Callable, Sequence
from itertools import compress
from typing import Any

from backends import scope_of
from tinynn import tree
from tinynn.rules.batching import BATCHING
from tinynn.rules.kinds import RULES, Rule
from tinynn.trace import Function, Traced, backend_of, bottom, example, namespace
from tinynn.transforms.base import place_of
from tinynn.transforms.batch import vmap
from tinynn.transforms.forward import jvp
from tinynn.transforms.graph import Graph, Interpreter
from tinynn.transforms.scan_pullback import Parts, Pullback, entry, merged
from tinynn.transforms.subgraph import (
    check_alike,
    check_pure,
    is_foreign,
    is_recorded,
    leaves_of,
    subgraph,
)


def scan(
    f: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    xs: Any = None,
    length: int | None = None,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """Carry a value through the entries of arrays: a loop that is recorded as one call.

    It is this program::

        carry, ys = init, []
        for x in xs:
            carry, y = f(carry, x)
            ys.append(y)
        return carry, stack(ys)

    In a recording (`compile`, `record`, the engines of `fit`, `jax.jit`) it is one call, which
    takes no longer to record and compile for a thousand steps than for ten.

    Parameters
    ----------
    f
        `f(carry, x)` gives `(carry, y)`: the carry as a tree of the same shapes and dtypes, and any
        tree of arrays. A recording calls it once, so it always does the same operations. It may use
        arrays from outside, which are the same in every step.
    init
        The carry before the first step, a tree of arrays.
    xs
        A tree of arrays of shape (length, ...); each step is given its entries. None: there is
        nothing to go through, and `length` says how many steps there are.
    length
        The number of steps, if `xs` does not say it.
    reverse
        Go from the last entry to the first. The ys are then stacked in the order of `xs`.

    Returns
    -------
    carry, ys
        The last carry, and the y of every step as a tree of arrays of shape (length, ...).

    Raises
    ------
    TypeError
        A leaf is not an array, or `f` does not give a pair.
    ValueError
        Lengths differ, or the carry changes its structure, shape or dtype.
    RecordingError
        `f` reads the value of an array in a recording, or has an effect there.

    Notes
    -----
    A recording carries out the first step alone, since all that it needs of the others is shapes.
    A gradient through it keeps the intermediate results of all steps; of `checkpoint(f)` it keeps
    the carries, and computes the rest again. The names are those of `jax.lax.scan`.

    Examples
    --------
    >>> import numpy as np
    >>> total, sums = scan(lambda c, x: (c + x, c + x), np.asarray(0.0), np.asarray([1.0, 2, 3]))
    >>> float(total), sums
    (6.0, array([1., 3., 6.]))
    """
    where = place_of("scan", f)
    carry, structure = leaves_of(where, init, "init")
    rows, row_structure = leaves_of(where, xs, "xs")
    steps = _length(where, xs, length)
    if not carry and not rows:
        raise ValueError(f"{where}: expected an array in init or xs, got none")
    given: list[Any] = []

    def body(*leaves: Any) -> list[Any]:
        """One step, from leaves to leaves, looked at the first time."""
        carried = structure.unflatten(leaves[: len(carry)])
        pair: Any = f(carried, row_structure.unflatten(leaves[len(carry) :]))
        if given:
            return tree.leaves(pair)
        if not (isinstance(pair, tuple) and len(pair) == 2):
            raise TypeError(f"{where}: expected f to give a pair (carry, y), got {pair!r:.60}")
        leaves_of(where, pair[0], "the carry that f gives")
        leaves_of(where, pair[1], "the y that f gives")
        check_alike(where, "the carry that f gives", carried, pair[0], "the one it is given")
        given[:] = pair
        return tree.leaves(pair)

    with scope_of(bottom([*carry, *rows][0])):
        if steps and not is_recorded([*carry, *rows]):
            outs = _looped(body, carry, rows, steps, reverse)
        elif steps and is_foreign([*carry, *rows]):
            outs = _by_library(body, carry, rows, steps, reverse)
        else:
            outs = _recorded(where, body, carry, rows, steps, reverse)
    ys = tree.flatten(given[1])[1].unflatten(outs[len(carry) :])
    return structure.unflatten(outs[: len(carry)]), ys


def _looped(
    body: Callable[..., list[Any]], carry: list[Any], rows: list[Any], steps: int, reverse: bool
) -> list[Any]:
    """The steps one after the other, each followed by whoever follows its arrays."""
    ys = []
    for place in reversed(range(steps)) if reverse else range(steps):
        outs = body(*carry, *[x[place, ...] for x in rows])
        carry = outs[: len(carry)]
        ys.append(outs[len(carry) :])
    stacked = [
        namespace(*column).stack(column)
        for column in zip(*ys[:: -1 if reverse else 1], strict=True)
    ]
    return [*carry, *stacked]


def _by_library(
    body: Callable[..., list[Any]], carry: list[Any], rows: list[Any], steps: int, reverse: bool
) -> list[Any]:
    """The steps as the library that compiles the program around has them."""

    def step(carry: Sequence[Any], x: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        outs = body(*carry, *x)
        return outs[: len(carry)], outs[len(carry) :]

    last, ys = backend_of(*carry, *rows).scan(step, carry, rows, steps, reverse)
    return [*last, *ys]


def _recorded(
    where: str,
    body: Callable[..., list[Any]],
    carry: list[Any],
    rows: list[Any],
    steps: int,
    reverse: bool,
) -> Any:
    """The steps as one call."""
    graph, captured = subgraph(body, [*map(example, carry), *map(entry, rows)])
    check_pure(where, graph)
    return SCAN(
        *captured,
        *carry,
        *rows,
        body=graph,
        consts=len(captured),
        carries=len(carry),
        length=steps,
        reverse=reverse,
    )


def _length(where: str, xs: Any, length: int | None) -> int:
    """The number of steps; ValueError if it is not said, or said twice and differently."""
    found = None if length is None else (length, "length")
    for path, leaf in tree.paths(xs):
        said = f"xs, {path!r}" if path else "xs"
        if not leaf.ndim:
            raise ValueError(
                f"{where}: {said}: expected an array of shape (length, ...), got an array without "
                "axes"
            )
        if found and leaf.shape[0] != found[0]:
            raise ValueError(
                f"{where}: {said}: expected {found[0]} entries along axis 0, as {found[1]} has, "
                f"got shape {tuple(leaf.shape)}"
            )
        found = found or (leaf.shape[0], said)
    if found is None:
        raise ValueError(f"{where}: without xs there is no number of steps. To fix it: give length")
    if found[0] < 0:
        raise ValueError(f"{where}: length: expected 0 or more, got {found[0]}")
    return found[0]


def _carried_out(
    *args: Any, body: Graph, consts: int, carries: int, length: int, reverse: bool
) -> tuple[Any, ...]:
    """The scan of plain arrays: the last carries, then what is stacked."""
    parts, run = Parts.of(args, consts, carries), Interpreter(body)
    backend = backend_of(*args)

    def step(carry: Sequence[Any], x: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        outs = run([*parts.consts, *carry, *x])
        return outs[:carries], outs[carries:]

    if length:
        carry, ys = backend.scan(step, parts.carry, parts.xs, length, reverse)
        return (*carry, *ys)
    empty = [
        backend.xp.zeros((0, *y.shape), dtype=y.dtype, device=backend.device)
        for y in body.outputs[carries:]
    ]
    return (*parts.carry, *empty)


class Scan(Function):
    """`scan(*consts, *carry, *xs, body=, consts=, carries=, length=, reverse=)`.

    It gives the last carries and the stacked ys, as one tuple. Where cotangents are to be pulled
    back through it, `PULLED` is called instead, whose body gives what the pullback needs too.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        traces = [a.trace for a in args if type(a) is Traced]
        trace = max(traces, key=lambda trace: trace.level, default=None)
        if trace is None or not trace.pulls:
            return super().__call__(*args, **kwargs)
        moving = [type(a) is Traced and a.trace is trace for a in args]
        pullback = Pullback(args, moving, **kwargs)
        saving = kwargs | {"body": pullback.saving, "pullback": pullback}
        return trace.process(PULLED, args, saving)[: len(kwargs["body"].outputs)]


def _example(
    *args: Any, body: Graph, consts: int, carries: int, length: int, reverse: bool
) -> tuple[Any, ...]:
    """Results of the right shapes, after the first step."""
    if not length:
        return _carried_out(
            *args, body=body, consts=consts, carries=carries, length=length, reverse=reverse
        )
    parts, xp = Parts.of(args, consts, carries), backend_of(*args).xp
    first = length - 1 if reverse else 0
    outs = body.run([*parts.consts, *parts.carry, *[x[first, ...] for x in parts.xs]])
    ys = [xp.broadcast_to(xp.expand_dims(y, axis=0), (length, *y.shape)) for y in outs[carries:]]
    return (*outs[:carries], *ys)


SCAN = Scan("scan", _carried_out)
SCAN.example = _example


def _without_pullback(*args: Any, pullback: "Pullback", **kwargs: Any) -> Any:
    return SCAN(*args, **kwargs)


class Pulled(Function):
    """A scan on the tape of the trace that will pull back through it; below that it is a scan."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.raw(*args, **kwargs)


PULLED = Pulled("scan", _without_pullback)


class ScanRule(Rule):
    """Forward mode: a scan that carries tangents beside the values."""

    def jvp(self, f: Any, xp: Any, tangents: Any, y: Any, args: Any, kwargs: Any) -> Any:
        body, consts, carries = kwargs["body"], kwargs["consts"], kwargs["carries"]
        kinds = body.space.kinds
        out_moving = [bool(kinds[o.dtype]) for o in body.outputs]
        for place in range(consts, consts + carries):
            if kinds[args[place].dtype] and place not in tangents:
                tangents = tangents | {place: xp.zeros_like(args[place])}
        places = sorted(tangents)
        parts = Parts.of(args, consts, carries)
        groups = Parts.of(range(len(args)), consts, carries)
        moved = [[tangents[place] for place in places if place in group] for group in groups]
        sizes = [len(each) for pair in zip(parts, moved, strict=True) for each in pair]

        def both(*leaves: Any) -> list[Any]:
            supply = iter(leaves)
            groups = [[next(supply) for _ in range(n)] for n in sizes]
            values = [*groups[0], *groups[2], *groups[4]]
            changes = [*groups[1], *groups[3], *groups[5]]
            outs: list[Any] = []

            def of_moving(*moving: Any) -> list[Any]:
                given = dict(zip(places, moving, strict=True))
                outs[:] = body.run([given.get(i, value) for i, value in enumerate(values)])
                return list(compress(outs, out_moving))

            moved, change = jvp(of_moving, tuple(values[p] for p in places), tuple(changes))
            every = merged(outs, moved, out_moving)
            carried = sum(out_moving[:carries])
            return [*every[:carries], *change[:carried], *every[carries:], *change[carried:]]

        given = Parts(*[a + t for a, t in zip(parts, moved, strict=True)])
        examples = [*map(example, given.consts + given.carry), *map(entry, given.xs)]
        graph, captured = subgraph(both, examples)
        outs = SCAN(
            *captured,
            *given.consts,
            *given.carry,
            *given.xs,
            body=graph,
            consts=len(captured) + len(given.consts),
            carries=len(given.carry),
            length=kwargs["length"],
            reverse=kwargs["reverse"],
        )
        changes = [*outs[carries : len(given.carry)]]
        changes += outs[len(given.carry) + len(y) - carries :]
        supply = iter(changes)
        return [next(supply) if kinds[o.dtype] else xp.zeros_like(o) for o in y]


class PulledRule(Rule):
    """Reverse mode, with what the body saved."""

    takes_none = True

    def vjps(self, positions: Any, xp: Any, g: Any, y: Any, args: Any, kwargs: Any) -> list[Any]:
        shares = kwargs["pullback"](SCAN, xp, g, y, args)
        return [shares[position] for position in positions]


RULES[SCAN], RULES[PULLED] = ScanRule(), PulledRule()


def _batched(f: Any, xp: Any, args: Any, batched: list[bool], size: int, kwargs: Any) -> Any:
    """A scan whose steps are those of the whole batch."""
    body, carries = kwargs["body"], kwargs["carries"]
    parts = Parts.of(args, kwargs["consts"], carries)
    own = Parts.of(batched, kwargs["consts"], carries)
    carry = [
        c if mine else xp.broadcast_to(c, (size, *c.shape))
        for c, mine in zip(parts.carry, own.carry, strict=True)
    ]
    xs = [xp.moveaxis(x, 0, 1) if mine else x for x, mine in zip(parts.xs, own.xs, strict=True)]
    axes = [0 if mine else None for mine in (*own.consts, *[True] * carries, *own.xs)]
    entries = vmap(lambda *leaves: body.run(leaves), tuple(axes))
    examples = [*map(example, parts.consts + carry), *map(entry, xs)]
    graph, captured = subgraph(entries, examples)
    consts = len(captured) + kwargs["consts"]
    outs = f(*captured, *parts.consts, *carry, *xs, **kwargs | {"body": graph, "consts": consts})
    ys = [xp.moveaxis(y, 0, 1) for y in outs[carries:]]
    return (*outs[:carries], *ys)


BATCHING[SCAN] = _batched
