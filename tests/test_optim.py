"""tinynn.optim: formulas step by step, objectives, links, state, errors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from tests.checks import assert_array, assert_close, assert_equal
from tinynn import tree
from tinynn.optim import (
    L1,
    L2,
    SGD,
    Adam,
    AdamW,
    Chain,
    ClipByGlobalNorm,
    ClipByValue,
    Optimizer,
    RMSprop,
)
from tinynn.trace import namespace

DRAW = np.random.default_rng(0)
PARAMS = {"0": {"weight": DRAW.normal(size=(3, 2)), "bias": DRAW.normal(size=2)}, "2": [1.5]}
GRADIENTS = [tree.map(lambda leaf: DRAW.normal(size=np.shape(leaf)), PARAMS) for _ in range(5)]

State = dict[str, np.ndarray]
Reference = Callable[[np.ndarray, np.ndarray, State, int], np.ndarray]


def sgd(o: Any, p: np.ndarray, g: np.ndarray, s: State, t: int) -> np.ndarray:
    """torch/optim/sgd.py: the first step's buffer is the gradient itself."""
    if o.momentum:
        s["b"] = g if t == 1 else o.momentum * s["b"] + g
        g = g + o.momentum * s["b"] if o.nesterov else s["b"]
    return p - o.learning_rate * g


def rmsprop(o: Any, p: np.ndarray, g: np.ndarray, s: State, t: int) -> np.ndarray:
    """torch/optim/rmsprop.py, not centred, without momentum."""
    s["v"] = o.decay * s.get("v", 0.0) + (1 - o.decay) * g * g
    return p - o.learning_rate * g / (np.sqrt(s["v"]) + o.epsilon)


def adam(o: Any, p: np.ndarray, g: np.ndarray, s: State, t: int) -> np.ndarray:
    """torch/optim/adam.py."""
    s["m"] = s.get("m", 0.0) + (1 - o.beta1) * (g - s.get("m", 0.0))
    s["v"] = o.beta2 * s.get("v", 0.0) + (1 - o.beta2) * g * g
    root = np.sqrt(s["v"]) / np.sqrt(1 - o.beta2**t)
    return p - o.learning_rate / (1 - o.beta1**t) * s["m"] / (root + o.epsilon)


def adamw(o: Any, p: np.ndarray, g: np.ndarray, s: State, t: int) -> np.ndarray:
    """torch/optim/adamw.py."""
    return adam(o, p * (1 - o.learning_rate * o.weight_decay), g, s, t)


# name -> (optimizer, its formula, its name and settings in torch.optim)
OPTIMIZERS: dict[str, tuple[Optimizer, Any, str, dict[str, Any]]] = {
    "sgd": (SGD(0.1), sgd, "SGD", {"lr": 0.1}),
    "momentum": (SGD(0.1, momentum=0.9), sgd, "SGD", {"lr": 0.1, "momentum": 0.9}),
    "nesterov": (
        SGD(0.1, momentum=0.8, nesterov=True),
        sgd,
        "SGD",
        {"lr": 0.1, "momentum": 0.8, "nesterov": True},
    ),
    "rmsprop": (RMSprop(0.02, decay=0.9), rmsprop, "RMSprop", {"lr": 0.02, "alpha": 0.9}),
    "adam": (Adam(0.05), adam, "Adam", {"lr": 0.05}),
    "adam, other betas": (
        Adam(0.05, beta1=0.0, beta2=0.9, epsilon=1e-3),
        adam,
        "Adam",
        {"lr": 0.05, "betas": (0.0, 0.9), "eps": 1e-3},
    ),
    "adamw": (AdamW(0.05, weight_decay=0.3), adamw, "AdamW", {"lr": 0.05, "weight_decay": 0.3}),
}


def placed(host: Any, backend: backends.Backend, dtype: Any) -> Any:
    return tree.map(lambda leaf: backend.asarray(leaf, dtype=dtype), host)


