"""tinynn.optim: formulas step by step, PyTorch's and optax's steps, objectives, state, errors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from tests.checks import assert_array, assert_close, assert_equal
from tests.optim.trees import DRAW, GRADIENTS, PARAMS, assert_trees_close, placed
from tinynn import tree
from tinynn.optim import (
    L1,
    L2,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    AdamW,
    Chain,
    ClipByGlobalNorm,
    ClipByValue,
    Lion,
    NAdam,
    Optimizer,
    RMSprop,
    Scale,
)
from tinynn.trace import namespace

State = dict[str, np.ndarray]
Reference = Callable[[np.ndarray, np.ndarray, State, int], np.ndarray]


def sgd(o: Any, p: np.ndarray, g: np.ndarray, s: State, t: int) -> np.ndarray:
    """torch/optim/sgd.py: the first step's buffer is the gradient itself."""
    if o.momentum:
        s["b"] = g if t == 1 else o.momentum * s["b"] + g
        g = g + o.momentum * s["b"] if o.nesterov else s["b"]
    return p - o.learning_rate * g


def rmsprop(o: Any, p: np.ndarray, g: np.ndarray, s: State, t: int) -> np.ndarray:
    """torch/optim/rmsprop.py."""
    s["v"] = o.decay * s.get("v", 0.0) + (1 - o.decay) * g * g
    s["m"] = o.decay * s.get("m", 0.0) + (1 - o.decay) * g
    spread = s["v"] - s["m"] ** 2 if o.centered else s["v"]
    s["b"] = o.momentum * s.get("b", 0.0) + g / (np.sqrt(spread) + o.epsilon)
    return p - o.learning_rate * s["b"]


def moments(o: Any, g: np.ndarray, s: State) -> None:
    s["m"] = s.get("m", 0.0) + (1 - o.beta1) * (g - s.get("m", 0.0))
    s["v"] = o.beta2 * s.get("v", 0.0) + (1 - o.beta2) * g * g


def adam(o: Any, p: np.ndarray, g: np.ndarray, s: State, t: int) -> np.ndarray:
    """torch/optim/adam.py."""
    moments(o, g, s)
    s["x"] = np.maximum(s.get("x", 0.0), s["v"]) if o.amsgrad else s["v"]
    root = np.sqrt(s["x"]) / np.sqrt(1 - o.beta2**t)
    return p - o.learning_rate / (1 - o.beta1**t) * s["m"] / (root + o.epsilon)


def adamw(o: Any, p: np.ndarray, g: np.ndarray, s: State, t: int) -> np.ndarray:
    """torch/optim/adamw.py."""
    return adam(o, p * (1 - o.learning_rate * o.weight_decay), g, s, t)


def nadam(o: Any, p: np.ndarray, g: np.ndarray, s: State, t: int) -> np.ndarray:
    """torch/optim/nadam.py."""
    moments(o, g, s)
    now, after = (o.beta1 * (1 - 0.5 * 0.96 ** (n * o.momentum_decay)) for n in (t, t + 1))
    s["k"] = s.get("k", 1.0) * now
    root = np.sqrt(s["v"] / (1 - o.beta2**t)) + o.epsilon
    p = p - o.learning_rate * (1 - now) / (1 - s["k"]) * g / root
    return p - o.learning_rate * after / (1 - s["k"] * after) * s["m"] / root


def adagrad(o: Any, p: np.ndarray, g: np.ndarray, s: State, t: int) -> np.ndarray:
    """torch/optim/adagrad.py."""
    s["v"] = s.get("v", o.initial_sum) + g * g
    return p - o.learning_rate * g / (np.sqrt(s["v"]) + o.epsilon)


def adadelta(o: Any, p: np.ndarray, g: np.ndarray, s: State, t: int) -> np.ndarray:
    """torch/optim/adadelta.py."""
    s["v"] = o.decay * s.get("v", 0.0) + (1 - o.decay) * g * g
    d = np.sqrt(s.get("u", 0.0) + o.epsilon) / np.sqrt(s["v"] + o.epsilon) * g
    s["u"] = o.decay * s.get("u", 0.0) + (1 - o.decay) * d * d
    return p - o.learning_rate * d


