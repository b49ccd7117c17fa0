"""Programs that are made once for all steps that are recorded as the same graph.

To record a step takes a fraction of the time that its program takes to be made. So every run
records its step, and where that is the same, call by call and number by number, as in an earlier
run of this process, it takes the program from there. A program has buffers, which belong to one run
at a time: it is free again when the run has let go of it. No lock is held, so a process may be
forked at any time.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar
from weakref import finalize

from backends import is_array
from tinynn.compiler.rewrite import size
from tinynn.compiler.train_loop import TrainLoop
from tinynn.transforms.graph import Constant, Graph, Node

# How many graphs are kept, the latest, and the elements of all the values of one, which its buffers
# do not exceed: what takes longer than its program to be made need not be kept.
_MOST, _ELEMENTS = 16, 2**21

Kind = TypeVar("Kind", bound=TrainLoop)

_PLAIN = (int, float, complex, bool, str, bytes, type(None))


class Programs:
    """The programs of one graph.

    Attributes
    ----------
    graph
        As it was recorded.
    sure
        Whether its function was seen to be recorded as this graph twice.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph, self.sure = graph, False
        self._free: dict[Any, list[Any]] = {}

    def program(
        self,
        kind: type[Kind],
        kept: int,
        backend: Any,
        rows: Sequence[list[int]],
        *more: Any,
    ) -> Kind:
        """A program of this kind, with nothing in it; the arguments are those of its class."""
        free = self._free.setdefault(
            (kind, kept, str(rows), id(kind.written_by(backend)), *more), []
        )
        try:
            made = free.pop()
        except IndexError:  # there is none, or all of them are running
            made = kind(self.graph, kept, backend, rows, *more)
        lent = made.anew()
        finalize(lent, free.append, made).atexit = False
        return lent


# By all that is known of a graph.
_known: dict[Any, Programs] = {}


def programs_of(graph: Graph, backend: Any) -> Programs:
    """The programs of a graph: those of an earlier one that is the same, or none as yet."""
    content = _content(graph, backend) if sum(_sizes(graph)) <= _ELEMENTS else None
    if content is None:
        return Programs(graph)
    found = _known.pop(content, None)
    # An array from outside may have been written to, and what was computed from it is out of date.
    if found is None or _content(found.graph, backend) != content:
        found = Programs(graph)
    for oldest in list(_known)[: 1 - _MOST]:
        _known.pop(oldest, None)
    _known[content] = found  # the newest, last
    return found


def clear() -> None:
    """Forget the programs of earlier runs."""
    _known.clear()


def _sizes(graph: Graph) -> Iterator[int]:
    """The sizes of all values, those of the graphs in its calls too."""
    yield from map(size, [*graph.constants, *graph.nodes])
    for node in graph.nodes:
        for inside in node.kwargs.values():
            if isinstance(inside, Graph):
                yield from _sizes(inside)


def _content(graph: Graph, backend: Any) -> Any:
    """What a program depends on, as a key; None if that cannot be told."""
    with suppress(TypeError):  # a call is given what cannot be compared
        key = backend, str(backend.device), _Content(backend).of(graph)
        hash(key)
        return key
    return None


class _Content:
    """Makes keys of graphs."""

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
        if isinstance(value, tuple | list):
            return type(value), *map(self._argument, value)
        if isinstance(value, dict):
            return tuple([(name, self._argument(each)) for name, each in value.items()])
        if isinstance(value, slice):
            return slice, *map(self._argument, (value.start, value.stop, value.step))
        if isinstance(value, _PLAIN):
            return type(value), repr(value)
        if isinstance(value, Constant):
            return value.shape, value.dtype, self._read(value.value).tobytes()
        if isinstance(value, Node):
            return Node, self._places[id(value)]
        if isinstance(value, Graph):
            return self.of(value)
        if is_array(value):
            raise TypeError("an array that is no argument")
        return value  # a function or a dtype, which the key keeps alive
