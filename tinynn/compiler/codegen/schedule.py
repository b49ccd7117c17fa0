"""The schedule: calls grouped into loop nests (loop fusion), and the order of the nests.

A call goes into the latest nest that can take it: beside its first reader, where that reader goes
through the same elements in the same order. What is read in its own nest alone is a variable there;
everything else lies in memory.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tinynn.compiler.codegen.operations import REDUCTIONS, is_operation
from tinynn.compiler.codegen.scalars import cannot
from tinynn.compiler.codegen.views import Shape, View, contiguous, seen
from tinynn.compiler.liveness import is_view, root
from tinynn.compiler.rewrite import Builder, elementwise, is_call, rewritten, size
from tinynn.rules.kinds import axes_of
from tinynn.trace import Effect
from tinynn.transforms.graph import COPIED, FILL, ITEM, Graph, Input, Node

_WHOLE = ("matmul", "concat", "pack", "take", "scatter_add")


def pointwise(node: Any) -> bool:
    """True for a call whose result at a place depends on the arguments at that place alone."""
    return elementwise(node) or (is_call(node) and node.function in (FILL, COPIED))


def reduces(node: Any) -> bool:
    """True for a reduction: a call that goes through its argument's elements and gives fewer."""
    return is_call(node) and node.name in REDUCTIONS


def passed_over(node: Node) -> Shape:
    """The shape of what a call's nest goes through, axes of length 1 left out."""
    shape = node.args[0].shape if reduces(node) else node.shape
    return tuple(n for n in shape if n != 1)


def reduced_axes(node: Node) -> set[int]:
    """The axes of a reduction's nest that are not in its result."""
    shape = node.args[0].shape
    kept = [axis for axis, n in enumerate(shape) if n != 1]
    gone = axes_of(node.kwargs.get("axis"), len(shape))
    return {place for place, axis in enumerate(kept) if axis in gone}


def looked(node: Any, base: View) -> View | None:
    """The view that `node` is of its root, which lies as `base` says."""
    chain = []
    while is_view(node):
        chain.append(node)
        node = node.args[0]
    view: View | None = base
    for each in reversed(chain):
        view = seen(each, view) if view is not None else None
    return view


def spread(node: Any, base: View, over: Shape) -> View:
    """The view through which a nest over a shape reads a value whose root lies as `base` says."""
    view = looked(node, base)
    assert view is not None
    return view.broadcast(over).squeezed()


def in_step(node: Any, over: Shape) -> bool:
    """True if a nest over that shape meets the root's elements in their own order."""
    first = root(node)
    kept = tuple(n for n in over if n != 1)
    if tuple(n for n in first.shape if n != 1) != kept:
        return False
    view = spread(node, View.of(None, first.shape), over)
    return view.strides == contiguous(kept) and view.offset == 0


def views_copied(graph: Graph, lying: Mapping[int, View] | None = None) -> Graph:
    """The graph with a copy wherever a view cannot be looked at in another shape.

    Parameters
    ----------
    lying
        How inputs lie in memory that do not fill theirs in order, by the id of each.
    """
    lying = lying or {}

    def visit(node: Node, build: Builder) -> Any:
        if not is_view(node):
            return node
        first = root(node)
        if looked(node, lying.get(id(first), View.of(None, first.shape))) is None:
            return replace(node, args=(build.add(copy_of(node.args[0])),))
        return node

    return rewritten(graph, visit)


def inputs_copied(graph: Graph, kept: int) -> Graph:
    """The graph with a copy wherever the new value of a kept input is the memory of another."""
    nodes, outputs = list(graph.nodes), list(graph.outputs)
    for place, (value, out) in enumerate(zip(graph.inputs[:kept], outputs, strict=False)):
        if out is not value and isinstance(root(out), Input):
            outputs[place] = copy_of(out)
            nodes.append(outputs[place])
    return replace(graph, nodes=nodes, outputs=outputs)


def copy_of(value: Node) -> Node:
    """A value in memory of its own."""
    return Node(COPIED, (value,), {}, value.shape, value.dtype, value.origin)


#: Calls that run graphs, whose statements are among those of the graph around; and the one that
#: looks whether a loop, which has become a scan, has ended.
CONTROL = frozenset(["scan", "cond", "while_loop", "while_loop_end"])


def is_item(node: Any) -> bool:
    """True for one of the results of such a call."""
    return is_call(node) and node.function is ITEM and node.args[0].name in CONTROL


def check(node: Node) -> None:
    """CannotEmit for a call that has no row."""
    if node.effect is not Effect.NONE:
        raise cannot(node, f": it {node.effect}")
    if node.name in CONTROL:
        return
    row = node.name == "astype" or node.function in (FILL, COPIED) or is_operation(node.function)
    known = (pointwise(node) and row) or reduces(node) or is_view(node) or node.name in _WHOLE
    known = known or is_item(node)
    if not known or node.dtype is None:
        raise cannot(node)
    if 0 in node.shape:
        raise cannot(node, ": it is empty")