def lion(o: Any, p: np.ndarray, g: np.ndarray, s: State, t: int) -> np.ndarray:
    """Algorithm 2 of arXiv:2302.06675."""
    m = s.get("m", np.zeros_like(g))
    s["m"] = o.beta2 * m + (1 - o.beta2) * g
    change = np.sign(o.beta1 * m + (1 - o.beta1) * g) + o.weight_decay * p
    return p - o.learning_rate * change


# name -> (optimizer, its formula, its name and settings in torch.optim or "", in optax or "")
Row = tuple[Optimizer, Any, str, dict[str, Any], str, dict[str, Any]]
OPTIMIZERS: dict[str, Row] = {
    "sgd": (SGD(0.1), sgd, "SGD", {"lr": 0.1}, "sgd", {}),
    "momentum": (
        SGD(0.1, momentum=0.9), sgd,
        "SGD", {"lr": 0.1, "momentum": 0.9},
        "sgd", {"momentum": 0.9},
    ),
    "nesterov": (
        SGD(0.1, momentum=0.8, nesterov=True), sgd,
        "SGD", {"lr": 0.1, "momentum": 0.8, "nesterov": True},
        "sgd", {"momentum": 0.8, "nesterov": True},
    ),
    "rmsprop": (
        RMSprop(0.02, decay=0.9), rmsprop,
        "RMSprop", {"lr": 0.02, "alpha": 0.9},
        "rmsprop", {"decay": 0.9, "eps_in_sqrt": False},
    ),
    "rmsprop, all of it": (
        RMSprop(0.002, decay=0.8, epsilon=1e-3, momentum=0.7, centered=True), rmsprop,
        "RMSprop", {"lr": 0.002, "alpha": 0.8, "eps": 1e-3, "momentum": 0.7, "centered": True},
        "rmsprop", {"decay": 0.8, "eps": 1e-3, "momentum": 0.7, "centered": True,
                    "eps_in_sqrt": False},
    ),
    "adam": (Adam(0.05), adam, "Adam", {"lr": 0.05}, "adam", {}),
    "adam, other betas": (
        Adam(0.05, beta1=0.0, beta2=0.9, epsilon=1e-3), adam,
        "Adam", {"lr": 0.05, "betas": (0.0, 0.9), "eps": 1e-3},
        "adam", {"b1": 0.0, "b2": 0.9, "eps": 1e-3},
    ),
    "amsgrad": (
        Adam(0.05, beta2=0.8, amsgrad=True), adam,
        "Adam", {"lr": 0.05, "betas": (0.9, 0.8), "amsgrad": True},
        "", {},  # optax takes the largest after the correction
    ),
    "adamw": (
        AdamW(0.05, weight_decay=0.3), adamw,
        "AdamW", {"lr": 0.05, "weight_decay": 0.3},
        "adamw", {"weight_decay": 0.3},
    ),
    "nadam": (
        NAdam(0.05, momentum_decay=0.1), nadam,
        "NAdam", {"lr": 0.05, "momentum_decay": 0.1},
        "", {},  # optax's has no schedule of the momentum
    ),
    "adagrad": (
        Adagrad(0.1, initial_sum=0.3, epsilon=1e-6), adagrad,
        "Adagrad", {"lr": 0.1, "initial_accumulator_value": 0.3, "eps": 1e-6},
        "", {},  # optax has epsilon under the root
    ),
    "adadelta": (
        Adadelta(0.7, decay=0.8, epsilon=1e-4), adadelta,
        "Adadelta", {"lr": 0.7, "rho": 0.8, "eps": 1e-4},
        "adadelta", {"rho": 0.8, "eps": 1e-4},
    ),
    "lion": (
        Lion(0.01, beta1=0.8, beta2=0.95, weight_decay=0.1), lion,
        "", {},  # PyTorch has none
        "lion", {"b1": 0.8, "b2": 0.95, "weight_decay": 0.1},
    ),
}  # fmt: skip


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
        rounding = {"atol": 3e-6 if float_dtype == backend.dtypes()["float32"] else 1e-13}
        assert_trees_close(
            params, structure.unflatten(expected), backend, dtype=float_dtype, **rounding
        )
        assert_equal(state["step"], t, backend, dtype="int32", shape=())


STEPS = 200


def walk(optimizer: Optimizer, params: Any, backend: backends.Backend) -> Any:
    """The params after many steps, whose gradients depend on them and on the step."""
    state = optimizer.init(params)
    for t in range(STEPS):
        params, state = optimizer.update(slopes(params, t), state, params)
    return tree.map(backend.to_host, params)


