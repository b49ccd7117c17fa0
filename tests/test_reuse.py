"""Programs of earlier runs, for steps that are recorded as the same graph."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from backends import Backend
from tinynn.compiler import reuse
from tinynn.compiler.networks import NetworkLoops
from tinynn.compiler.train_loop import Functional
from tinynn.functional import tanh
from tinynn.layers import Linear, Sequential
from tinynn.optim import SGD
from tinynn.trace import namespace
from tinynn.training.engines import compiled
from tinynn.transforms import custom_vjp
from tinynn.transforms.record import record

NET = Sequential(Linear(3), tanh, Linear(1))


def programs(f: Callable[..., Any], backend: Backend, *args: Any) -> reuse.Programs:
    return reuse.programs_of(record(f, *args), backend)


def known(f: Callable[..., Any], backend: Backend, *args: Any) -> Any:
    return programs(f, backend, *args).known


def between(first: Any, second: Any) -> Callable[..., Any]:
    """A step that goes down (x - first) * (x - second)."""

    def f(x: Any) -> Any:
        return x - 0.1 * (2.0 * x - first - second), namespace(x).sum((x - first) * (x - second))

    return f


def step(rate: float, away: Any) -> Callable[..., Any]:
    """A step that goes down x * x, from a point."""

    def f(x: Any) -> Any:
        d = x - away
        return x - rate * d, namespace(x).sum(d * d)

    return f


def test_the_same_step_has_the_same_programs(backend: Backend) -> None:
    x = backend.asarray([1.0, 2.0])
    first = known(step(0.1, backend.asarray([3.0, 4.0])), backend, x)
    assert known(step(0.1, backend.asarray([3.0, 4.0])), backend, x) is first
    # Of two arrays from outside that are equal, each has its place.
    twice = backend.asarray([3.0, 4.0])
    arrays = (twice, twice), (twice, backend.asarray([3.0, 4.0]))
    assert known(between(*arrays[0]), backend, x) is not known(between(*arrays[1]), backend, x)


def test_another_number_array_or_shape_makes_another(backend: Backend) -> None:
    x, away = backend.asarray([1.0, 2.0]), backend.asarray([3.0, 4.0])
    found = [
        known(step(0.1, away), backend, x),
        known(step(0.2, away), backend, x),
        known(step(0.1, backend.asarray([3.0, 5.0])), backend, x),
        known(step(0.1, backend.asarray(3.0)), backend, x),
        known(step(0.1, away), backend, backend.xp.stack([x, x])),
        known(step(0.1, 3.0), backend, x),
        known(step(0.1, 3), backend, x),
    ]
    assert len(set(map(id, found))) == len(found)


def test_a_function_of_ones_own_is_known_by_itself() -> None:
    def made(factor: float) -> Any:
        return custom_vjp(lambda g, y, x: (factor * g,))(lambda x: factor * x)

    x, host = np.asarray([1.0, 2.0]), backends.get("numpy")
    first, second = made(2.0), made(3.0)
    found = [known(lambda x, f=f: f(x), host, x) for f in (first, second, first)]
    assert found[0] is found[2] is not found[1]


def test_an_array_that_was_written_to_is_read_as_it_is() -> None:
    x, away, host = np.asarray([1.0]), np.asarray([3.0]), backends.get("numpy")
    first = known(step(0.5, away), host, x)
    away[0] = 5.0
    assert first is not known(step(0.5, away), host, x)
    away[0] = 3.0
    assert first is known(step(0.5, away), host, x)

    def values(away: Any, after: float) -> tuple[list[float], Any]:
        made = programs(step(0.5, away), host, x).program(Functional, 1, host, [])
        made.load([x])
        away[0] = after
        made.load([x])
        made.run([(), ()])
        return made.values()[0].tolist(), made.emitter

    (before, emitter), (after, again) = values(away, 3.0), values(np.asarray([3.0]), 5.0)
    assert emitter is again  # one program, of which each run has its own array in
    assert (before, after) == ([2.5], [4.0])


def test_a_program_is_of_one_run_at_a_time() -> None:
    def towards(x: Any, point: Any) -> Any:
        d = x - point
        return x - 0.125 * d, namespace(x).sum(d * d)

    host, x = backends.get("numpy"), np.asarray([1.0])

    def program() -> Any:
        return programs(towards, host, x, x).program(Functional, 1, host, [])

    one, other = program(), program()
    assert one.emitter is not other.emitter
    made = one.emitter
    del one
    again = program()
    assert again.emitter is made
    again.load([np.asarray([3.0])])
    assert again.run(again.batches(1, [np.asarray([1.0])], ())).tolist() == [4.0]
    assert again.values()[0].tolist() == [2.75]


def test_few_are_kept_and_none_that_is_large() -> None:
    reuse.clear()
    host = backends.get("numpy")
    for rate in range(40):
        programs(step(float(rate), 1.0), host, np.asarray([1.0]))
    assert len(reuse._known) == reuse._MOST
    assert known(step(0.1, 1.0), host, np.zeros(reuse._ELEMENTS)) is None


def test_programs_that_wait_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llvmlite")
    host, x = backends.get("numpy"), np.ones(10)
    monkeypatch.setattr(reuse, "_waiting", [])

    def waiting(networks: int) -> list[int]:
        made = programs(step(0.1, 1.0), host, x).program(NetworkLoops, 1, host, [], networks)
        assert made.networks == networks
        del made
        return [each.key[-1][0] for each in reuse._waiting]

    assert waiting(1) == [1]
    one = reuse._waiting[0].elements
    monkeypatch.setattr(reuse, "_WAITING", 30 * one)
    assert waiting(10) == [1, 10]
    assert waiting(20) == [10, 20]  # so many networks have so much memory
    assert waiting(10) == [20, 10]
    assert waiting(31) == []
    assert waiting(2) == [2]


@pytest.mark.parametrize("engine", ["calls", "loops"])
def test_a_run_does_not_depend_on_those_before_it(engine: str) -> None:
    if engine == "loops":
        pytest.importorskip("llvmlite")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20, 2))
    y, weight = x[:, 0] * x[:, 1], np.asarray(1.0)

    def loss(prediction: Any, target: Any) -> Any:
        return namespace(prediction).mean(weight * (prediction - target) ** 2)

    def losses(**options: Any) -> list[float]:
        options = {"loss": loss, "batch_size": 8, "epochs": 3, "engine": engine} | options
        return tinynn.fit(NET, x, y, **options).history["loss"]

    first = losses()
    assert losses(seed=1) != first == losses()
    assert losses(optimizer=SGD(0.5)) != first
    weight[...] = 2.0
    np.testing.assert_allclose(losses(epochs=1)[0], 2.0 * first[0], rtol=0.1)
    assert losses() != first
    weight[...] = 1.0
    assert losses() == first


@pytest.mark.parametrize("engine", ["calls", "loops"])
def test_a_callback_changes_the_array_of_its_own_run(engine: str) -> None:
    if engine == "loops":
        pytest.importorskip("llvmlite")
    x = np.ones((4, 2))

    def losses(after: float) -> list[float]:
        weight = np.asarray(1.0)

        def loss(prediction: Any, target: Any) -> Any:
            return weight * namespace(prediction).mean((prediction - target) ** 2)

        def change(run: Any) -> None:
            weight[...] = after

        options = {"loss": loss, "epochs": 2, "engine": engine, "callbacks": [change]}
        return tinynn.fit(NET, x, x[:, 0], **options).history["loss"]

    assert losses(1.0)[1] != 0.0 == losses(0.0)[1]


def test_a_warning_names_the_line_of_its_own_run() -> None:
    pytest.importorskip("llvmlite")

    def first(prediction: Any, target: Any) -> Any:
        return namespace(prediction).mean(namespace(prediction).sort(prediction - target))

    def second(prediction: Any, target: Any) -> Any:
        return namespace(prediction).mean(namespace(prediction).sort(prediction - target))

    x = np.ones((4, 2))
    for loss in (first, second):
        line = loss.__code__.co_firstlineno + 1
        with pytest.warns(RuntimeWarning, match=f"test_reuse.py:{line} cannot be written"):
            tinynn.fit(NET, x, x[:, 0], loss=loss, epochs=1, engine="loops")


class Mine(Linear):
    """A layer of one's own."""


