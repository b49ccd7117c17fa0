"""Programs that serve again: what decides whether a step is one that another run has recorded."""

import threading
from typing import Any

import numpy as np
import pytest

import tinynn
from tests.checks import assert_close
from tinynn import functional, tree
from tinynn.compiler.reuse import Known, signature
from tinynn.layers import Dropout, Linear, Sequential
from tinynn.losses import SquaredError
from tinynn.trace import namespace
from tinynn.training.engines.compiled import PROGRAMS
from tinynn.transforms.record import record

DRAW = np.random.default_rng(3)
X, Y = DRAW.normal(size=(23, 4)), DRAW.normal(size=(23, 2))
NET = Sequential(Linear(5), functional.relu, Linear(2))


def trained(seed: int, net: Any = NET, **options: Any) -> Any:
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 8, "engine": "calls"}
    settings |= {"loss": SquaredError(), "validation": None, "progress": False}
    return tinynn.fit(net, X, Y, seed=seed, **(settings | options))


def leaves(model: Any) -> list[Any]:
    return tree.leaves(model.params)


def same(a: Any, b: Any) -> bool:
    return all((x == y).all() for x, y in zip(leaves(a), leaves(b), strict=True))


def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The keys of the programs that are made from here on."""
    PROGRAMS.clear()
    keys: list[Any] = []
    keep = PROGRAMS.keep
    monkeypatch.setattr(PROGRAMS, "keep", lambda key, value: (keys.append(key), keep(key, value)))
    return keys


def test_the_same_step_is_made_once(monkeypatch):
    keys = made(monkeypatch)
    first = trained(0)
    assert len(keys) == 2  # whole batches, and the rest
    others = [trained(seed) for seed in (0, 1)]
    assert len(keys) == 2
    assert same(first, others[0])
    assert not same(first, others[1])


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": tinynn.optim.SGD(0.5)}, {"loss": "huber"}, {"batch_size": 9},
        {"net": Sequential(Linear(5), functional.tanh, Linear(2))},
        {"net": Sequential(Linear(5), lambda x: x * 0.5, Linear(2))},
    ],
)  # fmt: skip
def test_another_step_is_another_program(options, monkeypatch):
    keys = made(monkeypatch)
    trained(0, **options)
    alone, count = trained(0, **options), len(keys)
    trained(0)
    assert len(keys) > count
    assert same(trained(0, **options), alone)


def test_arrays_from_outside_are_those_of_each_run(monkeypatch):
    keys = made(monkeypatch)

    def run(factor: float) -> Any:
        array = np.asarray([factor, 1.0])
        model = trained(0, Sequential(Linear(5), functional.relu, Linear(2), lambda y: y * array))
        array[:] = np.nan  # nobody else may see it
        return model

    first, other, again = run(0.5), run(2.0), run(0.5)
    assert len(keys) == 4
    assert same(first, again)
    assert not same(first, other)


def test_large_arrays_from_outside_are_not_compared(monkeypatch):
    keys = made(monkeypatch)
    large = np.ones((23, 300))
    trained(0, Sequential(Linear(300), lambda y: y * large[: y.shape[0]], Linear(2)))
    assert not keys


def test_numbers_of_a_functions_own_are_still_found():
    count = iter(range(1, 100))

    def counted(x: Any) -> Any:
        return x * float(next(count))

    for _ in range(2):
        with pytest.warns(RuntimeWarning, match="not the same in each call"):
            trained(0, Sequential(Linear(2), counted))


def test_threads_have_memory_of_their_own():
    PROGRAMS.clear()
    expected = [trained(seed, epochs=20) for seed in range(4)]
    found: dict[int, Any] = {}

    def run(seed: int) -> None:
        found[seed] = trained(seed, epochs=20)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(found[seed], expected[seed]) for seed in range(4))


def test_on_every_library(backend):
    x, y = backend.asarray(X), backend.asarray(Y)
    options: dict[str, Any] = {
        "epochs": 2,
        "batch_size": 8,
        "engine": "calls",
        "loss": SquaredError(),
    }
    options |= {"validation": None, "progress": False, "seed": 0}
    net = Sequential(Linear(5), functional.relu, Dropout(0.5), Linear(2))
    PROGRAMS.clear()
    first, again = (tinynn.fit(net, x, y, **options) for _ in range(2))
    for a, b in zip(leaves(first), leaves(again), strict=True):
        assert_close(a, backend.to_host(b), backend, rtol=0, atol=0)


def test_signatures():
    def key(f: Any, x: Any = X) -> Any:
        return signature(record(f, x), np.asarray)

    assert key(lambda x: x * 2.0) == key(lambda x: x * 2.0)
    assert key(lambda x: x * 2.0) != key(lambda x: x * 3.0)
    assert key(lambda x: x * 2.0) != key(lambda x: x * 2.0, X[:5])
    assert key(lambda x: x * 0.0) != key(lambda x: x * -0.0)
    assert key(lambda x: x[1:, 0]) != key(lambda x: x[:, 0])
    assert key(lambda x: namespace(x).where(x > 0, x, x)) is not None
    assert key(lambda x: tinynn.scan(lambda c, r: (c + r, None), x[0], x)[0]) is None


def test_the_oldest_are_forgotten():
    known = Known(2)
    known.keep("a", 1)
    known.keep("b", 2)
    assert known.get("a") == 1
    known.keep("c", 3)
    assert (known.get("a"), known.get("b"), known.get("c"), known.get(None)) == (1, None, 3, None)