def slopes(params: Any, t: int) -> Any:
    return tree.map(lambda leaf: (leaf - 0.5) * (1.0 + t % 3) - 0.1 * (t % 7), params)


@pytest.mark.only("torch")
@pytest.mark.parametrize("name", [name for name, row in OPTIMIZERS.items() if row[2]])
def test_steps_are_pytorchs(name: str, backend: backends.Backend) -> None:
    import torch

    optimizer, _, kind, settings, *_ = OPTIMIZERS[name]
    params = placed(PARAMS, backend, "float64")
    leaves, structure = tree.flatten(params)
    theirs = [leaf.clone().requires_grad_() for leaf in leaves]
    torch_optimizer = getattr(torch.optim, kind)(theirs, **settings)
    for t in range(STEPS):
        gradients = slopes(structure.unflatten([leaf.detach() for leaf in theirs]), t)
        for leaf, gradient in zip(theirs, tree.leaves(gradients), strict=True):
            leaf.grad = gradient
        torch_optimizer.step()
    expected = structure.unflatten([backend.to_host(leaf.detach()) for leaf in theirs])
    tree.map(equal_to_rounding, walk(optimizer, params, backend), expected)


@pytest.mark.only("jax-x64")
@pytest.mark.parametrize("name", [name for name, row in OPTIMIZERS.items() if row[4]])
def test_steps_are_optaxs(name: str, backend: backends.Backend) -> None:
    import jax
    import optax

    optimizer, _, _, _, kind, settings = OPTIMIZERS[name]
    theirs: Any = getattr(optax, kind)(optimizer.learning_rate, **settings)  # type: ignore[attr-defined]

    @jax.jit
    def step(t: Any, params: Any, state: Any) -> Any:
        updates, state = theirs.update(slopes(params, t), state, params)
        return optax.apply_updates(params, updates), state

    params = start = placed(PARAMS, backend, "float64")
    state = theirs.init(params)
    for t in range(STEPS):
        params, state = step(t, params, state)
    # On NumPy: JAX compiles each shape of each call of ours.
    numpy = backends.get("numpy")
    ours = walk(optimizer, tree.map(backend.to_host, start), numpy)
    expected = dict(tree.paths(params))  # JAX has sorted the keys
    for path, leaf in tree.paths(ours):
        equal_to_rounding(leaf, backend.to_host(expected[path]))


