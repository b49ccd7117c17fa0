"""Calls that run graphs: a scan is a loop around the statements of its body, `cond` both branches,
`while_loop` a loop that ends before its bound.

The carry of a loop lies in memory that the body changes in place where it may. What goes through
the entries of an array reads them, and writes them, at the step's number. The derivative of a scan
is a scan, that of a branch a branch, that of a `while_loop` a scan and a look whether it has ended.
Statements raise no errors: a loop that has not ended says so in memory that is looked at when they
are done.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tinynn.compiler.codegen.language import (
    INDEX,
    Assign,
    Constant,
    Expression,
    If,
    Index,
    Load,
    Loop,
    Statement,
    Store,
    Variable,
)
from tinynn.compiler.codegen.operations import start_of
from tinynn.compiler.codegen.scalars import cannot
from tinynn.compiler.codegen.schedule import copy_of
from tinynn.compiler.codegen.views import View
from tinynn.compiler.liveness import is_view, root
from tinynn.compiler.pipelines import applied, into_loops
from tinynn.compiler.rewrite import is_call, size
from tinynn.transforms.graph import Graph, Node, pruned
from tinynn.transforms.scan_pullback import Parts

# The largest bound that an index can count one beyond; no loop takes so many steps.
_COUNTED = 2**63 - 2


class _Repeated:
    """The base of calls that carry values from step to step.

    Parameters
    ----------
    block
        The statements that it is among.
    node
        The call.
    carry
        The values before the first step.
    """

    def __init__(self, block: Any, node: Node, carry: Sequence[Node]) -> None:
        self.block, self.node, self.work = block, node, block.work
        self.carries = len(carry)
        self.items: dict[int, Node] = block.schedule.items.get(id(node), {})
        self.carried: list[View] = []
        self.copies: list[tuple[Node, View]] = []
        for place, first in enumerate(carry):
            self._carry(first, self.items.get(place))

    def _carry(self, first: Node, item: Node | None) -> None:
        """Choose the memory of a carry, which is that of its last value."""
        dtype = self.work.scalars.dtype(first.dtype)
        home: View | None = None if item is None else self.block.must_be_at(item)
        # What lies there, a parameter, say, is not to be changed before the scan begins.
        early = home is None
        if not first.shape:
            home = View.of(self.work.variable("c0", dtype), ())
        elif home is None:
            home = View.of(self.work.allocated("c0", size(first), dtype), first.shape)
        if item is not None:
            self.block.homes[id(item)] = home
        self.carried.append(home)
        if not (early and self.block.write_at(first, home)):
            self.copies.append((first, home))

    def begun(self) -> list[Statement]:
        """What the first step finds in the memory of the carry is put there."""
        return [each for pair in self.copies for each in _put(self.block, *pair)]

    def step(
        self,
        body: Graph,
        homes: Mapping[int, View],
        consts: Sequence[tuple[int, View]],
        ys: Sequence[View] = (),
    ) -> Any:
        """The block of a step, from the graph of its carry and more, which lies at `homes`.

        Parameters
        ----------
        consts
            Of these homes, those of what is the same in all steps.
        ys
            Where its further outputs are to be.
        """
        homes = {**dict(zip(map(id, body.inputs), self.carried, strict=False)), **homes}
        body = _copied_out(applied(body, into_loops(self.carries, homes)), self.carries)
        given = list(zip(body.outputs[self.carries :], ys, strict=True))
        changed = {view.base for view in (*self.carried, *ys)}
        fixed = {view.base for _, view in consts} - changed
        return type(self.block)(self.work, body, self.carries, homes, given, fixed)


class Scan(_Repeated):
    """Writes a call of `scan` for a block."""

    def __init__(self, block: Any, node: Node) -> None:
        self.parts = Parts.of(node.args, node.kwargs["consts"], node.kwargs["carries"])
        super().__init__(block, node, self.parts.carry)

    def statements(self) -> list[Statement]:
        """The loop, and what comes before it."""
        kwargs, block = self.node.kwargs, self.block
        time, length = self.work.variable("t0", INDEX), kwargs["length"]
        place = Index(((time, -1),), length - 1) if kwargs["reverse"] else Index.of(time)
        before = self.begun()
        ys = {n: self.block.home(item).entry(place) for n, item in self.items.items()
              if n >= self.carries}  # fmt: skip
        body = self._ordered(list(ys))
        rest = iter(body.inputs[self.carries :])
        consts = [_reads(block, next(rest), given) for given in self.parts.consts]
        xs = [_reads(block, next(rest), given) for given in self.parts.xs]
        homes = dict(consts) | {key: view.entry(place) for key, view in xs}
        inner = self.step(body, homes, consts, list(ys.values()))
        loop = Loop(time, 0, length, 1, tuple(inner.statements))
        return [*before, *inner.before, loop]

    def _ordered(self, ys: Sequence[int]) -> Graph:
        """The body, its carry first, and of its ys those that are wanted."""
        body: Graph = self.node.kwargs["body"]
        own = Parts.of(body.inputs, self.node.kwargs["consts"], self.carries)
        outputs = [*body.outputs[: self.carries], *[body.outputs[n] for n in ys]]
        if not all(isinstance(each, Node) for each in outputs):
            raise cannot(self.node, ": its step gives a number that is no array")
        inputs = [*own.carry, *own.consts, *own.xs]
        return pruned(replace(body, inputs=inputs, outputs=outputs))


class While(_Repeated):
    """Writes a call of `while_loop` for a block.

    A step is the condition and then, if it holds, the body. One more than the bound allows is begun
    where the loop has not ended: its result is wanted by nobody.
    """

    def __init__(self, block: Any, node: Node) -> None:
        first, second = node.kwargs["consts"]  # how many are the condition's, and the body's
        self.consts = node.args[:first], node.args[first : first + second]
        super().__init__(block, node, list(node.args[first + second :]))

    def statements(self) -> list[Statement]:
        """The loop, and what comes before and after it."""
        work, kwargs = self.work, self.node.kwargs
        test, body = self._with_consts(kwargs["going"], 0), self._with_consts(kwargs["body"], 1)
        going, time = work.variable("go0", "bool"), work.variable("t0", INDEX)
        homes = dict(zip(map(id, test[0].inputs), self.carried, strict=False)) | dict(test[1])
        condition = _inside(self.block, test[0], homes, [View.of(going, ())])
        inner = self.step(body[0], dict(body[1]), body[1])
        turn = (*condition, If(going, tuple(inner.statements), ()))
        loop = Loop(time, 0, min(kwargs["bound"], _COUNTED) + 1, 1, turn, going)
        start = Assign(going, Constant(True, "bool"))
        return [*self.begun(), *inner.before, start, loop, *_noted(work, self.node, going)]

    def _with_consts(self, graph: Graph, which: int) -> tuple[Graph, list[tuple[int, View]]]:
        """The condition (0) or the body (1), its carry first, and where the rest of it lies."""
        if not all(isinstance(each, Node) for each in graph.outputs):
            raise cannot(self.node, ": its step gives a number that is no array")
        given = self.consts[which]
        own, carry = graph.inputs[: len(given)], graph.inputs[len(given) :]
        homes = [_reads(self.block, *pair) for pair in zip(own, given, strict=True)]
        return replace(graph, inputs=[*carry, *own]), homes


class Ended:
    """Writes a call of `while_loop_end` for a block: its results are copies of its arguments."""

    def __init__(self, block: Any, node: Node) -> None:
        self.block, self.node = block, node
        self.items: dict[int, Node] = block.schedule.items.get(id(node), {})

    def statements(self) -> list[Statement]:
        """The copies, and a note if the loop has not ended."""
        active, *carry = self.node.args
        out = _noted(self.block.work, self.node, self.block.one(active))
        for place, item in self.items.items():
            if size(item) == 1:
                held = self.block.work.variable("s0", self.block.work.scalars.dtype(item.dtype))
                self.block.homes[id(item)] = View.of(held, item.shape)
            out += _put(self.block, carry[place], self.block.home(item))
        return out


class Branches:
    """Writes a call of `cond` for a block.

    Parameters
    ----------
    block
        The statements that it is among.
    node
        The call.
    """

    def __init__(self, block: Any, node: Node) -> None:
        self.block, self.node = block, node
        self.items: dict[int, Node] = block.schedule.items.get(id(node), {})

    def statements(self) -> list[Statement]:
        """Both branches, and what comes before them."""
        before: list[Statement] = []
        places = []
        for item in self.items.values():
            dtype = self.block.work.scalars.dtype(item.dtype)
            if size(item) == 1:  # a variable, which has to be there after the branches
                held = self.block.work.variable("s0", dtype)
                before.append(Assign(held, start_of("any" if dtype == "bool" else "sum", dtype)))
                self.block.homes[id(item)] = View.of(held, item.shape)
            places.append(self.block.home(item))
        condition = self.block.one(self.node.args[0])
        then, otherwise = (
            self._branch(self.node.kwargs[key], places) for key in ("then", "otherwise")
        )
        return [*before, If(condition, then, otherwise)]

    def _branch(self, graph: Graph, places: Sequence[View]) -> tuple[Statement, ...]:
        operands = zip(graph.inputs, self.node.args[1:], strict=True)
        homes = dict(_reads(self.block, inner, given) for inner, given in operands)
        graph = pruned(replace(graph, outputs=[graph.outputs[n] for n in self.items]))
        return _inside(self.block, graph, homes, places)


#: What writes each of these calls.
WRITERS: dict[str, Callable[[Any, Node], Any]] = {
    "scan": Scan,
    "cond": Branches,
    "while_loop": While,
    "while_loop_end": Ended,
}


def _inside(
    block: Any, graph: Graph, homes: Mapping[int, View], places: Iterable[View]
) -> tuple[Statement, ...]:
    """The statements of a graph whose inputs lie at `homes`, and whose results go to places."""
    graph = _copied_out(applied(graph, into_loops(0, homes)), 0)
    given = list(zip(graph.outputs, places, strict=True))
    return tuple(type(block)(block.work, graph, 0, homes, given).statements)


def _put(block: Any, value: Node, home: View) -> list[Statement]:
    """A value is copied to a place."""
    if isinstance(home.base, Variable):
        return [Assign(home.base, block.one(value))]
    copied: list[Statement] = block.copied(value, home)
    return copied


def _noted(work: Any, node: Node, going: Expression) -> list[Statement]:
    """A note in memory of its own, if a loop has not ended."""
    note = Store(Load(work.note(node), Index()), Constant(True, "bool"))
    return [If(going, tuple(work.each((), [note])), ())]


def _reads(block: Any, value: Node, given: Node) -> tuple[int, View]:
    """The id of an input of a graph, and where what is given for it lies."""
    first = root(given)
    checked = block.work.checked.get(id(first))
    if checked is not None and size(given) == size(first):  # the graph sees all of it
        block.work.checked[id(value)] = checked
    return id(value), block.view(given)


def _copied_out(body: Graph, carries: int) -> Graph:
    """The body with a copy wherever a y is not the result of a call, and of none else."""
    outputs, nodes = list(body.outputs), list(body.nodes)
    for place, value in enumerate(outputs[carries:], carries):
        twin = any(value is other for other in outputs[:place])
        if not is_call(value) or is_view(value) or twin:
            outputs[place] = copy_of(value)
            nodes.append(outputs[place])
    return replace(body, nodes=nodes, outputs=outputs)
