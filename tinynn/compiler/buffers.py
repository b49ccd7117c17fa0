"""Memory of compiled programs: the arrays that values are in, and what is written into whose."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite, prod
from typing import Any, NamedTuple

from tinynn.compiler.layouts import Order
from tinynn.compiler.rewrite import RESHAPES, is_call
from tinynn.compiler.statements import Expression, Subscript, Variable
from tinynn.transforms.graph import Graph, Node

_PLAIN = (bool, int, str)


@dataclass(eq=False, repr=False)
class Buffer(Variable):
    """An array that is there before the step.

    Attributes
    ----------
    dtype : dtype
        The array's.
    kept : bool
        It is never given to another value.
    anew : bool
        It is another one in each step.
    order : tuple of int, optional
        Its axes from the outermost in memory inwards, where that is not their order.
    """

    dtype: Any = None
    kept: bool = False
    anew: bool = False
    order: Order = None


@dataclass(eq=False)
class Value:
    """A value of the graph, as a program has it.

    Attributes
    ----------
    variable : Variable
        The name that it goes by: its buffer, or a view of it.
    buffer : Buffer, optional
        The memory that it always is in; None where it is a new object in each step.
    contiguous : bool
        A change of shape is another view of it.
    order : tuple of int, optional
        The order of its axes in memory, as of a buffer.
    """

    variable: Variable
    buffer: Buffer | None = None
    contiguous: bool = True
    order: Order = None

    @property
    def whole(self) -> bool:
        """True if it is its buffer, not a view of it."""
        return self.variable is self.buffer


class Part(NamedTuple):
    """A part of values that are joined.

    Attributes
    ----------
    value
        The value, of the joined one's number of axes.
    source
        The same, or what it is another shape of, without an axis of length one.
    key
        The index of `source` in the joined value.
    """

    value: Any
    source: Any
    key: tuple[Any, ...]


def parts(node: Node) -> list[Part]:
    """The parts of a joined value, in order."""
    axis, start, found = node.kwargs.get("axis", 0) % len(node.shape), 0, []
    front = (slice(None),) * axis
    for value in node.args:
        stop, source = start + value.shape[axis], value
        key: tuple[Any, ...] = (*front, slice(start, stop), ...)
        if is_call(value) and value.name in RESHAPES and value.shape[axis] == 1:
            shape = value.args[0].shape
            if tuple(shape) == (*value.shape[:axis], *value.shape[axis + 1 :]):
                source, key = value.args[0], (*front, start, ...)
        found.append(Part(value, source, key))
        start = stop
    return found


def written_in_place(
    graph: Graph, joins: Mapping[int, list[Part]], fits: Callable[[Node, int], bool]
) -> dict[int, tuple[Node, Part]]:
    """The values that are written where they are joined, by id, with the call that joins them.

    Parameters
    ----------
    graph
        The program.
    joins
        The parts of the calls that join, by id.
    fits
        True if this value can be written anywhere, and is not read after the call at this place.
    """
    found: dict[int, tuple[Node, Part]] = {}
    for place, node in enumerate(graph.nodes):
        for part in joins.get(id(node), ()):
            if is_call(part.source) and id(part.source) not in found and fits(part.source, place):
                found[id(part.source)] = node, part
    return found


def is_literal(value: Any) -> bool:
    """True if the value can be written into a program as it is."""
    if isinstance(value, tuple):
        return all(map(is_literal, value))
    if isinstance(value, float):
        return isfinite(value)
    return value is None or isinstance(value, _PLAIN)


def part_of(vector: Any, start: int, shape: tuple[int, ...]) -> Expression:
    """The values of this shape that lie in a vector from a place on."""
    part = Subscript(vector, slice(start, start + prod(shape)))
    return part if len(shape) == 1 else part.method("reshape", tuple(shape))