def equal_to_rounding(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_recorded_steps_are_the_eager_ones(
    name: str, backend: backends.Backend, float64: Any
) -> None:
    optimizer = OPTIMIZERS[name][0]
    params = eager = placed(PARAMS, backend, float64)
    state = kept = optimizer.init(params)
    step = tinynn.compile(optimizer.update)
    for gradients in GRADIENTS[:3]:
        gradients = placed(gradients, backend, float64)
        params, state = step(gradients, state, params)
        eager, kept = optimizer.update(gradients, kept, eager)
    for ours, expected in ((params, eager), (state, kept)):
        assert_trees_close(ours, tree.map(backend.to_host, expected), backend, rtol=1e-12)


# Objectives.


def rosenbrock(params: dict[str, Any]) -> Any:
    x, y = params["x"], params["y"]
    return (1.0 - x) ** 2 + 100.0 * (y - x**2) ** 2


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
            Adam(0.1, amsgrad=True),
            NAdam(0.1),
            Adagrad(0.3),
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
    with backend.scope():
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
    assert set(after) == {"step", *optimizer.slot_names(), *optimizer.carried}
    for column in (new, *[after[slot] for slot in optimizer.slot_names()]):
        for leaf, dtype in zip(column, dtypes, strict=True):
            assert_array(leaf, backend, dtype=dtype, shape=(2, 3))


def test_early_steps_of_adam_keep_their_digits(backend: backends.Backend) -> None:
    """1 - 0.999**t in float32 has three digits at t = 1; the step must have all of them."""
    params = [backend.asarray([0.0], dtype="float32")]
    optimizer = Adam(1.0)
    with backend.scope():
        gradient = params[0] + 1e-3
    params, _ = optimizer.update([gradient], optimizer.init(params), params)
    assert_close(params[0], [-1.0 / (1.0 + 1e-5)], backend, dtype="float32", rtol=1e-6)


# An optimizer from outside, and errors.


@dataclass(frozen=True)
class SignDescent(Optimizer):
    learning_rate: float = 0.1

    def update_leaf(self, gradient: Any, parameter: Any, slots: Any, scalars: Any) -> Any:
        xp = namespace(gradient, parameter)
        return xp.subtract(parameter, scalars.learning_rate * xp.sign(gradient)), slots


def test_an_optimizer_is_an_update_of_one_array(backend: backends.Backend) -> None:
    params = {"w": backend.asarray([1.0, 1.0], dtype="float32")}
    optimizer = Chain(ClipByValue(1.0), SignDescent())
    with backend.scope():
        gradient = {"w": -params["w"]}
    new, state = optimizer.update(gradient, optimizer.init(params), params)
    assert_close(new["w"], [1.1, 1.1], backend, dtype="float32")
    assert list(state["1"]) == ["step"]


def test_shown_as_it_is_written() -> None:
    shown = "Chain(ClipByGlobalNorm(1.0), L2(0.1), SGD(momentum=0.9))"
    assert str(Chain(ClipByGlobalNorm(1.0), L2(0.1), SGD(momentum=0.9))) == shown


def test_trees_that_differ(backend: backends.Backend) -> None:
    params = {"w": backend.asarray([1.0])}
    optimizer = Adam()
    with pytest.raises(ValueError, match=r"Adam\(\): expected gradients to be a tree like the pa"):
        optimizer.update({"v": params["w"]}, optimizer.init(params), params)
    with pytest.raises(ValueError, match=r"Adam\(\): expected sum to be a tree like the params"):
        optimizer.update(params, optimizer.init([params]), params)
    with pytest.raises(ValueError, match="expected a state with 'sum', got one with 'step'"):
        optimizer.update(params, SGD().init(params), params)


def test_no_parameters() -> None:
    with pytest.raises(ValueError, match=r"Adam\(\): expected parameters to train, got none"):
        Adam().init({})


def test_parameters_of_other_dtypes(backend: backends.Backend) -> None:
    params = {"a": backend.asarray([1.0]), "count": backend.asarray([1])}
    with pytest.raises(TypeError, match=r"expected parameters of a real floating.* for 'count'"):
        Adam().init(params)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(-0.1), "SGD: expected learning_rate to be a number of 0 or more, or a sched"),
        (lambda: SGD("fast"), "learning_rate"),  # type: ignore[arg-type]
        (lambda: SGD(True), "learning_rate"),
        (lambda: SGD(Adam), "learning_rate"),  # type: ignore[arg-type]
        (lambda: SGD(momentum=1.0), r"momentum to be a number in \[0, 1\)"),
        (lambda: SGD(nesterov=True), "nesterov"),
        (lambda: RMSprop(decay=1.0), "decay"),
        (lambda: Adam(beta2=1.0), "beta2"),
        (lambda: Adam(epsilon=-1.0), "epsilon"),
        (lambda: AdamW(weight_decay=-1.0), "weight_decay"),
        (lambda: NAdam(momentum_decay=-1.0), "momentum_decay"),
        (lambda: Adagrad(initial_sum=-1.0), "initial_sum"),
        (lambda: Lion(beta1=1.0), "beta1"),
        (lambda: Adam(float("nan")), "got nan"),
        (lambda: Adam(float("inf")), "got inf"),
        (lambda: Scale(float("nan")), "factor"),
        (lambda: ClipByValue(0.0), "ClipByValue: expected limit to be a number above 0"),
        (lambda: ClipByGlobalNorm(-1.0), "limit"),
        (lambda: L1(-1.0), "strength"),
        (lambda: L2(-1.0), "strength"),
    ],
)
def test_hyperparameters_out_of_range(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_hyperparameters_are_pythons_numbers(backend: backends.Backend) -> None:
    """NumPy's float64 would make float64 of float32 parameters."""
    params = [backend.asarray([1.0], dtype="float32")]
    optimizer = SGD(np.float64(0.5), momentum=np.float64(0.5))
    assert type(optimizer.learning_rate) is type(optimizer.momentum) is float
    assert_equal(optimizer.update(params, optimizer.init(params), params)[0][0], [0.5], backend,
                 dtype="float32")  # fmt: skip


@pytest.mark.parametrize("parts", [(), (L2(0.1),), (Adam(), L2(0.1)), (Adam(), Adam()), (Adam,)])
def test_chains_that_are_none(parts: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError, match=r"Chain: expected transformations .* and last an optim"):
        Chain(*parts)
