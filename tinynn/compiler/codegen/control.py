"""Calls that run graphs: a scan is a loop around the statements of its body, `cond` both branches.

The carry of a scan lies in memory that the body changes in place where it may. What goes through
the entries of an array reads them, and writes them, at the step's number. The derivative of a scan
is a scan, that of a branch a branch.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tinynn.compiler.codegen.language import INDEX, Assign, If, Index, Loop, Statement, Variable
from tinynn.compiler.codegen.operations import start_of
from tinynn.compiler.codegen.scalars import cannot
from tinynn.compiler.codegen.schedule import copy_of
from tinynn.compiler.codegen.views import View
from tinynn.compiler.liveness import is_view, root
from tinynn.compiler.pipelines import applied, into_loops
from tinynn.compiler.rewrite import is_call, size
from tinynn.transforms.graph import Graph, Node, pruned
from tinynn.transforms.scan_pullback import Parts


class Scan:
    """Writes a call of `scan` for a block.

    Parameters
    ----------
    block
        The statements that it is among.
    node
        The call.
    """

    def __init__(self, block: Any, node: Node) -> None:
        self.block, self.node, self.work = block, node, block.work
        self.carries: int = node.kwargs["carries"]
        self.items: dict[int, Node] = block.schedule.items.get(id(node), {})
        self.parts = Parts.of(node.args, node.kwargs["consts"], self.carries)
        self.carried: list[View] = []
        self.copies: list[tuple[Node, View]] = []
        for place, first in enumerate(self.parts.carry):
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

    def statements(self) -> list[Statement]:
        """The loop, and what comes before it."""
        kwargs, block = self.node.kwargs, self.block
        time, length = self.work.variable("t0", INDEX), kwargs["length"]
        place = Index(((time, -1),), length - 1) if kwargs["reverse"] else Index.of(time)
        before: list[Statement] = []
        for value, home in self.copies:
            if isinstance(home.base, Variable):
                before.append(Assign(home.base, block.one(value)))
            else:
                before += block.copied(value, home)
        ys = {n: self.block.home(item).entry(place) for n, item in self.items.items()
              if n >= self.carries}  # fmt: skip
        body = self._ordered(list(ys))
        carry, rest = body.inputs[: self.carries], iter(body.inputs[self.carries :])
        homes = dict(zip(map(id, carry), self.carried, strict=True))
        consts = [_reads(block, next(rest), given) for given in self.parts.consts]
        xs = [_reads(block, next(rest), given) for given in self.parts.xs]
        homes |= dict(consts) | {key: view.entry(place) for key, view in xs}
        body = _copied_out(applied(body, into_loops(self.carries, homes)), self.carries)
        given = list(zip(body.outputs[self.carries :], ys.values(), strict=True))
        changed = {view.base for view in (*self.carried, *ys.values())}
        fixed = {view.base for _, view in consts} - changed
        inner = type(block)(self.work, body, self.carries, homes, given, fixed)
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
        graph = _copied_out(applied(graph, into_loops(0, homes)), 0)
        given = list(zip(graph.outputs, places, strict=True))
        return tuple(type(self.block)(self.block.work, graph, 0, homes, given).statements)


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
