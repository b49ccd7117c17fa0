"""Barriers, at which the threads of a block wait for each other: before a statement that reads or
writes memory that another one since the last barrier has written, or writes what one has read.

Memory is told apart by ranges of elements, so that parts of a vector do not wait for one another.
What a thread alone accesses is its own affair: elements that two index spaces give to the same one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from tinynn.compiler.codegen.language import (
    Accumulate,
    Apply,
    Assign,
    Barrier,
    Cast,
    Combine,
    Comment,
    Expression,
    Gemm,
    If,
    Index,
    Load,
    Loop,
    Parallel,
    Select,
    Statement,
    Store,
    Variable,
    walk,
)

# Statements that threads share.
_SHARED = Parallel | Combine | Barrier

#: The least and the greatest value of loop variables.
Ranges = Mapping[Variable, tuple[int, int]]


class Access(NamedTuple):
    """Elements of memory that a statement reads or writes.

    Attributes
    ----------
    low, high
        The first and the last of them; all of the memory where `high` is None.
    owner
        What tells which thread accesses an element, where one does: the element of the first point
        of an index space whose points go along the elements in order, or "first" for the first
        thread.
    """

    buffer: str
    low: int
    high: int | None
    writes: bool
    owner: int | str | None = None

    def meets(self, other: "Access") -> bool:
        """True if the order of the two accesses matters."""
        if self.buffer != other.buffer or not (self.writes or other.writes):
            return False
        if self.owner is not None and self.owner == other.owner:
            return False
        if self.high is None or other.high is None:
            return True
        return self.low <= other.high and other.low <= self.high


def with_barriers(statements: Iterable[Statement]) -> tuple[Statement, ...]:
    """The statements of a function, with barriers where its threads need them."""
    return tuple(_placed(statements, set())[0])


def _placed(
    statements: Iterable[Statement], open: set[Access]
) -> tuple[list[Statement], set[Access]]:
    """The statements with barriers, and the accesses since the last of them."""
    out: list[Statement] = []
    for each in statements:
        if isinstance(each, Barrier | Combine):
            open = set()
        elif isinstance(each, Loop) and _has_order(each):
            body, after = _placed(each.body, open)
            # The next turn follows the last statement of this one.
            if _placed(body, after)[0] != body:
                body, after = [*body, Barrier()], set()
                body, after = _placed(body, open)
            each = replace(each, body=tuple(body))
            open = open | after
        else:
            head = If(each.condition, (), ()) if isinstance(each, If) else each
            mine = set(accesses([head], {}))
            if any(one.meets(other) for one in mine for other in open):
                place = len(out)
                while place and isinstance(out[place - 1], Comment):
                    place -= 1
                out.insert(place, Barrier())
                open = set()
            open = open | mine
            if isinstance(each, If):
                (then, one), (otherwise, other) = (
                    _placed(branch, open) for branch in (each.then, each.otherwise)
                )
                each, open = If(each.condition, tuple(then), tuple(otherwise)), one | other
        out.append(each)
    return out, open


def _has_order(loop: Loop) -> bool:
    """True if threads have to wait for each other between statements inside, or may have to."""
    if not any(isinstance(inside, _SHARED) for inside in walk(loop.body)):
        return False
    if any(isinstance(inside, Barrier | Combine) for inside in walk(loop.body)):
        return True
    every = set(accesses([loop], {}))
    return any(one.meets(other) for one in every for other in every)


Axes = tuple[tuple[Variable, int], ...]


def accesses(
    statements: Iterable[Statement], ranges: Ranges, axes: Axes | None = None
) -> Iterable[Access]:
    """The accesses of statements in an index space over these axes, or outside of any."""
    for each in statements:
        if isinstance(each, Assign | Store | Accumulate):
            for load in _loads(each.value):
                yield _access(load, ranges, axes, writes=False)
            if not isinstance(each, Assign) and isinstance(each.place, Load):
                yield _access(each.place, ranges, axes, writes=True)
        elif isinstance(each, Loop):
            last = None if isinstance(each.stop, Variable) else each.stop - 1
            inside = {} if last is None else {each.variable: (each.start, last)}
            yield from accesses(each.body, {**ranges, **inside}, axes)
        elif isinstance(each, Parallel):
            inside = {variable: (0, count - 1) for variable, count in each.axes}
            yield from accesses(each.body, {**ranges, **inside}, each.axes)
        elif isinstance(each, If):
            for load in _loads(each.condition):
                yield _access(load, ranges, axes, writes=False)
            yield from accesses((*each.then, *each.otherwise), ranges, axes)
        elif isinstance(each, Gemm):
            for matrix in (each.left, each.right, each.out):
                yield Access(matrix.buffer.name, 0, None, matrix is each.out)


def _loads(value: Expression) -> Iterable[Load]:
    if isinstance(value, Load):
        yield value
    elif isinstance(value, Apply):
        for each in value.args:
            yield from _loads(each)
    elif isinstance(value, Cast):
        yield from _loads(value.value)
    elif isinstance(value, Select):
        for each in (value.condition, value.yes, value.no):
            yield from _loads(each)


def _access(place: Load, ranges: Ranges, axes: Axes | None, writes: bool) -> Access:
    low, high = _range(place.index, ranges)
    return Access(place.buffer.name, low, high, writes, _owner(place.index, axes))


def _owner(index: Index, axes: Axes | None) -> int | str | None:
    """The `owner` of an access; None where several threads may access an element."""
    if axes is None:
        return None
    if not axes:
        return "first"
    step, wanted = 1, {}
    for variable, count in reversed(axes):
        if count > 1:
            wanted[variable] = step
        step *= count
    single = {variable for variable, count in axes if count == 1}
    found = {variable: factor for variable, factor in index.terms if variable not in single}
    return index.offset if found == wanted else None


def _range(index: Index, ranges: Ranges) -> tuple[int, int | None]:
    low = high = index.offset
    for variable, factor in index.terms:
        if variable not in ranges:
            return 0, None
        ends = [factor * end for end in ranges[variable]]
        low, high = low + min(ends), high + max(ends)
    return low, high
