"""Where the threads of a block wait for each other: before what reads or writes memory that another
statement since the last barrier has written, or writes what one has read.

Memory is told apart by ranges of elements, so that parts of a vector do not wait for one another.
"""

from collections.abc import Iterable, Mapping
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
    Index,
    Load,
    Loop,
    Parallel,
    Select,
    Statement,
    Store,
    Variable,
)

#: The least and the greatest value of loop variables.
Ranges = Mapping[Variable, tuple[int, int]]


class Access(NamedTuple):
    """Elements of memory that a statement reads or writes; all of it where `high` is None."""

    buffer: str
    low: int
    high: int | None
    writes: bool

    def meets(self, other: "Access") -> bool:
        """Whether the order of the two accesses matters."""
        if self.buffer != other.buffer or not (self.writes or other.writes):
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
        elif isinstance(each, Loop) and isinstance(each.stop, Variable):
            body, after = _placed(each.body, open)
            # The next turn follows the last statement of this one.
            if _placed(body, after)[0] != body:
                body, after = [*body, Barrier()], set()
                body, after = _placed(body, open)
            each = Loop(each.variable, each.start, each.stop, each.step, tuple(body))
            open = open | after
        else:
            mine = set(accesses([each], {}))
            if any(one.meets(other) for one in mine for other in open):
                place = len(out)
                while place and isinstance(out[place - 1], Comment):
                    place -= 1
                out.insert(place, Barrier())
                open = set()
            open = open | mine
        out.append(each)
    return out, open


def accesses(statements: Iterable[Statement], ranges: Ranges) -> Iterable[Access]:
    """What statements read and write."""
    for each in statements:
        if isinstance(each, Assign):
            yield from _reads(each.value, ranges)
        elif isinstance(each, Store | Accumulate):
            yield from _reads(each.value, ranges)
            if isinstance(each.place, Load):
                yield _access(each.place, ranges, writes=True)
        elif isinstance(each, Loop):
            last = None if isinstance(each.stop, Variable) else each.stop - 1
            inside = {} if last is None else {each.variable: (each.start, last)}
            yield from accesses(each.body, {**ranges, **inside})
        elif isinstance(each, Parallel):
            inside = {variable: (0, count - 1) for variable, count in each.axes}
            yield from accesses(each.body, {**ranges, **inside})
        elif isinstance(each, Gemm):
            for matrix in (each.left, each.right, each.out):
                yield Access(matrix.buffer.name, 0, None, matrix is each.out)


def _reads(value: Expression, ranges: Ranges) -> Iterable[Access]:
    if isinstance(value, Load):
        yield _access(value, ranges, writes=False)
    elif isinstance(value, Apply):
        for each in value.args:
            yield from _reads(each, ranges)
    elif isinstance(value, Cast):
        yield from _reads(value.value, ranges)
    elif isinstance(value, Select):
        for each in (value.condition, value.yes, value.no):
            yield from _reads(each, ranges)


def _access(place: Load, ranges: Ranges, writes: bool) -> Access:
    low, high = _range(place.index, ranges)
    return Access(place.buffer.name, low, high, writes)


def _range(index: Index, ranges: Ranges) -> tuple[int, int | None]:
    low = high = index.offset
    for variable, factor in index.terms:
        if variable not in ranges:
            return 0, None
        ends = [factor * end for end in ranges[variable]]
        low, high = low + min(ends), high + max(ends)
    return low, high
