"""Programs of earlier runs, for steps that are recorded as the same graph."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from backends import Backend
from tinynn.compiler import reuse
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


def step(rate: float, away: Any) -> Callable[..., Any]:
    """A step that goes down x * x, from a point."""

    def f(x: Any) -> Any:
        d = x - away
        return x - rate * d, namespace(x).sum(d * d)

    return f


def test_the_same_step_has_the_same_programs(backend: Backend) -> None:
    x = backend.asarray([1.0, 2.0])
    first = programs(step(0.1, backend.asarray([3.0, 4.0])), backend, x)
    assert programs(step(0.1, backend.asarray([3.0, 4.0])), backend, x) is first


def test_another_number_array_or_shape_makes_another(backend: Backend) -> None:
    x, away = backend.asarray([1.0, 2.0]), backend.asarray([3.0, 4.0])
    found = [
        programs(step(0.1, away), backend, x),
        programs(step(0.2, away), backend, x),
        programs(step(0.1, backend.asarray([3.0, 5.0])), backend, x),
        programs(step(0.1, backend.asarray(3.0)), backend, x),
        programs(step(0.1, away), backend, backend.xp.stack([x, x])),
        programs(step(0.1, 3.0), backend, x),
        programs(step(0.1, 3), backend, x),
    ]
    assert len(set(map(id, found))) == len(found)


def test_a_function_of_ones_own_is_known_by_itself() -> None:
    def made(factor: float) -> Any:
        return custom_vjp(lambda g, y, x: (factor * g,))(lambda x: factor * x)

    x, host = np.asarray([1.0, 2.0]), backends.get("numpy")
    first, second = made(2.0), made(3.0)
    found = [programs(lambda x, f=f: f(x), host, x) for f in (first, second, first)]
    assert found[0] is found[2] is not found[1]


def test_an_array_that_was_written_to_makes_another() -> None:
    x, away, host = np.asarray([1.0, 2.0]), np.asarray([3.0, 4.0]), backends.get("numpy")
    first = programs(step(0.1, away), host, x)
    away[0] = 5.0
    second = programs(step(0.1, away), host, x)
    away[0] = 3.0  # as at first, and so is what was computed from it
    assert first is not second is not programs(step(0.1, away), host, x)


def test_a_program_is_of_one_run_at_a_time() -> None:
    def towards(x: Any, point: Any) -> Any:
        d = x - point
        return x - 0.125 * d, namespace(x).sum(d * d)

    host, x = backends.get("numpy"), np.asarray([1.0])
    known = programs(towards, host, x, x)
    one, other = (known.program(Functional, 1, host, []) for _ in range(2))
    assert one.emitter is not other.emitter
    made = one.emitter
    del one
    again = known.program(Functional, 1, host, [])
    assert again.emitter is made
    again.load([np.asarray([3.0])])
    assert again.run(again.batches(1, [np.asarray([1.0])], ())).tolist() == [4.0]
    assert again.values()[0].tolist() == [2.75]


def test_few_are_kept_and_none_that_is_large() -> None:
    host = backends.get("numpy")
    for rate in range(40):
        programs(step(float(rate), 1.0), host, np.asarray([1.0]))
    assert len(reuse._known) == reuse._MOST
    large = np.zeros(reuse._ELEMENTS)
    assert programs(step(0.1, 1.0), host, large) is not programs(step(0.1, 1.0), host, large)


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
        (Linear(1, weight_init=lambda key, shape, dtype: np.ones(shape, dtype)), {}, 2),
    ],
)
def test_what_is_anothers_is_recorded_twice(
    net: Any, options: dict[str, Any], times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recordings = []

    def counted(*args: Any) -> Any:
        recordings.append(args)
        return recorded(*args)

    monkeypatch.setattr(reuse, "_known", {})
    recorded = compiled.recorded
    monkeypatch.setattr(compiled, "recorded", counted)
    x = np.full((4, 2), 3.5)
    for again in (0, 1):
        tinynn.fit(net, x, x[:, 0], epochs=1, engine="calls", **options)
        assert len(recordings) == times + again
