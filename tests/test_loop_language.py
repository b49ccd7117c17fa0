"""The loop language itself: its operations, barriers, renderers and interpreter."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backends
from tests.engines import Interpreted, InterpretedSerially
from tinynn.compiler import pipelines
from tinynn.compiler.codegen import barriers, interpreter
from tinynn.compiler.codegen.language import (
    INDEX,
    Accumulate,
    Apply,
    Assign,
    Barrier,
    Buffer,
    Cast,
    Combine,
    Comment,
    Constant,
    Function,
    Index,
    Load,
    Loop,
    Parallel,
    Statement,
    Store,
    Variable,
    walk,
)
from tinynn.compiler.codegen.operations import OPERATIONS, operation
from tinynn.compiler.codegen.renderers import RENDERERS
from tinynn.compiler.loops import Loops
from tinynn.data import Samples
from tinynn.functional import sigmoid
from tinynn.layers import Linear, Sequential
from tinynn.losses import SquaredError
from tinynn.optim import SGD
from tinynn.trace import namespace
from tinynn.training.step import TrainingStep
from tinynn.transforms.record import record

NUMPY = backends.get("numpy")
HERE = Path(__file__).parent
ROW, COLUMN = Variable("i0", INDEX), Variable("i1", INDEX)
STEPS = Variable("steps", INDEX)
X, Y = Buffer("x", "float64", 8), Buffer("y", "float64", 8)


def xor(kind: type[Loops]) -> Loops:
    """The XOR network of the notebooks, as `fit` would train it."""
    net = Sequential(Linear(4, bias=False), sigmoid, Linear(1, bias=False), sigmoid)
    x = np.asarray([[0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=float)
    y = np.asarray([[0.0], [1.0], [1.0], [0.0]])
    step = TrainingStep(net, SquaredError(reduction="half_sum"), SGD(1.0))
    carry = step.init(0, Samples(x, y))
    assert NUMPY.lowering is not None
    decompositions = pipelines.decompositions(NUMPY.lowering)
    graph = record(step, carry, Samples(x, y), None, decompositions=decompositions)
    return kind(graph, 3, NUMPY, [[0, 1]])


# Renderers: a change of what they write is seen here.


class ForCuda(Interpreted):
    """Loops as a device with much shared memory takes them."""

    threads, shared_bytes = 256, 45056


@pytest.mark.parametrize(
    ("kind", "file"), [(InterpretedSerially, "xor_loops.txt"), (ForCuda, "xor_kernel.txt")]
)
def test_the_xor_programs(kind: type[Loops], file: str) -> None:
    assert xor(kind).source == (HERE / file).read_text()


def test_names_and_comments_that_mean_something_in_a_target() -> None:
    def step(values: Any, given: dict[str, Any]) -> Any:
        total = namespace(given["int"]).sum(given["int"])
        return {name: value + given[name] for name, value in values.items()}, total

    odd = dict.fromkeys(("int", "lambda", "größe", "thread", "i0", "x-y", "steps"), np.ones(2))
    graph = record(step, odd, odd)
    for kind in (Interpreted, InterpretedSerially):
        loops = kind(graph, len(odd), NUMPY, [])
        loops.load(list(odd.values()))
        loops.run(loops.steps(1, list(odd.values())))
        for found in loops.values():
            np.testing.assert_array_equal(found, [2.0, 2.0])
        assert loops.source.isascii()
    function = Function("run", (), (), (), (Comment("ends in a backslash\\"),))
    assert "\\" not in RENDERERS["cuda"](function)


# Operations.


def test_every_row_has_an_answer_for_special_numbers() -> None:
    special = [0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 1e308, -1e308, 0.5]
    for name, row in OPERATIONS.items():
        if name.startswith("bitwise"):
            continue
        pairs = row.python.count("{1}")
        for x in special:
            for y in special if pairs else [0.0]:
                assert isinstance(row(x, y) if pairs else row(x), bool | float), name


def test_integers_wrap_around_and_have_no_signs_of_their_own() -> None:
    x = Variable("x", "int32")
    most = Constant(2**31 - 1, "int32")
    out = Buffer("out", "int32", 2)
    body = (
        Assign(x, operation("add", [most, Constant(1, "int32")], "int32")),
        Store(Load(out, Index()), x),
        Store(Load(out, Index.of(1)), operation("abs", [x], "int32")),
    )
    memory = [0, 0]
    interpreter.run(Function("run", (), (out,), (), body), (), memory)
    assert memory == [-(2**31), -(2**31)]
    text = RENDERERS["cuda"](Function("run", (), (out,), (), body))
    assert "(int)((unsigned int)2147483647 + (unsigned int)1)" in text


# Barriers.


def copied(target: Buffer, source: Buffer, first: int, count: int, apart: int = 0) -> Parallel:
    """target[first + i] = source[first + apart + i]."""
    place = Index.of(ROW).plus(Index.of(first))
    value = Load(source, place.plus(Index.of(apart)))
    return Parallel(((ROW, count),), (Store(Load(target, place), value),))


CASES: dict[str, tuple[list[Statement], int]] = {
    "read what was written": ([copied(X, Y, 0, 4), copied(Y, X, 4, 2, -2)], 1),
    "parts that do not meet": ([copied(X, Y, 0, 4), copied(X, Y, 4, 4)], 0),
    "write what was read": ([copied(X, Y, 0, 4), copied(Y, Y, 3, 1)], 1),
    "read alone": ([copied(X, Y, 0, 4), copied(X, Y, 4, 4, -4)], 0),
    "at a place that is not known": (
        [copied(X, Y, 0, 2), Store(Load(X, Index.of(COLUMN)), Load(Y, Index()))], 1,
    ),
    "what a thread itself has written": ([copied(X, Y, 2, 4), copied(Y, X, 2, 3)], 0),
    "the first thread alone": (
        [*[Parallel((), (Store(Load(X, Index.of(n)), Load(X, Index())),)) for n in (0, 1)]], 0,
    ),
    "after a combination": (
        [copied(X, Y, 0, 4), Combine(Variable("s", "float64"), "sum"), copied(Y, X, 0, 4)], 0,
    ),
    "over and over": (
        [Loop(COLUMN, 0, STEPS, 1, (copied(X, Y, 1, 4, -1), copied(Y, X, 1, 2)))], 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_barriers_are_where_accesses_meet(case: str) -> None:
    statements, count = CASES[case]
    found = list(walk(barriers.with_barriers(statements)))
    assert sum(isinstance(each, Barrier) for each in found) == count


def without(statements: tuple[Statement, ...], number: int) -> tuple[Statement, ...]:
    """The statements without one of their barriers."""
    counts = iter(range(10**6))

    def kept(statements: tuple[Statement, ...]) -> tuple[Statement, ...]:
        out: list[Statement] = []
        for each in statements:
            if isinstance(each, Barrier) and next(counts) == number:
                continue
            out.append(replace(each, body=kept(each.body)) if isinstance(each, Loop) else each)
        return tuple(out)

    return kept(statements)


class Eight(Interpreted):
    """As many threads as no axis is long: what they write is for others."""

    threads = 8


def test_a_barrier_that_is_missing_shows() -> None:
    """Each one of the XOR kernel's: so that they are enough is known by its result."""
    loops = xor(Eight)
    function = loops.function
    count = sum(isinstance(each, Barrier) for each in walk(function.body))
    assert count == 6

    def result(function: Function, seed: int) -> Any:
        arrays = [loops._room(2), *loops.kept, *data, *loops.memory]
        memory = [array.tolist() for array in arrays]
        interpreter.run(function, (1, 2), *memory, seed=seed)
        return memory[:3]

    draw = np.random.default_rng(0).random
    loops.load([draw((3, 4)), draw((4, 1)), np.asarray(0, "int32")])
    data = loops.steps(1, [draw((4, 3)), draw((4, 1))])[1]
    right = result(function, 0)
    assert right == result(function, 1)
    for number in range(count - 1):  # the last is for a run of no steps
        wrong = replace(function, body=without(function.body, number))
        shown = False
        for seed in range(20):
            try:
                shown = shown or result(wrong, seed) != right
            except (RuntimeError, TypeError):  # read before it is written
                shown = True
        assert shown, f"barrier {number}"


