"""Drawn programs of every dtype, by every renderer: each value is what `Graph.run` gives.

More of them, or others: `TINYNN_PROGRAMS=3000`, or `TINYNN_PROGRAMS=1234:1235` (seeds from, to).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import backends
from backends import Backend
from tests.drawn_programs import STEPS, UNSIGNED, DrawnProgram
from tests.engines import Interpreted, InterpretedSerially
from tests.seeds import parts, seeds, share, shown
from tinynn.compiler.engines import kind_of
from tinynn.compiler.loops import Loops
from tinynn.compiler.networks import NetworkLoops
from tinynn.compiler.pipelines import decompositions
from tinynn.compiler.train_loop import TrainLoop
from tinynn.trace import Namespace
from tinynn.transforms.graph import Graph
from tinynn.transforms.record import record

SEEDS, IN_LOOPS, INTERPRETED = 24, 4, 8
NUMPY = backends.get("numpy")
# Relative to a number, where one rounding lies between; and to the largest, where many do.
CLOSE = {"float32": 1e-6, "float64": 4e-15}
LOOSE = {"float32": 2e-4, "float64": 1e-10}

pytestmark = [pytest.mark.usefixtures("float64"), pytest.mark.reads_scalars]


def recorded(program: DrawnProgram, backend: Backend) -> tuple[Graph, list[Any], list[Any]]:
    """The program as a step, where its values start, and what the steps are given."""
    f = program.over(Namespace(backend.xp), backend.asarray)
    given = [backend.asarray(x) for x in program.inputs.values()]

    def step(*arrays: Any) -> tuple[Any, ...]:
        row, *inputs = arrays[len(start) :]
        return (*f(*inputs), Namespace(backend.xp).sum(row))

    start = [backend.asarray(np.zeros_like(x)) for x in reference(program)[0]]
    lowering = backend.lowering
    rows = backend.asarray(np.zeros((STEPS, 1)))
    with np.errstate(all="ignore"):
        arrays = (*start, rows[:1, ...], *[x[0, ...] for x in given])
        graph = record(step, *arrays, decompositions=decompositions(lowering))
    return graph, start, [rows, *given]


def reference(program: DrawnProgram) -> list[list[Any]]:
    """The values of each step, from the graph as it was recorded."""
    f = program.over(Namespace(np), np.asarray)
    steps = [[x[i, ...] for x in program.inputs.values()] for i in range(STEPS)]
    with np.errstate(all="ignore"):
        graph = record(lambda *x: tuple(f(*x)), *steps[0])
        return [[np.asarray(value) for value in graph.run(step)] for step in steps]


def assert_alike(program: DrawnProgram, found: Sequence[Any], wanted: Sequence[Any]) -> None:
    """Each value has the dtype and the shape, and the numbers as far as they are known."""
    for (name, how), mine, theirs in zip(program.outputs.items(), found, wanted, strict=True):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape), name
        if how == "exact" or theirs.dtype.kind != "f":
            np.testing.assert_array_equal(mine, theirs, name)
            continue
        dtype, limits = str(theirs.dtype), np.finfo(theirs.dtype)
        if how == "close":
            # What follows from a number that counts as 0 is some times as large.
            small = program.subnormal
            least = 4 * limits.smallest_subnormal if small else 2**20 * limits.smallest_normal
            near = {"rtol": CLOSE[dtype], "atol": float(least)}
        else:
            size = np.max(np.abs(theirs), initial=1.0, where=np.isfinite(theirs))
            near = {"rtol": LOOSE[dtype], "atol": LOOSE[dtype] * size}
        np.testing.assert_allclose(mine, theirs, **near, err_msg=name)


def check(program: DrawnProgram, backend: Backend, kind: type[TrainLoop]) -> None:
    """An engine carries out both steps, twice over."""
    graph, start, (rows, *given) = recorded(program, backend)
    loop = kind(graph, len(start), backend, [])
    with np.errstate(all="ignore"):
        for count in (1, STEPS):
            loop.load(start)
            loop.run(loop.batches(1, [rows[:count, ...]], [x[:count, ...] for x in given]))
            found = [backend.to_host(value) for value in loop.values()]
            assert_alike(program, found, reference(program)[count - 1])


@parts
def test_calls(backend: Backend, part: int) -> None:
    """Into buffers where the library has them, else as they are."""
    for seed in seeds(share(SEEDS, backend), part):
        unsigned = all(name in backend.dtypes() for name in UNSIGNED)
        program = DrawnProgram(
            seed, unsigned, backwards=backend.name != "torch", subnormal=backend.name != "jax"
        )
        with shown(program):
            check(program, backend, kind_of("calls", backend))


@pytest.mark.only("numpy", "cupy")
@pytest.mark.usefixtures("compiler_of_loops")
def test_loops(backend: Backend) -> None:
    for seed in seeds(share(IN_LOOPS, backend), of=1):
        program = DrawnProgram(seed)
        with shown(program), backend.scope():
            check(program, backend, Loops)


@pytest.mark.only("numpy")
@pytest.mark.usefixtures("compiler_of_loops")
def test_what_llvm_gets_wrong_is_compiled_in_another_way(backend: Backend) -> None:
    """LLVM 22.1 used a value before it was there, and ended the process over it."""
    program = DrawnProgram(5023)
    program.outputs = {name: program.outputs[name] for name in ("v31", "v32")}
    with shown(program):
        check(program, backend, Loops)


@parts
@pytest.mark.only("numpy")
@pytest.mark.parametrize("kind", [Interpreted, InterpretedSerially])
def test_the_interpreter(backend: Backend, kind: type[Loops], part: int) -> None:
    for seed in seeds(INTERPRETED, part):
        program = DrawnProgram(seed)
        with shown(program):
            check(program, backend, kind)


@pytest.mark.only("numpy", "cupy")
@pytest.mark.usefixtures("compiler_of_loops")
def test_many_networks(backend: Backend) -> None:
    """Each of two networks has its own step's data; every program as large as two kernels."""
    for seed in seeds(share(IN_LOOPS // 2, backend), of=1):
        program = DrawnProgram(seed)
        with shown(program), backend.scope(), np.errstate(all="ignore"):
            graph, start, given = recorded(program, backend)
            loops = NetworkLoops(graph, len(start), backend, [], STEPS)
            loops.load([backend.xp.stack([each] * STEPS) for each in start])
            data = [(backend.xp.expand_dims(x, axis=1), True) for x in given]
            loops.run_each(range(STEPS), 1, data)
            values = [backend.to_host(value) for value in loops.values()]
            for network, wanted in enumerate(reference(program)):
                assert_alike(program, [value[network] for value in values], wanted)
