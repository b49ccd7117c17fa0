"""The formulas of explain are true: written in NumPy, they give the values of their lines."""

from collections.abc import Callable
from math import erf, pi
from typing import Any

import numpy as np
import pytest

import tinynn
from tests.explained import CLASSES, X, Y
from tinynn import functional, optim
from tinynn.explanation import formulas
from tinynn.layers import BatchNorm, LayerNorm, Linear, Sequential
from tinynn.losses import (
    AbsoluteError,
    BinaryCrossEntropy,
    LogCosh,
    NegativeLogLikelihood,
    Poisson,
    SoftmaxCrossEntropy,
    SquaredError,
)
from tinynn.rules import special
from tinynn.trace import namespace

Check = Callable[..., Any]


def normal(x: Any) -> Any:
    return 0.5 * (1 + np.vectorize(erf)(x / np.sqrt(2)))


def density(x: Any) -> Any:
    return np.exp(-x * x / 2) / np.sqrt(2 * pi)


def logistic(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def shares(x: Any, axis: Any = -1) -> Any:
    return np.exp(x) / np.sum(np.exp(x), axis=axis, keepdims=True)


def of(name: str, **kwargs: Any) -> Check:
    return lambda x: getattr(namespace(x), name)(x, **kwargs)


# Formula -> a function that has it in its line, and the formula: of a call by its argument, of a
# pullback by g = ∂L/∂y, the argument x and the result y.
CALLS: dict[str, tuple[Check, Check]] = {
    "y = 1 / (1 + exp(-x))": (functional.sigmoid, logistic),
    "y = max(x, 0)": (functional.relu, lambda x: np.maximum(x, 0)),
    "y = tanh(x)": (functional.tanh, np.tanh),
    "y = exp(x) / Σ exp(x)": (functional.softmax, shares),
    "y = x - log Σ exp(x)": (
        functional.log_softmax, lambda x: x - np.log(np.exp(x).sum(-1, keepdims=True))
    ),
    "y = x Φ(x), Φ the normal distribution": (functional.gelu, lambda x: x * normal(x)),
    "y = x / (1 + exp(-x))": (functional.silu, lambda x: x / (1 + np.exp(-x))),
    "y = log(1 + exp(x))": (functional.softplus, lambda x: np.log(1 + np.exp(x))),
    "y = x where x > 0, else α (exp(x) - 1)": (
        functional.elu, lambda x: np.where(x > 0, x, np.exp(x) - 1)
    ),
    "y = Σ x / n": (of("mean", axis=0), lambda x: x.sum(0) / len(x)),
    "y = Σ (x - mean x)² / n": (
        of("var", axis=0), lambda x: ((x - x.mean(0)) ** 2).sum(0) / len(x)
    ),
    "y = √(Σ (x - mean x)² / n)": (
        of("std", axis=0), lambda x: np.sqrt(((x - x.mean(0)) ** 2).sum(0) / len(x))
    ),
}  # fmt: skip

PULLBACKS: dict[str, tuple[Check, Check]] = {
    "∂L/∂x = ∂L/∂y · y (1 - y)": (functional.sigmoid, lambda g, x, y: g * y * (1 - y)),
    "∂L/∂x = ∂L/∂y where x > 0, else 0": (functional.relu, lambda g, x, y: np.where(x > 0, g, 0)),
    "∂L/∂x = ∂L/∂y · (1 - y²)": (functional.tanh, lambda g, x, y: g * (1 - y**2)),
    "∂L/∂x = ∂L/∂y · y": (of("exp"), lambda g, x, y: g * y),
    "∂L/∂x = ∂L/∂y · 2/√π exp(-x²)": (
        special.erf, lambda g, x, y: g * 2 / np.sqrt(pi) * np.exp(-(x**2))
    ),
    "∂L/∂x = ∂L/∂y · softmax(x)": (
        lambda x: special.logsumexp(x, axis=0), lambda g, x, y: g * shares(x, axis=0)
    ),
    "∂L/∂x = y · (∂L/∂y - Σ ∂L/∂y · y)": (
        functional.softmax, lambda g, x, y: y * (g - (g * y).sum(-1, keepdims=True))
    ),
    "∂L/∂x = ∂L/∂y - softmax(x) Σ ∂L/∂y": (
        functional.log_softmax, lambda g, x, y: g - shares(x) * g.sum(-1, keepdims=True)
    ),
    "∂L/∂x = ∂L/∂y · (Φ(x) + x φ(x))": (
        functional.gelu, lambda g, x, y: g * (normal(x) + x * density(x))
    ),
    "∂L/∂x = ∂L/∂y / (1 + exp(-x))": (functional.softplus, lambda g, x, y: g / (1 + np.exp(-x))),
    "∂L/∂x = ∂L/∂y / (1 + exp(x))": (functional.log_sigmoid, lambda g, x, y: g / (1 + np.exp(x))),
    "∂L/∂x = ∂L/∂y / (1 + |x|)²": (functional.softsign, lambda g, x, y: g / (1 + abs(x)) ** 2),
    "∂L/∂x = ∂L/∂y · tanh²(x)": (functional.tanh_shrink, lambda g, x, y: g * np.tanh(x) ** 2),
    "∂L/∂x = ∂L/∂y where 0 < x < 6, else 0": (
        functional.relu6, lambda g, x, y: np.where((x > 0) & (x < 6), g, 0)
    ),
    "∂L/∂x = ∂L/∂y / n for each entry": (
        of("mean", axis=0, keepdims=True), lambda g, x, y: g / len(x) + 0 * x
    ),
    "∂L/∂x = ∂L/∂y · 2 (x - mean x) / n": (
        of("var", axis=0, keepdims=True), lambda g, x, y: g * 2 * (x - x.mean(0)) / len(x)
    ),
    "∂L/∂x = ∂L/∂y · (x - mean x) / (n y)": (
        of("std", axis=0, keepdims=True), lambda g, x, y: g * (x - x.mean(0)) / (len(x) * y)
    ),
    "∂L/∂x = ∂L/∂y for each entry": (of("sum", axis=0, keepdims=True), lambda g, x, y: g + 0 * x),
}  # fmt: skip


def step_of(function: Any) -> Any:
    """A step whose layer 1 is the function; what it gives is added to the input of the next."""

    def beside(x: Any) -> Any:
        return namespace(x).multiply(function(x), x * 0.0 + 1.0)

    return tinynn.explain(Sequential(Linear(3), beside, Linear(2)), X, Y, values=True)


def values_of(step: Any) -> dict[int, Any]:
    return {id(call.result): call.value for line in step.lines for call in (line, *line.calls())}


@pytest.mark.parametrize("formula", CALLS)
def test_calls(formula: str) -> None:
    function, check = CALLS[formula]
    lines = {line.name: line for line in step_of(function).lines}
    (line,) = (line for line in lines.values() if line.formula == formula)
    np.testing.assert_allclose(line.value, check(lines["h0"].value), rtol=1e-9)


@pytest.mark.parametrize("formula", PULLBACKS)
def test_pullbacks(formula: str) -> None:
    function, check = PULLBACKS[formula]
    step = step_of(function)
    values = values_of(step)
    lines = {line.name: line for line in step.lines}
    line = next(line for line in lines.values() if line.formula == formula)
    forward = line.follows
    cotangent = line.nodes[0].origin.pullback.cotangent
    found = line.value
    last = line.nodes[-1]
    if last.name == "add" and id(last.args[0]) not in {id(node) for node in line.nodes}:
        found = found - values[id(last.args[0])]  # what came from elsewhere
    g, x, y = values[id(cotangent)], lines["h0"].value, forward.value
    if g.ndim < y.ndim:
        g = np.broadcast_to(g, y.shape)
    np.testing.assert_allclose(found, check(g, x, y), rtol=1e-9, atol=1e-15)


def test_every_pullback_of_one_argument_is_checked() -> None:
    single = {row[0] for row in formulas.PULLBACKS.values() if len(row) == 1}
    single |= {
        row.backward["x"]
        for name, row in formulas.COMPOSITES.items()
        if row.backward.keys() == {"x"}
    }
    elsewhere = {"∂L/∂x = ∂L/∂y / x", "∂L/∂x = ∂L/∂y / (2 y)"}  # log and sqrt, of what is positive
    assert single - elsewhere - {formulas.PULLBACKS["take"][0]} == set(PULLBACKS)


@pytest.mark.parametrize("layer", [LayerNorm(epsilon=0.0), BatchNorm(epsilon=0.0)], ids=str)
def test_norms(layer: Any) -> None:
    axis = -1 if isinstance(layer, LayerNorm) else 0
    net = Sequential(Linear(3), layer, Linear(2))
    step = tinynn.explain(net, X, Y, values=True)
    lines = {line.name: line for line in step.lines}
    x, g = lines["h0"].value, lines["h1_grad"].value
    weight = next(given.value for given in step.description.given if given.name == "weight_1")
    mean, spread = x.mean(axis, keepdims=True), np.sqrt(x.var(axis, keepdims=True))
    normed, h = (x - mean) / spread, weight * g
    slope = h - h.mean(axis, keepdims=True) - normed * (h * normed).mean(axis, keepdims=True)
    row = formulas.COMPOSITES[type(layer).__name__]
    for name, role, expected in (
        ("h0_grad", "x", slope / spread),
        ("weight_1_grad", "weight", (normed * g).sum(0)),
        ("bias_1_grad", "bias", g.sum(0)),
    ):
        assert lines[name].formula == row.backward[role]
        np.testing.assert_allclose(lines[name].value, expected, rtol=1e-7, atol=1e-12)


LOSSES: list[tuple[Any, Check]] = [
    (SquaredError(), lambda p, t: 2 * (p - t) / p.size),
    (SquaredError(reduction="half_sum"), lambda p, t: p - t),
    (AbsoluteError(reduction="sum"), lambda p, t: np.sign(p - t)),
    (LogCosh(), lambda p, t: np.tanh(p - t) / p.size),
    (Poisson(), lambda p, t: (np.exp(p) - t) / p.size),
    (BinaryCrossEntropy(), lambda p, t: (logistic(p) - t) / p.size),
    (SoftmaxCrossEntropy(), lambda p, t: (shares(p) - np.eye(2)[t]) / len(t)),
]


@pytest.mark.parametrize(("loss", "slope"), LOSSES, ids=[str(row[0]) for row in LOSSES])
def test_losses(loss: Any, slope: Check) -> None:
    labels = isinstance(loss, SoftmaxCrossEntropy | NegativeLogLikelihood)
    y = CLASSES if labels else np.abs(Y) / (1 + np.abs(Y))
    step = tinynn.explain(Sequential(Linear(4), Linear(2)), X, y, loss=loss, values=True)
    lines = {line.name: line for line in step.lines}
    p = lines["prediction"].value
    np.testing.assert_allclose(lines["prediction_grad"].value, slope(p, y), rtol=1e-9, atol=1e-15)
    assert lines["loss"].formula.startswith("L = ")
    assert lines["prediction_grad"].formula.startswith("∂L/∂p = ")


def first_adam(w: Any, g: Any, eta: float = 0.1, decay: float = 0.0) -> Any:
    m, v = 0.1 * g / (1 - 0.9), 0.001 * g**2 / (1 - 0.999)
    return (1 - eta * decay) * w - eta * m / (np.sqrt(v) + 1e-8)


# From sums of 0, with a step of 0.1: an optimizer, how its formula ends, and that in NumPy.
UPDATES: list[tuple[Any, str, Check]] = [
    (optim.SGD(0.1), "w = w - η g", lambda w, g: w - 0.1 * g),
    (optim.SGD(0.1, momentum=0.9), "w = w - η u", lambda w, g: w - 0.1 * g),
    (
        optim.SGD(0.1, momentum=0.9, nesterov=True), "w = w - η (g + μ u)",
        lambda w, g: w - 0.1 * (g + 0.9 * g),
    ),
    (optim.Adam(0.1), "w = w - η m̂ / (√v̂ + ε)", first_adam),
    (
        optim.AdamW(0.1, weight_decay=0.2), "w = w - η m̂ / (√v̂ + ε)",
        lambda w, g: first_adam(w, g, decay=0.2),
    ),
    (
        optim.RMSprop(0.1, decay=0.9, epsilon=1e-3), "w = w - η g / (√v + ε)",
        lambda w, g: w - 0.1 * g / (np.sqrt(0.1 * g**2) + 1e-3),
    ),
    (
        optim.Adagrad(0.1, epsilon=1e-3), "w = w - η g / (√v + ε)",
        lambda w, g: w - 0.1 * g / (np.abs(g) + 1e-3),
    ),
    (
        optim.Adadelta(0.1, decay=0.9, epsilon=1e-3), "w = w - η d",
        lambda w, g: w - 0.1 * np.sqrt(1e-3 / (0.1 * g**2 + 1e-3)) * g,
    ),
    (
        optim.Lion(0.1, weight_decay=0.2), "+ λ w);  m = β₂ m + (1 - β₂) g",
        lambda w, g: w - 0.1 * (np.sign(0.1 * g) + 0.2 * w),
    ),
    (
        optim.Chain(optim.ClipByValue(1e-3), optim.L2(0.5), optim.SGD(0.1)), "w = w - η g",
        lambda w, g: w - 0.1 * (np.clip(g, -1e-3, 1e-3) + 0.5 * w),
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("optimizer", "end", "check"), UPDATES, ids=[str(row[0]) for row in UPDATES]
)
def test_updates(optimizer: Any, end: str, check: Check) -> None:
    net = Sequential(Linear(3), Linear(2))
    step = tinynn.explain(net, X, Y, optimizer=optimizer, values=True)
    (line,) = (each for each in step.lines if each.key == ("update", "0.weight"))
    (g,) = (each.value for each in step.lines if each.name == "weight_0_grad")
    (w,) = (given.value for given in step.description.given if given.name == "weight_0")
    assert line.formula.endswith(end)
    np.testing.assert_allclose(line.value, check(w, g), rtol=1e-9)
