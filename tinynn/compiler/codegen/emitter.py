"""The kernel of a step: its arguments and memory, and the loops over the batches."""

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

from tinynn.compiler import identifiers
from tinynn.compiler.codegen.barriers import with_barriers
from tinynn.compiler.codegen.block import Block
from tinynn.compiler.codegen.language import (
    INDEX,
    Apply,
    Assign,
    Buffer,
    Constant,
    Function,
    Index,
    Load,
    Loop,
    Parallel,
    Statement,
    Store,
    Variable,
    room,
    walk,
)
from tinynn.compiler.codegen.nest import places
from tinynn.compiler.codegen.views import View
from tinynn.compiler.codegen.workspace import Workspace
from tinynn.compiler.pipelines import applied, into_loops
from tinynn.compiler.rewrite import size
from tinynn.transforms import graph as graphs
from tinynn.transforms.graph import Graph, Node

_STEPS, _TIMES, _TURN, _FIRST = (
    Variable(name, INDEX) for name in ("steps", "times", "turn", "first")
)


class LoopEmitter:
    """Writes the kernel of one step.

    Parameters
    ----------
    graph
        The program of the step.
    kept
        How many inputs live on; their new values are the first outputs.
    backend
        Where it runs.
    products
        From how many multiplications on BLAS multiplies matrices, by dtype.
    threads
        How many threads may share the kernel, a power of two.
    shared_bytes
        The memory that they may share; of one thread, what may lie on its stack.

    Attributes
    ----------
    graph
        The step after the passes for loops.
    constants
        Arrays from outside, by the memory they are in.
    work
        The kernel's names and memory.
    step
        The statements of a step.
    """

    def __init__(
        self,
        graph: Graph,
        kept: int,
        backend: Any,
        *,
        products: Mapping[str, int] | None = None,
        threads: int = 1,
        shared_bytes: int = 0,
    ) -> None:
        self._shared_bytes = shared_bytes
        self.graph = graph = applied(graph, into_loops(kept))
        self.work = Workspace(backend, graph.space, products or {}, threads)
        self.kept, self.streams = graph.inputs[:kept], graph.inputs[kept:]
        self.wanted = graph.outputs[kept]
        self.outs = Buffer("outs", self.work.scalars.dtype(self.wanted.dtype))
        self.place = self.work.variable("place", INDEX)
        self.starts: list[tuple[Variable, int]] = []  # where the streams' batches begin
        self.constants: dict[Buffer, graphs.Constant] = {}
        self._homes: dict[int, View] = {}
        self._place_inputs()
        out = View.of(self.outs, self.wanted.shape)._replace(start=Index.of(self.place))
        self.step = Block(self.work, graph, kept, self._homes, [(self.wanted, out)])

    def _place_inputs(self) -> None:
        labels = [identifiers.of_input(i.label) for i in self.graph.inputs]
        self._given = [
            self._holder(label, node) for label, node in zip(labels, self.graph.inputs, strict=True)
        ]
        for base, node in zip(self._given, self.graph.inputs, strict=True):
            view = View.of(base, node.shape)
            if isinstance(base, Buffer) and any(node is stream for stream in self.streams):
                start = self.work.variable(f"{base.name}_0", INDEX)
                self.starts.append((start, prod(node.shape)))
                self.work.checked[id(node)] = node
                view = view._replace(start=Index.of(start))
            self._homes[id(node)] = view
        for constant in self.graph.constants:
            single = Variable if size(constant) == 1 else Buffer
            held = single(self.work.new("constant"), self.work.scalars.dtype(constant.dtype))
            self._given.append(held)
            self.work.checked[id(constant)] = constant
            self._homes[id(constant)] = View.of(held, constant.shape)

    def _holder(self, label: str, node: Node) -> Buffer | Variable:
        """The memory of an input, or the variable of a single number that lives on."""
        dtype, name = self.work.scalars.dtype(node.dtype), self.work.new(label)
        if not node.shape and any(node is each for each in self.kept):
            return Variable(name, dtype)
        count = size(node) if any(node is each for each in self.kept) else None
        return Buffer(name, dtype, count)

    # The function.

    def function(self) -> Function:
        """The kernel: the step in a loop over the batches, in a loop over the times."""
        given: list[Buffer] = []
        before: list[Statement] = []
        after: list[Statement] = []
        shared = self._shared()
        kept = len(self.kept)
        for i, held in enumerate(self._given):
            if isinstance(held, Buffer) and held not in shared:
                given.append(held)
                continue
            outside = Buffer(self.work.new(f"all_{held.name}"), held.dtype)
            given.append(outside)
            if isinstance(held, Variable):
                first = Load(outside, Index())
                before.append(Assign(held, first))
                after += self.work.each((), [Store(first, held)]) if i < kept else []
            else:
                assert held.size is not None
                at = places(1)
                inside, there = (Load(each, Index.of(at[0])) for each in (held, outside))
                axes = [(at[0], held.size)]
                before += self.work.each(axes, [Store(inside, there)])
                after += self.work.each(axes, [Store(there, inside)])
        count = len(self.graph.inputs)
        self.constants = dict(zip(given[count:], self.graph.constants, strict=True))
        given += [each for each in self.work.scratch if each not in shared]
        body = (*before, *self._repeated(), *after)
        if self.work.parallel:
            body = with_barriers(body)
        return Function(
            "run", (_STEPS, _TIMES), (self.outs, *given), shared, body, self._threads(body)
        )

    def _repeated(self) -> tuple[Statement, ...]:
        """The step, over and over."""
        total = Apply("multiply", (_TURN, _STEPS), INDEX)
        place = Assign(self.place, Apply("add", (total, _FIRST), INDEX))
        starts = [
            Assign(start, Apply("multiply", (_FIRST, Constant(count, INDEX)), INDEX))
            for start, count in self.starts
        ]
        step = (place, *starts, *self.step.statements)
        return (Loop(_TURN, 0, _TIMES, 1, (Loop(_FIRST, 0, _STEPS, 1, step),)),)

    def _shared(self) -> tuple[Buffer, ...]:
        """The memory that the threads share: what lives on first, then the smallest.

        Of a single thread nothing that lives on, which would be copied there and back in each call.
        """
        left = self._shared_bytes
        given = self._given[: len(self.kept)] if self.work.parallel else []
        kept = [each for each in given if isinstance(each, Buffer)]
        chosen = []
        for each in (*kept, *sorted(self.work.scratch, key=room)):
            if room(each) <= left and each not in self.work.notes:  # which outlive a call
                left -= room(each)
                chosen.append(each)
        return tuple(chosen)

    def _threads(self, body: Iterable[Statement]) -> int:
        """As many threads as the largest index space has points, within bounds."""
        if not self.work.parallel:
            return 1
        points = [prod(n for _, n in s.axes) for s in walk(body) if isinstance(s, Parallel)]
        threads = min(32, self.work.threads)
        while threads < min(self.work.threads, max(points, default=1)):
            threads *= 2
        return threads
