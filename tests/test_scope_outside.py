"""Random numbers, losses, taps and transformations of layers, from outside; on every backend."""

from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from backends import random
from tests.checks import assert_array, assert_close, assert_equal
from tests.gradients import assert_matches_differences
from tests.scope_layers import Of, Residual, X, given, hosts, squares
from tinynn import functional, tree
from tinynn.functional.errors import InputError
from tinynn.initializers import Constant, glorot_uniform, ones
from tinynn.layers import (
    BatchNorm,
    Dropout,
    Linear,
    Scope,
    Sequential,
    ShapeError,
    run,
)
from tinynn.optim import SGD
from tinynn.trace import namespace
from tinynn.trace.scopes import scopes


@pytest.fixture(autouse=True)
def nothing_is_left_at_work() -> Any:
    assert scopes.frames == ()
    yield
    assert scopes.frames == ()


# Random numbers.


@pytest.mark.parametrize(
    "draw",
    [
        lambda scope, x: scope.random.uniform(tuple(x.shape), x.dtype, -2.0, 3.0),
        lambda scope, x: scope.random.normal(tuple(x.shape), x.dtype),
        lambda scope, x: namespace(x).astype(scope.random.bernoulli(0.3, tuple(x.shape)), x.dtype),
        lambda scope, x: scope("drop", Dropout(0.4), x),
        lambda scope, x: x * scope.random.uniform((x.shape[0], 1), x.dtype),
    ],
    ids=["uniform", "normal", "bernoulli", "dropout", "a number a row"],
)
def test_draws_are_counted_by_row(draw: Any, backend: backends.Backend, float_dtype: Any) -> None:
    net, x = Residual(Of(draw)), given(backend, dtype=float_dtype)
    key = random.key(8, backend)

    def passed(x: Any, first_row: int = 0) -> np.ndarray:
        y, _ = net.apply({}, {}, x, key=key, training=True, first_row=first_row)
        assert_array(y, backend, dtype=float_dtype, shape=tuple(x.shape))
        return backend.to_host(y)

    whole = passed(x)
    parts = [passed(x[:3, :]), passed(x[3:6, :], 3), passed(x[6:, :], 6)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert len(np.unique(whole - backend.to_host(x), axis=0)) > 1


def test_draws_differ_by_place_call_and_key_and_not_by_library(backend: backends.Backend) -> None:
    def noise(scope: Scope, x: Any) -> Any:
        shape = tuple(x.shape)
        return scope.random.uniform(shape, x.dtype), scope.random.uniform(shape, x.dtype)

    net = Of(lambda scope, x: (scope("a", Of(noise), x), scope("b", Of(noise), x)))
    found = tree.leaves(hosts(backend, net.apply({}, {}, given(backend), key=7)[0]))
    found += tree.leaves(hosts(backend, net.apply({}, {}, given(backend), key=8)[0]))
    assert len(np.unique(np.stack(found))) == 8 * X.size
    for ours, host in zip(found, tree.leaves(net.apply({}, {}, X, key=7)[0]), strict=False):
        np.testing.assert_array_equal(ours, host)


def test_drawing_without_a_key(backend: backends.Backend) -> None:
    with pytest.raises(InputError, match=r"^layer 0\.inner, Dropout\(\): expected a key .*none"):
        Sequential(Residual(Dropout())).apply({}, {}, given(backend), training=True)


def test_key_of_a_layers_own(backend: backends.Backend) -> None:
    net = Of(lambda scope, x: (scope.random.key(), scope.random.key()))
    a, b = net.apply({}, {}, given(backend), key=1)[0]
    assert_array(a, backend, dtype="int32", shape=(2,))
    assert (backend.to_host(a) != backend.to_host(b)).any()


# Losses.


def penalty(scope: Scope, x: Any) -> Any:
    w = scope.param("w", glorot_uniform, (3, 1))
    scope.add_loss("size", 0.3 * namespace(w).sum(w * w))
    return x @ w


def test_added_losses_have_paths_and_add_up(backend: backends.Backend) -> None:
    same = Of(penalty)
    net = Of(lambda scope, x: scope("a", same, x) + scope("a", same, x) + scope("b", same, x))
    params, state = net.init(0, given(backend))
    out = run(net, params, state, given(backend))
    size = {name: 0.3 * (backend.to_host(params[name]["w"]) ** 2).sum() for name in "ab"}
    assert list(out.losses) == ["a.size", "b.size"]
    assert_close(out.losses["a.size"], 2 * size["a"], backend, dtype="float32", shape=())
    assert_close(out.losses["b.size"], size["b"], backend, dtype="float32", shape=())


def test_an_added_loss_is_a_number(backend: backends.Backend) -> None:
    net = Sequential(Of(lambda scope, x: scope.add_loss("size", x)))
    with pytest.raises(ShapeError, match=r"^layer 0, Of.*0-d array as the loss 'size', got .*\(7"):
        net.init(0, given(backend))


LOOPS = ["eager", "calls", "loops"]
ENGINES = {"numpy": LOOPS, "cupy": LOOPS, "jax": ["eager", "jit"]}


@pytest.mark.reads_scalars
def test_an_added_loss_is_minimised_by_every_engine(backend: backends.Backend) -> None:
    net, y = Residual(Of(penalty)), X[:, :1] ** 2

    def objective(w: np.ndarray, rate: float = 0.1) -> np.ndarray:
        error = X + X @ w - y  # (7, 3): the residual is spread over three columns
        slope = X.T @ error.sum(axis=1, keepdims=True) * (2 / error.size)
        return np.asarray(w - rate * (slope + 0.6 * w))

    def spread(prediction: Any, target: Any) -> Any:
        return squares(prediction - target)

    x, target = given(backend), given(backend, y)
    for engine in ENGINES.get(backend.name, ["eager", "calls"]):
        w = backend.to_host(net.init(0, x)[0]["inner"]["w"])
        model = tinynn.fit(
            net, x, target, loss=spread, optimizer=SGD(0.1), batch_size=None, epochs=3,
            params={"inner": {"w": backend.asarray(w)}}, engine=engine,
        )  # fmt: skip
        for _ in range(3):
            w = objective(w)
        assert_close(model.params["inner"]["w"], w, backend, dtype="float32", rtol=2e-5)


# Taps.


def tapped(scope: Scope, x: Any) -> Any:
    hidden = scope.tap("hidden", functional.tanh(scope("first", Linear(4), x)))
    return scope("second", Linear(2), hidden)


def test_a_tap_shows_what_it_is_given(backend: backends.Backend) -> None:
    net, x = Sequential(Of(tapped)), given(backend)
    params, state = net.init(0, x)
    out = run(net, params, state, x)
    hidden = functional.tanh(Linear(4)(params["0"]["first"], x))
    assert list(out.taps) == ["0.hidden"]
    assert_equal(out.taps["0.hidden"], backend.to_host(hidden), backend)
    one = backend.xp.ones_like(hidden)
    moved = run(net, params, state, x, perturbations={"0.hidden": one})
    assert_equal(moved.taps["0.hidden"], backend.to_host(hidden + one), backend)


def test_the_gradient_by_a_perturbation_is_that_by_the_activation(
    backend: backends.Backend, float64: Any
) -> None:
    net, x = Of(tapped), given(backend, dtype=float64)
    params, state = net.init(0, x)
    hidden = run(net, params, state, x).taps["hidden"]
    nothing = backend.xp.zeros_like(hidden)

    def by_perturbation(change: Any) -> Any:
        return squares(run(net, params, state, x, perturbations={"hidden": change}).output)

    def by_activation(hidden: Any) -> Any:
        return squares(Linear(2)(params["second"], hidden))

    ours, expected = tinynn.grad(by_perturbation)(nothing), tinynn.grad(by_activation)(hidden)
    assert_close(ours, backend.to_host(expected), backend, dtype=float64)
    assert_matches_differences(by_perturbation, (nothing,), backend)


def test_a_tap_of_a_tied_layer(backend: backends.Backend) -> None:
    same = Of(lambda scope, x: scope.tap("seen", x * 2.0))
    net, x = Of(lambda scope, x: scope("a", same, scope("a", same, x))), given(backend)
    out = run(net, {}, {}, x)
    assert list(out.taps) == ["a.seen", "a.seen[1]"]
    assert_equal(out.taps["a.seen"], 2 * X, backend)
    change = {"a.seen[1]": backend.xp.ones_like(x)}
    assert_equal(run(net, {}, {}, x, perturbations=change).output, 4 * X + 1, backend)


def test_perturbations_that_fit_nothing(backend: backends.Backend) -> None:
    net, x = Of(tapped), given(backend)
    params, state = net.init(0, x)
    with pytest.raises(ValueError, match=r"expected perturbations of .*, hidden, got hiden"):
        run(net, params, state, x, perturbations={"hiden": x})
    with pytest.raises(ShapeError, match=r"perturbation of shape \(7, 4\) for .*\(7, 3"):
        run(net, params, state, x, perturbations={"hidden": x})


# Several inputs.


def test_several_inputs_and_dicts(backend: backends.Backend) -> None:
    def forward(scope: Scope, pair: Any, third: Any) -> Any:
        left, right = scope("left", Linear(2), pair["left"]), scope("right", Linear(2), third)
        return {"sum": left + right, "both": (left, right)}

    net, x = Of(forward), given(backend)
    inputs = ({"left": x}, x[:, :2])
    params, state = net.init(0, *inputs)
    assert {name: tuple(a.shape) for name, a in tree.paths(params)} == {
        "left.weight": (3, 2), "left.bias": (2,), "right.weight": (2, 2), "right.bias": (2,)
    }  # fmt: skip
    out, _ = net.apply(params, state, *inputs)
    left, right = (backend.to_host(a) for a in out["both"])
    assert_equal(out["sum"], left + right, backend)
    y = Sequential(net, lambda out: out["sum"])(Sequential(net).init(0, *inputs)[0], *inputs)
    assert_array(y, backend, shape=(7, 2))


# Operators, whichever of the two arrays is plain.

OPERATORS: dict[str, Any] = {
    "x @ w": lambda x, w: x @ w,
    "w @ x": lambda x, w: w @ x,
    "x * w": lambda x, w: x * w,
    "w * x": lambda x, w: w * x,
    "x + w": lambda x, w: x + w,
    "x - w": lambda x, w: x - w,
    "w - x": lambda x, w: w - x,
    "x / w": lambda x, w: x / w,
    "x ** w": lambda x, w: x**w,
    "x < w": lambda x, w: namespace(x, w).where(x < w, x, w * w),
    "x == w": lambda x, w: namespace(x, w).where(x == w, x, w * w),
    "2 * x": lambda x, w: 2.0 * x + w,
    "x[...]": lambda x, w: x[:, :1] + w,
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_take_plain_arrays_and_parameters(name: str, backend: backends.Backend) -> None:
    def forward(scope: Scope, x: Any) -> Any:
        w = scope.param("w", Constant(1.5), (3, 3))
        offset = scope.state("offset", ones, (3, 3)).value
        noise = scope.random.uniform((3, 3), x.dtype)
        return OPERATORS[name](offset * x, w) + OPERATORS[name](noise, w) + noise * x

    net, x, key = Of(forward), given(backend, np.abs(X[:3])), random.key(0, backend)
    params, state = net.init(0, x)

    def f(*args: Any) -> Any:
        y, after = net.apply(*args, key=key)
        return squares(y), after

    plain = backend.to_host(f(params, state, x)[0])
    for argument in range(3):
        (value, after), _ = tinynn.value_and_grad(f, argnums=argument, has_aux=True)(
            params, state, x
        )
        assert_close(value, plain, backend, rtol=1e-5)
        assert_array(after["offset"], backend)


# Transformations.


NETWORK = Sequential(
    Linear(4),
    functional.tanh,
    Residual(Linear(4)),
    Sequential(BatchNorm(), Linear(2), Dropout(0.3)),
)


def test_gradient_of_a_whole_network(backend: backends.Backend, float64: Any) -> None:
    net, x = NETWORK, given(backend, dtype=float64)
    params, state = net.init(0, x)
    key = random.key(2, backend)

    def f(params: Any, x: Any) -> Any:
        return squares(net.apply(params, state, x, key=key, training=True)[0])

    assert_matches_differences(f, (params, x), backend)


def test_derivative_of_apply_forward(backend: backends.Backend, float64: Any) -> None:
    net, x = NETWORK, given(backend, dtype=float64)
    params, state = net.init(0, x)

    def f(params: Any) -> Any:
        return squares(net.apply(params, state, x, key=1, training=True)[0])

    tangent = tree.map(backend.xp.ones_like, params)
    _, along = tinynn.jvp(f, (params,), (tangent,))
    gradient = tinynn.grad(f)(params)
    expected = sum(float(backend.to_host(g).sum()) for g in tree.leaves(gradient))
    assert_close(along, expected, backend, dtype=float64, rtol=1e-9)


def test_many_networks_at_once(backend: backends.Backend) -> None:
    net, x = NETWORK, given(backend)
    keys = backend.xp.stack(random.split(random.key(4, backend), 3))
    params, state = tinynn.vmap(lambda key: net.init(key, x))(keys)
    y, after = tinynn.vmap(
        lambda p, s, key: net.apply(p, s, x, key=key, training=True)
    )(params, state, keys)  # fmt: skip
    assert_array(y, backend, dtype="float32", shape=(3, 7, 2))
    for i in range(3):
        alone = net.init(keys[i, :], x)
        for many, one in zip(tree.leaves(params), tree.leaves(alone[0]), strict=True):
            assert_equal(many[i, ...], backend.to_host(one), backend)
        expected, kept = net.apply(*alone, x, key=keys[i, :], training=True)
        assert_close(y[i, ...], backend.to_host(expected), backend, rtol=1e-5)
        assert_close(after["3"]["0"]["mean"][i, ...], backend.to_host(kept["3"]["0"]["mean"]),
                     backend, rtol=1e-5)  # fmt: skip


def test_gradients_sample_by_sample(backend: backends.Backend) -> None:
    net, x = Sequential(Linear(4), functional.tanh, Residual(Linear(4))), given(backend)
    params, _ = net.init(0, x)
    one = tinynn.grad(lambda p, row: squares(net(p, namespace(row).expand_dims(row, axis=0))))
    each = tinynn.vmap(one, in_axes=(None, 0))(params, x)
    for i in (0, 6):
        alone = tree.leaves(one(params, x[i, :]))
        for many, single in zip(tree.leaves(each), alone, strict=True):
            assert_close(many[i, ...], backend.to_host(single), backend, rtol=1e-5)


def test_apply_compiled(backend: backends.Backend) -> None:
    net, x = NETWORK, given(backend)
    params, state = net.init(0, x)
    key = random.key(2, backend)

    @tinynn.compile
    def apply(params: Any, state: Any, x: Any, key: Any) -> Any:
        return net.apply(params, state, x, key=key, training=True)

    y, after = apply(params, state, x, key)
    expected, kept = net.apply(params, state, x, key=key, training=True)
    assert_close(y, backend.to_host(expected), backend, rtol=1e-5)
    assert_close(after["3"]["0"]["var"], backend.to_host(kept["3"]["0"]["var"]), backend, rtol=1e-5)


@pytest.mark.only("jax")
def test_apply_under_the_transformations_of_jax(backend: backends.Backend) -> None:
    import jax

    net, x = NETWORK, given(backend)
    params, state = net.init(0, x)
    key = random.key(2, backend)

    def f(params: Any, state: Any, x: Any) -> Any:
        return net.apply(params, state, x, key=key, training=True)

    y, after = jax.jit(f)(params, state, x)
    expected, kept = f(params, state, x)
    assert_close(y, backend.to_host(expected), backend, rtol=1e-5)
    assert_close(after["3"]["0"]["var"], backend.to_host(kept["3"]["0"]["var"]), backend, rtol=1e-5)
    theirs = jax.grad(lambda p: squares(f(p, state, x)[0]))(params)
    ours = dict(tree.paths(tinynn.grad(lambda p: squares(f(p, state, x)[0]))(params)))
    for name, leaf in tree.paths(theirs):
        assert_close(leaf, backend.to_host(ours[name]), backend, rtol=1e-4, atol=1e-6)


@pytest.mark.only("torch")
def test_apply_under_the_transformations_of_torch(backend: backends.Backend) -> None:
    import torch

    net, x = Sequential(Linear(4), functional.tanh, Residual(Linear(4))), given(backend)
    params, _ = net.init(0, x)
    theirs = torch.func.grad(lambda p: squares(net(p, x)))(params)
    ours = tinynn.grad(lambda p: squares(net(p, x)))(params)
    for leaf, mine in zip(tree.leaves(theirs), tree.leaves(ours), strict=True):
        assert_close(leaf, backend.to_host(mine), backend, rtol=1e-5)
    each = torch.func.vmap(lambda row: net(params, row[None, :])[0])(x)
    assert_close(each, backend.to_host(net(params, x)), backend, rtol=1e-5)