@dataclass
class Group:
    """Calls that share a nest of loops over `dims`, or one call that has loops of its own."""

    dims: Shape | None
    nodes: list[Node] = field(default_factory=list)


class Schedule:
    """The order of the nests.

    Parameters
    ----------
    graph
        The step.
    parallel
        Whether threads share a nest: then it has an axis over which nothing but a whole is reduced,
        for them to go along.

    Attributes
    ----------
    groups
        In order of execution.
    place
        For the id of each call, how many groups come after its own.
    items
        The results of a call in `CONTROL` that are read, by their number; by its id.
    """

    def __init__(self, graph: Graph, parallel: bool = False) -> None:
        self.graph, self.parallel = graph, parallel
        self.readers: dict[int, list[tuple[Node, Node]]] = {}
        self.items: dict[int, dict[int, Node]] = {}
        calls = [node for node in graph.nodes if not is_view(node)]
        for node in calls:
            if is_item(node):
                items = self.items.setdefault(id(node.args[0]), {})
                items[node.kwargs["index"]] = node
                continue
            for a in node.parents:
                self.readers.setdefault(id(root(a)), []).append((node, a))
        self.place: dict[int, int] = {}
        late: list[Group] = []
        for node in reversed(calls):
            if not is_item(node):  # it lies where that call has put it
                self._put(node, late)
        for group in late:
            group.nodes.reverse()
        self.groups = late[::-1]

    def _put(self, node: Node, late: list[Group]) -> None:
        first = 0
        items = list(self.items.get(id(node), {}).values())
        read = [each for value in (node, *items) for each in self.readers.get(id(value), [])]
        for reader, seen_as in read:
            together = self.fits(node, reader, seen_as)
            first = max(first, self.place[id(reader)] + (not together))
        dims = passed_over(node) if pointwise(node) or reduces(node) else None
        for place in range(first, len(late)):
            if dims is not None and late[place].dims == dims and self._may_join(node, late[place]):
                break
        else:
            place = len(late)
            late.append(Group(dims))
        for value in (node, *items):
            self.place[id(value)] = place
        late[place].nodes.append(node)

    def _may_join(self, node: Node, group: Group) -> bool:
        """True if threads could share the nest with this call in it."""
        if not self.parallel or not reduces(node):
            return True
        rank = len(group.dims or ())
        partial = [reduced_axes(each) for each in (*group.nodes, node) if reduces(each)]
        over = set[int]().union(*[axes for axes in partial if len(axes) < rank])
        return len(over) < max(1, rank)

    def fits(self, node: Node, reader: Node, seen_as: Node) -> bool:
        """True if one nest may hold both a call and its reader."""
        nest = pointwise(reader) or reduces(reader)
        over = seen_as.shape if reduces(reader) else reader.shape
        return pointwise(node) and nest and in_step(seen_as, over)

    def lives(self, node: Node) -> bool:
        """True if a value is read outside its nest, and has to lie in memory."""
        mine = self.place[id(node)]
        return any(self.place[id(reader)] != mine for reader, _ in self.readers.get(id(node), []))

    def may_replace(self, new: Node, old: Input) -> bool:
        """True if a new value can be written over the old one, which is not read later."""
        if new.shape != old.shape or new.dtype != old.dtype:
            return False
        readers, written = self.readers.get(id(old), []), list(_written(new, 0))
        if any(each.name == "concat" for each, *_ in written):  # its parts may lie in any order
            return False
        return all(
            self._has_read(reader, seen_as, old, *each)
            for reader, seen_as in readers
            for each in written
        )

    def _has_read(
        self, reader: Node, seen_as: Node, old: Input, new: Node, start: int, stop: int
    ) -> bool:
        """True if a reader is done with these elements of the old value once `new` is written."""
        view = looked(seen_as, View.of(None, old.shape))
        if view is not None:
            steps = [step * (n - 1) for n, step in zip(view.shape, view.strides, strict=True)]
            first, last = (view.offset + sum(f(step, 0) for step in steps) for f in (min, max))
            if last < start or first >= stop:
                return True
        if self.place[id(reader)] != self.place[id(new)] or not pointwise(new):
            return self.place[id(reader)] > self.place[id(new)]
        over = seen_as.shape if reduces(reader) else reader.shape
        view = spread(seen_as, View.of(None, old.shape), over)
        return view.strides == contiguous(view.shape) and view.offset == start


def _written(value: Node, start: int) -> Iterator[tuple[Node, int, int]]:
    """A call, and those that write to parts of its memory, each with where it begins and ends."""
    yield value, start, start + size(value)
    for part in value.args if value.name == "pack" else ():
        if is_call(part) and not is_view(part):
            yield from _written(part, start)
        start += size(part)
