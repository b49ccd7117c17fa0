"""The gradient of a scan: another scan, the other way round."""

from collections.abc import Sequence
from itertools import compress
from typing import Any, NamedTuple

from tinynn.trace import backend_of, example, namespace
from tinynn.trace.scopes import scopes
from tinynn.transforms.graph import Graph, Input, Node, pruned
from tinynn.transforms.record import recorded
from tinynn.transforms.reverse import vjp
from tinynn.transforms.subgraph import substituted

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


def entry(x: Any) -> Any:
    """A plain array like the entries of x."""
    x = example(x)
    if x.shape[0]:
        return x[0, ...]
    xp = namespace(x)
    return xp.zeros(x.shape[1:], dtype=x.dtype, device=backend_of(x).device)


class Pullback:
    """The pullback of a scan, as the body of another scan.

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
        xs = map(entry, examples.xs)
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
            return merged(others, moved, self.out_moving), pull(list(leaves[count:]))

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
        # What the body gives as a y is stacked already.
        given = graph.outputs[self.carries : ys]
        places = [_place(value, given) for value in residuals.stored]
        self.read_ys = [place for place in places if place is not None]
        pairs = list(zip(residuals.stored, places, strict=True))
        self.saved = [value for value, place in pairs if place is None]
        self.stacked = self.saved + [value for value, place in pairs if place is not None]
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
        carried = sum(moving.carry)
        consts = given(inputs.consts, "consts")
        gs = given(cotangents, "cotangents")
        sums = [fresh(c, f"sums.{i}") for i, c in enumerate(compress(inputs.consts, moving.consts))]
        stacked = given(self.stacked, "residuals") + given(
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

    def __call__(
        self, scan: Any, xp: Any, gs: Sequence[Any], ys: Sequence[Any], args: Sequence[Any]
    ) -> dict[int, Any]:
        """The cotangents of the moving arguments, by their place.

        Args:
            scan: the function `SCAN`.
            xp: the namespace of the arrays.
            gs: the cotangents of the body's results; None: none reached it.
            ys: the results of the scan with the body `saving`.
            args: of the scan.
        """
        parts = Parts.of(args, self.consts, self.carries)
        moving = Parts.of(self.moving, self.consts, self.carries)
        count = len(self.body.outputs)
        gs = [
            xp.zeros_like(y) if g is None else g
            for g, y in compress(zip(gs, ys, strict=True), self.out_moving)
        ]
        sums = [xp.zeros_like(c) for c in compress(parts.consts, moving.consts)]
        outs = scan(
            *parts.consts,
            *gs[: self.carried],
            *sums,
            *gs[self.carried :],
            *ys[count:],
            *[ys[self.carries + place] for place in self.read_ys],
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
    """The values that a pullback reads of those that the function computed.

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


def _place(value: Any, values: Sequence[Any]) -> int | None:
    """The first place of a value among others."""
    return next((place for place, other in enumerate(values) if other is value), None)


def merged(values: Sequence[Any], moved: Sequence[Any], moving: Sequence[bool]) -> list[Any]:
    """The values, with those of `moved` in place of the moving ones."""
    supply = iter(moved)
    return [next(supply) if moves else v for v, moves in zip(values, moving, strict=True)]
