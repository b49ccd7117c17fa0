"""What a graph does, as a key."""

from typing import Any

from backends import is_array
from tinynn.transforms.graph import Constant, Graph, Input, Node

_PLAIN = (int, float, complex, bool, str, bytes, type(None))


class Content:
    """Makes keys of graphs: those that do the same have the same one.

    Parameters
    ----------
    backend
        Reads their constants, which are in the key.
    """

    def __init__(self, backend: Any) -> None:
        self._read = backend.to_host
        self._places: dict[int, int] = {}

    def of(self, graph: Graph) -> tuple[Any, ...]:
        """The key of a graph."""
        for place, each in enumerate([*graph.inputs, *graph.nodes]):
            self._places[id(each)] = place
        inputs = [(each.label, each.shape, each.dtype) for each in graph.inputs]
        calls = [
            (node.function, self._argument(node.args), self._argument(node.kwargs), node.shape,
             node.dtype)
            for node in graph.nodes
        ]  # fmt: skip
        return graph.name, *inputs, *calls, self._argument(graph.outputs)

    def _argument(self, value: Any) -> Any:
        kind = type(value)
        if kind is Node or kind is Input:
            return Node, self._places[id(value)]
        if kind is tuple or kind is list:
            return kind, *[self._argument(each) for each in value]
        if isinstance(value, _PLAIN):
            return kind, repr(value)
        if isinstance(value, dict):
            return tuple([(name, self._argument(each)) for name, each in value.items()])
        if isinstance(value, tuple | list):
            return kind, *map(self._argument, value)
        if isinstance(value, slice):
            return slice, *map(self._argument, (value.start, value.stop, value.step))
        if isinstance(value, Constant):
            place = self._places.setdefault(id(value), ~len(self._places))
            return place, value.shape, value.dtype, self._read(value.value).tobytes()
        if isinstance(value, Graph):
            return self.of(value)
        if is_array(value):
            raise TypeError("an array that is no argument")
        return value  # a function or a dtype, which the key keeps alive
