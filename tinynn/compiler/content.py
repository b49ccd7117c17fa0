"""What a graph does, and what an array holds, as keys."""

from contextlib import suppress
from hashlib import sha256
from math import prod
from typing import Any

from backends import is_array
from tinynn.transforms.graph import Constant, Graph, Input, Node

_PLAIN = (int, float, complex, bool, str, bytes, type(None))
_READ = 2**20  # elements, above which an array is known by its identity: to read it takes long


class Content:
    """Makes keys of graphs and arrays: those that do or hold the same have the same one.

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

    def of_array(self, array: Any) -> tuple[Any, ...]:
        """The key of an array; TypeError for a large one, which is not read."""
        if prod(array.shape) > _READ:
            raise TypeError(f"an array of {prod(array.shape)} elements is not read")
        held = sha256(self._read(array).tobytes()).digest()
        return str(array.dtype), tuple(array.shape), held

    def of_captured(self, value: Any) -> Any:
        """The key of what a program captures: what an array holds, what a graph does.

        Where that cannot be told it is the identity, and whoever keeps the key keeps the value too.
        """
        with suppress(TypeError):  # a large array, or a call is given what cannot be compared
            if isinstance(value, Graph):
                hash(key := self.of(value))
                return key
            if is_array(value):
                return self.of_array(value)
        return value if callable(value) else id(value)

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
            return place, *self.of_array(value.value)
        if isinstance(value, Graph):
            return self.of(value)
        if is_array(value):
            raise TypeError("an array that is no argument")
        return value  # a function or a dtype, which the key keeps alive
