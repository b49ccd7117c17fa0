"""A symbolic batch: one graph from recordings of a function with batches of several sizes.

A recording is deterministic, so the graphs are node for node the same; the lengths in which they
differ follow the batch.
"""

from collections.abc import Sequence
from typing import Any

from tinynn.trace import backend_of
from tinynn.transforms.graph import Constant, Dim, Graph, Node


class RecordingError(TypeError):
    """The function does what cannot be recorded, such as branching on a value."""


class _Differ(Exception):
    """The reason why values of several recordings are not one."""


def symbolic(graphs: Sequence[Graph], sizes: Sequence[int]) -> Graph:
    """The first graph, with a `Dim` for every integer that follows the size of the batch.

    Args:
        graphs: recordings of one function.
        sizes: the size of the batch in each, no two of them alike.

    Raises:
        RecordingError: the graphs differ by more than that.
    """
    first = graphs[0]
    places = [
        {id(value): place for place, value in enumerate([*graph.inputs, *graph.nodes])}
        for graph in graphs
    ]

    def merged(values: Sequence[Any]) -> Any:
        """One value of those at the same place in every graph."""
        one = values[0]
        if isinstance(one, Node):
            if isinstance(one, Constant):
                _check_constants(values)
            elif len({each.get(id(v)) for each, v in zip(places, values, strict=True)}) > 1:
                raise _Differ("its arguments are other values")
            return one
        if len({type(v) for v in values}) > 1:
            raise _Differ(f"{_shown(values)}")
        if isinstance(one, Graph):
            return symbolic(values, sizes)
        if isinstance(one, tuple | list):
            if len({len(v) for v in values}) > 1:
                raise _Differ(f"{_shown(values)}")
            return type(one)([merged(column) for column in zip(*values, strict=True)])
        if isinstance(one, slice):
            ends = [[v.start, v.stop, v.step] for v in values]
            return slice(*map(merged, zip(*ends, strict=True)))
        if isinstance(one, dict):
            if len({tuple(v) for v in values}) > 1:
                raise _Differ(f"{_shown(values)}")
            return {key: merged([v[key] for v in values]) for key in one}
        alike = all(v is one or v == one or (v != v and one != one) for v in values)
        return one if alike else _length(values, sizes)

    for inputs in zip(*[graph.inputs for graph in graphs], strict=True):
        inputs[0].shape = merged([each.shape for each in inputs])
    for nodes in zip(*[graph.nodes for graph in graphs], strict=False):
        node = nodes[0]
        try:
            if len({(each.name, each.dtype, len(each.args)) for each in nodes}) > 1:
                raise _Differ(f"the calls are {_shown([each.name for each in nodes])}")
            args = merged([each.args for each in nodes])
            kwargs = merged([each.kwargs for each in nodes])
            shape = merged([each.shape for each in nodes])
        except _Differ as why:
            raise _error(first, node, str(why)) from None
        node.args, node.kwargs, node.shape = args, kwargs, shape
    counts = [len(graph.nodes) for graph in graphs]
    if len(set(counts)) > 1:
        raise _error(first, None, f"the numbers of calls are {_shown(counts)}")
    try:
        first.outputs = list(merged([tuple(graph.outputs) for graph in graphs]))
    except _Differ as why:
        raise _error(first, None, f"the results differ: {why}") from None
    first.batch = sizes[0]
    return first


def _length(values: Sequence[Any], sizes: Sequence[int]) -> Dim:
    """The integer factor * batch + offset that these are for batches of these sizes."""
    if type(values[0]) is int:
        factor, rest = divmod(values[1] - values[0], sizes[1] - sizes[0])
        found = Dim(sizes[0], factor, values[0] - factor * sizes[0])
        if not rest and all(found.at(n) == v for n, v in zip(sizes, values, strict=True)):
            return found
    raise _Differ(f"{_shown(values)} is no multiple of the batch, plus or minus a number")


def _check_constants(values: Sequence[Any]) -> None:
    """_Differ unless these arrays from outside are the same."""
    one = values[0]
    for each in values[1:]:
        if not isinstance(each, Constant):
            raise _Differ("its arguments are other values")
        if (each.shape, each.dtype) != (one.shape, one.dtype):
            raise _Differ(
                f"an array that follows from no input has shape {_shown([v.shape for v in values])}"
                "; make it of one, with xp.zeros_like(x) for example"
            )
        if each.value is not one.value:
            host = backend_of(one.value).to_host
            a, b = host(one.value), host(each.value)
            if not bool(((a == b) | ((a != a) & (b != b))).all()):
                raise _Differ("an array that follows from no input holds other numbers")


def _shown(values: Sequence[Any]) -> str:
    return " and ".join(map(str, dict.fromkeys(map(str, values))))


def _error(graph: Graph, node: Node | None, why: str) -> RecordingError:
    at = f"{node.name} at {node.origin}" if node is not None else "its end"
    return RecordingError(
        f"recording of {graph.name} with batch_axes: expected the same calls for every size of the "
        f"batch, got others from {at} on: {why}. To fix it: compute with arrays instead of "
        "x.shape where the batch is concerned, or record each size without batch_axes"
    )
