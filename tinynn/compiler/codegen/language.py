"""The loop language: what a kernel does, as objects that a renderer turns into text.

A function has arguments in flat memory, memory of its own, and statements. Expressions are values
of one number; the index of an element is a sum of loop variables times whole numbers. Nothing here
knows how a target is written, and nothing ever reads text back.

>>> i, x = Variable("i", INDEX), Buffer("x", "float32", 8)
>>> Loop(i, 0, 8, 1, (Store(Load(x, Index.of(i)), Constant(0.0, "float32")),)).stop
8
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

#: The dtype of loop variables and places in memory: as wide as the target's addresses need.
INDEX = "index"
#: The bytes of a number, by the name of its dtype: the dtypes that there are.
BYTES = {"bool": 1, "float32": 4, "float64": 8} | {
    f"{sign}int{bits}": bits // 8 for sign in ("", "u") for bits in (8, 16, 32, 64)
}


def is_float(dtype: str) -> bool:
    """True for a floating-point dtype."""
    return dtype.startswith("float")


def is_integer(dtype: str) -> bool:
    """True for an integer dtype; indices have a dtype of their own."""
    return "int" in dtype


# Expressions.


@dataclass(frozen=True)
class Variable:
    """A named number: of a loop, or assigned."""

    name: str
    dtype: str


@dataclass(frozen=True)
class Constant:
    """A number that is known."""

    value: bool | int | float
    dtype: str


@dataclass(frozen=True)
class Index:
    """A place in flat memory: the sum of variables times whole numbers, and a number.

    >>> i, j = Variable("i", INDEX), Variable("j", INDEX)
    >>> (Index.of(i).times(4).plus(Index.of(j)).plus(Index.of(2))).offset
    2
    """

    terms: tuple[tuple[Variable, int], ...] = ()
    offset: int = 0

    @classmethod
    def of(cls, place: "Index | Variable | int") -> "Index":
        """The index that a variable or a number is."""
        if isinstance(place, Index):
            return place
        return cls((), place) if isinstance(place, int) else cls(((place, 1),))

    def plus(self, other: "Index") -> "Index":
        """The sum of two indices."""
        factors = dict(self.terms)
        for variable, factor in other.terms:
            factors[variable] = factors.get(variable, 0) + factor
        terms = tuple((v, f) for v, f in factors.items() if f)
        return Index(terms, self.offset + other.offset)

    def times(self, factor: int) -> "Index":
        """The index times a whole number."""
        return Index(tuple((v, f * factor) for v, f in self.terms if factor), self.offset * factor)


@dataclass(frozen=True)
class Buffer:
    """Flat memory of so many numbers; of an argument whose length is the caller's, None."""

    name: str
    dtype: str
    size: int | None = None


@dataclass(frozen=True)
class Load:
    """An element of memory; as the target of a statement, its place."""

    buffer: Buffer
    index: Index

    @property
    def dtype(self) -> str:
        return self.buffer.dtype


@dataclass(frozen=True)
class Apply:
    """A scalar operation of the table in `operations`, which gives a number of `dtype`."""

    operation: str
    args: tuple["Expression", ...]
    dtype: str


@dataclass(frozen=True)
class Select:
    """One of two numbers of a dtype, by a bool."""

    condition: "Expression"
    yes: "Expression"
    no: "Expression"

    @property
    def dtype(self) -> str:
        return self.yes.dtype


@dataclass(frozen=True)
class Cast:
    """A number in another dtype."""

    value: "Expression"
    dtype: str


Expression: TypeAlias = Variable | Constant | Load | Apply | Select | Cast


# Statements.


@dataclass(frozen=True)
class Comment:
    """A line for readers."""

    text: str


@dataclass(frozen=True)
class Assign:
    """A variable gets a value; the first assignment in a block declares it there."""

    variable: Variable
    value: Expression


@dataclass(frozen=True)
class Store:
    """An element of memory gets a value."""

    place: Load
    value: Expression


@dataclass(frozen=True)
class Accumulate:
    """One more number is taken into a reduction, of the table in `operations`.

    A sum of floats is one in any order; of products it may be rounded once for each, not twice.
    """

    place: Variable | Load
    reduction: str
    value: Expression


