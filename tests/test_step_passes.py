"""Passes for steps that are repeated: signs, horizontal fusion, and what is done to the data."""

import re
from typing import Any

import numpy as np
import pytest

import tinynn
from backends import Backend
from tests.checks import assert_close
from tinynn import tree
from tinynn.compiler import pipelines, signs, train_loop
from tinynn.functional import gelu, relu, sigmoid, silu, tanh
from tinynn.layers import Linear, Sequential
from tinynn.losses import BinaryCrossEntropy, SoftmaxCrossEntropy, SquaredError
from tinynn.optim import SGD, Adam

DRAW = np.random.default_rng(0)
X, LABELS = DRAW.normal(size=(24, 5)), DRAW.integers(0, 3, size=24)
SIGMOIDS = Sequential(
    Linear(6), sigmoid, Linear(4), sigmoid, Linear(7), sigmoid, Linear(3), sigmoid, Linear(3)
)
pytestmark = [pytest.mark.only("numpy", "torch"), pytest.mark.reads_scalars]


def program_of(monkeypatch: pytest.MonkeyPatch, *given: Any, **settings: Any) -> tuple[str, Any]:
    """The text of the step's program, and the model."""
    seen: list[str] = []
    bind = train_loop.InPlace.bind

    def noted(self: train_loop.InPlace) -> None:
        seen.append(self.source)
        bind(self)

    monkeypatch.setattr(train_loop.InPlace, "bind", noted)
    model = tinynn.fit(*given, engine="calls", progress=False, **settings)
    return seen[0].partition("def run")[2], model


@pytest.mark.parametrize("activation", [sigmoid, tanh, silu, gelu, relu])
@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": SGD(0.1)},
        {"optimizer": Adam(), "batch_size": 8, "shuffle": True},
        {"batch_size": 7},
    ],
    ids=["SGD", "Adam", "rest"],
)
def test_a_deep_network_is_trained_as_by_eager_steps(
    backend: Backend, activation: Any, settings: dict[str, Any]
) -> None:
    net = Sequential(Linear(6), activation, Linear(4), activation, Linear(4), activation, Linear(3))
    given = net, backend.asarray(X), backend.asarray(LABELS)
    models = [
        tinynn.fit(*given, engine=engine, epochs=5, progress=False, **settings)
        for engine in ("calls", "eager")
    ]
    for one, other in zip(*[tree.leaves(m.params) for m in models], strict=True):
        assert_close(one, backend.to_host(other), backend, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(models[0].history["loss"], models[1].history["loss"], rtol=1e-4)


def test_slopes_of_all_layers_are_one_chain_of_calls(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = SIGMOIDS, backend.asarray(X), backend.asarray(LABELS)
    text, _ = program_of(monkeypatch, *given, optimizer=SGD(0.1), batch_size=8, epochs=1)
    joined = [line for line in text.splitlines() if re.search(r"\bjoined\b", line)]
    assert len(joined) == 2
    assert all(f"({8 * (6 + 4 + 7 + 3)},)" in line for line in joined)
    assert "negative(" not in text
    # Of values that are large a call costs less than its work.
    wide = Sequential(Linear(200), sigmoid, Linear(200), sigmoid, Linear(3))
    text, _ = program_of(monkeypatch, wide, *given[1:], batch_size=24, epochs=1)
    assert "joined" not in text


@pytest.mark.only("numpy")  # PyTorch has a sigmoid of its own
@pytest.mark.parametrize("loss", [SquaredError(), BinaryCrossEntropy()])
def test_other_signs_leave_the_bits(
    backend: Backend, loss: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    y = backend.asarray(DRAW.random(size=(24, 1)))
    net = Sequential(Linear(6, bias=False), sigmoid, Linear(4), silu, Linear(1))
    settings = {"loss": loss, "optimizer": SGD(0.1), "epochs": 20, "batch_size": 8}
    text, model = program_of(monkeypatch, net, backend.asarray(X), y, **settings)
    assert "minus_x.dot" in text
    tinynn.compiler.reuse.clear()
    monkeypatch.setattr(pipelines, "without_negatives", lambda graph, kept: graph)
    plain, other = program_of(monkeypatch, net, backend.asarray(X), y, **settings)
    assert text.count("negative(") < plain.count("negative(")
    for one, two in zip(tree.leaves(model.params), tree.leaves(other.params), strict=True):
        np.testing.assert_array_equal(backend.to_host(one), backend.to_host(two))


def test_a_minus_stays_where_nothing_can_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = tinynn.record(lambda w, x: ((w, -x), tinynn.trace.namespace(x).exp(-w)), X, X)
    assert signs.without_negatives(graph, 1) is graph


def test_biases_of_data_are_in_their_products(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Sequential(Linear(6), relu, Linear(3))
    y = np.where(np.arange(24) % 5, LABELS, 0)
    given = net, backend.asarray(X), backend.asarray(y)
    settings = {"loss": SoftmaxCrossEntropy(), "optimizer": Adam(), "batch_size": 8, "epochs": 4}
    text, model = program_of(monkeypatch, *given, shuffle=False, **settings)
    assert "weight_0_and_bias_0" in text
    assert re.search(r"add\(t\d+, bias_0", text) is None
    assert "bias_2" in text  # of no data
    eager = tinynn.fit(*given, engine="eager", shuffle=False, progress=False, **settings)
    for one, two in zip(tree.leaves(model.params), tree.leaves(eager.params), strict=True):
        assert_close(one, backend.to_host(two), backend, rtol=1e-4, atol=1e-6)


@pytest.mark.only("numpy")
@pytest.mark.parametrize("of", [lambda w, x: -(w / (x - w)), lambda w, x: w / -(x - w)])
def test_an_infinity_keeps_its_sign(backend: Backend, of: Any) -> None:
    # The opposite of a difference that is zero is the same zero, and its inverse the same infinity.
    def step(w: Any, x: Any) -> Any:
        xp = tinynn.trace.namespace(w)
        return (w + x,), xp.exp(of(w, x))

    ones = backend.asarray([1.0, 2.0])
    graph = tinynn.record(step, ones, 3 * ones)
    found = signs.without_negatives(graph, 1)
    with np.errstate(all="ignore"):
        (_, wanted), (_, got) = graph.run([ones, ones]), found.run([ones, ones])
    np.testing.assert_array_equal(got, wanted)


def test_losses_of_squares_are_those_of_eager_steps_however_many_there_are(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, y = Sequential(Linear(4), tanh, Linear(1)), backend.asarray(DRAW.normal(size=(24, 1)))
    given = net, backend.asarray(X), y
    settings: dict[str, Any] = {"loss": "mse", "optimizer": SGD(0.01)}
    monkeypatch.setattr(train_loop, "_AT_ONCE", 16)  # of 20, 40 and 100 steps
    found = {}
    for batch, epochs in ((6, 10), (24, 20), (24, 100)):
        settings |= {"batch_size": batch, "epochs": epochs}
        text, model = program_of(monkeypatch, *given, **settings)
        assert ("def losses" in text) == (backend.name == "numpy")
        eager = tinynn.fit(*given, engine="eager", progress=False, **settings)
        np.testing.assert_allclose(model.history["loss"], eager.history["loss"], rtol=1e-5)
        found[batch, epochs] = model.history["loss"]
    assert found[24, 20] == found[24, 100][:20]  # bit for bit
