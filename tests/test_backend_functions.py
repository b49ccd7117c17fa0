import math

import numpy as np
import pytest

import backends
from backends.base import Backend
from tests.checks import assert_close, assert_equal

# What the standard lacks: the library's own, and the default written in the standard.


@pytest.fixture(params=["own", "default"])
def methods(request, backend):
    """The backend, and the base class's defaults on its namespace."""
    if request.param == "own":
        yield backend
        return
    with backend.scope():  # the defaults use operators
        yield Backend(backend.device, backend.xp)


def numbers(backend, data):
    """In each floating dtype of the device."""
    for name in ("float32", "float64"):
        if name in backend.dtypes():
            yield name, backend.asarray(np.asarray(data, dtype=name))


@pytest.mark.parametrize(
    ("shape", "indices", "axis"),
    [
        ((5,), [0, 4, 4, 2, 4, 0], 0),
        ((5,), [], 0),
        ((1,), [0] * 9, 0),
        ((4, 3), [3, 3, 0], 0),
        ((4, 3), [2, 2, 0, 2, 1], -1),
        ((2, 6, 3), [5, 0, 5, 5, 5, 5, 5, 1], 1),
        ((7, 2), list(range(7)), 0),
    ],
)
def test_scatter_add(methods, backend, shape, indices, axis):
    axis_ = axis % len(shape)
    data = np.arange(math.prod(shape), dtype="int32").reshape(shape)
    more = (*shape[:axis_], len(indices), *shape[axis_ + 1 :])
    updates = (np.arange(math.prod(more), dtype="int32") ** 2).reshape(more)
    expected = data.copy()
    index = np.asarray(indices, dtype="int32")
    np.add.at(np.moveaxis(expected, axis, 0), index, np.moveaxis(updates, axis, 0))
    for name in ("int32", "float32", "float64"):
        if name not in backend.dtypes():
            continue
        x = backend.asarray(data, dtype=name)
        y = methods.scatter_add(
            x, backend.asarray(index), backend.asarray(updates, dtype=name), axis=axis
        )
        assert_equal(y, expected, backend, dtype=name)
        assert_equal(x, data, backend, dtype=name)  # left alone


def test_scatter_add_keeps_infinities_apart(methods, backend):
    updates = backend.asarray([math.inf, 1.0, math.nan])
    x = backend.asarray([0.0, 0.0, 0.0, 0.0])
    y = methods.scatter_add(x, backend.asarray([0, 1, 3]), updates)
    assert_equal(y, [math.inf, 1.0, 0.0, math.nan], backend)


def test_scatter_add_refuses_what_does_not_fit(methods, backend):
    x, index = backend.asarray([[0.0, 0.0], [0.0, 0.0]]), backend.asarray([0, 1, 1])
    with pytest.raises(ValueError, match=r"expected updates of shape \(3, 2\), got \(2, 3\)"):
        methods.scatter_add(x, index, backend.asarray([[1.0, 1.0, 1.0]] * 2))
    with pytest.raises(ValueError, match=r"expected 1-D indices, got shape \(2, 2\)"):
        methods.scatter_add(x, backend.asarray([[0, 1], [1, 0]]), x)
    with pytest.raises(ValueError, match="axis 2 is out of range"):
        methods.scatter_add(x, index, x, axis=2)
    with pytest.raises(TypeError, match=r"expected updates of dtype .*float.* got .*int32; cast"):
        methods.scatter_add(x, index, backend.asarray([[1, 1]] * 3, dtype="int32"))


def test_scatter_add_counts_from_the_end(methods, backend):
    for name, x in numbers(backend, [1.0, 2.0, 3.0]):
        places = backend.asarray(np.asarray([-1, 0, -1]))
        updates = backend.asarray(np.asarray([10.0, 20.0, 30.0], dtype=name))
        assert_close(methods.scatter_add(x, places, updates), [21.0, 2.0, 43.0], backend)


def test_erf(methods, backend):
    data = [*np.linspace(-7.0, 7.0, 2001), 0.0, 1e-30, -1e-3, 0.46875, 4.0, 1e30]
    for name, x in numbers(backend, data):
        expected = [math.erf(value) for value in backend.to_host(x).tolist()]
        rtol = 1e-6 if name == "float32" else 2e-15
        assert_close(methods.erf(x), expected, backend, dtype=name, rtol=rtol, atol=0.0)
    for name in {"float16", "bfloat16"} & set(backend.compute_dtypes()):
        x = backend.asarray([-6e4, -20.0, -4.0, -0.5, 0.0, 0.25, 2.0, 300.0], dtype="float32")
        x = backend.xp.astype(x, backend.compute_dtypes()[name])
        expected = [-1.0, -1.0, -1.0, -0.5205, 0.0, 0.27633, 0.99532, 1.0]
        y = methods.erf(x)
        assert y.dtype == x.dtype
        wide = backend.xp.astype(y, backend.xp.float32)
        assert_close(wide, expected, backend, dtype="float32", rtol=6e-3, atol=0.0)
    special = methods.erf(backend.asarray([math.inf, -math.inf, math.nan]))
    assert_equal(special, [1.0, -1.0, math.nan], backend)