def assert_trees_close(actual: Any, expected: Any, backend: backends.Backend, **how: Any) -> None:
    assert tree.flatten(actual)[1] == tree.flatten(expected)[1]
    for leaf, other in zip(tree.leaves(actual), tree.leaves(expected), strict=True):
        assert_close(leaf, other, backend, **how)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_formula_step_by_step(name: str, backend: backends.Backend, float_dtype: Any) -> None:
    optimizer, formula, *_ = OPTIMIZERS[name]
    params = placed(PARAMS, backend, float_dtype)
    state = optimizer.init(params)
    expected, structure = tree.flatten(tree.map(np.asarray, PARAMS))
    kept: list[State] = [{} for _ in expected]
    for t, gradients in enumerate(GRADIENTS, start=1):
        params, state = optimizer.update(placed(gradients, backend, float_dtype), state, params)
        expected = [
            formula(optimizer, p, g, s, t)
            for p, g, s in zip(expected, tree.leaves(gradients), kept, strict=True)
        ]
        rounding = {"atol": 3e-6 if float_dtype == backend.dtypes()["float32"] else 1e-14}
        assert_trees_close(
            params, structure.unflatten(expected), backend, dtype=float_dtype, **rounding
        )
        assert_equal(state["step"], t, backend, dtype="int32", shape=())


@pytest.mark.only("torch")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_torchs(name: str, backend: backends.Backend, float_dtype: Any) -> None:
    import torch

    optimizer, _, kind, settings = OPTIMIZERS[name]
    params = placed(PARAMS, backend, float_dtype)
    theirs = [leaf.clone().requires_grad_() for leaf in tree.leaves(params)]
    torch_optimizer = getattr(torch.optim, kind)(theirs, **settings)
    state = optimizer.init(params)
    for gradients in GRADIENTS:
        gradients = placed(gradients, backend, float_dtype)
        params, state = optimizer.update(gradients, state, params)
        for leaf, gradient in zip(theirs, tree.leaves(gradients), strict=True):
            leaf.grad = gradient
        torch_optimizer.step()
        for ours, leaf in zip(tree.leaves(params), theirs, strict=True):
            assert_close(ours, backend.to_host(leaf), backend, dtype=float_dtype, atol=1e-6)


# Objectives.


@backends.scoped
def rosenbrock(params: dict[str, Any]) -> Any:
    x, y = params["x"], params["y"]
    return (1.0 - x) ** 2 + 100.0 * (y - x**2) ** 2


@backends.scoped
def quadratic(params: dict[str, Any]) -> Any:
    x, y = params["x"], params["y"]
    return 0.5 * (x - 1.0) ** 2 + 5.0 * (y - 1.0) ** 2


# objective -> (start, steps, what it must come below, optimizers)
OBJECTIVES: dict[Callable[..., Any], tuple[dict[str, float], int, float, list[Optimizer]]] = {
    quadratic: (
        {"x": 0.2, "y": 1.8},
        60,
        2e-3,
        [
            SGD(0.15),
            SGD(0.05, momentum=0.7),
            SGD(0.05, momentum=0.7, nesterov=True),
            RMSprop(0.02),
            Adam(0.1),
            AdamW(0.1, weight_decay=1e-4),
            Chain(ClipByGlobalNorm(1.0), SGD(0.15)),
            Chain(ClipByValue(1.0), Adam(0.1)),
        ],
    ),
    rosenbrock: (  # 5.9 at the start
        {"x": 0.6, "y": 0.6},
        300,
        0.05,
        [
            SGD(0.0008, momentum=0.95),
            SGD(0.0008, momentum=0.95, nesterov=True),
            RMSprop(0.01, decay=0.9),
            Adam(0.1),
            AdamW(0.1, weight_decay=1e-4),
            Chain(ClipByGlobalNorm(1.0), Adam(0.1)),
        ],
    ),
}


def descend(objective: Callable[..., Any], optimizer: Optimizer, backend: backends.Backend) -> None:
    start, steps, enough, _ = OBJECTIVES[objective]
    params = tree.map(backend.asarray, start)
    slope, state = tinynn.grad(objective), optimizer.init(params)
    for _ in range(steps):
        params, state = optimizer.update(slope(params), state, params)
    assert float(objective(params)) < enough


@pytest.mark.parametrize("optimizer", OBJECTIVES[quadratic][3], ids=str)
def test_quadratic(optimizer: Optimizer, backend: backends.Backend) -> None:
    descend(quadratic, optimizer, backend)


