"""Random programs trained by every engine: what each gives is what the step, as written, gives."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinynn
from backends import Backend, BackendUnavailable
from tests.programs import ROUNDING, Program
from tests.seeds import fourier, parts, seeds, shown
from tinynn.compiler.engines import kind_of
from tinynn.compiler.loop import Loop
from tinynn.compiler.rewrite import CannotEmit
from tinynn.trace import namespace
from tinynn.transforms.record import record

# How many programs each library gets; compiling loops or a scan takes seconds.
SEEDS = {"numpy": 48, "array_api_strict": 12, "torch": 24, "jax": 2, "dpnp": 4, "cupy": 12}
LOOPS = 16
# What loops have no words for, or the derivatives of it.
NOT_IN_LOOPS = frozenset(
    """take take_along_axis sort flip roll stack cumulative_sum cumulative_prod tril triu repeat inv
    solve det slogdet cholesky eigvalsh unstack""".split()
)
STEPS, RATE, DECAY, TOLERANCE = 4, 1e-4, 0.9, 1e-9

Step = Callable[..., tuple[Any, ...]]


def training(program: Program, backend: Backend) -> tuple[Step, list[Any], Any, Any]:
    """A step of momentum on the program's value; where it starts, the data's rows, and factors."""
    f = program.over(tinynn.Namespace(backend.xp), backend.asarray)
    start = [backend.asarray(np.asarray(x)) for x in program.inputs.values()]
    count = len(start)

    def step(*given: Any) -> tuple[Any, ...]:
        params, moving, (row, factor) = given[:count], given[count : 2 * count], given[2 * count :]
        xp = namespace(*given)
        scaled = lambda *x: namespace(*x).multiply(f(*x), factor)  # noqa: E731
        loss, slopes = tinynn.value_and_grad(scaled, tuple(range(count)))(*params)
        moving = [DECAY * m + g for m, g in zip(moving, slopes, strict=True)]
        new = [p - RATE * m for p, m in zip(params, moving, strict=True)]
        return (*new, *moving, loss + xp.sum(row))

    kept = start + [0 * x for x in start]
    rows = backend.asarray(np.linspace(-1, 1, 2 * STEPS).reshape(STEPS, 2))
    return step, kept, rows, backend.asarray(np.linspace(1.0, 0.7, STEPS))


def as_written(step: Step, kept: list[Any], rows: Any, factors: Any) -> tuple[list[Any], list[Any]]:
    """What lives on after all steps, and what was wanted of each."""
    wanted = []
    for i in range(STEPS):
        *kept, out = step(*kept, rows[i : i + 1, :], factors[i, ...])
        wanted.append(out)
    return kept, wanted


def assert_engine_agrees(program: Program, backend: Backend, kind: type[Loop]) -> bool:
    """Whether that engine can say the program; if it can, it gives what the step gives."""
    step, kept, rows, factors = training(program, backend)
    params, wanted = as_written(step, kept, rows, factors)
    decompositions = backend.lowering.decompositions if backend.lowering else None
    given = (*kept, rows[:1, :], factors[0, ...])
    graph = record(step, *given, decompositions=decompositions)
    places, half = list(range(len(kept))), len(kept) // 2
    try:
        loop = kind(graph, len(kept), backend, [places[:half], places[half:]])
    except CannotEmit:
        return False
    for _ in range(2):  # a program that ran keeps nothing of it
        loop.load(kept)
        outs = loop.run(loop.batches(1, [rows], [factors]))
        found = [*loop.values(), *[outs[i, ...] for i in range(STEPS)]]
        for leaf, want in zip(found, [*params, *wanted], strict=True):
            leaf, want = backend.to_host(leaf), backend.to_host(want)
            assert (leaf.dtype, leaf.shape) == (want.dtype, want.shape)
            scale = float(np.max(np.abs(want), initial=0.0))
            floor = max(TOLERANCE * scale, ROUNDING)
            np.testing.assert_allclose(leaf, want, rtol=TOLERANCE, atol=floor)
    return True


@parts
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("engine", ["calls", "jit"])
def test_programs_train_alike(backend: Backend, engine: str, part: int) -> None:
    if engine == "jit" and backend.repeat is None:
        pytest.skip(f"{backend.name} has no compiler of its own for a whole loop")
    for seed in seeds(SEEDS.get(backend.name, 12), part):
        program = Program(seed, fourier(backend))
        with shown(program):
            assert assert_engine_agrees(program, backend, kind_of(engine, backend))


@pytest.mark.only("numpy", "cupy")
@pytest.mark.usefixtures("float64")
def test_programs_train_alike_in_loops(backend: Backend) -> None:
    try:
        backend.native()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    said = []
    for seed in seeds(LOOPS, of=1):
        program = Program(seed, fourier=False, without=NOT_IN_LOOPS)
        with shown(program):
            said.append(assert_engine_agrees(program, backend, kind_of("loops", backend)))
    # Half of them, at least, can be said; of a few that the environment names, it may be none.
    assert 2 * sum(said) >= len(said) or "TINYNN_PROGRAMS" in os.environ
