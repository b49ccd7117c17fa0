"""Loss scaling: nothing but the range changes; steps that overflow are left out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import Backend
from tests.engines import compiled_by
from tinynn import tree
from tinynn.data import Samples
from tinynn.functional import tanh
from tinynn.layers import BatchNorm, Linear, Sequential
from tinynn.losses import SquaredError
from tinynn.optim import (
    LBFGS,
    SGD,
    Adam,
    Averaged,
    Chain,
    ClipByGlobalNorm,
    LossScaling,
    from_config,
    learning_rates,
    loss_scale,
    to_config,
)
from tinynn.training import fit
from tinynn.training.many import fit_many
from tinynn.training.step import TrainingStep

pytestmark = pytest.mark.reads_scalars

RNG = np.random.default_rng(2)
X = RNG.normal(size=(16, 4)).astype("float32")
Y = np.tanh(X @ RNG.normal(size=(4, 2))).astype("float32")
NET = Sequential(Linear(8), tanh, Linear(2))
SHARED: dict[str, Any] = {"batch_size": 8, "seed": 1, "progress": False, "loss": SquaredError()}


def trained(backend: Backend, optimizer: Any, engine: str = "eager", **options: Any) -> Any:
    settings = {**SHARED, "epochs": 3, **options}
    x, y = backend.asarray(X), backend.asarray(Y)
    return fit(NET, x, y, optimizer=optimizer, engine=engine, **settings)


def test_powers_of_two_change_no_bit(backend: Backend) -> None:
    eager = ["eager"] if backend.name in ("numpy", "torch") else []
    engines = [compiled_by(backend), *eager]
    for engine in engines:
        plain, scaled = (
            trained(backend, optimizer, engine, epochs=2)
            for optimizer in (Adam(0.01), LossScaling(Adam(0.01)))
        )
        for a, b in zip(tree.leaves(plain.params), tree.leaves(scaled.params), strict=True):
            a, b = backend.to_host(a), backend.to_host(b)
            # Another program, whose sums XLA may order otherwise, or one of other calls that round
            # a product and a sum once: PyTorch's addcmul, and add with alpha.
            if engine == "jit" or (backend.name == "torch" and engine == "calls"):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
            else:
                np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(plain.history["loss"], scaled.history["loss"], rtol=1e-6)


@pytest.mark.only("numpy", "torch", "jax", "cupy")
def test_small_gradients_are_not_lost_in_float16(backend: Backend) -> None:
    if "float16" not in backend.compute_dtypes():
        pytest.skip(f"{backend!r} does not compute in float16")

    def small(prediction: Any, target: Any) -> Any:
        return 1e-8 * SquaredError()(prediction, target)

    options = {"loss": small, "compute_dtype": "float16", "epochs": 4}
    wide = trained(backend, Adam(0.01, epsilon=0.0), loss=small, epochs=4)
    scaled = trained(backend, LossScaling(Adam(0.01, epsilon=0.0), start=2.0**26), **options)
    start = NET.init(1, backend.asarray(X))[0]
    for a, b, c in zip(*map(tree.leaves, (wide.params, scaled.params, start)), strict=True):
        a, b, c = (backend.to_host(each) for each in (a, b, c))
        assert abs(a - c).max() > 0.01
        assert abs(a - b).mean() < 0.15 * abs(a - c).mean()
    lost = trained(backend, SGD(1e6), **options)
    kept = trained(backend, LossScaling(SGD(1e6), start=2.0**26), **options)
    assert backend.to_host(lost.params["0"]["weight"]).tolist() != (
        backend.to_host(kept.params["0"]["weight"]).tolist()
    )


def test_steps_that_overflow_are_left_out(backend: Backend) -> None:
    params = {"w": backend.asarray([1.0, 2.0], dtype="float32")}
    optimizer = LossScaling(Adam(0.5), start=2.0, factor=2.0, interval=2)
    state = optimizer.init(params)
    seen = []
    for gradient in ([1.0, np.nan], [np.inf, 0.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]):
        given = {"w": backend.asarray(gradient, dtype="float32")}
        before, steps = params, int(state["optimizer"]["step"])
        params, state = optimizer.update(given, state, params, loss_scale=loss_scale(state))
        left_out = not np.isfinite(gradient).all()
        assert int(state["optimizer"]["step"]) == steps + (not left_out)
        same = backend.to_host(params["w"]) == backend.to_host(before["w"])
        assert same.all() == left_out
        seen.append(float(loss_scale(state)))
    assert seen == [1.0, 1.0, 1.0, 2.0, 2.0]


def test_a_scale_stays_finite(backend: Backend) -> None:
    params = {"w": backend.asarray([1.0], dtype="float32")}
    optimizer = LossScaling(SGD(0.5), start=2.0**125, interval=1)
    state, seen = optimizer.init(params), []
    for _ in range(4):
        given = {"w": backend.asarray([0.0], dtype="float32")}
        params, state = optimizer.update(given, state, params, loss_scale=loss_scale(state))
        seen.append(float(loss_scale(state)))
    assert seen == [2.0**126, 2.0**127, 2.0**127, 2.0**127]


@pytest.mark.only("numpy")
@pytest.mark.filterwarnings("error")
def test_where_many_networks_start(backend: Backend) -> None:
    options: dict[str, Any] = {"epochs": 2, "engine": "calls", "loss": SquaredError()}
    optimizer = LossScaling(Adam(0.1), start=[2.0, 4.0])
    stack = fit_many(NET, X, Y, optimizer=optimizer, **options)
    plain = fit_many(NET, X, Y, optimizer=Adam(0.1), networks=1, **options)
    for k in range(2):
        np.testing.assert_allclose(stack[k].history["loss"], plain[0].history["loss"], rtol=1e-5)


@pytest.mark.filterwarnings("ignore:(overflow|invalid)")  # array-api-strict tells of both
def test_a_scale_that_is_too_large_comes_down(backend: Backend) -> None:
    for engine in (compiled_by(backend), *(["eager"] if backend.name == "numpy" else [])):
        run: dict[str, Any] = {}

        def keep(state: Any, run: dict[str, Any] = run) -> None:
            run["scale"] = float(loss_scale(state.state.carry.optimizer_state))

        def large(prediction: Any, target: Any) -> Any:
            return 1e6 * SquaredError()(prediction, target)

        optimizer = LossScaling(SGD(1e-7), start=2.0**126, factor=2.0**30)
        model = trained(backend, optimizer, engine, loss=large, epochs=4, callbacks=[keep])
        assert run["scale"] == 2.0**96
        assert model.history["loss"][-1] < model.history["loss"][0]
        assert np.isfinite(model.history["loss"]).all()


@pytest.mark.only("numpy")
def test_within_others_and_resumed(backend: Backend, tmp_path: Path) -> None:
    optimizer = Averaged(Chain(ClipByGlobalNorm(1.0), LossScaling(Adam(0.01), interval=3)))
    assert from_config(to_config(optimizer)) == optimizer
    whole = trained(backend, optimizer, "calls", epochs=4)
    options = {"checkpoint": tmp_path / "run"}
    trained(backend, optimizer, "calls", epochs=2, **options)
    rest = trained(backend, optimizer, "calls", epochs=4, resume=True, **options)
    for a, b in zip(tree.leaves(rest.params), tree.leaves(whole.params), strict=True):
        np.testing.assert_array_equal(a, b)
    state = optimizer.init(whole.params)
    assert float(loss_scale(state)) == 2.0**15
    assert list(learning_rates(optimizer, state).values()) == [0.01]


@pytest.mark.only("numpy")
def test_errors(backend: Backend) -> None:
    params = [np.ones(2)]
    with pytest.raises(TypeError, match=r"LossScaling: expected an optimizer, such as Adam"):
        LossScaling(ClipByGlobalNorm(1.0))
    with pytest.raises(TypeError, match="evaluates the loss itself"):
        LossScaling(LBFGS())
    for wrong in ({"start": 0.5}, {"factor": 1.0}, {"interval": 0}):
        with pytest.raises(ValueError, match=f"LossScaling: expected {next(iter(wrong))}"):
            LossScaling(SGD(), **wrong)
    with pytest.raises(ValueError, match=r"loss_scale: expected .* LossScaling in it"):
        loss_scale(Adam().init(params))
    chained = Chain(ClipByGlobalNorm(1.0), LossScaling(SGD(0.1)))
    state = chained.init(params)
    with pytest.raises(TypeError, match=r"given loss_scale"):
        chained.update(params, state, params)


def test_a_step_left_out_leaves_the_state_of_the_network(backend: Backend) -> None:
    """Statistics of a batch that overflowed would be infinite, or of a step that was none."""
    net = Sequential(BatchNorm(), Linear(2))
    step = TrainingStep(net, SquaredError(), LossScaling(SGD(0.1), start=4.0))
    x, y = (backend.asarray(a[:4]) for a in (X, Y))
    carry = step.init(0, Samples(x, y))
    for factor, moves in ((3e38, False), (1.0, True)):
        with np.errstate(all="ignore"):
            new, _ = step(carry, Samples(x * factor, y), None)
        pairs = [
            (backend.to_host(a), backend.to_host(b))
            for part in ("params", "state")
            for a, b in zip(
                tree.leaves(getattr(new, part)), tree.leaves(getattr(carry, part)), strict=True
            )
        ]
        assert all(np.isfinite(a).all() for a, _ in pairs)
        assert any(not np.array_equal(a, b) for a, b in pairs) is moves
