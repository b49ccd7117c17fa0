"""tinynn.layers: outputs, parameters, statistics, gradients and errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from backends import random
from tests.checks import assert_array, assert_close, assert_equal
from tests.gradients import (
    assert_matches_differences,
    assert_matches_library,
    jax_gradient,
    placed,
    torch_gradient,
)
from tests.sample_network import NETWORK, Scale
from tinynn import functional, tree
from tinynn.layers import (
    BatchNorm,
    Dropout,
    DtypeError,
    Flatten,
    Layer,
    LayerNorm,
    Linear,
    Sequential,
    ShapeError,
    run,
)
from tinynn.trace import namespace

DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(6, 5)) * 2 + 1
IMAGES = DRAW.normal(size=(4, 3, 5))


LAYERS: dict[str, Layer] = {
    "Linear": Linear(4),
    "Linear without bias": Linear(4, bias=False),
    "Dropout": Dropout(0.4),
    "BatchNorm": BatchNorm(),
    "LayerNorm": LayerNorm(),
    "Flatten": Flatten(),
    "Sequential": NETWORK,
}


def reference_norm(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    mean = x.mean(axis=axes, keepdims=True)
    return (x - mean) / np.sqrt(x.var(axis=axes, keepdims=True) + 1e-5)


def scattered(params: Any, backend: backends.Backend) -> Any:
    """Parameters moved from their starts, so that no scale is 1 and no shift 0."""
    draw = np.random.default_rng(7)

    def moved(leaf: Any) -> Any:
        host = backend.to_host(leaf)
        return backend.asarray((host + 0.3 * draw.normal(size=host.shape)).astype(host.dtype))

    return tree.map(moved, params)


# What each layer does.


@pytest.mark.parametrize("host", [X, IMAGES], ids=["rows", "images"])
def test_linear(host: np.ndarray, backend: backends.Backend, float_dtype: Any) -> None:
    x = backend.asarray(host, dtype=float_dtype)
    params = Linear(4).init(0, x)[0]
    assert_array(params["weight"], backend, dtype=float_dtype, shape=(5, 4))
    assert_equal(params["bias"], np.zeros(4), backend, dtype=float_dtype)
    params = scattered(params, backend)
    weight, bias = (backend.to_host(params[name]) for name in ("weight", "bias"))
    expected = np.einsum("...i,io->...o", backend.to_host(x), weight) + bias
    assert_close(Linear(4)(params, x), expected, backend, dtype=float_dtype)


def test_linear_starts_with_the_same_bits_everywhere(backend: backends.Backend) -> None:
    params = Linear(4).init(3, backend.asarray(X, dtype="float32"))[0]
    host = Linear(4).init(3, X.astype(np.float32))[0]
    assert_equal(params["weight"], host["weight"], backend)


def test_linear_without_bias(backend: backends.Backend) -> None:
    params = Linear(4, bias=False).init(0, backend.asarray(X))[0]
    assert list(params) == ["weight"]


@pytest.mark.parametrize("host", [X, IMAGES], ids=["rows", "images"])
def test_batch_norm_in_training(
    host: np.ndarray, backend: backends.Backend, float_dtype: Any
) -> None:
    layer, x = BatchNorm(momentum=0.8), backend.asarray(host, dtype=float_dtype)
    params, state = (scattered(tree_, backend) for tree_ in layer.init(0, x))
    y, after = layer.apply(params, state, x, training=True)
    old = {name: backend.to_host(value) for name, value in {**params, **state}.items()}
    host, axes = backend.to_host(x), tuple(range(host.ndim - 1))
    expected = reference_norm(host, axes) * old["weight"] + old["bias"]
    assert_close(y, expected, backend, dtype=float_dtype)
    batch = {"mean": host.mean(axis=axes), "var": host.var(axis=axes, ddof=1)}
    for name, value in batch.items():
        kept = 0.8 * old[name] + 0.2 * value
        assert_close(after[name], kept, backend, dtype=float_dtype)
    assert list(after) == list(state) == ["mean", "var"]


def test_batch_norm_in_inference(backend: backends.Backend, float_dtype: Any) -> None:
    layer, x = BatchNorm(), backend.asarray(X, dtype=float_dtype)
    params = {"weight": [1.0, 2.0, 3.0, 4.0, 5.0], "bias": [0.1, 0.2, 0.3, 0.4, 0.5]}
    state = {"mean": [1.0, 0.0, -1.0, 2.0, 0.5], "var": [0.5, 1.0, 2.0, 3.0, 0.1]}
    w, b, mean, variance = (np.asarray(v) for v in (*params.values(), *state.values()))
    expected = (X - mean) / np.sqrt(variance + 1e-5) * w + b
    placed_ = [
        {name: backend.asarray(value, dtype=float_dtype) for name, value in each.items()}
        for each in (params, state)
    ]
    y, after = layer.apply(*placed_, x)
    assert_close(y, expected, backend, dtype=float_dtype)
    assert after is placed_[1]


def test_state_has_no_gradient(backend: backends.Backend) -> None:
    layer, x = BatchNorm(), backend.asarray(X, dtype="float32")
    params, state = layer.init(0, x)

    def f(x: Any) -> Any:
        _, after = layer.apply(params, state, x, training=True)
        return namespace(x).sum(after["var"]) + 0.0 * namespace(x).sum(x)

    assert_equal(tinynn.grad(f)(x), np.zeros_like(X), backend, dtype="float32")
    _, after = tinynn.grad(
        lambda x: (namespace(x).sum(x), layer.apply(params, state, x, training=True)[1]),
        has_aux=True,
    )(x)
    assert_array(after["mean"], backend, dtype="float32", shape=(5,))


@pytest.mark.parametrize("host", [X, IMAGES], ids=["rows", "images"])
def test_layer_norm(host: np.ndarray, backend: backends.Backend, float_dtype: Any) -> None:
    layer, x = LayerNorm(), backend.asarray(host, dtype=float_dtype)
    params = scattered(layer.init(0, x)[0], backend)
    weight, bias = (backend.to_host(params[name]) for name in ("weight", "bias"))
    expected = reference_norm(backend.to_host(x), (-1,)) * weight + bias
    assert_close(layer(params, x), expected, backend, dtype=float_dtype)


def test_flatten(backend: backends.Backend, float_dtype: Any) -> None:
    x = backend.asarray(IMAGES, dtype=float_dtype)
    expected = backend.to_host(x).reshape(4, 15)
    assert_equal(Flatten()({}, x), expected, backend, dtype=float_dtype)
    assert_array(Flatten()({}, x[:0, ...]), backend, shape=(0, 15))


def test_dropout(backend: backends.Backend, float_dtype: Any) -> None:
    x, key = backend.asarray(X, dtype=float_dtype), random.key(4, backend)
    assert Dropout(0.4)({}, x) is x
    assert Dropout(0.0).apply({}, {}, x, key=key, training=True)[0] is x
    y, state = Dropout(0.4).apply({}, {}, x, key=key, training=True)
    on_host, _ = Dropout(0.4).apply({}, {}, backend.to_host(x), key=4, training=True)
    kept = backend.to_host(y) != 0
    assert_close(y, backend.to_host(x) * kept / 0.6, backend, dtype=float_dtype)
    np.testing.assert_array_equal(kept, on_host != 0)
    assert 0.3 < kept.mean() < 0.9
    assert state == {}


# Sequential, and layers from outside.


def test_sequential_is_its_layers_in_turn(backend: backends.Backend) -> None:
    net = Sequential(Linear(4), functional.relu, Sequential(BatchNorm(), Linear(2)))
    x = backend.asarray(X, dtype="float32")
    params, state = net.init(1, x)
    assert list(params) == ["0", "2"]
    assert [name for name, _ in tree.paths(params)][-2:] == ["2.1.weight", "2.1.bias"]
    hidden = functional.relu(Linear(4)(params["0"], x))
    norm, _ = BatchNorm().apply(params["2"]["0"], state["2"]["0"], hidden)
    expected = Linear(2)(params["2"]["1"], norm)
    assert_equal(net.apply(params, state, x)[0], backend.to_host(expected), backend)


def test_children_get_keys_of_their_own(backend: backends.Backend) -> None:
    x, key = backend.asarray(X, dtype="float32"), random.key(9, backend)
    net = Sequential(Linear(5), Linear(5), Dropout(0.5), Dropout(0.5))
    params, _ = net.init(key, x)
    first, second = (backend.to_host(params[name]["weight"]) for name in "01")
    assert (first != second).all()
    twice = Sequential(Dropout(0.5), Dropout(0.5)).apply({}, {}, x, key=key, training=True)[0]
    once = Dropout(0.5).apply({}, {}, x, key=key, training=True)[0]
    kept = [backend.to_host(y) != 0 for y in (once, twice)]
    assert 0 < kept[1].sum() < kept[0].sum()


def test_whether_layers_draw() -> None:
    x = np.ones((2, 3))
    quiet = Sequential(Linear(4), functional.relu, BatchNorm(), LayerNorm(), Flatten())
    nets = {quiet: False, Dropout(0.0): False, Dropout(0.5): True, Scale(): True,
            Sequential(quiet, Sequential(Dropout(0.5))): True}  # fmt: skip
    for net, draws in nets.items():
        assert run(net, *net.init(0, x), x, key=0, training=True).draws is draws, net
        assert not run(net, *net.init(0, x), x).draws


def test_training_gives_a_new_state_and_changes_nothing(backend: backends.Backend) -> None:
    x = backend.asarray(IMAGES, dtype="float32")
    params, state = NETWORK.init(0, x)
    before = tree.map(backend.to_host, (params, state))
    y, after = NETWORK.apply(params, state, x, key=1, training=True)
    assert_array(y, backend, dtype="float32", shape=(4, 2))
    tree.map(np.testing.assert_array_equal, tree.map(backend.to_host, (params, state)), before)
    assert tree.flatten(after)[1] == tree.flatten(state)[1]
    assert [name for name, _ in tree.paths(after)] == ["3.mean", "3.var"]
    for new, old in zip(tree.leaves(after), tree.leaves(state), strict=True):
        assert (backend.to_host(new) != backend.to_host(old)).any()


@pytest.mark.parametrize("name", LAYERS)
def test_what_came_is_kept(name: str, backend: backends.Backend, float_dtype: Any) -> None:
    x = backend.asarray(IMAGES, dtype=float_dtype)
    params, state = LAYERS[name].init(0, x)
    for leaf in [*tree.leaves((params, state)), LAYERS[name].apply(params, state, x)[0]]:
        assert_array(leaf, backend, dtype=float_dtype)
    y, after = LAYERS[name].apply(params, state, x, key=0, training=True)
    for leaf in [*tree.leaves(after), y]:
        assert_array(leaf, backend, dtype=float_dtype)


# Gradients, by the parameters and by the data, in training and in inference.


def case(
    name: str, training: bool, backend: backends.Backend, dtype: Any
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    layer, x = LAYERS[name], placed(IMAGES, backend, dtype)
    params, state = (scattered(part, backend) for part in layer.init(0, x))
    state = tree.map(lambda leaf: backend.xp.add(backend.xp.abs(leaf), 0.5), state)
    key = random.key(3, backend)

    def f(params: Any, x: Any) -> Any:
        y, _ = layer.apply(params, state, x, key=key, training=training)
        return namespace(y).sum(y * y + 0.5 * y)

    return f, (params, x)


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("name", LAYERS)
def test_gradient_is_that_of_differences(
    name: str, training: bool, backend: backends.Backend, float64: Any
) -> None:
    f, args = case(name, training, backend, float64)
    assert_matches_differences(f, args, backend)


@pytest.mark.parametrize("name", ["Linear", "BatchNorm", "LayerNorm"])
def test_second_order_is_that_of_differences(
    name: str, backend: backends.Backend, float64: Any
) -> None:
    f, args = case(name, True, backend, float64)

    def steepness(params: Any, x: Any) -> Any:
        slope = tinynn.grad(f, argnums=1)(params, x)
        return namespace(slope).sum(slope * slope)

    assert_matches_differences(steepness, args, backend)


@pytest.mark.only("jax-x64")
@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("name", LAYERS)
def test_gradient_is_that_of_jax(name: str, training: bool, backend: backends.Backend) -> None:
    f, args = case(name, training, backend, "float64")
    assert_matches_library(f, jax_gradient, args, backend)


@pytest.mark.only("torch")
@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("name", LAYERS)
def test_gradient_is_that_of_torch(name: str, training: bool, backend: backends.Backend) -> None:
    f, args = case(name, training, backend, "float64")
    assert_matches_library(f, torch_gradient, args, backend)


@pytest.mark.only("torch")
def test_norms_are_torchs(backend: backends.Backend) -> None:
    import torch

    x = backend.asarray(X, dtype="float32")
    theirs = torch.nn.BatchNorm1d(5, momentum=0.1)
    y, after = BatchNorm(momentum=0.9).apply(*BatchNorm().init(0, x), x, training=True)
    assert_close(y, backend.to_host(theirs(x)), backend, dtype="float32")
    for name in ("mean", "var"):
        assert_close(after[name], backend.to_host(getattr(theirs, f"running_{name}")), backend)
    y = LayerNorm()(LayerNorm().init(0, x)[0], x)
    assert_close(y, backend.to_host(torch.nn.LayerNorm(5)(x)), backend, dtype="float32")


# Errors.

DEEP = Sequential(Linear(4), functional.relu, Sequential(LayerNorm(), Linear(3), BatchNorm()))


def test_width_that_does_not_fit(backend: backends.Backend) -> None:
    x = backend.asarray(X, dtype="float32")
    params, state = DEEP.init(0, x)
    with pytest.raises(ShapeError) as caught:
        DEEP.apply(params, state, x[:, :3])
    assert str(caught.value).startswith(
        "layer 0, Linear(4): expected input that fits parameter 'weight' of shape (5, 4), got "
        "input of shape (batch, 3), which needs (3, 4). "
    )
    wide = {**params, "2": {**params["2"], "1": Linear(3).init(0, x)[0]}}
    with pytest.raises(ShapeError, match=r"^layer 2\.1, Linear\(3\): .*got .*\(batch, 4\),"):
        DEEP.apply(wide, state, x)
    images = backend.asarray(IMAGES, dtype="float32")
    params = Linear(4).init(0, images)[0]
    with pytest.raises(ShapeError, match=r"^Linear\(4\): .*\(5, 4\), got .*\(batch, 3, 2\)"):
        Linear(4)(params, images[:, :, :2])


def test_dtype_that_does_not_fit(backend: backends.Backend, float64: Any) -> None:
    x = backend.asarray(X, dtype="float32")
    params = DEEP.init(0, x)[0]
    with pytest.raises(DtypeError, match=r"^layer 0, Linear\(4\): expected .*float32.*float64"):
        DEEP.apply(params, {}, backend.asarray(X, dtype=float64))


def test_integers_and_vectors(backend: backends.Backend) -> None:
    whole = backend.asarray([[1, 2]])
    params, _ = Linear(4).init(0, whole)
    y = Linear(4)(params, whole)
    assert_array(y, backend, dtype=backend.default_float, shape=(1, 4))
    floats = backend.asarray([[1.0, 2.0]])
    assert_close(y, backend.to_host(Linear(4)(params, floats)), backend, dtype=y.dtype)
    with pytest.raises(ShapeError, match=r"layer 0, Linear\(4\): expected .*got \(batch\)"):
        DEEP.init(0, backend.asarray([1.0, 2.0]))
    with pytest.raises(ShapeError, match=r"layer 0, Flatten\(\): .*got \(\)"):
        Sequential(Flatten()).init(0, backend.asarray(1.0))


def test_one_sample_has_no_variance(backend: backends.Backend) -> None:
    x = backend.asarray(X, dtype="float32")
    with pytest.raises(ShapeError, match=r"layer 2\.2, BatchNorm\(\): expected 2 samples or more"):
        DEEP.apply(*DEEP.init(0, x), x[:1, :], training=True)
    images = backend.asarray(IMAGES, dtype="float32")[:1, ...]  # three rows of one sample will do
    BatchNorm().apply(*BatchNorm().init(0, images), images, training=True)


def test_other_errors_say_where(backend: backends.Backend) -> None:
    def broken(x: Any) -> Any:
        raise RuntimeError("out of order")

    with pytest.raises(RuntimeError, match="out of order") as caught:
        Sequential(Linear(2), Sequential(broken)).init(0, backend.asarray(X))
    assert caught.value.__notes__ == ["in layer 1.0, broken", "in layer 1, Sequential(broken)"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Linear(0), "Linear: expected features to be a whole number of 1 or more, got 0"),
        (lambda: Linear(2.5), "whole number"),
        (lambda: Linear("3"), "got '3'"),
        (lambda: Linear(True), "got True"),
        (lambda: Dropout(1.0), r"Dropout: expected rate to be a number in \[0, 1\), got 1.0"),
        (lambda: Dropout("half"), "got 'half'"),
        (lambda: BatchNorm(momentum=2), "momentum"),
        (lambda: BatchNorm(epsilon=-1), "epsilon"),
        (lambda: LayerNorm(epsilon=-1), "epsilon"),
    ],
)
def test_settings_out_of_range(make: Callable[[], Layer], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("wrong", [Flatten, "relu", None, 3])
def test_what_is_no_layer(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"expected layer 1 to be a layer or a function"):
        Sequential(Linear(2), wrong)
    with pytest.raises(
        TypeError, match=r"got \[Linear\(2\)\] \(list\); write Sequential\(\*layers\)"
    ):
        Sequential([Linear(2)])