@pytest.mark.parametrize(
    ("net", "options", "times"),
    [
        (NET, {}, 1),
        (
            NET,
            {
                "loss": "huber",
                "optimizer": tinynn.optim.AdamW(tinynn.optim.CosineDecay(0.1, steps=9)),
            },
            1,
        ),
        (Sequential(Mine(1)), {}, 2),
        (Sequential(lambda x: 2.0 * x, Linear(1)), {}, 2),
        (NET, {"loss": lambda prediction, target: namespace(prediction).mean(prediction)}, 2),
        (Linear(1, weight_init=lambda key, shape, dtype: np.ones(shape, dtype)), {}, 1),
    ],
)
def test_what_is_anothers_is_recorded_twice_and_in_each_run(
    net: Any, options: dict[str, Any], times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recordings = []

    def counted(*args: Any) -> Any:
        recordings.append(args)
        return recorded(*args)

    reuse.clear()
    recorded = compiled.recorded
    monkeypatch.setattr(compiled, "recorded", counted)
    x = np.full((4, 2), 3.5)
    for again in (0, 1):
        tinynn.fit(net, x, x[:, 0], epochs=1, engine="calls", **options)
        assert len(recordings) == times + (again if times > 1 else 0)


def test_a_layer_with_a_method_of_anothers_is_recorded_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forward, calls = Linear.forward, []

    def counted(self: Any, scope: Any, x: Any) -> Any:
        calls.append(x)
        return len(calls) * forward(self, scope, x)

    x = np.full((4, 2), 3.5)
    monkeypatch.setattr(Linear, "forward", counted)
    with pytest.warns(RuntimeWarning, match="it is not the same in each call"):
        tinynn.fit(NET, x, x[:, 0], epochs=1, engine="calls")


@pytest.mark.parametrize("before", [0, 1])
def test_other_code_of_the_same_graph_is_recorded_twice(before: int) -> None:
    calls = [None] * before

    def tripled(x: Any) -> Any:
        return 3.0 * x

    def counted(x: Any) -> Any:
        calls.append(x)
        return (2.0 if len(calls) % 2 else 3.0) * x

    x = np.full((4, 2), 3.5)
    options = {"epochs": 1, "engine": "calls"}
    tinynn.fit(Sequential(tripled, Linear(1)), x, x[:, 0], **options)
    with pytest.warns(RuntimeWarning, match="it is not the same in each call"):
        tinynn.fit(Sequential(counted, Linear(1)), x, x[:, 0], **options)
