"""Programs that are made once for all steps that are recorded as the same graph.

To record a step takes a fraction of the time that its program takes to be made. So a run records
its step, and where that is the same, call by call and number by number, as in an earlier run of
this process, it takes the program from there, with its own arrays from outside in it. Who can tell
that a step is the same without recording it gives a key for it. A program has buffers, which belong
to one run at a time: it waits for another one when the run has let go of it. No lock is held, so a
process may be forked at any time.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any, TypeVar
from weakref import finalize

from tinynn.compiler.content import Content
from tinynn.compiler.rewrite import size
from tinynn.compiler.train_loop import TrainLoop
from tinynn.transforms.graph import Constant, Graph

# How many graphs are known, the latest; the elements of all the values of one, which its buffers do
# not exceed, since what takes longer than its program to be made need not be kept; and those of all
# the programs that wait.
_MOST, _ELEMENTS, _WAITING = 16, 2**21, 2**23

Kind = TypeVar("Kind", bound=TrainLoop)


@dataclass(eq=False)
class Known:
    """What is known of all steps that are recorded as one graph.

    Attributes
    ----------
    sure
        Hashes of the lines of code that were seen to be recorded as this graph twice.
    """

    sure: set[int] = field(default_factory=set)


@dataclass(eq=False)
class _Waiting:
    """A program that no run has."""

    known: Known
    key: Any
    program: Any
    constants: list[Constant]
    elements: int


class Programs:
    """The programs of one graph.

    Parameters
    ----------
    recorded
        Gives the graph, recorded anew; it is called once, if at all.
    known
        What is known of it; None for one whose programs are not kept.
    constants
        Those of the graph, if they are known without it.
    """

    def __init__(
        self,
        recorded: Callable[[], Graph],
        known: Known | None = None,
        constants: list[Constant] | None = None,
    ) -> None:
        self._recorded, self.known, self._constants = recorded, known, constants

    @cached_property
    def graph(self) -> Graph:
        """As it was recorded."""
        return self._recorded()

    @property
    def constants(self) -> list[Constant]:
        """The arrays from outside, of the graphs in its calls too."""
        if self._constants is None:
            self._constants = _constants(self.graph)
        return self._constants

    @property
    def sure(self) -> bool:
        """Whether this code was seen to be recorded as this graph twice, in this run or before.

        Code of other lines that gives the same graph once may give another one the next time.
        """
        known = self.known
        return known is not None and bool(known.sure) and self._code in known.sure

    def make_sure(self) -> None:
        """Note that the code was recorded as this graph twice."""
        if self.known is not None:
            self.known.sure.add(self._code)

    @property
    def _code(self) -> int:
        return hash(tuple([(n.origin.place, n.origin.line) for n in self.graph.nodes]))

    def program(
        self,
        kind: type[Kind],
        kept: int,
        backend: Any,
        rows: Sequence[list[int]],
        *more: int,
    ) -> Kind:
        """A program of this kind, with nothing in it; the arguments are those of its class."""
        if self.known is None:
            return kind(self.graph, kept, backend, rows, *more)
        key = kind, kept, rows, kind.written_by(backend), more
        made = _taken(self.known, key)
        if made is None:  # there is none, or all of them are running
            # Each has constants of its own, of a graph that no other program is made of.
            program = kind(self.graph, kept, backend, rows, *more)
            elements = sum(_sizes(self.graph)) * prod(more)
            made = _Waiting(self.known, key, program, _constants(self.graph), elements)
            self.known = None
        else:
            for old, new in zip(made.constants, self.constants, strict=True):
                old.value, old.wrappers = new.value, new.wrappers
        lent: Kind = made.program.anew()
        finalize(lent, _given_back, made).atexit = False
        return lent


# By all that is known of a graph; the programs that wait, the latest last; by the key of a step
# what it was recorded as; and by such a key functions that are compiled.
_known: dict[Any, Known] = {}
_waiting: list[_Waiting] = []
_steps: dict[Any, tuple[Known, list[Constant]]] = {}
_functions: dict[Any, Any] = {}


def programs_of(graph: Graph, backend: Any, step: Any = None) -> Programs:
    """The programs of a graph, those of earlier ones that are the same among them.

    step: a key of what was recorded, by which `programs_by` finds them.
    """
    content = _content(graph, backend) if sum(_sizes(graph)) <= _ELEMENTS else None
    if content is None:
        return Programs(lambda: graph)
    found = _known.get(content) or Known()
    _keep(_known, content, found)
    if step is not None:  # copies, as a run may give the constants arrays of its own
        _keep(_steps, step, (found, list(map(copy, _constants(graph)))))
    return Programs(lambda: graph, found)


def programs_by(step: Any, recorded: Callable[[], Graph]) -> Programs | None:
    """The programs of a step that was recorded under this key, which may be None; else None.

    recorded: records the step, if there has to be another one.
    """
    if step not in _steps:
        return None
    known, constants = _steps[step]
    return Programs(recorded, known, list(map(copy, constants)))


def function_by(key: Any) -> Any:
    """The compiled function that waits under a key, which now has another owner; or None."""
    return None if key is None else _functions.pop(key, None)


def lend_function(owner: Any, key: Any, function: Any) -> None:
    """Let a compiled function, which has been called, wait once its owner is gone.

    Until then nobody else calls it. One that is large does not wait.
    """
    if key is not None and sum(_sizes(function.graph)) <= _ELEMENTS // 4:
        finalize(owner, _keep, _functions, key, function).atexit = False


def clear() -> None:
    """Forget the programs of earlier runs."""
    for kept in (_known, _waiting, _steps, _functions):
        kept.clear()


def _keep(kept: dict[Any, Any], key: Any, value: Any) -> None:
    """Put a value last, the newest; the oldest one beyond so many goes."""
    kept.pop(key, None)
    for oldest in list(kept)[: 1 - _MOST]:
        kept.pop(oldest, None)
    kept[key] = value


def _constants(graph: Graph) -> list[Constant]:
    return [constant for each in _graphs(graph) for constant in each.constants]


def _taken(known: Known, key: Any) -> _Waiting | None:
    """A program that waits, which waits no more."""
    for each in _waiting[::-1]:
        if each.known is known and each.key == key:
            with suppress(ValueError):  # another thread was sooner
                _waiting.remove(each)
                return each
    return None


def _given_back(made: _Waiting) -> None:
    """Let a program wait; those that waited longest go."""
    _waiting.append(made)
    known, elements = list(_known.values()), 0
    for each in _waiting[::-1]:
        elements += each.elements
        if elements > _WAITING or each.known not in known:
            with suppress(ValueError):  # a run has taken it meanwhile
                _waiting.remove(each)


def _sizes(graph: Graph) -> Iterator[int]:
    """The sizes of all values, those of the graphs in its calls too."""
    for each in _graphs(graph):
        yield from map(size, [*each.constants, *each.nodes])


def _graphs(graph: Graph) -> Iterator[Graph]:
    """The graph, and those in its calls."""
    yield graph
    for node in graph.nodes:
        for inside in node.kwargs.values():
            if isinstance(inside, Graph):
                yield from _graphs(inside)


def _content(graph: Graph, backend: Any) -> Any:
    """What a program depends on, as a key; None if that cannot be told."""
    with suppress(TypeError):  # a call is given what cannot be compared
        key = backend, str(backend.device), Content(backend).of(graph)
        hash(key)
        return key
    return None
