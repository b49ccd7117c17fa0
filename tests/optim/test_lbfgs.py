"""L-BFGS: SciPy's minima and counts, on every library; its line search."""

import math
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from tests.checks import assert_array, assert_close
from tinynn import tree
from tinynn.functional import tanh
from tinynn.layers import Linear, Sequential
from tinynn.losses import SquaredError
from tinynn.optim import LBFGS, Averaged, averaged_params
from tinynn.optim.line_search import Point, StrongWolfe
from tinynn.trace import namespace
from tinynn.transforms.record import RecordingError

pytestmark = pytest.mark.reads_scalars


def rosenbrock(params: Any) -> Any:
    x = params["x"]
    return namespace(x).sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def test_rosenbrock(backend: backends.Backend, float64: Any) -> None:
    """Other roundings than NumPy's may make an evaluation more or less of it."""
    params = {"x": backend.asarray([-1.2, 1.0], dtype=float64)}
    params, state = LBFGS().minimize(tinynn.value_and_grad(rosenbrock), params)
    assert_close(params["x"], [1.0, 1.0], backend, dtype=float64, atol=1e-5)
    assert bool(state["converged"])
    assert abs(int(state["evaluations"]) - 44) <= 4  # SciPy's


@pytest.mark.only("numpy")
@pytest.mark.parametrize(
    "start", [[-1.2, 1.0], [-0.5, 0.3, 2.0, -1.5, 0.7], [0.1 * (-1) ** i * i for i in range(10)]]
)
def test_rosenbrock_is_scipys(start: list[float], backend: backends.Backend) -> None:
    from scipy import optimize

    theirs = optimize.minimize(
        optimize.rosen, start, jac=optimize.rosen_der, method="L-BFGS-B", options={"maxcor": 10}
    )
    vg = tinynn.value_and_grad(rosenbrock)
    params, state = LBFGS().minimize(vg, {"x": np.asarray(start)})
    np.testing.assert_allclose(params["x"], theirs.x, atol=1e-4)
    assert int(state["evaluations"]) <= 1.1 * theirs.nfev + 2


@pytest.mark.only("numpy")
def test_a_network_is_scipys(backend: backends.Backend) -> None:
    from scipy import optimize

    x = np.random.RandomState(0).randn(60, 3)
    y = np.sin(x[:, :1]) + 0.1 * x[:, 1:2]
    net, loss = Sequential(Linear(5), tanh, Linear(1)), SquaredError()
    start = net.init(0, x)[0]
    vg = tinynn.value_and_grad(lambda params: loss(net(params, x), y))
    leaves, structure = tree.flatten(start)
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]

    def of_vector(vector: Any) -> Any:
        parts = [
            p.reshape(leaf.shape) for p, leaf in zip(np.split(vector, ends), leaves, strict=True)
        ]
        value, gradients = vg(structure.unflatten(parts))
        return float(value), np.concatenate([g.ravel() for g in tree.leaves(gradients)])

    flat = np.concatenate([leaf.ravel() for leaf in leaves])
    options = {"maxcor": 10, "maxiter": 60}
    theirs = optimize.minimize(of_vector, flat, jac=True, method="L-BFGS-B", options=options)
    _, state = LBFGS().minimize(vg, start, max_steps=60)
    assert float(state["value"]) == pytest.approx(theirs.fun, rel=0.05)
    assert int(state["evaluations"]) <= 1.1 * theirs.nfev + 2


def test_trees_of_float32(backend: backends.Backend) -> None:
    """Several arrays, one of them 0-d; what float32 can tell apart."""
    goal = {"a": np.asarray([1.0, -2.0]), "b": [np.asarray(0.5)]}
    target = tree.map(lambda leaf: backend.asarray(leaf, dtype="float32"), goal)

    def distance(params: Any) -> Any:
        squares = tree.map(lambda p, t: namespace(p).sum((p - t) ** 2 * 3.0), params, target)
        return sum(tree.leaves(squares), 0.0)

    params = tree.map(lambda leaf: namespace(leaf).zeros_like(leaf), target)
    params, state = LBFGS(3).minimize(tinynn.value_and_grad(distance), params)
    assert bool(state["converged"])
    for found, expected in zip(tree.leaves(params), tree.leaves(goal), strict=True):
        assert_close(found, expected, backend, dtype="float32", atol=1e-4)
    assert_array(state["gradient"], backend, dtype="float32", shape=(3,))
    again, _ = LBFGS(3).update(None, state, params, value_and_grad=tinynn.value_and_grad(distance))
    assert again is params  # there it stays


def test_gradients_may_be_given(backend: backends.Backend, float64: Any) -> None:
    start = {"x": backend.asarray([-1.2, 1.0], dtype=float64)}
    results = []
    for given in (False, True):
        vg, params, optimizer = tinynn.value_and_grad(rosenbrock), start, LBFGS()
        state = optimizer.init(params)
        for _ in range(5):
            value, gradients = vg(params) if given else (None, None)
            extras = {"value": value} if given else {}
            params, state = optimizer.update(gradients, state, params, value_and_grad=vg, **extras)
        results.append(params["x"])
    assert_close(results[1], backend.to_host(results[0]), backend, rtol=1e-12)


