"""The parts of passes: walking a graph and building the next one."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from tinynn.rules import batching
from tinynn.trace import Effect
from tinynn.transforms.graph import Constant, Dim, Graph, Node, pruned
from tinynn.transforms.record import RecordingError

#: Functions that give the same elements, in the same order, in another shape.
RESHAPES = frozenset(["reshape", "expand_dims", "squeeze"])
#: Functions whose result can be the argument's own memory, looked at in another way.
VIEWS = RESHAPES.union(["permute_dims", "matrix_transpose", "broadcast_to", "moveaxis", "part"])


_NUMBERS, _NO_NUMBERS = (int, float), (bool, Dim)


class CannotEmit(RecordingError):
    """A program holds a call that this emitter has no form for."""


class Builder:
    """Makes the nodes of the graph that a pass returns.

    Parameters
    ----------
    space
        The namespace whose functions are called.
    patterns
        What a call is simplified by before it is added: see `simplest`.
    """

    def __init__(self, space: Any, patterns: "Patterns | None" = None) -> None:
        self.space, self.patterns = space, patterns
        self.nodes: list[Node] = []
        self.there: set[int] = set()

    def call(self, like: Node, name: str, *args: Any, **kwargs: Any) -> Any:
        """A call of the standard with the result's shape, dtype and origin as `like` has them."""
        node = Node(getattr(self.space, name), args, kwargs, like.shape, like.dtype, like.origin)
        return self.add(node if self.patterns is None else self.simplest(node, self.patterns))

    def simplest(self, value: Any, patterns: "Patterns") -> Any:
        """The value that patterns make of a call whose arguments are as simple already.

        A call that none of them changes is marked: it is not matched again, whatever graph it is
        in. One with an effect stays.
        """
        while is_call(value) and value.simple_by is not patterns and value.effect is Effect.NONE:
            for visit in patterns.get(value.name, ()):
                made = visit(value, self)
                if made is not value:
                    value = made
                    break
            else:
                value.simple_by = patterns
        return value

    def add(self, node: Any) -> Any:
        """A node that is ready; adding it again, or what is no call, changes nothing."""
        if id(node) not in self.there and is_call(node):
            self.there.add(id(node))
            self.nodes.append(node)
        return node


#: What a pass does with one node, its arguments being those of the new graph: another value.
Visit = Callable[[Node, Builder], Any]
#: For the names of calls, what may make other values of them: by the call and what it is computed
#: from alone, not by other nodes.
Patterns = Mapping[str, Sequence[Visit]]


def rewritten(
    graph: Graph,
    visit: Visit,
    of: Container[str] | None = None,
    instead: Mapping[int, Node] | None = None,
) -> Graph:
    """The graph with what `visit` makes of every node, without what is not needed any more.

    Where it makes nothing new, the graph itself. A node with an effect is not visited: it stays, in
    its order, with its new arguments.

    Parameters
    ----------
    of
        The names of the calls that are visited; None: all.
    instead
        Calls that take the place of inputs or constants, by the id of those.
    """
    if of is not None and not instead and not any(node.name in of for node in graph.nodes):
        return graph

    def visited(node: Node, build: Builder) -> Any:
        if node.effect is Effect.NONE and (of is None or node.name in of):
            return visit(node, build)
        return node

    return _walked(graph, visited, Builder(graph.space), instead)


def simplest(graph: Graph, patterns: Patterns) -> Graph:
    """The graph after patterns were applied wherever one of them changes something.

    One walk is enough: a call is matched once its arguments are as simple as they become, and so
    are the calls that patterns make. This is what LLVM's IRBuilder does with instructions, and its
    InstSimplify and MLIR's greedy rewriter do with what is there.
    """
    if all(node.simple_by is patterns for node in graph.nodes):
        return graph
    builder = Builder(graph.space, patterns)
    return _walked(graph, lambda node, build: build.simplest(node, patterns), builder)


def _walked(
    graph: Graph, visit: Visit, builder: Builder, instead: Mapping[int, Node] | None = None
) -> Graph:
    nodes, there = builder.nodes, builder.there
    new: dict[int, Any] = dict(instead or {})  # what takes the place of values, by their id
    for call in new.values():
        builder.add(call)
    for node in graph.nodes:
        value = visit(_with_new(node, new) if new else node, builder)
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
    for a in node.args:
        if id(a) in new:
            args = tuple([new.get(id(a), a) for a in node.args])
            return Node(node.function, args, node.kwargs, node.shape, node.dtype, node.origin)
    return node


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
    return type(value) is Node


def is_number(value: Any) -> bool:
    """True if it is a Python number, known for good: none that follows the batch."""
    kind = type(value)
    if kind is float or kind is int:
        return True
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