@pytest.mark.only("numpy")  # many steps; that every backend takes the same ones is shown above
@pytest.mark.parametrize("optimizer", OBJECTIVES[rosenbrock][3], ids=str)
def test_rosenbrock(optimizer: Optimizer, backend: backends.Backend) -> None:
    descend(rosenbrock, optimizer, backend)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_nothing_is_changed_and_kinds_are_kept(name: str, backend: backends.Backend) -> None:
    """Arrays of two dtypes in one tree keep their own, and so do their slots."""
    optimizer = OPTIMIZERS[name][0]
    dtypes = [backend.dtypes()[kind] for kind in ("float32", "float64")
              if kind in backend.dtypes()]  # fmt: skip
    params = [backend.asarray(DRAW.normal(size=(2, 3)), dtype=dtype) for dtype in dtypes]
    gradients = [backend.asarray(DRAW.normal(size=(2, 3)), dtype=dtype) for dtype in dtypes]
    state = optimizer.init(params)
    before = tree.map(backend.to_host, [params, gradients, state])
    new, after = optimizer.update(gradients, state, params)
    tree.map(
        np.testing.assert_array_equal,
        tree.map(backend.to_host, [params, gradients, state]),
        before,
    )
    assert set(after) == {"step", *optimizer.slot_names()}
    for column in (new, *[after[slot] for slot in optimizer.slot_names()]):
        for leaf, dtype in zip(column, dtypes, strict=True):
            assert_array(leaf, backend, dtype=dtype, shape=(2, 3))


def test_early_steps_of_adam_keep_their_digits(backend: backends.Backend) -> None:
    """1 - 0.999**t in float32 has three digits at t = 1; the step must have all of them."""
    params = [backend.asarray([0.0], dtype="float32")]
    optimizer = Adam(1.0)
    params, _ = optimizer.update(
        [backend.asarray([1e-3], dtype="float32")], optimizer.init(params), params
    )
    assert_close(params[0], [-1.0 / (1.0 + 1e-5)], backend, dtype="float32", rtol=1e-6)


# Links.


def test_clip_by_value(backend: backends.Backend, float_dtype: Any) -> None:
    g = backend.asarray([-3.0, -0.5, 0.0, 2.0], dtype=float_dtype)
    clipped = ClipByValue(1.0).prepare({"w": g}, None)["w"]
    assert_equal(clipped, [-1.0, -0.5, 0.0, 1.0], backend, dtype=float_dtype)


def test_clip_by_global_norm(backend: backends.Backend, float_dtype: Any) -> None:
    gradients = placed(GRADIENTS[0], backend, float_dtype)
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in tree.leaves(GRADIENTS[0])))
    prepared = ClipByGlobalNorm(0.5).prepare(gradients, None)
    expected = tree.map(lambda g: g * (0.5 / (norm + 1e-6)), GRADIENTS[0])
    assert_trees_close(prepared, expected, backend, dtype=float_dtype)
    untouched = ClipByGlobalNorm(1e3).prepare(gradients, None)
    assert_trees_close(untouched, tree.map(backend.to_host, gradients), backend, rtol=0.0)
    zeros = tree.map(backend.xp.zeros_like, gradients)
    assert_trees_close(
        ClipByGlobalNorm(1.0).prepare(zeros, None), tree.map(backend.to_host, zeros), backend
    )


@pytest.mark.only("torch")
def test_clipping_is_torchs(backend: backends.Backend) -> None:
    import torch

    gradients = [backend.asarray(g, dtype="float32") for g in tree.leaves(GRADIENTS[0])]
    theirs = [torch.zeros_like(g).requires_grad_() for g in gradients]
    for leaf, gradient in zip(theirs, gradients, strict=True):
        leaf.grad = gradient.clone()
    torch.nn.utils.clip_grad_norm_(theirs, 0.5)
    for ours, leaf in zip(ClipByGlobalNorm(0.5).prepare(gradients, None), theirs, strict=True):
        assert_close(ours, backend.to_host(leaf.grad), backend, dtype="float32")


