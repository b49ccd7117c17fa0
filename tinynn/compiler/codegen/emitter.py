"""The statements of a step: loops over flat memory, every bound and distance a number."""

import re
from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

from tinynn.compiler import identifiers
from tinynn.compiler.codegen import gather
from tinynn.compiler.codegen.barriers import with_barriers
from tinynn.compiler.codegen.gemm import Products
from tinynn.compiler.codegen.language import (
    INDEX,
    Apply,
    Assign,
    Buffer,
    Comment,
    Constant,
    Expression,
    Function,
    Index,
    Load,
    Loop,
    Parallel,
    Statement,
    Store,
    Variable,
    nested,
    room,
    walk,
)
from tinynn.compiler.codegen.nest import Nest, merged, places
from tinynn.compiler.codegen.renderers import RESERVED
from tinynn.compiler.codegen.scalars import Scalars, number
from tinynn.compiler.codegen.schedule import Group, Schedule, check, looked, pointwise, reduces
from tinynn.compiler.codegen.views import View, contiguous
from tinynn.compiler.liveness import is_view, root
from tinynn.compiler.pipelines import applied, into_loops
from tinynn.compiler.rewrite import CannotEmit, is_call, size
from tinynn.transforms import graph as graphs
from tinynn.transforms.graph import Graph, Input, Node

# Names of its own, and of the loop variables.
_OURS = {*"run steps times outs turn first i j k j0 at".split()}
_OURS |= {f"{letter}{n}" for letter in "im" for n in range(10)}

_STEPS, _TIMES, _TURN, _FIRST = (
    Variable(name, INDEX) for name in ("steps", "times", "turn", "first")
)


