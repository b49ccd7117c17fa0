"""What a layer may ask of its scope, and what stays pure outside; on every backend."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from backends import random
from tests.checks import assert_array, assert_close, assert_equal
from tests.gradients import assert_matches_differences
from tinynn import functional, tree
from tinynn.functional import InputError
from tinynn.initializers import Constant, glorot_uniform, ones, zeros
from tinynn.layers import (
    BatchNorm,
    Dropout,
    DtypeError,
    Layer,
    Linear,
    Scope,
    Sequential,
    ShapeError,
    run,
)
from tinynn.optim import SGD, AdamW
from tinynn.trace import namespace
from tinynn.trace.scopes import scopes

DRAW = np.random.default_rng(5)
X = DRAW.normal(size=(7, 3)).astype("float32")


@dataclass(frozen=True)
class Of(Layer):
    """A layer of one function of (scope, *inputs), for tests."""

    function: Callable[..., Any]

    def forward(self, scope: Scope, *inputs: Any) -> Any:
        return self.function(scope, *inputs)


@dataclass(frozen=True)
class Residual(Layer):
    """What a layer makes of its input, added to it."""

    inner: Layer

    def forward(self, scope: Scope, x: Any) -> Any:
        return x + scope("inner", self.inner, x)


@dataclass(frozen=True)
class Counter(Layer):
    """Counts its passes of training, in whole numbers."""

    def forward(self, scope: Scope, x: Any) -> Any:
        count = scope.state("count", zeros, (), "int32")
        if scope.training:
            count.value = count.value + 1
        return x


def given(backend: backends.Backend, host: Any = X, dtype: Any = "float32") -> Any:
    return backend.asarray(host, dtype=dtype)


def hosts(backend: backends.Backend, value: Any) -> Any:
    return tree.map(backend.to_host, value)


def assert_same(actual: Any, expected: Any) -> None:
    """Two trees of host arrays, bit for bit."""
    assert tree.flatten(actual)[1] == tree.flatten(expected)[1]
    tree.map(np.testing.assert_array_equal, actual, expected)


def squares(y: Any) -> Any:
    return namespace(y).mean(y * y)


def total(y: Any) -> Any:
    return namespace(y).sum(y)


@pytest.fixture(autouse=True)
def nothing_is_left_at_work() -> Any:
    assert scopes.stack == []
    yield
    assert scopes.stack == []


# Outside, all is pure.

BLOCK = Sequential(
    Linear(4), Residual(Sequential(BatchNorm(), Counter(), functional.silu, Dropout(0.4)))
)


def test_init_and_apply_are_pure(backend: backends.Backend) -> None:
    x, key = given(backend), random.key(3, backend)
    first, again = (hosts(backend, BLOCK.init(key, x)) for _ in range(2))
    assert_same(first, again)
    assert_same(hosts(backend, BLOCK.init(np.int64(3), x)), first)  # a seed, of whatever type
    params, state = BLOCK.init(key, x)
    results = [
        hosts(backend, BLOCK.apply(params, state, x, key=key, training=True)) for _ in range(2)
    ]
    assert_same(*results)
    assert_same(hosts(backend, (params, state)), first)
    assert_same(hosts(backend, BLOCK.apply(params, state, x)[1]), first[1])


def test_init_runs_the_layer_once_in_inference_and_keeps_the_first_state(
    backend: backends.Backend,
) -> None:
    modes = []

    def forward(scope: Scope, x: Any) -> Any:
        modes.append(scope.training)
        count = scope.state("count", zeros, (), "int32")
        count.value = count.value + 1
        return x

    _, state = Of(forward).init(0, given(backend))
    assert modes == [False]
    assert_equal(state["count"], 0, backend, dtype="int32")


def test_a_layer_without_anything_to_keep_has_no_entry(backend: backends.Backend) -> None:
    assert Sequential(functional.relu, Dropout(0.5), Residual(Dropout(0.1))).init(
        0, given(backend)
    ) == ({}, {})


@pytest.mark.parametrize("training", [False, True])
def test_params_and_state_must_be_dicts(training: bool, backend: backends.Backend) -> None:
    x = given(backend)
    net = Sequential(Linear(2))
    with pytest.raises(TypeError, match=r"^Linear\(2\): expected params as net.init .* scope\(nam"):
        Of(lambda scope, x: Linear(2)(x, x)).init(0, x)
    with pytest.raises(TypeError, match=r"^Sequential\(Linear\(2\)\): expected state .*, a dict"):
        net.apply(net.init(0, x)[0], x, training=training)  # type: ignore[arg-type]


# Parameters.


def test_param_is_made_by_its_initializer_and_kept(backend: backends.Backend) -> None:
    net = Of(lambda scope, x: x * scope.param("scale", Constant(2.5), (3,)))
    params, state = net.init(0, given(backend))
    assert state == {}
    assert_equal(params["scale"], [2.5] * 3, backend, dtype="float32")
    assert_close(net(params, given(backend)), X * np.float32(2.5), backend, dtype="float32")
    assert_close(net({"scale": params["scale"] * 2}, given(backend)), X * np.float32(5), backend)


def test_one_param_twice_is_one_param(backend: backends.Backend) -> None:
    def forward(scope: Scope, x: Any) -> Any:
        return x @ scope.param("w", glorot_uniform, (3, 3)) @ scope.param("w", ones, (3, 3))

    params, _ = Of(forward).init(0, given(backend))
    w = backend.to_host(params["w"])
    assert list(params) == ["w"]
    assert len(np.unique(w)) == 9
    assert_close(Of(forward)(params, given(backend)), X @ w @ w, backend, rtol=1e-5)


def test_each_param_of_each_path_has_a_start_of_its_own(backend: backends.Backend) -> None:
    def forward(scope: Scope, x: Any) -> Any:
        y = x @ scope.param("a", glorot_uniform, (3, 3)) @ scope.param("b", glorot_uniform, (3, 3))
        return scope("d", same, scope("c", same, y))

    same = Linear(3)  # one object in two places
    params, _ = Of(forward).init(0, given(backend))
    starts = [backend.to_host(a) for name, a in tree.paths(params) if not name.endswith("bias")]
    assert [name for name, _ in tree.paths(params)] == [
        "a", "b", "c.weight", "c.bias", "d.weight", "d.bias"
    ]  # fmt: skip
    assert len(np.unique(np.concatenate([a.ravel() for a in starts]))) == 4 * 9


def test_the_start_does_not_depend_on_what_else_there_is(backend: backends.Backend) -> None:
    x = given(backend)
    alone = Of(lambda scope, x: scope("head", Linear(2), x)).init(1, x)[0]
    behind = Of(lambda scope, x: scope("head", Linear(2), scope("body", Linear(3), x)))
    both = behind.init(1, x)[0]
    assert_same(hosts(backend, alone["head"]), hosts(backend, both["head"]))


def test_dtypes_of_params(backend: backends.Backend, float64: Any) -> None:
    def forward(scope: Scope, x: Any) -> Any:
        scope.param("table", zeros, (2,), "int32")
        scope.state("kept", zeros, (2,))
        return scope.as_float(x) * scope.param("scale", ones, (3,))

    net = Of(forward)
    for x, dtype, expected in (
        (given(backend), None, "float32"),
        (given(backend), "float64", "float64"),
        (given(backend, dtype=float64), None, "float64"),
        (given(backend, dtype=float64), "float32", "float32"),
        (given(backend, [[1, 2, 3]], "int32"), None, backend.default_float),
        (given(backend, [[1, 2, 3]], "int32"), "float32", "float32"),
    ):
        params, state = net.init(0, x, dtype=dtype)
        assert_array(params["scale"], backend, dtype=expected)
        assert_array(state["kept"], backend, dtype=expected)
        assert_array(params["table"], backend, dtype="int32")
    params, state = net.init(0, given(backend))
    with pytest.raises(DtypeError, match=r"expected input of dtype .*32, as its .* got .*64"):
        net.apply(params, state, given(backend, dtype=float64))


def test_state_of_another_dtype_is_seen(backend: backends.Backend, float64: Any) -> None:
    x = given(backend)
    params, state = BatchNorm().init(0, x)
    wide = tree.map(lambda a: backend.xp.astype(a, float64), state)
    with pytest.raises(DtypeError, match=r"float64, as its state is, got .*float32"):
        BatchNorm().apply(params, wide, x)


def test_integers_are_floats_of_the_params_dtype(backend: backends.Backend) -> None:
    x = given(backend, [[1, 2, 3], [4, 5, 6]], "int32")
    as_float = Of(lambda scope, x: scope.as_float(x))
    assert_array(as_float({}, x), backend, dtype=backend.default_float)
    params, _ = Linear(2).init(0, x, dtype="float32")
    assert_array(Linear(2)(params, x), backend, dtype="float32")
    with_ids = Of(lambda scope, ids, x: scope("body", Linear(2), x) + scope.as_float(ids))
    params, _ = with_ids.init(0, x[:, :1], given(backend, np.ones((2, 3))))
    assert_array(with_ids(params, x[:, :1], given(backend, np.ones((2, 3)))), backend,
                 dtype="float32", shape=(2, 2))  # fmt: skip


def test_what_does_not_fit_names_the_path(backend: backends.Backend) -> None:
    inner = Of(lambda scope, x: x * scope.param("scale", ones, (x.shape[-1],)))
    net = Sequential(functional.relu, Residual(inner))
    params, _ = net.init(0, given(backend))
    with pytest.raises(ShapeError, match=r"^layer 1\.inner, Of\(.*'scale' of shape \(3,\), got"):
        net(params, given(backend)[:, :2])
    with pytest.raises(InputError, match=r"^layer 1\.inner, Of\(.*a parameter 'scale', got other"):
        net({"1": {"inner": {"other": params["1"]["inner"]["scale"]}}}, given(backend))
    with pytest.raises(InputError, match=r"^layer 1\.inner, .* 'scale', got none; give the par"):
        net({}, given(backend))
    wrong = Of(lambda scope, x: scope.param("w", lambda key, shape, dtype: x, (2,)))
    with pytest.raises(ShapeError, match=r"<lambda> to make parameter 'w' of shape \(2,\), got"):
        wrong.init(0, given(backend))


# Names.


@pytest.mark.parametrize("name", ["", "a.b", ".", 3, None])
@pytest.mark.parametrize(
    "use",
    [
        lambda scope, name, x: scope.param(name, ones, (3,)),
        lambda scope, name, x: scope.state(name, ones, (3,)),
        lambda scope, name, x: scope(name, Linear(2), x),
        lambda scope, name, x: scope.add_loss(name, namespace(x).sum(x)),
        lambda scope, name, x: scope.tap(name, x),
    ],
    ids=["param", "state", "child", "loss", "tap"],
)
def test_names_are_strings_without_dots(use: Any, name: Any, backend: backends.Backend) -> None:
    net = Of(lambda scope, x: scope("outer", Of(lambda scope, x: use(scope, name, x)), x))
    with pytest.raises(InputError, match=r"^layer outer, Of.*expected a name, a string without d"):
        net.init(0, given(backend))


USES: dict[str, Any] = {
    "param": lambda scope, x: scope.param("a", ones, (3,)),
    "state": lambda scope, x: scope.state("a", ones, (3,)),
    "child": lambda scope, x: scope("a", Linear(2), x),
    "empty child": lambda scope, x: scope("a", Dropout(0.5), x),
}


@pytest.mark.parametrize("first", USES)
@pytest.mark.parametrize("second", USES)
def test_one_name_is_one_thing(first: str, second: str, backend: backends.Backend) -> None:
    if {first, second} <= {"child", "empty child"} or first == second:
        return  # two layers of one name have a test of their own

    def forward(scope: Scope, x: Any) -> Any:
        USES[first](scope, x)
        return USES[second](scope, x)

    with pytest.raises(InputError, match=r"^layer 0, Of.*expected different names for.*'a'"):
        Sequential(Of(forward)).init(0, given(backend))


def test_two_layers_of_one_name(backend: backends.Backend) -> None:
    def forward(scope: Scope, x: Any) -> Any:
        return scope("a", Linear(3), scope("a", Linear(3, bias=bias.pop()), x))

    bias = [False]
    with pytest.raises(InputError, match=r"^layer 0, Of.*'a', got Linear\(3\) after Linear\(3, b"):
        Sequential(Of(forward)).init(0, given(backend))
    bias = [True, True]
    net = Sequential(Of(forward))  # equal, so they are one layer called twice
    params, _ = net.init(0, given(backend))
    weight, y = backend.to_host(params["0"]["a"]["weight"]), net(params, given(backend))
    assert_close(y, X @ weight @ weight, backend, rtol=1e-5)


def test_what_is_no_layer_as_a_child(backend: backends.Backend) -> None:
    with pytest.raises(TypeError, match=r"child 'a' to be a layer, got the class Linear; write L"):
        Of(lambda scope, x: scope("a", Linear, x)).init(0, given(backend))
    with pytest.raises(TypeError, match="not callable") as caught:
        Of(lambda scope, x: scope("a", 3, x)).init(0, given(backend))
    assert caught.value.__notes__ == ["in layer a, 3"]


def test_functions_are_children_and_errors_in_them_say_where(backend: backends.Backend) -> None:
    def broken(x: Any) -> Any:
        raise KeyError("lost")

    net = Residual(Residual(Of(lambda scope, x: scope("f", broken, x))))
    with pytest.raises(KeyError, match="lost") as caught:
        net.init(0, given(backend))
    assert caught.value.__notes__[0] == "in layer inner.inner.f, broken"
    assert scopes.stack == []


def test_two_hundred_layers_deep(backend: backends.Backend) -> None:
    net: Layer = Of(lambda scope, x: x * scope.param("scale", Constant(3.0), (x.shape[-1],)))
    for _ in range(200):
        net = Of(lambda scope, x, inner=net: scope("i", inner, x))
    params, state = net.init(0, given(backend))
    ((name, _),) = tree.paths(params)
    assert name == "i." * 200 + "scale"
    y, _ = net.apply(params, state, given(backend), training=True)
    assert_close(y, 3 * X, backend)
    gradient = tinynn.grad(lambda p: total(net(p, given(backend))))
    with pytest.raises(ShapeError, match=r"^layer (i\.){199}i, Of"):
        net(params, given(backend)[:, :2])
    if backend.name == "numpy":  # the same everywhere, and slow where each call is
        assert_close(tree.leaves(gradient(params))[0], X.sum(axis=0), backend, rtol=1e-5)


# State.


def test_a_counter_counts(backend: backends.Backend) -> None:
    net, x = Residual(Residual(Counter())), given(backend)
    params, state = net.init(0, x)
    for _ in range(3):
        _, state = net.apply(params, state, x, training=True)
    _, state = net.apply(params, state, x)
    assert_equal(state["inner"]["inner"]["count"], 3, backend, dtype="int32")


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (lambda xp, old: xp.zeros((2,), dtype=old.dtype), r"one of shape \(2,\)"),
        (lambda xp, old: xp.astype(old, xp.int32), r"one of shape \(3,\) and .*int32"),
        (lambda xp, old: 3.0, r"3\.0 \(float\)"),
        (lambda xp, old: None, r"None \(NoneType\)"),
    ],
    ids=["shape", "dtype", "number", "nothing"],
)
def test_state_keeps_shape_and_dtype(value: Any, got: str, backend: backends.Backend) -> None:
    def forward(scope: Scope, x: Any) -> Any:
        kept = scope.state("kept", zeros, (3,))
        kept.value = value(namespace(x), kept.value)
        return x

    with pytest.raises(InputError, match=rf"^layer 0, Of.*state 'kept', as before, got {got}"):
        Sequential(Of(forward)).init(0, given(backend))


def test_state_in_the_order_of_the_calls(backend: backends.Backend) -> None:
    def visit(scope: Scope, x: Any) -> Any:
        last = scope.state("last", zeros, (3,))
        before, last.value = last.value, x[0, :]
        return x + before

    same, x = Of(visit), given(backend)
    net = Of(lambda scope, x: scope("a", same, scope("a", same, x)))
    y, state = net.apply(*net.init(0, x), x)
    assert_close(y, X + X[0], backend)  # the first call saw zeros, the second what it had set
    assert_equal(state["a"]["last"], X[0], backend)


def test_state_is_outside_gradients(backend: backends.Backend) -> None:
    def forward(scope: Scope, x: Any) -> Any:
        kept = scope.state("kept", zeros, (3,))
        kept.value = namespace(x).sum(x * x, axis=0)
        return x * kept.value

    net, x = Of(forward), given(backend)
    params, state = net.init(0, x)

    def f(x: Any) -> Any:
        y, after = net.apply(params, state, x)
        return namespace(y).sum(y) + namespace(y).sum(after["kept"])

    expected = np.broadcast_to((X * X).sum(axis=0), X.shape)
    assert_close(tinynn.grad(f)(x), expected, backend, rtol=1e-5)


def test_state_that_is_missing(backend: backends.Backend) -> None:
    net = Sequential(Residual(Counter()))
    with pytest.raises(InputError, match=r"^layer 0\.inner, Counter\(\): .*'count', got none; ca"):
        net({}, given(backend))


def test_no_state_is_seen_by_an_optimizer(backend: backends.Backend) -> None:
    """A loop by hand with AdamW: what it decays are parameters, whatever they are called."""

    def forward(scope: Scope, x: Any) -> Any:
        return x * scope.param("running_speed", ones, (3,))

    net, x = Sequential(BatchNorm(), Residual(Of(forward))), given(backend)
    params, state = net.init(0, x)
    assert [name for name, _ in tree.paths(params)] == [
        "0.weight", "0.bias", "1.inner.running_speed"
    ]  # fmt: skip
    optimizer = AdamW(0.1, weight_decay=0.5)
    kept = optimizer.init(params)
    for _ in range(3):
        gradients = tinynn.grad(lambda p: squares(net.apply(p, state, x, training=True)[0]))(params)
        params, kept = optimizer.update(gradients, kept, params)
    assert (backend.to_host(params["1"]["inner"]["running_speed"]) != 1).all()
    assert_equal(state["0"]["mean"], np.zeros(3), backend)
    assert_equal(state["0"]["var"], np.ones(3), backend)


# Children that act differently in training, inside layers that know nothing of it.


def test_mode_reaches_every_layer(backend: backends.Backend) -> None:
    x, key = given(backend), random.key(2, backend)
    net = Residual(Of(lambda scope, x: scope("tail", Sequential(BatchNorm(), Dropout(0.5)), x)))
    params, state = net.init(0, x)
    y, after = net.apply(params, state, x, key=key, training=True)
    delta = backend.to_host(y) - X
    dropped = np.isclose(delta, 0, atol=1e-6)
    assert 0 < dropped.mean() < 1
    normal = (X - X.mean(axis=0)) / np.sqrt(X.var(axis=0) + 1e-5)
    np.testing.assert_allclose(delta[~dropped], 2 * normal[~dropped], rtol=1e-4, atol=1e-5)
    mean = after["inner"]["tail"]["0"]["mean"]
    assert_close(mean, 0.1 * X.mean(axis=0), backend, rtol=1e-5)
    quiet, same = net.apply(params, state, x, key=key)
    assert_close(quiet, X + X / np.sqrt(1 + 1e-5), backend, rtol=1e-5)
    assert_same(hosts(backend, same), hosts(backend, state))


# Tying.


def test_a_child_called_twice_is_tied_and_draws_anew(backend: backends.Backend) -> None:
    def forward(scope: Scope, x: Any) -> Any:
        return scope("tower", tower, x), scope("tower", tower, x)

    tower = Sequential(Linear(40), Dropout(0.5))
    x, key = given(backend), random.key(1, backend)
    net = Of(forward)
    params, state = net.init(0, x)
    assert list(params) == ["tower"]
    a, b = (backend.to_host(y) for y in net.apply(params, state, x, key=key, training=True)[0])
    assert ((a == 0) != (b == 0)).any()
    np.testing.assert_array_equal(a[(a != 0) & (b != 0)], b[(a != 0) & (b != 0)])
    y, z = net(params, x)
    assert_equal(y, backend.to_host(z), backend)

    def f(params: Any) -> Any:
        a, b = net(params, x)
        return total(a * a) + total(b * b)

    def once(params: Any) -> Any:
        a = tower(params["tower"], x)
        return 2.0 * total(a * a)

    ours, expected = (tinynn.grad(g)(params)["tower"]["0"]["weight"] for g in (f, once))
    assert_close(ours, backend.to_host(expected), backend, rtol=1e-5)


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


ENGINES = {"numpy": ["eager", "calls", "loops"], "jax": ["eager", "jit"]}


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