def test_sigmoid(methods, backend):
    data = np.linspace(-80.0, 80.0, 1001)
    for name, x in numbers(backend, data):
        expected = [1.0 / (1.0 + math.exp(-value)) for value in backend.to_host(x).tolist()]
        rtol = 2e-6 if name == "float32" else 1e-14
        assert_close(methods.sigmoid(x), expected, backend, dtype=name, rtol=rtol, atol=0.0)
        extremes = backend.asarray([-math.inf, -2000.0, 2000.0, math.inf, math.nan], dtype=name)
        assert_equal(methods.sigmoid(extremes), [0.0, 0.0, 1.0, 1.0, math.nan], backend)


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2), (0, 1, 2)])
def test_logsumexp(methods, backend, axis, keepdims):
    data = np.linspace(5.0, 900.0, 24).reshape(2, 3, 4)
    for name, x in numbers(backend, data):
        expected = np.log(np.sum(np.exp(data - 600.0), axis=axis, keepdims=keepdims)) + 600.0
        found = methods.logsumexp(x, axis=axis, keepdims=keepdims)
        assert_close(found, expected, backend, dtype=name, rtol=1e-6)


def test_logsumexp_at_the_edges(methods, backend):
    x = backend.asarray([[-math.inf, -math.inf], [math.inf, 1.0], [-math.inf, 2.0]])
    assert_equal(methods.logsumexp(x, axis=1), [-math.inf, math.inf, 2.0], backend)


# The library's own compiler, where it has one.


def test_compiling(backend):
    times = backend.compile(backends.scoped(lambda x, n, y: x * n + y), static=(1,))
    x = backend.asarray([1, 2])
    for n, expected in ((3, [4, 8]), (4, [5, 10])):
        assert_equal(times(x, n, x), expected, backend)
    assert_equal(times(x[:1], 3, x[:1]), [4], backend)


@pytest.mark.parametrize("dtype", ["bool", "int8", "float32", "float64", "complex64"])
def test_numpys_short_ways_end_where_numpys_own_do(dtype):
    xp, x, one = backends.get("numpy").xp, np.ones((2, 3), dtype), np.ones((), dtype)[()]
    for short, own in (
        (xp.matmul(x, x.T), np.matmul(x, x.T)),
        (xp.matmul(x[0], x.T), np.matmul(x[0], x.T)),
        (xp.matrix_transpose(x), np.matrix_transpose(x)),
        (xp.sum(x), np.sum(x)),
        (xp.sum(x, axis=(0, 1), keepdims=True), np.sum(x, axis=(0, 1), keepdims=True)),
        (xp.sum(x, axis=0, dtype=np.complex128), np.sum(x, axis=0, dtype=np.complex128)),
        (xp.broadcast_to(x, (4, 2, 3)), np.broadcast_to(x, (4, 2, 3))),
        (xp.broadcast_to(one, (0, 3)), np.broadcast_to(one, (0, 3))),
        (xp.broadcast_to(np.asarray(one), (4, 2)), np.broadcast_to(one, (4, 2))),
    ):
        assert (short.dtype, short.shape) == (own.dtype, own.shape)
        assert np.array_equal(short, own)
    assert not xp.broadcast_to(np.asarray(one), (4, 2)).flags.writeable


@pytest.mark.only("numpy")
def test_numpys_sorts_are_stable_and_descend_as_the_standard_has_them(backend):
    x, xp = np.asarray([[1.0, 1.0, 0.0, 2.0, 2.0] * 5, [3.0, 1.0, 3.0, 1.0, 2.0] * 5]), backend.xp
    for axis in (0, 1, -1):
        ties = np.argsort(x, axis=axis, kind="stable")
        np.testing.assert_array_equal(xp.argsort(x, axis=axis), ties)
        np.testing.assert_array_equal(
            xp.argsort(x, axis=axis, descending=True), np.argsort(-x, axis=axis, kind="stable")
        )
        np.testing.assert_array_equal(xp.sort(x, axis=axis, descending=True), -np.sort(-x, axis))
