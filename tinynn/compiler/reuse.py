"""Programs that serve again: a graph that is the same as an earlier one needs no passes.

A search trains the same network many times, each time recorded anew: what was recorded decides
whether it is the same, and not where it comes from. Only programs are kept, without the memory
that they work in.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from backends import is_array
from tinynn.transforms.graph import Constant, Graph, Node

#: Of programs, and of elements in an array from outside, whose numbers are compared.
_MOST, _SMALL = 32, 1024
_PLAIN = (bool, int, str, type(None))


class _Unknown(Exception):
    """Something in a graph that cannot be compared with that of another."""


class Known:
    """The newest programs, by what they depend on. Threads may share it."""

    def __init__(self, most: int = _MOST) -> None:
        self._found: OrderedDict[Any, Any] = OrderedDict()
        self._most, self._lock = most, threading.Lock()

    def get(self, key: Any) -> Any:
        """What was kept under a key; None if that is nothing, or there is no key."""
        with self._lock:
            if key is None or key not in self._found:
                return None
            self._found.move_to_end(key)
            return self._found[key]

    def keep(self, key: Any, value: Any) -> None:
        """Keep it in place of the one that was asked for the longest time ago."""
        with self._lock:
            self._found[key] = value
            while len(self._found) > self._most:
                self._found.popitem(last=False)

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._found.clear()


def signature(graph: Graph, read: Callable[[Any], Any]) -> Any:
    """What the program of a graph depends on, to be compared; None if that cannot be told.

    Parameters
    ----------
    graph
        As it was recorded. With large arrays from outside, or graphs inside of calls, it has none.
    read
        An array's values on the host.
    """
    places: dict[int, int] = {}
    for value in (*graph.inputs, *graph.nodes):
        places[id(value)] = len(places)

    def frozen(value: Any) -> Any:
        if isinstance(value, Constant):
            return _array(value, read)
        if isinstance(value, Node):
            return Node, places[id(value)]
        return _frozen(value)

    try:
        return (
            graph.name, graph.space, graph.batch,
            *[(each.label, each.shape, each.dtype) for each in graph.inputs],
            *[_call(node, frozen) for node in graph.nodes],
            *map(frozen, graph.outputs),
        )  # fmt: skip
    except _Unknown:
        return None


def _call(node: Node, frozen: Callable[[Any], Any]) -> Any:
    origin = node.origin
    return (
        node.function, node.shape, node.dtype, node.effect,
        (origin.place, origin.backward, origin.line),
        *map(frozen, node.args),
        *[(name, frozen(value)) for name, value in sorted(node.kwargs.items())],
    )  # fmt: skip


def _array(constant: Constant, read: Callable[[Any], Any]) -> Any:
    if prod(constant.shape) > _SMALL:
        raise _Unknown
    return Constant, constant.shape, constant.dtype, read(constant.value).tobytes()


def _frozen(value: Any) -> Any:
    if type(value) is float:
        return float, value.hex()  # 0.0 and -0.0 are two numbers
    if type(value) in _PLAIN:
        return type(value), value
    if isinstance(value, tuple | list):
        return type(value), *map(_frozen, value)
    if isinstance(value, slice):
        return slice, *map(_frozen, (value.start, value.stop, value.step))
    if value is Ellipsis:
        return Ellipsis
    try:  # dtypes, above all
        hash(value)
    except TypeError:
        raise _Unknown from None
    if isinstance(value, Graph | Node) or is_array(value):
        raise _Unknown
    return value


def replaced(bound: dict[str, Any], old: Sequence[Constant], new: Sequence[Constant]) -> Any:
    """What the names of a program stand for, with the arrays from outside of another recording."""
    values = {id(a.value): b.value for a, b in zip(old, new, strict=True)}
    return {name: values.get(id(value), value) for name, value in bound.items()}
