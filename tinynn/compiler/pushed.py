"""Passes for loops: elementwise calls where their results are read, so that they share a nest.

Slices of a result are computed slice by slice (the gates of a recurrent layer are), and what is
computed for the entries that a scan goes through is computed in its steps.
"""

from dataclasses import replace
from typing import Any

from tinynn.compiler.codegen.views import View, seen
from tinynn.compiler.liveness import is_view
from tinynn.compiler.rewrite import Builder, elementwise, is_call, rewritten, size
from tinynn.trace import Effect
from tinynn.transforms.graph import FILL, Graph, Input, Node
from tinynn.transforms.scan_pullback import Parts
from tinynn.transforms.subgraph import substituted

_MOVES = ("moveaxis", "permute_dims", "matrix_transpose")


def slices_pushed(graph: Graph) -> Graph:
    """The graph with elementwise calls of slices, where only slices of the results are read."""
    while True:
        users, given = graph.users(), {id(output) for output in graph.outputs}
        pushed = {
            id(node)
            for node in graph.nodes
            if elementwise(node)
            and id(node) not in given
            and _slices_alone(node, users.get(id(node), []))
        }
        if not pushed:
            return graph
        graph = _pushed(graph, pushed)


def _slices_alone(node: Node, users: list[Node]) -> bool:
    """True if only slices are read, which together are no more than all of it."""
    slices = all(_key(user) is not None for user in users)
    return bool(users) and slices and sum(map(size, users)) <= size(node)


def _key(node: Node) -> tuple[slice, ...] | None:
    """The slices along the first axes that a call takes; None if it is another call."""
    if node.name != "getitem" or not is_view(node):
        return None
    key = node.kwargs["key"]
    key = key if isinstance(key, tuple) else (key,)
    return key if all(isinstance(part, slice) for part in key) else None


def _pushed(graph: Graph, pushed: set[int]) -> Graph:
    visited = iter([node for node in graph.nodes if node.effect is Effect.NONE])

    def visit(node: Node, build: Builder) -> Any:
        old = next(visited)
        if not old.args or id(old.args[0]) not in pushed:
            return node
        x = node.args[0]
        args = tuple(_sliced(a, x, node, build) for a in x.args)
        return build.add(replace(x, args=args, shape=node.shape))

    return rewritten(graph, visit)


def _sliced(value: Any, like: Node, user: Node, build: Builder) -> Any:
    """The part of an argument that goes into the part of a result which its user takes."""
    key = _key(user)
    if not isinstance(value, Node) or not value.shape or key is None:
        return value
    full = [*key, *[slice(None)] * (len(like.shape) - len(key))][-len(value.shape) :]
    own = tuple(slice(None) if n == 1 else part for n, part in zip(value.shape, full, strict=True))
    if all(part == slice(None) for part in own):
        return value
    shape = tuple(len(range(*part.indices(n))) for n, part in zip(value.shape, own, strict=True))
    part = replace(user, args=(value,), kwargs={"key": own}, shape=shape, dtype=value.dtype)
    return build.add(part)


def entries_computed_in_steps(graph: Graph) -> Graph:
    """The graph whose scans compute elementwise what they go through, if nobody else reads it."""
    while found := _computed_entries(graph):
        graph = _taken_in(graph, *found)
    return graph


def _computed_entries(graph: Graph) -> tuple[Node, int, list[Node]] | None:
    """A scan, the place of an argument, and the calls that it is computed by."""
    users, given = graph.users(), {id(output) for output in graph.outputs}
    for node in graph.nodes:
        if node.name != "scan" or node.kwargs["length"] < 2:
            continue
        first = node.kwargs["consts"] + node.kwargs["carries"]
        for place, x in enumerate(node.args[first:], first):
            chain = _chain(x)
            if chain and all(len(users[id(c)]) == 1 and id(c) not in given for c in chain):
                return node, place, chain
    return None


def _chain(x: Any) -> list[Node]:
    """An elementwise call, after what only moves its axes; nothing if it is another call."""
    chain: list[Node] = []
    while is_call(x) and x.name in _MOVES:
        chain.insert(0, x)
        x = x.args[0]
    return [x, *chain] if elementwise(x) and x.function is not FILL else []


def _taken_in(graph: Graph, node: Node, place: int, chain: list[Node]) -> Graph:
    """The graph whose scan computes an argument that it goes through."""
    call, *moves = chain
    body, rank = node.kwargs["body"], len(call.shape)
    consts, carries = node.kwargs["consts"], node.kwargs["carries"]
    given, inner = (Parts.of(values, consts, carries) for values in (node.args, body.inputs))
    at = place - consts - carries
    old = inner.xs[at]
    del given.xs[at], inner.xs[at]
    outer: list[Node] = []

    def new(function: Any, value: Node, shape: tuple[int, ...], kwargs: Any = None) -> Node:
        kwargs = {"shape": shape} if kwargs is None else kwargs
        outer.append(Node(function, (value,), kwargs, shape, value.dtype, call.origin))
        return outer[-1]

    def entered(value: Any) -> Any:
        """An argument of the call, as an input of the body."""
        if not isinstance(value, Node):
            return value
        reshape, shape = graph.space.reshape, (1,) * (rank - len(value.shape)) + tuple(value.shape)
        if len(shape) > len(value.shape):
            value = new(reshape, value, shape)
        for move in moves:
            shape = _moved(move, shape)
            value = new(move.function, value, shape, move.kwargs)
        group, groups = given.xs, inner.xs
        if shape[0] == 1:
            value = new(reshape, value, shape[1:])
            group, groups = given.consts, inner.consts
        group.append(value)
        groups.append(Input(None, (), {}, shape[1:], value.dtype, value.origin, label="entries"))
        return groups[-1]

    inside = replace(call, args=tuple(map(entered, call.args)), shape=old.shape)
    body = replace(body, inputs=[*inner.consts, *inner.carry, *inner.xs])
    body = substituted(body, {id(old): inside})
    body.nodes.insert(0, inside)
    kwargs = node.kwargs | {"body": body, "consts": len(inner.consts)}
    args = (*given.consts, *given.carry, *given.xs)

    def visit(each: Node, build: Builder) -> Any:
        if each is not node:
            return each
        for value in outer:
            build.add(value)
        return build.add(replace(node, args=args, kwargs=kwargs))

    return rewritten(graph, visit)


def _moved(move: Node, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an array whose axes are moved so."""
    view = seen(move, View.of(None, shape))
    assert view is not None
    return view.shape
