"""Learning rates that are read and set while training goes on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import Backend
from tinynn.layers import Linear
from tinynn.optim import (
    LBFGS,
    SGD,
    Accumulate,
    Adam,
    Adjustable,
    Averaged,
    Chain,
    ClipByValue,
    CosineDecay,
    Groups,
    ReduceOnPlateau,
    learning_rates,
    set_learning_rate,
)
from tinynn.training import LearningRate, Run, fit

pytestmark = pytest.mark.reads_scalars  # callbacks read the rate

X = np.linspace(-1.0, 1.0, 12).reshape(-1, 1).astype("float32")


@pytest.fixture
def engines(backend: Backend, variant: Any) -> list[str]:
    found = ["eager", "calls" if backend.repeat is None else "jit"]
    return [*found, "loops"] if variant.id == "numpy" else found


def test_a_callback_sets_the_rate_under_every_engine(
    backend: Backend, engines: list[str], tmp_path: Path
) -> None:
    """An epoch of one step at each rate: the weight falls by rate times gradient, as by hand."""
    x, y = backend.asarray(X), backend.asarray(3 * X)
    seen: list[float] = []

    def watch(run: Run) -> None:
        seen.append(run.learning_rate)

    halving = LearningRate(lambda epoch, rate: rate * 0.5 if epoch else rate)
    by_hand, rate = 0.0, 0.25
    net = Linear(1, bias=False)
    params = {"weight": backend.asarray(np.zeros((1, 1), "float32"))}
    for _ in range(4):
        gradient = 2 * float(np.mean(X * (by_hand * X - 3 * X)))
        by_hand, rate = by_hand - rate * gradient, rate / 2
    for engine in engines:
        if engine == "loops":
            pytest.importorskip("llvmlite")
        seen.clear()
        shared: dict[str, Any] = {
            "optimizer": SGD(Adjustable(0.25)), "params": params, "loss": "squared_error",
            "engine": engine, "batch_size": None, "callbacks": [halving, watch],
        }  # fmt: skip
        whole = fit(net, x, y, epochs=4, **shared)
        assert seen == [0.125, 0.0625, 0.03125, 0.015625]
        got = backend.to_host(whole.params["weight"]).item()
        assert got == pytest.approx(by_hand, rel=1e-5)
        path = tmp_path / engine
        fit(net, x, y, epochs=2, checkpoint=path, **shared)
        rest = fit(net, x, y, epochs=4, resume=path, **shared)
        assert rest.history == whole.history
        assert seen[-2:] == [0.03125, 0.015625]


@pytest.mark.only("numpy")
def test_rates_are_read_wherever_they_are(backend: Backend) -> None:
    params = {"a": np.ones(2), "b": np.ones(2)}
    rates = {
        Adam(0.1): {"": 0.1},
        Adam(CosineDecay(0.5, steps=10)): {"": 0.5},
        SGD(lambda step: step + 0.75): {"": 0.75},
        SGD(ReduceOnPlateau(0.25)): {"": 0.25},
        Chain(ClipByValue(1.0), SGD(Adjustable(0.25))): {"1": 0.25},
        Accumulate(Averaged(SGD(Adjustable(0.25))), steps=2): {"": 0.25},
        LBFGS(): {},
    }
    for optimizer, expected in rates.items():
        found = learning_rates(optimizer, optimizer.init(params))
        assert {name: float(rate) for name, rate in found.items()} == expected
    groups = Groups({"a": SGD(Adjustable(0.5)), "b": Chain(SGD(Adjustable(1.0)))})
    state = set_learning_rate(groups, groups.init(params), {"b/0": 0.25})
    found = learning_rates(groups, state)
    assert {name: float(rate) for name, rate in found.items()} == {"a": 0.5, "b/0": 0.25}
    moved, _ = groups.update({"a": np.ones(2), "b": np.ones(2)}, state, params)
    assert moved["a"].tolist() == [0.5, 0.5]
    assert moved["b"].tolist() == [0.75, 0.75]


@pytest.mark.only("numpy")
def test_what_cannot_be_set_says_how_it_can(backend: Backend) -> None:
    def change(run: Run) -> None:
        run.learning_rate = 0.1

    with pytest.raises(ValueError, match=r"Adam\(.*write Adam\(Adjustable\(0\.001\)\)"):
        fit(Linear(1), X, X, epochs=1, callbacks=[change], loss="squared_error")
    optimizer = SGD(Adjustable(0.5))
    state = optimizer.init({"a": np.ones(1)})
    with pytest.raises(ValueError, match=r"Adjustable: expected a number of 0 or more, got -1"):
        set_learning_rate(optimizer, state, -1)
    with pytest.raises(ValueError, match=r"expected the names of learning rates, '', got \['a'\]"):
        set_learning_rate(optimizer, state, {"a": 1.0})
    with pytest.raises(ValueError, match="expected momentum to be a number or a schedule without"):
        SGD(0.1, momentum=Adjustable(0.5))  # type: ignore[arg-type]
    groups = Groups({"weight": SGD(0.5), "bias": SGD(0.25)})
    with pytest.raises(ValueError, match=r"learning_rate: expected an optimizer with one"):
        fit(
            Linear(1), X, X, epochs=1, optimizer=groups, loss="squared_error",
            callbacks=[lambda run: run.learning_rate],
        )  # fmt: skip
