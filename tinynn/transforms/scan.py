"""scan: a loop as one call, whatever the number of its steps.

The body is a graph, and `SCAN` a function like any other: the loop over it is written once, in
`Backend.scan`, and every transformation of a loop is a loop over another body.
"""

from collections.abc import Callable, Sequence
from itertools import compress
from typing import Any, NamedTuple

from backends import scope_of
from tinynn import tree
from tinynn.rules.batching import BATCHING
from tinynn.rules.kinds import Rule
from tinynn.trace import Function, Traced, backend_of, bottom, example, namespace
from tinynn.trace.scopes import scopes
from tinynn.transforms.base import name_of
from tinynn.transforms.batch import vmap
from tinynn.transforms.forward import jvp
from tinynn.transforms.graph import Graph, Input, Interpreter, Node, pruned
from tinynn.transforms.record import recorded
from tinynn.transforms.reverse import vjp
from tinynn.transforms.subgraph import check_alike, leaves_of, subgraph, substituted

#: Functions that are called again in the pullback, rather than their results being stored.
CHEAP = frozenset(
    """reshape expand_dims squeeze permute_dims matrix_transpose moveaxis broadcast_to flip
    zeros_like ones_like""".split()
)


class Parts(NamedTuple):
    """The arguments of a scan, or something for each of them, by their part in it."""

    consts: list[Any]
    carry: list[Any]
    xs: list[Any]

    @classmethod
    def of(cls, values: Sequence[Any], consts: int, carries: int) -> "Parts":
        """So many of these are the same in every step, and so many after them are carried."""
        end = consts + carries
        return cls(list(values[:consts]), list(values[consts:end]), list(values[end:]))


