"""What a layer may ask of its scope: parameters, names, state, children; on every backend."""

from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from backends import random
from tests.checks import assert_array, assert_close, assert_equal
from tests.scope_layers import Counter, Of, Residual, X, assert_same, given, hosts, squares, total
from tinynn import functional, tree
from tinynn.functional.errors import InputError
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
)
from tinynn.optim import AdamW
from tinynn.trace import namespace
from tinynn.trace.scopes import scopes


@pytest.fixture(autouse=True)
def nothing_is_left_at_work() -> Any:
    assert scopes.frames == ()
    yield
    assert scopes.frames == ()


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
    with backend.scope():
        twice = {"scale": params["scale"] * 2}
    assert_close(net(twice, given(backend)), X * np.float32(5), backend)


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
    with pytest.raises(InputError, match=r"^layer 1\.inner, .* 'scale', got none. To fix it: give"):
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
    with pytest.raises(
        TypeError, match=r"child 'a' to be a layer, got the class Linear. To fix it: write L"
    ):
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
    assert scopes.frames == ()


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
    with pytest.raises(
        InputError, match=r"^layer 0\.inner, Counter\(\): .*'count', got none. To fix it: ca"
    ):
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