def test_others_parameters_are_noticed(backend: backends.Backend) -> None:
    """What is known from the step before is of the parameters of the step before."""
    vg, optimizer = tinynn.value_and_grad(rosenbrock), LBFGS()
    params = {"x": backend.asarray([0.0, 0.0])}
    params, state = optimizer.update(None, optimizer.init(params), params, value_and_grad=vg)
    moved = {"x": params["x"] + 1.0}
    _, after = optimizer.update(None, state, moved, value_and_grad=vg)
    assert float(after["value"]) < float(vg(moved)[0])
    assert int(after["evaluations"]) >= int(state["evaluations"]) + 2


@pytest.mark.only("numpy")
def test_needs_are_named(backend: backends.Backend) -> None:
    optimizer, params = LBFGS(), {"x": np.zeros(2)}
    assert optimizer.needs == {"value_and_grad"}
    with pytest.raises(TypeError, match="expected update to be given value_and_grad, got nothing"):
        optimizer.update(params, optimizer.init(params), params)
    vg = tinynn.value_and_grad(rosenbrock)

    def step(state: Any, params: Any) -> Any:
        return optimizer.update(None, state, params, value_and_grad=vg)

    with pytest.raises(RecordingError, match="the value is different in each call"):
        tinynn.compile(step)(optimizer.init(params), params)


@pytest.mark.only("numpy")
def test_an_average_beside_it(backend: backends.Backend) -> None:
    optimizer, params = Averaged(LBFGS(), decay=0.5), {"x": np.asarray([-1.2, 1.0])}
    vg, state = tinynn.value_and_grad(rosenbrock), None
    state = optimizer.init(params)
    new, state = optimizer.update(None, state, params, value_and_grad=vg)
    np.testing.assert_allclose(averaged_params(state)["x"], (params["x"] + new["x"]) / 2)


# The line search.

FUNCTIONS = {
    "quadratic": (lambda t: (t - 3.0) ** 2, lambda t: 2.0 * (t - 3.0)),
    "far": (lambda t: -t / (t * t + 2.0), lambda t: (t * t - 2.0) / (t * t + 2.0) ** 2),
    "quartic": (lambda t: (t + 0.004) ** 5 - 2 * (t + 0.004) ** 4,
                lambda t: 5 * (t + 0.004) ** 4 - 8 * (t + 0.004) ** 3),
    "wall": (lambda t: -math.log(1.0 - t) - 3.0 * t if t < 1 else math.inf,
             lambda t: 1.0 / (1.0 - t) - 3.0 if t < 1 else math.nan),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("first", [1e-3, 0.1, 1.0, 10.0])
def test_the_conditions_hold(name: str, first: float) -> None:
    f, slope = FUNCTIONS[name]
    search = StrongWolfe(curvature=0.1, width=1e-9)
    start = Point(0.0, f(0.0), slope(0.0))
    found = search(lambda t: Point(t, f(t), slope(t)), start, first)
    assert found.improved
    t = found.point.step
    assert f(t) <= f(0.0) + 1e-3 * t * slope(0.0)
    assert abs(slope(t)) <= 0.1 * abs(slope(0.0))
    assert found.evaluations <= 16


def test_a_search_in_vain() -> None:
    """A slope that is not the function's: nothing is better than the start."""
    found = StrongWolfe()(lambda t: Point(t, t, 1.0), Point(0.0, 0.0, -1.0), 1.0)
    assert not found.improved
    assert found.point.step == 0.0


def test_a_search_ends_where_the_value_is_rounding() -> None:
    """Its slope says that it falls, by less than what it is summed up of is rounded by."""
    rng, seen = np.random.default_rng(0), []

    def evaluate(t: float) -> Point:
        seen.append(t)
        far = max(0.0, t - 1e-6)  # beyond it the value rises
        return Point(t, 1.0 - 1e-4 * t + 1e4 * far**2 + abs(rng.normal()) * 1e-9, 2e4 * far - 1e-4)

    found = StrongWolfe(curvature=0.1)(evaluate, Point(0.0, 1.0, -1e-4), 1.0)
    assert not found.improved
    assert found.evaluations == len(seen) <= 3


def test_a_compiler_that_a_library_lacks_is_refused(backend: backends.Backend) -> None:
    x = backend.asarray(np.ones((4, 1)), dtype="float32")
    settings: dict[str, Any] = {
        "optimizer": LBFGS(), "engine": "jit", "progress": False, "loss": "mse",
    }  # fmt: skip
    if backend.repeat is not None:
        assert tinynn.fit(Linear(1), x, x, epochs=1, **settings).history["loss"]
        return
    with pytest.raises(ValueError, match=r"engine: expected .* got 'jit'"):
        tinynn.fit(Linear(1), x, x, epochs=1, **settings)
