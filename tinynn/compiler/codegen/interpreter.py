"""Carries out a function of the loop language, statement by statement: slow, and for tests.

Threads go one after the other from barrier to barrier, in an order that a seed draws anew each
time. A barrier that is missing, or a result that depends on which thread comes first, shows as
another number.
"""

import random
import struct
from collections.abc import Iterable, Iterator, MutableSequence
from typing import Any

from tinynn.compiler.codegen.language import (
    INDEX,
    Accumulate,
    Apply,
    Assign,
    Barrier,
    Cast,
    Combine,
    Comment,
    Constant,
    Expression,
    Function,
    Gemm,
    If,
    Index,
    Load,
    Loop,
    Matrix,
    Parallel,
    Select,
    Statement,
    Store,
    Variable,
    is_float,
)
from tinynn.compiler.codegen.operations import OPERATIONS, fitted, taken_in

Memory = MutableSequence[Any]


def run(function: Function, numbers: Iterable[int], *memory: Memory, seed: int = 0) -> None:
    """Carry a function out.

    Parameters
    ----------
    function
        A kernel.
    numbers
        Its first arguments.
    memory
        A sequence of Python's numbers for each of `function.arguments`, which is changed.
    seed
        For the order of threads.
    """
    given = {b.name: m for b, m in zip(function.arguments, memory, strict=True)}
    for buffer in function.shared:
        assert buffer.size is not None
        given[buffer.name] = [None] * buffer.size  # what is read before it is written is an error
    draw = random.Random(seed)
    held: dict[int, Any] = {}
    threads = [_Thread(function, place, given, held) for place in range(function.threads)]
    waiting = []
    for thread in threads:
        thread.variables.update(zip(function.numbers, numbers, strict=True))
        waiting.append(thread.block(function.body))
    while waiting:
        draw.shuffle(waiting)
        left = [each for each in waiting if next(each, None) is not None]
        if left and len(left) < len(waiting):
            raise RuntimeError(f"{function.name}: some threads wait at a barrier, others ended")
        waiting = left


class _Thread:
    def __init__(
        self, function: Function, place: int, memory: dict[str, Memory], held: dict[int, Any]
    ) -> None:
        self.function, self.place, self.memory, self.held = function, place, memory, held
        self.variables: dict[Variable, Any] = {}

    # Statements. A generator yields where the thread waits.

    def block(self, statements: Iterable[Statement]) -> Iterator[bool]:
        for each in statements:
            match each:
                case Barrier():
                    yield True
                case Loop(variable, start, stop, step, body, going):
                    end = self.variables[stop] if isinstance(stop, Variable) else stop
                    for self.variables[variable] in range(start, end, step):
                        if going is not None and not self.variables[going]:
                            break
                        yield from self.block(body)
                case If(condition, then, otherwise):
                    yield from self.block(then if self.value(condition) else otherwise)
                case Parallel(axes, body):
                    for point in self._mine(axes):
                        self.variables.update(point)
                        yield from self.block(body)
                case Combine(variable, reduction):
                    yield from self._combined(variable, reduction)
                case _:
                    self._simple(each)

    def _simple(self, statement: Statement) -> None:
        match statement:
            case Comment():
                pass
            case Assign(variable, value):
                self.variables[variable] = self.value(value)
            case Store(place, value):
                self._set(place, self.value(value))
            case Accumulate(place, reduction, value):
                self._set(place, self.value(taken_in(reduction, place, value)))
            case Gemm():
                self._gemm(statement)

    def _mine(self, axes: tuple[tuple[Variable, int], ...]) -> list[dict[Variable, int]]:
        """The points of an index space that are this thread's."""
        points: list[dict[Variable, int]] = [{}]
        for variable, count in axes:
            points = [{**point, variable: n} for point in points for n in range(count)]
        return points[self.place :: self.function.threads]

    def _combined(self, variable: Variable, reduction: str) -> Iterator[bool]:
        self.held[self.place] = self.variables[variable]
        yield True
        total, *rest = [self.held[place] for place in range(self.function.threads)]
        x = Variable("", variable.dtype)
        for each in rest:
            self.variables[x] = each
            total = self.value(taken_in(reduction, Constant(total, variable.dtype), x))
        yield True
        self.variables[variable] = total

    def _set(self, place: Variable | Load, value: Any) -> None:
        if isinstance(place, Variable):
            self.variables[place] = value
        else:
            self.memory[place.buffer.name][self._place(place)] = value

    def _gemm(self, gemm: Gemm) -> None:
        def element(matrix: Matrix, row: int, column: int) -> tuple[Memory, int]:
            first, second = (column, row) if matrix.transposed else (row, column)
            start = self._index(matrix.start)
            return self.memory[matrix.buffer.name], start + first * matrix.step + second

        for row in range(gemm.rows):
            for column in range(gemm.columns):
                total = 0.0
                for k in range(gemm.length):
                    (a, i), (b, j) = element(gemm.left, row, k), element(gemm.right, k, column)
                    total += a[i] * b[j]
                out, place = element(gemm.out, row, column)
                out[place] = _held(total, gemm.out.buffer.dtype)

    # Expressions.

    def value(self, value: Expression) -> Any:
        match value:
            case Variable():
                return self.variables[value]
            case Constant(number, dtype):
                return _held(number, dtype)
            case Load(buffer):
                found = self.memory[buffer.name][self._place(value)]
                if found is None:
                    raise RuntimeError(f"{buffer.name} is read before it is written")
                return _held(found, buffer.dtype)
            case Cast(inside, dtype):
                return _cast(self.value(inside), dtype)
            case Select(condition, yes, no):
                return self.value(yes if self.value(condition) else no)
            case Apply(operation, args, dtype):
                row = OPERATIONS[operation]
                return _held(row(*map(self.value, args)), dtype)

    def _index(self, index: Index) -> int:
        return index.offset + sum(self.variables[v] * factor for v, factor in index.terms)

    def _place(self, load: Load) -> int:
        place = self._index(load.index)
        if not 0 <= place < len(self.memory[load.buffer.name]):
            raise IndexError(f"{load.buffer.name}[{place}]")
        return place


def _cast(value: Any, dtype: str) -> Any:
    whole = is_float(dtype) and isinstance(value, int)
    return _held(float(value) if whole else value, dtype)  # to the nearest that there is


def _held(value: Any, dtype: str) -> Any:
    """A number as a dtype holds it."""
    if dtype == INDEX:
        return int(value)
    if dtype == "float32":
        try:
            return struct.unpack("f", struct.pack("f", value))[0]
        except OverflowError:
            return value * float("inf")
    return fitted(value, dtype)
