"""What Model.predict keeps and takes of memory, and what becomes of it in other processes.

Without the fixtures of a backend, whose log of what was read keeps the readers' arrays.
"""

import gc
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from tests.memory import left_behind, peak_of
from tinynn import Model
from tinynn.functional import relu
from tinynn.layers import Linear, Sequential
from tinynn.trace import namespace
from tinynn.training import inference
from tinynn.training.inference import CAPACITY, Inference

NET = Sequential(Linear(4), relu, Linear(2))
X = np.random.RandomState(0).randn(300, 5)


def model_of(net: Any = NET, x: Any = X) -> Model:
    return Model(net, *net.init(0, x))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the programs that are made."""
    sizes: list[int] = []
    make = Inference._made

    def counted(self: Inference, inputs: Any) -> Any:
        sizes.append(inputs[0].shape[0])
        return make(self, inputs)

    monkeypatch.setattr(Inference, "_made", counted)
    return sizes


def kept_by(model: Model) -> int:
    """The bytes that its programs say they keep."""
    known = model._inference
    assert known is not None
    kinds = known._kinds.values()
    return sum(p.nbytes for rows in kinds for free in rows.free.values() for p in free)


def test_batches_of_many_sizes_keep_few_bytes(made: list[int]) -> None:
    """300 sizes through 256-256, four times: once 2.6 GB."""
    x = np.random.RandomState(0).randn(300, 256)
    model = model_of(Sequential(Linear(256), relu, Linear(256)), x)

    def four_passes() -> None:
        for _ in range(4):
            for rows in range(1, 301):
                model.predict(x[:rows])

    assert left_behind(four_passes, rounds=2) < 100_000
    assert sorted(made) == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert kept_by(model) < 4_000_000


def test_a_long_batch_takes_and_keeps_few_bytes() -> None:
    """300,000 rows, five times: once 1.9 GB."""
    x = np.random.RandomState(0).randn(300_000, 8).astype("float32")
    model = model_of(Sequential(Linear(256), relu, Linear(1)), x)
    hidden = x.shape[0] * 256 * 4  # bytes of the hidden layer, if it were there at once

    def five_times() -> None:
        for _ in range(5):
            assert model.predict(x).shape == (300_000, 1)

    peak, kept = peak_of(five_times)
    assert peak < hidden / 20
    assert kept < hidden / 40
    assert left_behind(lambda: model.predict(x), rounds=2) < 100_000


def test_programs_keep_no_more_than_their_capacity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "CAPACITY", 2**20)
    model = model_of()
    for length in range(1, 40):  # sequences of many lengths
        rows = np.ones((3, length, 5))
        np.testing.assert_allclose(model.predict(rows), NET(model.params, rows), atol=1e-14)
        assert kept_by(model) <= 2**20
    model.predict(X, batch_size=300)
    assert 0 < kept_by(model) <= 2**20 < CAPACITY


def test_a_program_beyond_the_capacity_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "CAPACITY", 2**17)
    model, x = model_of(), np.ones((10_000, 5))
    model.predict(X[:1])
    before = kept_by(model)
    np.testing.assert_allclose(model.predict(x, batch_size=10_000), NET(model.params, x))
    assert before > kept_by(model) == 0


@pytest.mark.parametrize("spec", ["numpy", "torch"])
def test_programs_go_with_the_model(spec: str) -> None:
    """At once: they are in no cycle that a collector would have to find."""
    if spec != "numpy":
        pytest.importorskip(spec, reason=f"{spec} is not installed")
    x = backends.get(spec).asarray(X)
    model = model_of(x=x)
    model.predict(x)
    model.compile(x)(x)
    assert model._inference is not None
    weight, programs = weakref.ref(model.params["0"]["weight"]), weakref.ref(model._inference)
    gc.collect()
    gc.disable()
    try:
        del model
        assert weight() is None
        assert programs() is None
    finally:
        gc.enable()


@pytest.fixture
def asking() -> Iterator[Callable[[Callable[[], Any]], None]]:
    """Starts a thread that does something all the time, until the end of the test."""
    stop, threads = threading.Event(), []

    def start(ask: Callable[[], Any]) -> None:
        def run() -> None:
            while not stop.is_set():
                ask()

        threads.append(threading.Thread(target=run))
        threads[-1].start()

    yield start
    stop.set()
    for thread in threads:
        thread.join()


@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_a_forked_process_predicts(asking: Any) -> None:
    """While another thread of its parent's does: no lock is held for ever in the child."""
    model, x = model_of(), X
    answer = model.compile(x[:3])
    want, wanted = model.predict(x[:3]), answer(x[:3])
    asking(lambda: (model.predict(x[:3]), answer(x[:3])))
    for _ in range(20):
        child = os.fork()
        if child == 0:  # it may not come back into pytest
            same = (model.predict(x[:3]) == want).all() and (answer(x[:3]) == wanted).all()
            os._exit(0 if same else 1)
        assert waited(child) == 0


@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_a_forked_process_calls_a_compiled_function(asking: Any) -> None:
    """Which another thread of its parent's is in, nearly all the time."""
    x = np.random.RandomState(0).randn(400, 400)
    product = tinynn.compile(lambda x: x @ x @ x)
    wanted = product(x)
    asking(lambda: product(x))
    for _ in range(5):
        child = os.fork()
        if child == 0:
            os._exit(0 if (product(x) == wanted).all() else 1)
        assert waited(child) == 0


def waited(child: int, seconds: float = 20.0) -> int:
    """The exit code of a process; it fails, and the process ends, if that takes too long."""
    timer = threading.Timer(seconds, lambda: os.kill(child, 9))
    timer.start()
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        timer.cancel()


@pytest.mark.only("numpy")
def test_a_dtype_that_a_program_names_is_no_buffer() -> None:
    x = np.ones((4000, 3))  # too large for loops
    net = Sequential(lambda x: namespace(x).astype(x * 3, namespace(x).int32))
    answer = Model(net, {}).compile(x)
    assert "astype" in answer.source
    np.testing.assert_array_equal(answer(x), 3 * x)