def test_sums_go_over_all_threads() -> None:
    s, x = Variable("s", "float64"), Buffer("x", "float64", 5)
    body: tuple[Statement, ...] = (
        Assign(s, Constant(0.0, "float64")),
        Parallel(((ROW, 5),), (Accumulate(s, "sum", Load(x, Index.of(ROW))),)),
        Combine(s, "sum"),
        Parallel((), (Store(Load(x, Index()), s),)),
    )
    memory = [1.0, 2.0, 3.0, 4.0, 5.0]
    interpreter.run(Function("run", (), (x,), (), body, threads=4), (), memory)
    assert memory[0] == 15.0
    with pytest.raises(TypeError, match="Parallel is for functions of several threads"):
        RENDERERS["python"](Function("run", (), (x,), (), body))


def test_whole_numbers_become_the_nearest_float_that_there_is() -> None:
    out, number = Buffer("out", "float32", 1), Constant(2**24 + 1, "int32")
    cast = Cast(number, "float32")
    difference = Apply("subtract", (cast, Constant(2.0**24, "float32")), "float32")
    memory = [1.0]
    body = (Store(Load(out, Index()), difference),)
    interpreter.run(Function("run", (), (out,), (), body), (), memory)
    assert memory == [0.0]


def test_the_interpreter_looks_where_it_writes() -> None:
    store = Store(Load(X, Index.of(8)), Constant(0.0, "float64"))
    with pytest.raises(IndexError, match=r"x\[8\]"):
        interpreter.run(Function("run", (), (X,), (), (store,)), (), [0.0] * 8)
    below = Apply("less", (ROW, Constant(1, INDEX)), "bool")
    assert RENDERERS["python"](
        Function("run", (), (X,), (), (Assign(Variable("v", "bool"), below),))
    ).endswith("v = i0 < 1\n")
