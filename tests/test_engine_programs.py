"""Random programs trained by every engine: what each gives is what the step, as written, gives."""

import os
from typing import Any

import numpy as np
import pytest

from backends import Backend
from tests.engines import Interpreted, InterpretedSerially, assert_engine_agrees
from tests.programs import Program
from tests.seeds import fourier, parts, seeds, share, shown
from tinynn.compiler.engines import kind_of
from tinynn.compiler.train_loop import TrainLoop
from tinynn.functional import relu
from tinynn.trace import namespace
from tinynn.transforms.graph import carry_out
from tinynn.transforms.record import recorded

SEEDS = 48
LOOPS, INTERPRETED, SCANS = 16, 64, 12
# What loops have no words for, or the derivatives of it.
NOT_IN_LOOPS = frozenset(
    """take take_along_axis sort flip roll stack cumulative_sum cumulative_prod tril triu repeat inv
    solve det slogdet cholesky eigvalsh unstack""".split()
)
# The derivative of `prod` is a cumulative product.
NOT_IN_SCANS = NOT_IN_LOOPS | {"prod"}


@parts
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("engine", ["calls", "jit"])
def test_programs_train_alike(backend: Backend, engine: str, part: int) -> None:
    if engine == "jit" and backend.repeat is None:
        pytest.skip(f"{backend.name} has no compiler of its own for a whole loop")
    for seed in seeds(share(SEEDS, backend), part):
        program = Program(seed, fourier(backend))
        with shown(program):
            assert assert_engine_agrees(program, backend, kind_of(engine, backend))


@pytest.mark.only("numpy", "cupy")
@pytest.mark.usefixtures("float64", "compiler_of_loops")
def test_programs_train_alike_in_loops(backend: Backend) -> None:
    assert_half_are_said(backend, kind_of("loops", backend), LOOPS)


@pytest.mark.only("numpy")
def test_programs_train_alike_in_the_interpreter(backend: Backend) -> None:
    """What one block of threads would do, whichever of them comes first."""
    assert_half_are_said(backend, Interpreted, INTERPRETED)


@parts
@pytest.mark.only("numpy")
@pytest.mark.parametrize("kind", [Interpreted, InterpretedSerially])
def test_programs_with_scans_train_alike_in_the_interpreter(
    backend: Backend, kind: type[TrainLoop], part: int
) -> None:
    assert_half_are_said(backend, kind, SCANS, scans=True, part=part)


@pytest.mark.only("numpy", "cupy")
@pytest.mark.reads_scalars  # `cond` as it is written
@pytest.mark.usefixtures("float64", "compiler_of_loops")
def test_programs_with_scans_train_alike_in_loops(backend: Backend) -> None:
    assert_half_are_said(backend, kind_of("loops", backend), 3, scans=True, part=0)


def assert_half_are_said(
    backend: Backend,
    kind: type[TrainLoop],
    count: int,
    scans: bool = False,
    part: int | None = None,
) -> None:
    """Half of the programs, at least, have loops; of a few that the environment names, maybe none.

    Those that do give what they give as written.
    """
    said = []
    for seed in seeds(count, of=1) if part is None else seeds(count, part):
        without = NOT_IN_SCANS if scans else NOT_IN_LOOPS
        program = Program(seed, fourier=False, without=without, scans=scans)
        with shown(program):
            said.append(assert_engine_agrees(program, backend, kind))
    assert 2 * sum(said) >= len(said) or "TINYNN_PROGRAMS" in os.environ


@pytest.mark.only("jax")
def test_a_step_is_recorded_from_shapes_alone(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """XLA would compile each call that is carried out."""
    x = backend.asarray(np.ones((3, 3)), dtype="float32")

    def f(x: Any) -> Any:
        xp = namespace(x)
        return xp.sum(relu(x @ x.mT) > 0.5, axis=0), xp.max(x, keepdims=True) + 1.0

    expected, given = recorded(f, (x,)), list[Any]()

    def spied(function: Any, args: Any, kwargs: Any) -> Any:
        given.extend(a for a in args if hasattr(a, "dtype"))
        return carry_out(function, args, kwargs)

    monkeypatch.setattr("tinynn.transforms.record.carry_out", spied)
    found = recorded(f, (x,), sparing=True)
    assert not any(map(backend.is_concrete, given))
    rows = [[(n.function, n.shape, n.dtype) for n in graph.nodes] for graph in (found, expected)]
    assert rows[0] == rows[1]
    assert len(given) >= len(rows[0])
