"""The parts of passes: walking a graph and building the next one."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from operator import is_not
from typing import Any

from tinynn.rules import batching
from tinynn.trace import Effect
from tinynn.transforms.graph import Constant, Dim, Graph, Input, Node, pruned
from tinynn.transforms.record import RecordingError

#: Functions that give the same elements, in the same order, in another shape.
RESHAPES = frozenset(["reshape", "expand_dims", "squeeze"])
#: Functions whose result can be the argument's own memory, looked at in another way.
VIEWS = RESHAPES.union(["permute_dims", "matrix_transpose", "broadcast_to", "moveaxis", "part"])


_GIVEN, _NUMBERS, _NO_NUMBERS = (Input, Constant), (int, float), (bool, Dim)


class CannotEmit(RecordingError):
    """A program holds a call that this emitter has no form for."""


class Builder:
    """Makes the nodes of the graph that a pass returns."""

    def __init__(self, space: Any) -> None:
        self.space = space
        self.nodes: list[Node] = []
        self.there: set[int] = set()

    def call(self, like: Node, name: str, *args: Any, **kwargs: Any) -> Node:
        """A call of the standard with the result's shape, dtype and origin as `like` has them."""
        function = getattr(self.space, name)
        return self.add(Node(function, args, kwargs, like.shape, like.dtype, like.origin))

    def add(self, node: Node) -> Node:
        """A node that is ready; adding it again changes nothing."""
        if id(node) not in self.there:
            self.there.add(id(node))
            self.nodes.append(node)
        return node


#: What a pass does with one node, its arguments being those of the new graph: another value.
Visit = Callable[[Node, Builder], Any]


def rewritten(
    graph: Graph,
    visit: Visit,
    instead: Mapping[int, Node] | None = None,
    local: bool = False,
) -> Graph:
    """The graph with what `visit` makes of every node, without what is not needed any more.

    Where it makes nothing new, the graph itself. A node with an effect is not visited: it stays, in
    its order, with its new arguments.

    Parameters
    ----------
    instead
        Calls that take the place of inputs or constants, by the id of those.
    local
        Whether `visit` decides by the node and what it is computed from alone, and not by the other
        nodes. What it left as it was is then not visited by it again, in this graph or another:
        nodes are not changed once they are made, so it would be left again.
    """
    if local and all(
        visit in each.settled or each.effect is not Effect.NONE for each in graph.nodes
    ):
        return graph
    builder = Builder(graph.space)
    nodes, there = builder.nodes, builder.there
    new: dict[int, Any] = dict(instead or {})  # what takes the place of values, by their id
    for call in new.values():
        builder.add(call)
    for node in graph.nodes:
        value = moved = _with_new(node, new) if new else node
        if not (local and visit in moved.settled) and moved.effect is Effect.NONE:
            value = visit(moved, builder)
            if local and value is moved:
                moved.settled = (*moved.settled, visit)
        if value is not node:
            new[id(node)] = value
            if not is_call(value):
                continue
        if id(value) not in there:  # `Builder.add`, which would be half of the time
            there.add(id(value))
            nodes.append(value)
    if not new and len(nodes) == len(graph.nodes):
        return graph  # the very same: most passes find nothing to do
    outputs = [new.get(id(o), o) for o in graph.outputs]
    return pruned(replace(graph, nodes=nodes, outputs=outputs))


def _with_new(node: Node, new: Mapping[int, Any]) -> Node:
    """The node with the new values among its arguments; itself if there are none."""
    args = tuple([new.get(id(a), a) for a in node.args])
    if not any(map(is_not, args, node.args)):
        return node
    return Node(node.function, args, node.kwargs, node.shape, node.dtype, node.origin)


def difference(first: Graph, second: Graph, read: Callable[[Any], Any]) -> str:
    """The place where two recordings of one function differ, in words; empty if they do not.

    Parameters
    ----------
    read
        An array's values on the host.
    """
    places: dict[int, Any] = {}
    for graph in (first, second):
        values = [*graph.inputs, *graph.nodes]
        places.update({id(value): place for place, value in enumerate(values)})

    def alike(a: Any, b: Any) -> bool:
        if isinstance(a, Constant) and isinstance(b, Constant):
            alike = (a.shape, a.dtype) == (b.shape, b.dtype)
            same = alike and (a.value is b.value or _same(read(a.value), read(b.value)).all())
            return bool(same)
        if isinstance(a, Node) or isinstance(b, Node):
            return places.get(id(a)) == places.get(id(b))
        return type(a) is type(b) and bool(_same(a, b))

    def same_kwarg(a: Any, b: Any) -> bool:
        if isinstance(a, Graph) and isinstance(b, Graph):
            return not difference(a, b, read)
        return repr(a) == repr(b)

    for old, new in zip(first.nodes, second.nodes, strict=False):
        same = old.name == new.name and old.kwargs.keys() == new.kwargs.keys()
        same = same and all(same_kwarg(old.kwargs[key], new.kwargs[key]) for key in old.kwargs)
        same = same and len(old.args) == len(new.args)
        if not same or not all(map(alike, old.args, new.args)):
            return f"{new.name} in {new.origin}"
    if not all(map(alike, first.outputs, second.outputs)):
        return "the results"
    return "" if len(first.nodes) == len(second.nodes) else "the number of calls"


def _same(a: Any, b: Any) -> Any:
    """True if they are equal, or both NaN."""
    return (a == b) | ((a != a) & (b != b))


def is_call(value: Any) -> bool:
    """True if it is the result of a call, no input, constant or number."""
    return isinstance(value, Node) and not isinstance(value, _GIVEN)


def is_number(value: Any) -> bool:
    """True if it is a Python number, known for good: none that follows the batch."""
    return isinstance(value, _NUMBERS) and not isinstance(value, _NO_NUMBERS)


def elementwise(node: Any) -> bool:
    """True if each element of the result depends on the elements at its place alone."""
    if not is_call(node) or node.effect is not Effect.NONE:
        return False
    return batching.batcher_of(node.function) is batching.elementwise


def overwritable(node: Node) -> list[Node]:
    """The arguments that a call may read while it writes its result to their memory."""
    if elementwise(node):
        return list(node.parents)
    return node.parents[:1] if node.name == "dynamic_update_slice" else []


def size(node: Node) -> int:
    """The number of elements."""
    return prod(node.shape)
