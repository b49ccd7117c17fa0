"""Functions as graphs, for calls that run one: `scan`, `cond`.

Such a function may close over arrays, of a transformation too. They become inputs of its graph, so
that everything that the call depends on is among its arguments.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from tinynn import tree
from tinynn.trace import Traced, backend_of, bottom
from tinynn.trace.scopes import scopes
from tinynn.transforms.base import name_of
from tinynn.transforms.graph import Graph, Input, Node
from tinynn.transforms.record import RecordingError, check_shapes, recorded


def subgraph(f: Callable[..., list[Any]], examples: Sequence[Any]) -> tuple[Graph, list[Any]]:
    """The graph of a function of arrays, and the arrays that it closes over.

    Args:
        f: gives a list of arrays.
        examples: plain arrays of the shapes and dtypes that it will be given.

    Returns:
        `(graph, captured)`: the inputs of the graph are the captured arrays, then the arguments.
    """
    graph = check_shapes(name_of("recording", f), recorded(f, tuple(examples)))
    constants = graph.constants
    return with_inputs(graph, constants), [constant.value for constant in constants]


def with_inputs(graph: Graph, values: Sequence[Node]) -> Graph:
    """The graph with these of its values, which nothing in it computes, as its first inputs."""
    new: dict[int, Any] = {}
    for number, value in enumerate(values):
        label = f"captured.{number}"
        new[id(value)] = Input(None, (), {}, value.shape, value.dtype, label=label)
    return substituted(replace(graph, inputs=[*new.values(), *graph.inputs]), new)


def substituted(graph: Graph, new: dict[int, Any]) -> Graph:
    """The graph with other values in place of some, by the id of those.

    `new` then holds all values of the graph that is returned, by the id of those of the old one.
    """
    nodes = []
    for node in graph.nodes:
        args = tuple(new.get(id(a), a) if isinstance(a, Node) else a for a in node.args)
        new[id(node)] = moved = replace(node, args=args)
        nodes.append(moved)
    outputs = [new.get(id(o), o) if isinstance(o, Node) else o for o in graph.outputs]
    return replace(graph, nodes=nodes, outputs=outputs)


def is_recorded(arrays: Sequence[Any]) -> bool:
    """True if calls on these arrays are recorded, by tinynn or by their library."""
    concrete = backend_of(*arrays).is_concrete
    return scopes.recording is not None or not all(concrete(bottom(a)) for a in arrays)


def is_foreign(arrays: Sequence[Any]) -> bool:
    """True if it is their library alone that records calls on these arrays."""
    return scopes.recording is None and not any(type(a) is Traced for a in arrays)


def leaves_of(where: str, value: Any, said: str) -> tuple[list[Any], tree.Structure]:
    """The leaves of a tree of arrays; TypeError if one of them is no array."""
    for path, leaf in tree.paths(value):
        if not hasattr(leaf, "dtype"):
            at = f"{said}, {path!r}" if path else said
            raise TypeError(
                f"{where}: {at}: expected an array, got {type(leaf).__name__} {leaf!r}. To fix "
                "it: make it one, for instance by xp.asarray(value) or xp.zeros_like(x)"
            )
    return tree.flatten(value)


def check_pure(where: str, graph: Graph) -> None:
    """RecordingError if a call of the graph has an effect."""
    for node in graph.effects:
        raise RecordingError(
            f"{where}: {node.name} at {node.origin} {node.effect}, which a recording does not "
            "follow inside of it. To fix it: return what it needs, and call it afterwards"
        )


def check_alike(where: str, said: str, wanted: Any, got: Any, like: str) -> None:
    """ValueError unless two trees have the same leaves, shapes and dtypes."""
    first, second = dict(tree.paths(wanted)), dict(tree.paths(got))
    if tree.flatten(wanted)[1] != tree.flatten(got)[1]:
        raise ValueError(
            f"{where}: {said}: expected a tree like {like}, with the leaves {list(first)}, got "
            f"{list(second)}"
        )
    for path, a in first.items():
        b = second[path]
        if (tuple(a.shape), a.dtype) != (tuple(b.shape), b.dtype):
            at = f"{said}, {path!r}" if path else said
            raise ValueError(
                f"{where}: {at}: expected shape {tuple(a.shape)} and {a.dtype} as {like} has, got "
                f"{tuple(b.shape)} and {b.dtype}. To fix it: give the two the same shape and "
                "dtype, for instance by xp.astype or xp.broadcast_to"
            )
