"""tinynn.functional: values, slopes at the corners, extremes, and what is kept."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from backends import random
from tests.checks import assert_close, assert_equal
from tests.gradients import (
    assert_matches_differences,
    assert_matches_library,
    jax_gradient,
    torch_gradient,
)
from tinynn import functional
from tinynn.functional import convolution, dot_product, embeddings, pooling, slicing
from tinynn.functional.errors import ShapeError
from tinynn.trace import namespace


def reference_softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


SELU = 1.0507009873554805
# name -> (what it is in NumPy, its slope at 0)
ACTIVATIONS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    "relu": (lambda x: np.where(x > 0, x, 0), 0.0),
    "leaky_relu": (lambda x: np.where(x > 0, x, 0.01 * x), 0.01),
    "elu": (lambda x: np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1), 1.0),
    "gelu": (lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2, 0.5),
    "silu": (lambda x: x / (1 + np.exp(-x)), 0.5),
    "softplus": (lambda x: np.log1p(np.exp(x)), 0.5),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), 0.25),
    "tanh": (np.tanh, 1.0),
    "celu": (lambda x: np.maximum(x, 0) + np.expm1(np.minimum(x, 0)), 1.0),
    "selu": (
        lambda x: SELU * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x)),
        SELU * 1.67326324,
    ),
    "mish": (lambda x: x * np.tanh(np.log1p(np.exp(x))), 0.6),
    "log_sigmoid": (lambda x: -np.log1p(np.exp(-x)), 0.5),
    "softsign": (lambda x: x / (1 + abs(x)), 1.0),
    "squareplus": (lambda x: (x + np.sqrt(x * x + 4)) / 2, 0.5),
    "relu6": (lambda x: np.clip(x, 0, 6), 0.0),
    "hard_sigmoid": (lambda x: np.clip(x / 6 + 0.5, 0, 1), 1 / 6),
    "hard_silu": (lambda x: x * np.clip(x / 6 + 0.5, 0, 1), 0.5),
    "hard_tanh": (lambda x: np.clip(x, -1, 1), 1.0),
    "hard_shrink": (lambda x: x * (abs(x) > 0.5), 0.0),
    "soft_shrink": (lambda x: np.sign(x) * np.maximum(abs(x) - 0.5, 0), 0.0),
    "tanh_shrink": (lambda x: x - np.tanh(x), 0.0),
    "threshold": (lambda x: np.where(x > 0, x, 0), 0.0),
}


def reference_sparsemax(x: Any) -> Any:
    """Algorithm 1 of Martins and Astudillo, row by row."""
    rows = []
    for z in x.reshape(-1, x.shape[-1]):
        down = np.sort(z)[::-1]
        k = max(k for k in range(1, len(z) + 1) if 1 + k * down[k - 1] > down[:k].sum())
        rows.append(np.maximum(z - (down[:k].sum() - 1) / k, 0))
    return np.reshape(rows, x.shape)


ALONG_AN_AXIS = {
    "sparsemax": reference_sparsemax,
    "softmax": reference_softmax,
    "log_softmax": lambda x: np.log(reference_softmax(x)),
    "glu": lambda x: x[..., :2] / (1 + np.exp(-x[..., 2:])),
}
EVERY = {**{name: row[0] for name, row in ACTIVATIONS.items()}, **ALONG_AN_AXIS}
# What JAX and PyTorch call them, and do not have.
OF_JAX = {"softsign": "soft_sign"}
NOT_OF_JAX = {"hard_shrink", "soft_shrink", "sparsemax", "tanh_shrink", "threshold"}
OF_TORCH = {"hard_silu": "hardswish", "log_sigmoid": "logsigmoid"}
OF_TORCH |= {f"hard_{name}": f"hard{name}" for name in ("sigmoid", "shrink", "tanh")}
OF_TORCH |= {f"{name}_shrink": f"{name}shrink" for name in ("soft", "tanh")}
NOT_OF_TORCH = {"sparsemax", "squareplus"}
DATA = np.random.default_rng(0).normal(size=(5, 4)) * 3


def weighed(name: str) -> Callable[[Any], Any]:
    """A scalar of the activation that treats no two entries alike."""

    def f(x: Any) -> Any:
        y = getattr(functional, name)(x)
        return namespace(y).sum(y * y + 0.5 * y)

    return f


def test_every_function_is_tested_here() -> None:
    elsewhere = {*convolution.__all__, *pooling.__all__}  # tests/test_convolution.py
    elsewhere |= {*dot_product.__all__, *embeddings.__all__}  # tests/test_attention.py
    elsewhere |= set(slicing.__all__)  # tests/test_slicing.py
    others = {"linear", "dropout", "one_hot"}
    assert set(functional.__all__) == set(EVERY) | others | elsewhere


@pytest.mark.parametrize("name", EVERY)
def test_values(name: str, backend: backends.Backend, float_dtype: Any) -> None:
    y = getattr(functional, name)(backend.asarray(DATA, dtype=float_dtype))
    # the reference works in float64 from the very numbers that were given
    host = backend.to_host(backend.asarray(DATA, dtype=float_dtype)).astype(np.float64)
    assert_close(y, EVERY[name](host), backend, dtype=float_dtype)


@pytest.mark.parametrize("name", EVERY)
def test_gradient_is_that_of_differences(
    name: str, backend: backends.Backend, float64: Any
) -> None:
    x = backend.asarray(DATA, dtype=float64)
    assert_matches_differences(weighed(name), (x,), backend)


@pytest.mark.only("numpy")
def test_squareplus_without_b_is_relu() -> None:
    x = np.asarray([-2.0, 0.0, 3.0])
    np.testing.assert_array_equal(functional.squareplus(x, 0.0), [0.0, 0.0, 3.0])


@pytest.mark.only("numpy")
def test_gelu_of_float16_is_its_own_of_float64() -> None:
    x = np.asarray([-6e4, -20.0, -3.0, -0.1, 0.0, 1.0, 20.0, 6e4], dtype="float16")
    found, exact = functional.gelu(x), functional.gelu(x.astype("float64"))
    assert found.dtype == x.dtype
    np.testing.assert_allclose(found, exact, rtol=2e-3, atol=1e-3)


@pytest.mark.only("jax-x64")
@pytest.mark.parametrize("name", EVERY)
def test_gradient_is_that_of_jax(name: str, backend: backends.Backend) -> None:
    x = backend.asarray(DATA)
    assert_matches_library(weighed(name), jax_gradient, (x,), backend)


@pytest.mark.only("torch")
@pytest.mark.parametrize("name", EVERY)
def test_gradient_is_that_of_torch(name: str, backend: backends.Backend, float_dtype: Any) -> None:
    x = backend.asarray(DATA, dtype=float_dtype)
    assert_matches_library(weighed(name), torch_gradient, (x,), backend)


@pytest.mark.only("jax-x64")
@pytest.mark.parametrize("name", sorted(EVERY.keys() - NOT_OF_JAX))
def test_agrees_with_jax_nn(name: str, backend: backends.Backend) -> None:
    """At the kinks too."""
    import jax

    theirs = getattr(jax.nn, OF_JAX.get(name, name), None) or jax.numpy.tanh
    options = {"approximate": False} if name == "gelu" else {}
    x = backend.asarray([[-3.0, -1.5, -1.0, 0.0, 1.0, 2.0, 3.0, 6.0]], dtype="float32")

    def total(x: Any) -> Any:
        return jax.numpy.sum(theirs(x, **options) ** 2)

    assert_close(getattr(functional, name)(x), backend.to_host(theirs(x, **options)), backend)
    ours = tinynn.grad(lambda x: namespace(x).sum(getattr(functional, name)(x) ** 2))(x)
    assert_close(ours, backend.to_host(jax.grad(total)(x)), backend)


@pytest.mark.only("torch")
@pytest.mark.parametrize("name", sorted(EVERY.keys() - NOT_OF_TORCH))
def test_agrees_with_torch_nn(name: str, backend: backends.Backend) -> None:
    import torch

    theirs = getattr(torch.nn.functional, OF_TORCH.get(name, name))
    options = {"dim": -1} if "softmax" in name else {}
    options |= {"threshold": 0.0, "value": 0.0} if name == "threshold" else {}
    x = backend.asarray([[-1.5, 0.0, 0.5, 2.0]], dtype="float32")
    watched = x.clone().requires_grad_()
    expected = theirs(watched, **options)
    expected.sin().sum().backward()
    assert_close(getattr(functional, name)(x), backend.to_host(expected), backend)

    def f(x: Any) -> Any:
        return namespace(x).sum(namespace(x).sin(getattr(functional, name)(x)))

    assert_close(tinynn.grad(f)(x), backend.to_host(watched.grad), backend)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slope_at_zero(name: str, backend: backends.Backend) -> None:
    zero = backend.asarray([0.0], dtype="float32")
    slope = tinynn.grad(lambda x: namespace(x).sum(getattr(functional, name)(x)))(zero)
    assert_close(slope, [ACTIVATIONS[name][1]], backend, dtype="float32")


@pytest.mark.parametrize("name", EVERY)
def test_extremes_are_finite(name: str, backend: backends.Backend) -> None:
    x = backend.asarray([[-3e4, -100.0, 100.0, 3e4]], dtype="float32")
    f = getattr(functional, name)
    assert np.isfinite(backend.to_host(f(x))).all()
    slope = tinynn.grad(lambda x: namespace(x).sum(f(x)))(x)
    assert np.isfinite(backend.to_host(slope)).all()


@pytest.mark.parametrize("name", ALONG_AN_AXIS)
def test_along_another_axis(name: str, backend: backends.Backend) -> None:
    x = backend.asarray(DATA[:4, :], dtype="float32")
    y = getattr(functional, name)(x, axis=0)
    assert_close(y, EVERY[name](DATA[:4, :].T).T, backend, dtype="float32")


def test_glu_wants_two_halves() -> None:
    with pytest.raises(
        ShapeError, match=r"an even number of elements along axis -1, got .*\(2, 3\)"
    ):
        functional.glu(np.ones((2, 3)))


def test_settings_of_activations(backend: backends.Backend) -> None:
    x = backend.asarray([-1.0, 2.0], dtype="float32")
    assert_close(functional.leaky_relu(x, slope=0.2), [-0.2, 2.0], backend)
    each = functional.leaky_relu(x, backend.asarray([0.5, 0.1], dtype="float32"))
    assert_close(each, [-0.5, 2.0], backend)
    assert_close(functional.elu(x, alpha=2.0), [2 * (math.exp(-1) - 1), 2.0], backend)
    assert_close(functional.celu(x, alpha=2.0), [2 * (math.exp(-0.5) - 1), 2.0], backend)
    assert_close(functional.gelu(x, approximate=True), [-0.15880801, 1.95459769], backend)
    assert_close(functional.threshold(x, 1.0, 5.0), [5.0, 2.0], backend)
    assert_close(functional.hard_shrink(x, 1.5), [0.0, 2.0], backend)
    assert_close(functional.soft_shrink(x, 0.75), [-0.25, 1.25], backend)


@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_nan_stays_nan(backend: backends.Backend) -> None:
    x = backend.asarray([np.nan], dtype="float32")
    for name in ACTIVATIONS:
        assert np.isnan(backend.to_host(getattr(functional, name)(x))).all(), name


def test_linear(backend: backends.Backend, float_dtype: Any) -> None:
    draw = np.random.default_rng(1)
    x, weight, bias = draw.normal(size=(2, 5, 3)), draw.normal(size=(3, 4)), draw.normal(size=4)
    placed = [backend.asarray(a, dtype=float_dtype) for a in (x, weight, bias)]
    expected = np.einsum("abi,io->abo", x, weight)
    assert_close(functional.linear(*placed[:2]), expected, backend, dtype=float_dtype)
    assert_close(functional.linear(*placed), expected + bias, backend, dtype=float_dtype)


def test_one_hot(backend: backends.Backend) -> None:
    signed = {"int8", "int16", "int32", "int64"}
    for dtype in {"bool", "uint8", "uint16", "uint32", "uint64", *signed} & set(backend.dtypes()):
        labels = backend.asarray([[0, 1], [1, 1]], dtype=dtype)
        y = functional.one_hot(labels, 3, backend.dtypes()["float32"])
        assert_equal(y, np.eye(3)[[[0, 1], [1, 1]]], backend, dtype="float32")


def test_one_hot_out_of_range_is_zeros(backend: backends.Backend) -> None:
    labels = backend.asarray([-1, 3], dtype="int32")
    y = functional.one_hot(labels, 3, backend.dtypes()["float32"])
    assert_equal(y, np.zeros((2, 3)), backend, dtype="float32")


def test_dropout_is_the_same_everywhere(backend: backends.Backend, float_dtype: Any) -> None:
    x = backend.asarray(np.ones((50, 40)), dtype=float_dtype)
    y = functional.dropout(x, 0.3, random.key(5, backend))
    mask = random.bernoulli(random.key(5, "numpy"), 0.7, (50, 40))
    assert_close(y, mask / 0.7, backend, dtype=float_dtype)
    assert abs(mask.mean() - 0.7) < 0.03


def test_slope_of_dropout_is_its_mask(backend: backends.Backend) -> None:
    x, key = backend.asarray(DATA, dtype="float32"), random.key(2, backend)
    slope = tinynn.grad(lambda x: namespace(x).sum(functional.dropout(x, 0.5, key)))(x)
    mask = functional.dropout(backend.asarray(np.ones_like(DATA), dtype="float32"), 0.5, key)
    assert_equal(slope, backend.to_host(mask), backend, dtype="float32")