@dataclass(frozen=True)
class Matrix:
    """A matrix in memory: where it starts, how far its rows are apart, whether it lies transposed
    (its columns are then what is so far apart)."""

    buffer: Buffer
    start: Index
    transposed: bool
    step: int


@dataclass(frozen=True)
class Gemm:
    """out = left @ right, (rows, length) by (length, columns), by the library's own product."""

    rows: int
    columns: int
    length: int
    left: Matrix
    right: Matrix
    out: Matrix


@dataclass(frozen=True)
class Loop:
    """The body for each number of a range, in order.

    Where there is a bool `going`, which is the same for all threads, for as long as it holds.
    """

    variable: Variable
    start: int
    stop: int | Variable
    step: int
    body: tuple["Statement", ...]
    going: Variable | None = None


@dataclass(frozen=True)
class If:
    """One of two blocks of statements, by a condition that is the same for all threads."""

    condition: Expression
    then: tuple["Statement", ...]
    otherwise: tuple["Statement", ...]


@dataclass(frozen=True)
class Parallel:
    """The body once for each point of an index space, by any thread, in any order.

    No axes are one point. Statements outside of any are carried out by every thread, each with
    variables of its own.
    """

    axes: tuple[tuple[Variable, int], ...]
    body: tuple["Statement", ...]


@dataclass(frozen=True)
class Combine:
    """Reduce a variable over all threads to one number, which each of them then holds.

    All have seen before what each of them wrote, as after a `Barrier`.
    """

    variable: Variable
    reduction: str


@dataclass(frozen=True)
class Barrier:
    """The threads wait for each other, and see from then on what each of them wrote."""


Statement: TypeAlias = (
    Comment | Assign | Store | Accumulate | Gemm | Loop | If | Parallel | Combine | Barrier
)


@dataclass(frozen=True)
class Function:
    """A kernel.

    Attributes
    ----------
    name
        Its name.
    numbers
        Whole numbers that are its first arguments.
    arguments
        Memory that it is given, in order after them. No two overlap.
    shared
        Memory of its own that the threads share, and that does not outlive a call.
    body
        What it does.
    threads
        How many threads carry it out, a power of two; 1 needs no barriers.
    networks
        Whether it is carried out for many networks at once, a block of threads each: the arguments
        of number k start k times so many elements behind those of number 0.
    """

    name: str
    numbers: tuple[Variable, ...]
    arguments: tuple[Buffer, ...]
    shared: tuple[Buffer, ...]
    body: tuple[Statement, ...]
    threads: int = 1
    networks: bool = False

    @property
    def shared_bytes(self) -> int:
        """The room that the shared memory takes."""
        return sum(map(room, self.shared))


def room(buffer: Buffer) -> int:
    """The bytes that memory takes, so that the next one starts at a multiple of 16."""
    assert buffer.size is not None
    return -(-buffer.size * BYTES[buffer.dtype] // 16) * 16


def nested(
    axes: Iterable[tuple[Variable, int]], body: Iterable[Statement]
) -> tuple[Statement, ...]:
    """Loops around a body, the first axis outermost; of no axes, the body itself."""
    made = tuple(body)
    for variable, count in reversed(list(axes)):
        made = (Loop(variable, 0, count, 1, made),)
    return made


def walk(statements: Iterable[Statement]) -> Iterator[Statement]:
    """All statements, those inside of others after them."""
    for each in statements:
        yield each
        if isinstance(each, Loop | Parallel):
            yield from walk(each.body)
        elif isinstance(each, If):
            yield from walk((*each.then, *each.otherwise))


def names(function: Function) -> set[str]:
    """All names that a function uses."""
    found = {v.name for v in function.numbers}
    found |= {b.name for b in (*function.arguments, *function.shared)}
    for each in walk(function.body):
        if isinstance(each, Loop):
            found.add(each.variable.name)
        elif isinstance(each, Parallel):
            found.update(variable.name for variable, _ in each.axes)
        elif isinstance(each, Assign):
            found.add(each.variable.name)
    return found
