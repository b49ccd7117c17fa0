"""Assertions about arrays: library, dtype, shape and device first, values last."""

from typing import Any

import numpy as np

import backends
from tinynn import tree

# Relative to the largest expected value: about 30 roundings of each type.
TOLERANCE = {"float32": 4e-6, "complex64": 4e-6, "float64": 1e-14, "complex128": 1e-14}


def dtype_name(dtype: Any, backend: backends.Backend) -> str:
    """The standard's name ("float32") of one of the backend's dtypes; a name passes through."""
    if isinstance(dtype, str):
        return dtype
    for name, known in backend.dtypes().items():
        if known == dtype:
            return name
    raise AssertionError(f"{dtype!r} is not a dtype of {backend!r}")


def assert_array(
    actual: Any,
    backend: backends.Backend,
    *,
    dtype: Any = None,
    shape: tuple[int, ...] | None = None,
) -> None:
    """`actual` is an array of this library on this device, with this dtype and shape."""
    assert backends.is_array(actual), f"expected an array, got {type(actual).__name__}"
    assert backends.of(actual) == backend
    # Not only the backend's word for it: the very type and device that its own arrays have.
    example = backend.asarray(0.0)
    # NumPy's operations give its scalars where other libraries' give arrays of no axes.
    scalar = type(example) is np.ndarray and isinstance(actual, np.generic)
    assert scalar or type(actual) is type(example)
    assert getattr(actual, "device", None) == getattr(example, "device", None)
    if dtype is not None:
        assert dtype_name(actual.dtype, backend) == dtype_name(dtype, backend)
    if shape is not None:
        assert tuple(actual.shape) == tuple(shape)


def assert_equal(
    actual: Any,
    expected: Any,
    backend: backends.Backend,
    *,
    dtype: Any = None,
    shape: tuple[int, ...] | None = None,
) -> None:
    """As assert_array, and every value equal to `expected`, which is host data."""
    expected = np.asarray(expected)
    assert_array(actual, backend, dtype=dtype, shape=expected.shape if shape is None else shape)
    np.testing.assert_array_equal(backend.to_host(actual), expected)


def assert_close(
    actual: Any,
    expected: Any,
    backend: backends.Backend,
    *,
    dtype: Any = None,
    shape: tuple[int, ...] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    """As assert_equal, within `rtol` of each value plus `atol`.

    By default `rtol` is that of the array's dtype in TOLERANCE and `atol` is as much of the
    largest expected value, so that a sum that cancels to nearly zero passes.
    """
    expected = np.asarray(expected)
    assert_array(actual, backend, dtype=dtype, shape=expected.shape if shape is None else shape)
    host = backend.to_host(actual)
    if rtol is None:
        rtol = TOLERANCE.get(str(host.dtype), 0.0)
    if atol is None:
        finite = np.abs(expected[np.isfinite(expected)])
        atol = rtol * float(finite.max(initial=0.0))
    np.testing.assert_allclose(host, expected, rtol=rtol, atol=atol)


def placed(backend: backends.Backend, *arrays: Any) -> list[Any]:
    """The arrays in float64 where the device has it, else in its default."""
    dtype = backend.dtypes().get("float64", backend.default_float)
    return [backend.asarray(a, dtype=dtype) for a in arrays]


def tolerance(backend: backends.Backend) -> dict[str, float]:
    """Of longer computations with arrays that were so `placed`."""
    wide = "float64" in backend.dtypes()
    return {"rtol": 1e-10, "atol": 1e-12} if wide else {"rtol": 2e-4, "atol": 2e-5}


def assert_trees(got: Any, expected: Any, backend: backends.Backend) -> None:
    """Trees of one structure, of arrays of the same dtypes and values."""
    assert tree.flatten(got)[1] == tree.flatten(expected)[1]
    for mine, other in zip(tree.leaves(got), tree.leaves(expected), strict=True):
        assert mine.dtype == other.dtype
        assert_close(mine, backend.to_host(other), backend, **tolerance(backend))
