"""tinynn.initializers: moments, bits, orthogonality."""

import math
from typing import Any

import numpy as np
import pytest

import backends
from backends import random
from tests.checks import assert_array, assert_equal
from tinynn import initializers

# name -> variance, from inputs and outputs
VARIANCES = {
    "glorot_uniform": lambda i, o: 2 / (i + o),
    "glorot_normal": lambda i, o: 2 / (i + o),
    "he_uniform": lambda i, o: 2 / i,
    "he_normal": lambda i, o: 2 / i,
    "lecun_uniform": lambda i, o: 1 / i,
    "lecun_normal": lambda i, o: 1 / i,
}


def test_every_initializer_is_tested_here() -> None:
    others = {"orthogonal", "zeros", "ones", "Constant", "Normal"}
    assert set(initializers.__all__) == {*VARIANCES} | others


@pytest.mark.parametrize("name", VARIANCES)
@pytest.mark.parametrize("shape", [(120, 80), (3, 2, 30, 40)], ids=str)
def test_moments(name: str, shape: tuple[int, ...]) -> None:
    window = math.prod(shape[:-2])
    variance = VARIANCES[name](window * shape[-2], window * shape[-1])
    w = getattr(initializers, name)(random.key(0, "numpy"), shape, np.float64)
    assert abs(w.mean()) < 4 * math.sqrt(variance / w.size)
    np.testing.assert_allclose(w.var(), variance, rtol=0.05)
    if name.endswith("uniform"):
        limit = math.sqrt(3 * variance)
        assert 0.99 * limit < abs(w).max() <= limit
    else:
        assert abs(w).max() > 3 * math.sqrt(variance)


@pytest.mark.parametrize("name", VARIANCES)
def test_the_bits_are_the_same_everywhere(
    name: str, backend: backends.Backend, float_dtype: Any
) -> None:
    f = getattr(initializers, name)
    w = f(random.key(3, backend), (7, 5), float_dtype)
    host = f(random.key(3, "numpy"), (7, 5), backend.to_host(w).dtype)
    assert_equal(w, host, backend, dtype=float_dtype)


@pytest.mark.parametrize("name", sorted(VARIANCES))
@pytest.mark.parametrize("shape", [(), (3,), (0, 2), (2, 0)], ids=str)
def test_odd_shapes(name: str, shape: tuple[int, ...], backend: backends.Backend) -> None:
    dtype = backend.dtypes()["float32"]
    w = getattr(initializers, name)(random.key(0, backend), shape, dtype)
    assert_array(w, backend, dtype="float32", shape=shape)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5), (2, 3, 4)], ids=str)
def test_orthogonal(shape: tuple[int, ...], backend: backends.Backend, float_dtype: Any) -> None:
    w = initializers.orthogonal(random.key(1, backend), shape, float_dtype)
    assert_array(w, backend, dtype=float_dtype, shape=shape)
    host = backend.to_host(w).reshape(-1, shape[-1])
    product = host.T @ host if host.shape[0] >= host.shape[1] else host @ host.T
    tolerance = 30 * np.finfo(host.dtype).eps
    np.testing.assert_allclose(product, np.eye(len(product)), atol=tolerance)
    again = initializers.orthogonal(random.key(1, "numpy"), shape, host.dtype)
    np.testing.assert_allclose(backend.to_host(w), again, atol=tolerance)


def test_orthogonal_needs_two_axes() -> None:
    with pytest.raises(ValueError, match=r"two axes or more, got \(3,\)"):
        initializers.orthogonal(random.key(0, "numpy"), (3,), np.float32)


def test_normal_has_one_deviation_for_every_shape() -> None:
    key = random.key(0, "numpy")
    for shape in ((20_000,), (100, 200)):
        w = initializers.Normal(0.02)(key, shape, np.float64)
        assert abs(w.mean()) < 4 * 0.02 / math.sqrt(w.size)
        np.testing.assert_allclose(w.std(), 0.02, rtol=0.03)


def test_constants(backend: backends.Backend, float_dtype: Any) -> None:
    key = random.key(0, backend)
    rows = [(initializers.zeros, 0.0), (initializers.ones, 1.0), (initializers.Constant(0.5), 0.5)]
    for f, value in rows:
        assert_equal(
            f(key, (2, 3), float_dtype), np.full((2, 3), value), backend, dtype=float_dtype
        )
