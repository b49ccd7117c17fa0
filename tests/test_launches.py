"""What training asks of a CUDA device: fewer launches than by hand, no memory, no readings.

Counted on the emulated device: these numbers are the same on hardware, but for what cuBLAS and CUB
do inside.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinynn
from backends import Backend
from tests.cudacpu import counters
from tinynn.functional import relu
from tinynn.layers import Linear, Sequential
from tinynn.training.many import engines as many
from tinynn.training.many.networks import Networks

pytestmark = [pytest.mark.only("cupy"), pytest.mark.reads_scalars]  # of labels, before training
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NAMES = ("w1", "w2", "w3", "w3-momentum")


@pytest.fixture
def bench(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """benchmarks/launches.py."""
    if not counters.emulated():
        pytest.skip("calls of CUDA are counted on the emulated device alone: tests/cudacpu")
    monkeypatch.syspath_prepend(BENCHMARKS)
    import launches

    yield launches
    for name in ("launches", "cupy_by_hand", "works", "dense"):
        sys.modules.pop(name, None)


def work_of(bench: Any, name: str) -> Any:
    """A work of the benchmark, of one step or two an epoch."""
    works = bench.all_works()
    if name == "w1":
        return works["w1"][0]
    if name == "w2":
        return bench.of_rows(works["w2"][0], 64)
    return bench.of_rows(works["w3"][name == "w3-momentum"], 128)


def a_step(bench: Any, run: Any, work: Any) -> Any:
    steps = 1 if work.batch is None else work.rows // work.batch
    run(3), run(3)
    return (bench.asked(lambda: run(3)) - bench.asked(lambda: run(1))).share(2 * steps)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_asks_for_launches_alone_and_fewer_than_by_hand_with_kernels(
    bench: Any, name: str
) -> None:
    work = work_of(bench, name)
    step = a_step(bench, bench.trained(work, "calls"), work)
    expert = a_step(bench, bench.by_hand(work, fused=True), work)
    # The loss of w1 is a sum of products, which CuPy adds by a kernel of its own.
    assert step.products == expert.products + (name == "w1")
    assert 0 < step.launches < expert.launches
    assert (step.pool, step.mallocs, step.sent, step.reads, step.waits) == (0, 0, 0, 0, 0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fused", [False, True])
def test_the_losses_are_those_by_hand(backend: Backend, bench: Any, name: str, fused: bool) -> None:
    work = work_of(bench, name)
    run, expert = bench.trained(work, "calls"), bench.by_hand(work, fused)
    expert(1)  # which the engine has made
    want = backend.to_host(expert(4))
    want = want if work.batch is None else want.mean(axis=1)
    np.testing.assert_allclose(backend.to_host(run(4)), want, rtol=1e-5)


@pytest.mark.parametrize("name", ["w1", "w2"])
def test_a_chunk_of_steps_in_loops_is_one_launch(bench: Any, name: str) -> None:
    problem = bench.problem_of(work_of(bench, name))
    made, epoch, steps = bench.engine_of(problem, "loops"), None, problem.batches.steps
    made.run_epochs(3)
    chunks = [lambda: made.run_epochs(50), lambda: made.run(epoch, 0, steps)]
    epoch = problem.batches.epoch(0)
    for run in chunks:
        run()
        chunk = bench.asked(run)
        assert (chunk.kernels, chunk.launches) == (1, 1)
        assert (chunk.mallocs, chunk.sent, chunk.reads, chunk.waits) == (0, 0, 0, 0)


def test_a_chunk_of_many_networks_is_one_launch(bench: Any) -> None:
    problem = bench.problem_of(work_of(bench, "w2"))
    made = many.Loops(many.Together(Networks([problem], range(3), {})))
    for networks in ([0, 1, 2], [2, 0]):
        made.run(0, 4, networks)
        chunk = bench.asked(lambda networks=networks: made.run(0, 4, networks))
        assert (chunk.kernels, chunk.launches) == (1, 1)
        assert (chunk.sent, chunk.reads, chunk.waits) == (0, 0, 0)


@pytest.mark.parametrize("name", NAMES)
def test_losses_in_loops_are_those_by_hand(backend: Backend, bench: Any, name: str) -> None:
    work = work_of(bench, name)
    run, expert = bench.trained(work, "loops"), bench.by_hand(work)
    expert(1)  # which the engine has made
    want = backend.to_host(expert(4))
    want = want if work.batch is None else want.mean(axis=1)
    np.testing.assert_allclose(backend.to_host(run(4)), want, rtol=1e-4)


def test_auto_takes_no_kernel_of_its_own_for_one_network(bench: Any) -> None:
    problem = bench.problem_of(work_of(bench, "w1"))
    made = bench.engine_of(problem, "auto", epochs=10**9, never_stops_early=True)
    assert made.name == "calls"


def test_shuffled_epochs_read_nothing_and_reuse_memory(bench: Any) -> None:
    work = work_of(bench, "w2")
    run = bench.trained(work, "calls", shuffle=True)
    run(3), run(3)
    asked = bench.asked(lambda: run(3))
    assert (asked.mallocs, asked.reads, asked.waits) == (0, 0, 0)


def test_an_epoch_of_fit_reads_its_loss_alone(backend: Backend, bench: Any) -> None:
    seen: list[int] = []
    x = backend.asarray(np.random.default_rng(0).random((12, 3), np.float32))
    tinynn.fit(
        Sequential(Linear(4), relu, Linear(1)), x, x[:, 0], epochs=4, batch_size=4, engine="calls",
        callbacks=lambda run: seen.append(counters.read().copies_to_host),
    )  # fmt: skip
    assert np.diff(seen).tolist() == [1, 1, 1]
