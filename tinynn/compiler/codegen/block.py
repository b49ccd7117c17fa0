"""The statements of one graph: a step, or the body of a loop in it. Every bound is a number."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tinynn.compiler.codegen import gather
from tinynn.compiler.codegen.control import WRITERS
from tinynn.compiler.codegen.gemm import Products
from tinynn.compiler.codegen.language import (
    Assign,
    Comment,
    Expression,
    Load,
    Statement,
    Store,
    Variable,
)
from tinynn.compiler.codegen.nest import Nest, merged, places
from tinynn.compiler.codegen.scalars import number
from tinynn.compiler.codegen.schedule import (
    Group,
    Schedule,
    check,
    looked,
    pointwise,
    reduces,
)
from tinynn.compiler.codegen.views import View, contiguous
from tinynn.compiler.codegen.workspace import Workspace
from tinynn.compiler.liveness import is_view, root
from tinynn.compiler.rewrite import CannotEmit, is_call, size
from tinynn.transforms.graph import Graph, Input, Node


class Block:
    """Writes a graph whose inputs lie in memory.

    Parameters
    ----------
    work
        What all blocks of the kernel share.
    graph
        Calls that have loops, after the passes for them.
    kept
        How many inputs live on; their new values are the first outputs.
    homes
        Where inputs and constants lie, by their id.
    given
        Further outputs, and where each is to be; arrays are results of calls, each its own.
    fixed
        Memory that stays as it is while the statements are repeated.

    Attributes
    ----------
    statements
        In order.
    before
        What has to be done only once, before they are repeated.
    """

    def __init__(
        self,
        work: Workspace,
        graph: Graph,
        kept: int,
        homes: Mapping[int, View],
        given: Sequence[tuple[Node, View]],
        fixed: Collection[Any] = (),
    ) -> None:
        for node in graph.nodes:
            check(node)
        self.work, self.graph, self.kept = work, graph, graph.inputs[:kept]
        self.schedule = Schedule(graph, work.parallel)
        self.homes = dict(homes)  # where values lie, by the id of their root
        self.statements: list[Statement] = []
        self.fixed, self.before = fixed, list[Statement]()
        # Memory that a value must be written to.
        self._packed = {id(value): view for value, view in given if size(value) > 1}
        self._numbers = [pair for pair in given if id(pair[0]) not in self._packed]
        self._moves: dict[int, list[tuple[Any, View]]] = {}  # what is copied into packed memory
        self._outputs = {id(root(o)) for o in graph.outputs if isinstance(o, Node)}
        self._views: dict[int, list[Node]] = {}
        for node in filter(is_view, graph.nodes):
            self._views.setdefault(id(root(node)), []).append(node)
        self._products = Products(self)
        self._choose_memory()
        for group in self.schedule.groups:
            self._group(group)
        self._finish()

    # Memory.

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
        self._control = {
            id(node): WRITERS[node.name](self, node)
            for node in self.graph.nodes
            if node.name in WRITERS
        }

    def _parts(self, node: Node) -> None:
        """Place the arguments of a `pack` or `concat` in its memory."""
        home = self.home(node)
        moves = self._moves.setdefault(id(node), [])
        axis, start = node.kwargs.get("axis", 0), 0
        for value in node.args:
            if node.name == "pack" or axis is None:
                view = home.part(start, value.shape)
                start += size(value)
            else:
                along = axis % len(node.shape)
                view = home._replace(shape=tuple(value.shape))
                view = view._replace(offset=home.offset + start * home.strides[along])
                start += value.shape[along]
            if self._may_be_at(value, view) and value.dtype == node.dtype:
                self._packed[id(value)] = view
            else:
                moves.append((value, view))

    def _may_be_at(self, value: Any, view: View) -> bool:
        """True if a call's result can be written to a place at once."""
        if not is_call(value) or is_view(value) or self.must_be_at(value) or size(value) == 1:
            return False
        if view.strides == contiguous(view.shape):
            return True
        seen = self._views.get(id(value), [])
        return pointwise(value) and all(looked(each, view) is not None for each in seen)

    def home(self, node: Node) -> View:
        """The view of a value's own memory, which is allocated at the first call."""
        if id(node) not in self.homes:
            if id(node) in self._packed:
                view = self._packed[id(node)]
            elif size(node) == 1 and (pointwise(node) or reduces(node)):
                dtype = self.work.scalars.dtype(node.dtype)
                view = View.of(self.work.variable("s0", dtype), node.shape)
            else:
                memory = self.work.allocated("b0", size(node), self.work.scalars.dtype(node.dtype))
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

    def is_output(self, node: Node) -> bool:
        """True if the value's memory is an output."""
        return id(node) in self._outputs

    # Statements.

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
        elif id(node) in self._control:
            self.statements += self._control[id(node)].statements()
        else:
            self.home(node)
            for value, view in self._moves[id(node)]:
                self.statements += self.copied(value, view)

    def write_at(self, value: Any, view: View) -> bool:
        """Have a value written to a place as it is computed; False where it has to be copied.

        There it may be changed once those who read it have; here is one alone who does.
        """
        if len(self.schedule.readers.get(id(value), [])) != 1 or self.is_output(value):
            return False
        if may := self._may_be_at(value, view):
            self._packed[id(value)] = view
        return may

    def copied(self, value: Any, out: View) -> list[Statement]:
        """Copies a value to a place."""
        if not isinstance(value, Node):
            raise CannotEmit("a number in place of an array cannot be written as loops")
        source = self.view(value).broadcast(out.shape)
        source, out = merged([source.squeezed(), out.squeezed()])
        at = places(len(source.shape))
        place = out.at(*at)
        assert isinstance(place, Load)
        return self.work.each(zip(at, source.shape, strict=True), [Store(place, source.at(*at))])

    def _finish(self) -> None:
        """Give away what is wanted, and copy to its place what had to wait."""
        for value, view in self._numbers:
            place = view.at(*[0] * len(view.shape))
            self.statements += self._set(place, self.one(value))
        late: list[tuple[Variable | Load, Expression]] = []
        for old, new in self.late:
            if isinstance(new, Node) and (old.shape or size(new) != 1):
                self.statements += self.copied(new, self.homes[id(old)])
            elif isinstance(new, Node):
                late.append((self.one(old), self.one(new)))
            elif old.shape:
                raise CannotEmit("a number in place of an array cannot be written as loops")
            else:
                late.append((self.one(old), number(new, self.work.scalars.dtype(old.dtype))))
        # All at once: what is read may be what another one of them changes.
        changed: list[Any] = []
        sets: list[Statement] = []
        for place, now in late:
            held = now
            if now in changed:
                held = self.work.variable("old", now.dtype)
                self.statements.append(Assign(held, now))
            changed.append(place)
            sets += self._set(place, held)
        self.statements += sets

    def _set(self, place: Variable | Load, value: Expression) -> list[Statement]:
        if isinstance(place, Variable):
            return [Assign(place, value)]
        return self.work.each((), [Store(place, value)])

    def one(self, node: Node) -> Variable | Load:
        """The element of a value that has no other."""
        view = self.view(node)
        return view.at(*[0] * len(view.shape))