class LoopEmitter:
    """Writes one step.

    Args:
        graph: the program of the step.
        kept: how many inputs live on; their new values are the first outputs.
        backend: where it runs.
        products: from how many multiplications on BLAS multiplies matrices, by dtype.
        threads: how many threads may share the kernel, a power of two.
        shared_bytes: the memory that they may share.

    Attributes:
        graph: the step after the passes for loops.
        constants: arrays from outside, by the memory they are in.
        scratch: memory of its own, full of zeros before the first step.
        statements: those of a step.
        gathers: indices of `take` and `scatter_add`, and the length of the axis of each.
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
        self.products, self.parallel = products or {}, threads > 1
        self.most_threads, self._shared_bytes = threads, shared_bytes
        self.graph = graph = applied(graph, into_loops(kept))
        for node in graph.nodes:
            check(node)
        self.schedule = Schedule(graph, self.parallel)
        self.scalars = Scalars(backend, graph.space)
        self._names = identifiers.Names()
        self._names.taken |= _OURS | RESERVED
        self.kept, self.streams = graph.inputs[:kept], graph.inputs[kept:]
        self.wanted = graph.outputs[kept]
        self.outs = Buffer("outs", self.scalars.dtype(self.wanted.dtype))
        self.starts: list[tuple[Variable, int]] = []  # where the streams' batches begin
        self.constants: dict[Buffer, graphs.Constant] = {}
        self.scratch: list[Buffer] = []
        self.statements: list[Statement] = []
        self.homes: dict[int, View] = {}  # where values lie, by the id of their root
        self.gathers: list[tuple[Node, int]] = []
        self._packed: dict[int, View] = {}  # memory that a value must be written to
        self._moves: dict[int, list[tuple[Any, View]]] = {}  # what is copied into packed memory
        self._outputs = {id(root(o)) for o in graph.outputs if isinstance(o, Node)}
        self._products = Products(self)
        self._place_inputs()
        self._choose_memory()
        for group in self.schedule.groups:
            self._group(group)
        self._finish()

    # Memory.

    def _place_inputs(self) -> None:
        labels = [identifiers.of_input(i.label) for i in self.graph.inputs]
        self._given = [
            self._holder(label, node) for label, node in zip(labels, self.graph.inputs, strict=True)
        ]
        for base, node in zip(self._given, self.graph.inputs, strict=True):
            view = View.of(base, node.shape)
            if isinstance(base, Buffer) and any(node is stream for stream in self.streams):
                start = self.variable(f"{base.name}_0", INDEX)
                self.starts.append((start, prod(node.shape)))
                view = view._replace(start=start)
            self.homes[id(node)] = view
        for constant in self.graph.constants:
            single = Variable if size(constant) == 1 else Buffer
            held = single(self.new("constant"), self.scalars.dtype(constant.dtype))
            self._given.append(held)
            self.homes[id(constant)] = View.of(held, constant.shape)

    def _holder(self, label: str, node: Node) -> Buffer | Variable:
        """The memory of an input, or the variable of a single number that lives on."""
        dtype, name = self.scalars.dtype(node.dtype), self.new(label)
        if not node.shape and any(node is each for each in self.kept):
            return Variable(name, dtype)
        count = size(node) if any(node is each for each in self.kept) else None
        return Buffer(name, dtype, count)

    def _choose_memory(self) -> None:
        """Parameters change in place where they may; what is packed is written to its place."""
        self.late: list[tuple[Input, Any]] = []
        outputs = self.graph.outputs
        for old, new in zip(self.kept, outputs, strict=False):
            if new is old:
                continue
            fresh = is_call(new) and not is_view(new) and id(new) not in self._packed
            if fresh and size(new) > 1 and self.schedule.may_replace(new, old):
                self._packed[id(new)] = self.homes[id(old)]
            else:
                self.late.append((old, new))
        for node in self.graph.nodes:
            if node.name in ("pack", "concat"):
                self._parts(node)

    def _parts(self, node: Node) -> None:
        """Place the arguments of a `pack` or `concat` in its memory."""
        home = self.home(node)
        moves = self._moves.setdefault(id(node), [])
        axis, start = node.kwargs.get("axis", 0), 0
        for value in node.args:
            if node.name == "pack" or axis is None:
                view = View.of(home.base, value.shape)._replace(offset=home.offset + start)
                start += size(value)
            else:
                along = axis % len(node.shape)
                view = home._replace(shape=tuple(value.shape))
                view = view._replace(offset=home.offset + start * home.strides[along])
                start += value.shape[along]
            fresh = is_call(value) and not is_view(value) and id(value) not in self.homes
            straight = view.strides == contiguous(view.shape) and value.dtype == node.dtype
            if fresh and straight and id(value) not in self._packed and size(value) > 1:
                self._packed[id(value)] = view
            else:
                moves.append((value, view))

    def allocated(self, wanted: str, count: int, dtype: str) -> Buffer:
        """New memory, full of zeros before the first step."""
        self.scratch.append(Buffer(self.new(wanted), dtype, count))
        return self.scratch[-1]

    def home(self, node: Node) -> View:
        """The view of a value's own memory, which is allocated at the first call."""
        if id(node) not in self.homes:
            if id(node) in self._packed:
                view = self._packed[id(node)]
            elif size(node) == 1 and (pointwise(node) or reduces(node)):
                dtype = self.scalars.dtype(node.dtype)
                view = View.of(self.variable("s0", dtype), node.shape)
            else:
                memory = self.allocated("b0", size(node), self.scalars.dtype(node.dtype))
                view = View.of(memory, node.shape)
            self.homes[id(node)] = view
        return self.homes[id(node)]

    def must_be_at(self, node: Node) -> View | None:
        """The memory that has been chosen for a value."""
        return self.homes.get(id(node), self._packed.get(id(node)))

    def view(self, node: Node) -> View:
        """The view of a value in memory."""
        view = looked(node, self.home(root(node)))
        if view is None:
            raise CannotEmit(f"{node.name} of {node.shape} cannot be looked at without a copy")
        return view

    def new(self, wanted: str) -> str:
        """A new name, which means nothing in any target."""
        return self._names.new(re.sub(r"[^A-Za-z0-9_]", "_", wanted))

    def variable(self, wanted: str, dtype: str) -> Variable:
        """A new variable."""
        return Variable(self.new(wanted), dtype)

    def is_output(self, node: Node) -> bool:
        """True if the value's memory is an output of the step."""
        return id(node) in self._outputs

    # Statements.

    def each(
        self, axes: Iterable[tuple[Variable, int]], body: Iterable[Statement]
    ) -> list[Statement]:
        """A body for each point of an index space, by all threads."""
        axes, body = tuple(axes), tuple(body)
        return [Parallel(axes, body)] if self.parallel else list(nested(axes, body))

    def _group(self, group: Group) -> None:
        origins = dict.fromkeys(
            ", ".join(filter(None, (n.origin.place, "backward" if n.origin.backward else "")))
            for n in group.nodes
        )
        if comment := "; ".join(filter(None, origins)):
            self.statements.append(Comment(comment))
        node = group.nodes[0]
        if group.dims is not None:
            self.statements += Nest(self, group).statements()
        elif node.name == "matmul":
            self.statements += self._products.statements(node)
        elif node.name in ("take", "scatter_add"):
            self.statements += gather.statements(self, node)
        else:
            self.home(node)
            for value, view in self._moves[id(node)]:
                self.statements += self.copied(value, view)

    def copied(self, value: Any, out: View) -> list[Statement]:
        """Copies a value to a place."""
        if not isinstance(value, Node):
            raise CannotEmit("a number in place of an array cannot be written as loops")
        source = self.view(value).broadcast(out.shape)
        source, out = merged([source.squeezed(), out.squeezed()])
        at = places(len(source.shape))
        place = out.at(*at)
        assert isinstance(place, Load)
        return self.each(zip(at, source.shape, strict=True), [Store(place, source.at(*at))])

    def _finish(self) -> None:
        """Give away what is wanted of the step, and copy to its place what had to wait."""
        self.place = self.variable("place", INDEX)
        self.statements += self._set(Load(self.outs, Index.of(self.place)), self._one(self.wanted))
        late: list[tuple[Variable | Load, Expression]] = []
        for old, new in self.late:
            if isinstance(new, Node) and (old.shape or size(new) != 1):
                self.statements += self.copied(new, self.homes[id(old)])
            elif isinstance(new, Node):
                late.append((self._one(old), self._one(new)))
            elif old.shape:
                raise CannotEmit("a number in place of an array cannot be written as loops")
            else:
                late.append((self._one(old), number(new, self.scalars.dtype(old.dtype))))
        # All at once: what is read may be what another one of them changes.
        changed: list[Any] = []
        sets: list[Statement] = []
        for place, value in late:
            if value in changed:
                held = self.variable("old", value.dtype)
                self.statements.append(Assign(held, value))
                value = held
            changed.append(place)
            sets += self._set(place, value)
        self.statements += sets

    def _set(self, place: Variable | Load, value: Expression) -> list[Statement]:
        if isinstance(place, Variable):
            return [Assign(place, value)]
        return self.each((), [Store(place, value)])

    def _one(self, node: Node) -> Variable | Load:
        """The element of a value that has no other."""
        view = self.view(node)
        return view.at(*[0] * len(view.shape))

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
            outside = Buffer(self.new(f"all_{held.name}"), held.dtype)
            given.append(outside)
            if isinstance(held, Variable):
                first = Load(outside, Index())
                before.append(Assign(held, first))
                after += self._set(first, held) if i < kept else []
            else:
                assert held.size is not None
                at = places(1)
                inside, there = (Load(each, Index.of(at[0])) for each in (held, outside))
                axes = [(at[0], held.size)]
                before += self.each(axes, [Store(inside, there)])
                after += self.each(axes, [Store(there, inside)])
        count = len(self.graph.inputs)
        self.constants = dict(zip(given[count:], self.graph.constants, strict=True))
        given += [each for each in self.scratch if each not in shared]
        body = (*before, *self._repeated(), *after)
        if self.parallel:
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
        step = (place, *starts, *self.statements)
        return (Loop(_TURN, 0, _TIMES, 1, (Loop(_FIRST, 0, _STEPS, 1, step),)),)

    def _shared(self) -> tuple[Buffer, ...]:
        """The memory that the threads share: what lives on first, then the smallest."""
        left = self._shared_bytes
        kept = [each for each in self._given[: len(self.kept)] if isinstance(each, Buffer)]
        chosen = []
        for each in (*kept, *sorted(self.scratch, key=room)):
            if room(each) <= left:
                left -= room(each)
                chosen.append(each)
        return tuple(chosen)

    def _threads(self, body: Iterable[Statement]) -> int:
        """As many threads as the largest index space has points, within bounds."""
        if not self.parallel:
            return 1
        points = [prod(n for _, n in s.axes) for s in walk(body) if isinstance(s, Parallel)]
        threads = min(32, self.most_threads)
        while threads < min(self.most_threads, max(points, default=1)):
            threads *= 2
        return threads