def test_penalties_are_gradients(backend: backends.Backend, float_dtype: Any) -> None:
    w = backend.asarray([-2.0, 0.0, 3.0], dtype=float_dtype)
    zeros = [backend.xp.zeros_like(w)]

    def l1(w: Any) -> Any:
        return 0.3 * namespace(w).sum(namespace(w).maximum(w, -w))  # its slope at 0 is 0

    def l2(w: Any) -> Any:
        return 0.5 * 0.3 * namespace(w).sum(w * w)

    for link, penalty in ((L1(0.3), l1), (L2(0.3), l2)):
        expected = backend.to_host(tinynn.grad(penalty)(w))
        assert_close(link.prepare(zeros, [w])[0], expected, backend, dtype=float_dtype)


def test_chain_prepares_in_order(backend: backends.Backend, float_dtype: Any) -> None:
    params = placed(PARAMS, backend, float_dtype)
    gradients = placed(GRADIENTS[0], backend, float_dtype)
    chain = Chain(L2(0.5), ClipByValue(0.4), Adam(0.1))
    new, state = chain.update(gradients, chain.init(params), params)
    by_hand = ClipByValue(0.4).prepare(L2(0.5).prepare(gradients, params), params)
    expected, _ = Adam(0.1).update(by_hand, Adam(0.1).init(params), params)
    assert_trees_close(new, tree.map(backend.to_host, expected), backend, rtol=0.0)
    assert set(state) == {"step", "sum", "sum_of_squares"}


# An optimizer from outside, and errors.


@dataclass(frozen=True)
class SignDescent(Optimizer):
    learning_rate: float = 0.1

    def rule(self, gradient: Any, parameter: Any, slots: Any, once: Any) -> Any:
        xp = namespace(gradient, parameter)
        return xp.subtract(parameter, self.learning_rate * xp.sign(gradient))


def test_an_optimizer_is_a_rule(backend: backends.Backend) -> None:
    params = {"w": backend.asarray([1.0, 1.0], dtype="float32")}
    optimizer = Chain(ClipByValue(1.0), SignDescent())
    new, state = optimizer.update(
        {"w": backend.xp.negative(params["w"])}, optimizer.init(params), params
    )
    assert_close(new["w"], [1.1, 1.1], backend, dtype="float32")
    assert list(state) == ["step"]


def test_shown_as_it_is_written() -> None:
    shown = "Chain(ClipByGlobalNorm(1.0), L2(0.1), SGD(momentum=0.9))"
    assert str(Chain(ClipByGlobalNorm(1.0), L2(0.1), SGD(momentum=0.9))) == shown


def test_trees_that_differ(backend: backends.Backend) -> None:
    params = {"w": backend.asarray([1.0])}
    optimizer = Adam()
    with pytest.raises(ValueError, match="the gradients are expected to be a tree like the params"):
        optimizer.update({"v": params["w"]}, optimizer.init(params), params)
    with pytest.raises(ValueError, match="sum are expected to be a tree like the params"):
        optimizer.update(params, optimizer.init([params]), params)


def test_no_parameters() -> None:
    with pytest.raises(ValueError, match=r"Adam\(\): expected parameters to train, got none"):
        Adam().init({})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(-0.1), "SGD: expected learning_rate to be a number of 0 or more, got -0.1"),
        (lambda: SGD("fast"), "learning_rate"),
        (lambda: SGD(momentum=1.0), r"momentum to be a number in \[0, 1\)"),
        (lambda: SGD(nesterov=True), "nesterov"),
        (lambda: RMSprop(decay=1.0), "decay"),
        (lambda: Adam(beta2=1.0), "beta2"),
        (lambda: Adam(epsilon=-1.0), "epsilon"),
        (lambda: AdamW(weight_decay=-1.0), "weight_decay"),
        (lambda: Adam(float("nan")), "got nan"),
        (lambda: ClipByValue(0.0), "ClipByValue: expected limit to be a number above 0"),
        (lambda: ClipByGlobalNorm(-1.0), "limit"),
        (lambda: L1(-1.0), "strength"),
        (lambda: L2(-1.0), "strength"),
    ],
)
def test_settings_out_of_range(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("links", [(), (L2(0.1),), (Adam(), L2(0.1)), (Adam(), Adam()), (Adam,)])
def test_chains_that_are_none(links: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError, match=r"Chain: expected links .* and last an optimizer, got"):
        Chain(*links)