def scan(
    f: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    xs: Any = None,
    length: int | None = None,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """Carry a value through the entries of arrays: a loop that is recorded as one call.

    It computes what this program does, and can be differentiated, batched, recorded and compiled
    as any other function::

        carry, ys = init, []
        for x in xs:
            carry, y = f(carry, x)
            ys.append(y)
        return carry, stack(ys)

    Args:
        f: `f(carry, x)` gives `(carry, y)`: the carry as a tree of the same shapes and dtypes,
            and any tree of arrays. It is called once, to be recorded, and always does the same. It
            may use arrays from outside, which are the same in every step.
        init: the carry before the first step, a tree of arrays.
        xs: a tree of arrays of shape `(length, ...)`; each step is given its entries. None: there
            is nothing to go through, and `length` says how many steps there are.
        length: the number of steps, if `xs` does not say it.
        reverse: go from the last entry to the first. `ys` is then stacked in the order of `xs`.

    Returns:
        `(carry, ys)`: the last carry, and the `y` of every step as a tree of arrays of shape
        `(length, ...)`.

    Raises:
        TypeError: a leaf is not an array, or `f` does not give a pair.
        ValueError: lengths differ, or the carry changes its structure, shape or dtype.
        RecordingError: `f` reads the value of an array.

    A gradient through it keeps the intermediate results of all steps; of `checkpoint(f)` it keeps
    the carries, and computes the rest again. The names are those of `jax.lax.scan`.

    >>> import numpy as np
    >>> total, sums = scan(lambda c, x: (c + x, c + x), np.asarray(0.0), np.asarray([1.0, 2, 3]))
    >>> float(total), sums
    (6.0, array([1., 3., 6.]))
    """
    where = name_of("scan", f)
    carry, structure = leaves_of(where, init, "init")
    rows, row_structure = leaves_of(where, xs, "xs")
    steps = _length(where, xs, length)
    if not carry and not rows:
        raise ValueError(f"{where}: expected an array in init or xs, got none")
    given: list[Any] = []

    def body(*leaves: Any) -> list[Any]:
        arguments = structure.unflatten(leaves[: len(carry)])
        pair = f(arguments, row_structure.unflatten(leaves[len(carry) :]))
        if not (isinstance(pair, tuple) and len(pair) == 2):
            raise TypeError(f"{where}: expected f to give a pair (carry, y), got {pair!r:.60}")
        leaves_of(where, pair[0], "the carry that f gives")
        leaves_of(where, pair[1], "the y that f gives")
        check_alike(where, "the carry that f gives", arguments, pair[0], "the one it is given")
        given[:] = pair
        return tree.leaves(pair)

    with scope_of(bottom([*carry, *rows][0])):
        graph, captured = subgraph(body, [*map(example, carry), *map(_entry, rows)])
        outs = SCAN(
            *captured,
            *carry,
            *rows,
            body=graph,
            consts=len(captured),
            carries=len(carry),
            length=steps,
            reverse=reverse,
        )
    ys = tree.flatten(given[1])[1].unflatten(outs[len(carry) :])
    return structure.unflatten(outs[: len(carry)]), ys


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


def _entry(x: Any) -> Any:
    """A plain array like the entries of x."""
    x = example(x)
    if x.shape[0]:
        return x[0, ...]
    xp = namespace(x)
    return xp.zeros(x.shape[1:], dtype=x.dtype, device=backend_of(x).device)


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


SCAN = Scan("scan", _carried_out)


def _without_pullback(*args: Any, pullback: "Pullback", **kwargs: Any) -> Any:
    return SCAN(*args, **kwargs)


class Pulled(Function):
    """A scan on the tape of the trace that will pull back through it; below that it is a scan."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.raw(*args, **kwargs)


PULLED = Pulled("scan", _without_pullback)


class Pullback:
    """What pulls cotangents back through a scan: another scan, the other way round.

    The body and its pullback are recorded together, and cut where the pullback begins. What it
    reads of the values before the cut is the residuals: further ys of the body (`saving`), and xs
    of the pullback. Values that follow from the constants alone, and `CHEAP` ones, are computed
    again.

    Args:
        args: of the scan, as they are outside of every transformation.
        moving: for which of them cotangents will be asked.
        body, consts, carries, length, reverse: of the scan.
    """

    def __init__(
        self,
        args: Sequence[Any],
        moving: Sequence[bool],
        *,
        body: Graph,
        consts: int,
        carries: int,
        length: int,
        reverse: bool,
    ) -> None:
        self.body, self.consts, self.carries = body, consts, carries
        self.length, self.reverse = length, reverse
        # A carry that does not move at first may do so later.
        kinds = body.space.kinds
        parts = Parts.of(moving, consts, carries)
        carried = [bool(kinds[i.dtype]) for i in body.inputs[consts : consts + carries]]
        self.moving = [*parts.consts, *carried, *parts.xs]
        self.out_moving = [bool(kinds[o.dtype]) for o in body.outputs]
        examples = Parts.of(args, consts, carries)
        xs = map(_entry, examples.xs)
        self._record([*map(example, examples.consts + examples.carry), *xs])
        self._cut()

    def _record(self, examples: list[Any]) -> None:
        """Record the body and its pullback as one graph."""
        body, count = self.body, len(examples)
        xp = namespace(examples[0])
        device = backend_of(*examples).device
        outs = list(compress(body.outputs, self.out_moving))
        ones = [xp.ones(tuple(o.shape), dtype=o.dtype, device=device) for o in outs]

        def both(*leaves: Any) -> Any:
            others: list[Any] = []

            def of_moving(*moving: Any) -> list[Any]:
                supply = iter(moving)
                pairs = zip(leaves, self.moving, strict=False)
                values = body.run([next(supply) if moves else a for a, moves in pairs])
                others[:] = values
                return list(compress(values, self.out_moving))

            moved, pull = vjp(of_moving, *compress(leaves[:count], self.moving))
            self._start = len(scopes.recording.nodes)
            return _merged(others, moved, self.out_moving), pull(list(leaves[count:]))

        self._graph = recorded(both, (*examples, *ones))

    def _cut(self) -> None:
        graph, body = self._graph, self.body
        count, ys = len(self.moving), len(body.outputs)
        primals, cotangents = graph.inputs[:count], graph.inputs[count:]
        before, after = graph.nodes[: self._start], graph.nodes[self._start :]
        pulled = pruned(Graph(body.name, [], after, graph.outputs[ys:], graph.space))
        residuals = Residuals(Parts.of(primals, self.consts, self.carries), before)
        for value in [a for node in pulled.nodes for a in node.parents] + pulled.outputs:
            residuals.need(value)
        self.saved = residuals.stored
        self.read_xs = [x in residuals.read for x in residuals.inputs.xs]
        outputs = [*graph.outputs[:ys], *self.saved]
        saving = Graph(body.name, primals, before, outputs, graph.space)
        self.saving = pruned(saving)
        self._pulling(pulled, residuals, cotangents)

    def _pulling(self, pulled: Graph, residuals: "Residuals", cotangents: list[Input]) -> None:
        """The body of the scan that pulls back."""
        inputs, new = residuals.inputs, dict[int, Any]()

        def fresh(value: Any, label: str) -> Input:
            return Input(None, (), {}, value.shape, value.dtype, label=label)

        def given(values: Sequence[Any], label: str) -> list[Any]:
            made = [fresh(value, f"{label}.{i}") for i, value in enumerate(values)]
            new.update(zip(map(id, values), made, strict=True))
            return made

        moving = Parts.of(self.moving, self.consts, self.carries)
        by_carry = list(compress(self.out_moving[: self.carries], moving.carry))
        assert all(by_carry)
        carried = sum(moving.carry)
        consts = given(inputs.consts, "consts")
        gs = given(cotangents, "cotangents")
        sums = [fresh(c, f"sums.{i}") for i, c in enumerate(compress(inputs.consts, moving.consts))]
        stacked = given(self.saved, "residuals") + given(
            list(compress(inputs.xs, self.read_xs)), "xs"
        )
        again = Graph("", [], [*residuals.again, *pulled.nodes], pulled.outputs, pulled.space)
        moved = substituted(again, new)
        shares = iter(moved.outputs)
        added = []
        for total in sums:
            node = Node(pulled.space.add, (total, next(shares)), {}, total.shape, total.dtype)
            moved.nodes.append(node)
            added.append(node)
        back = [next(shares) for _ in range(carried)]
        moved.inputs = [*consts, *gs[:carried], *sums, *gs[carried:], *stacked]
        moved.outputs = [*back, *added, *shares]
        moved.name = f"pullback of {self.body.name}"
        self.pulling, self.carried = pruned(moved), carried

    def __call__(self, xp: Any, gs: Sequence[Any], ys: Sequence[Any], args: Sequence[Any]) -> Any:
        """The cotangents of the moving arguments, by their place."""
        parts = Parts.of(args, self.consts, self.carries)
        moving = Parts.of(self.moving, self.consts, self.carries)
        count = len(self.body.outputs)
        gs = [
            xp.zeros_like(y) if g is None else g
            for g, y in compress(zip(gs, ys, strict=True), self.out_moving)
        ]
        sums = [xp.zeros_like(c) for c in compress(parts.consts, moving.consts)]
        outs = SCAN(
            *parts.consts,
            *gs[: self.carried],
            *sums,
            *gs[self.carried :],
            *ys[count:],
            *compress(parts.xs, self.read_xs),
            body=self.pulling,
            consts=self.consts,
            carries=self.carried + len(sums),
            length=self.length,
            reverse=not self.reverse,
        )
        back = outs[: self.carried]
        added, by_xs = outs[self.carried :][: len(sums)], outs[self.carried + len(sums) :]
        places = [place for place, moves in enumerate(self.moving) if moves]
        return dict(zip(places, [*added, *back, *by_xs], strict=True))


class Residuals:
    """What a pullback reads of the values that the function computed.

    Attributes:
        inputs: of the function.
        stored: the values that have to be kept.
        again: the calls that are carried out again, in order.
        read: the inputs that are read.
    """

    def __init__(self, inputs: Parts, nodes: Sequence[Node]) -> None:
        self.inputs, self.stored = inputs, list[Node]()
        self.again, self.read = list[Node](), list[Any]()
        self._seen: set[int] = set()
        self._computed = {id(node) for node in nodes}
        varying = {*map(id, inputs.carry), *map(id, inputs.xs)}
        for node in nodes:
            if any(id(parent) in varying for parent in node.parents):
                varying.add(id(node))
        self._varying = varying

    def need(self, value: Any) -> None:
        """Have a value at hand in the pullback."""
        if not isinstance(value, Node) or id(value) in self._seen:
            return
        self._seen.add(id(value))
        if id(value) in map(id, self.inputs.carry):
            self.stored.append(value)
        elif id(value) in self._computed:
            if value.name in CHEAP or id(value) not in self._varying:
                for parent in value.parents:
                    self.need(parent)
                self.again.append(value)
            else:
                self.stored.append(value)
        elif value in self.inputs.xs:
            self.read.append(value)


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
        moved = [[tangents[p] for p in places if p in group] for group in _groups(args, kwargs)]
        sizes = [*map(len, parts), *map(len, moved)]

        def both(*leaves: Any) -> list[Any]:
            supply = iter(leaves)
            groups = [[next(supply) for _ in range(n)] for n in _interleaved(sizes)]
            values = [*groups[0], *groups[2], *groups[4]]
            changes = [*groups[1], *groups[3], *groups[5]]
            outs: list[Any] = []

            def of_moving(*moving: Any) -> list[Any]:
                given = dict(zip(places, moving, strict=True))
                outs[:] = body.run([given.get(i, value) for i, value in enumerate(values)])
                return list(compress(outs, out_moving))

            moved, change = jvp(of_moving, tuple(values[p] for p in places), tuple(changes))
            every = _merged(outs, moved, out_moving)
            carried = sum(out_moving[:carries])
            return [*every[:carries], *change[:carried], *every[carries:], *change[carried:]]

        given = [g for pair in zip(parts, moved, strict=True) for g in pair]
        of_xs = [_entry(x) for x in given[4] + given[5]]
        examples = [*map(example, sum(given[:4], [])), *of_xs]
        graph, captured = subgraph(both, examples)
        outs = SCAN(
            *captured,
            *sum(given, []),
            body=graph,
            consts=len(captured) + len(given[0]) + len(given[1]),
            carries=carries + len(given[3]),
            length=kwargs["length"],
            reverse=kwargs["reverse"],
        )
        changes = [*outs[carries : carries + len(given[3])]]
        changes += outs[carries + len(given[3]) + len(y) - carries :]
        supply = iter(changes)
        return [next(supply) if kinds[o.dtype] else xp.zeros_like(o) for o in y]


def _merged(values: Sequence[Any], moved: Sequence[Any], moving: Sequence[bool]) -> list[Any]:
    """The values, with those of `moved` in place of the moving ones."""
    supply = iter(moved)
    return [next(supply) if moves else v for v, moves in zip(values, moving, strict=True)]


def _groups(args: Sequence[Any], kwargs: Any) -> Parts:
    """The places of the arguments."""
    return Parts.of(range(len(args)), kwargs["consts"], kwargs["carries"])


def _interleaved(sizes: Sequence[int]) -> list[int]:
    half = len(sizes) // 2
    return [size for pair in zip(sizes[:half], sizes[half:], strict=True) for size in pair]


class PulledRule(Rule):
    """Reverse mode, with what the body saved."""

    takes_none = True

    def vjps(self, positions: Any, xp: Any, g: Any, y: Any, args: Any, kwargs: Any) -> list[Any]:
        shares = kwargs["pullback"](xp, g, y, args)
        return [shares[position] for position in positions]


SCAN.rule, PULLED.rule = ScanRule(), PulledRule()


def _batched(f: Any, xp: Any, args: Any, batched: list[bool], size: int, kwargs: Any) -> Any:
    """A scan whose steps are those of the whole batch."""
    body, carries = kwargs["body"], kwargs["carries"]
    parts = Parts.of(args, kwargs["consts"], carries)
    own = Parts.of(batched, kwargs["consts"], carries)
    carry = [
        c if mine else xp.broadcast_to(c, (size, *c.shape))
        for c, mine in zip(parts.carry, own.carry, strict=True)
    ]
    xs = [
        xp.moveaxis(x, 0, 1) if mine else x for x, mine in zip(parts.xs, own.xs, strict=True)
    ]
    axes = [0 if mine else None for mine in (*own.consts, *[True] * carries, *own.xs)]
    entries = vmap(lambda *leaves: body.run(leaves), tuple(axes))
    examples = [*map(example, parts.consts + carry), *map(_entry, xs)]
    graph, captured = subgraph(entries, examples)
    consts = len(captured) + kwargs["consts"]
    outs = f(
        *captured, *parts.consts, *carry, *xs, **kwargs | {"body": graph, "consts": consts}
    )
    ys = [xp.moveaxis(y, 0, 1) for y in outs[carries:]]
    return (*outs[:carries], *ys)


BATCHING[SCAN] = _batched
