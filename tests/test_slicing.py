"""Slices that begin where an array says: `dynamic_slice` and `dynamic_update_slice`."""

from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from backends.base import Backend
from tests.checks import assert_close, assert_equal
from tinynn.functional import dynamic_slice, dynamic_update_slice
from tinynn.functional.errors import DtypeError, ShapeError

X = np.arange(24.0).reshape(2, 4, 3)
UPDATE = -1.0 - np.arange(12.0).reshape(2, 2, 3)


def updated(start: int) -> Any:
    first, y = min(max(start, 0), 2), X.copy()
    y[:, first : first + 2] = UPDATE
    return y


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("start", [-9, 0, 1, 2, 3, 2**31 - 1])
def test_the_slice_is_always_inside(start: int, own: bool, backend: backends.Backend) -> None:
    methods = backend if own else Backend(backend.device, backend.xp)
    x, update = (backend.asarray(a, dtype="float32") for a in (X, UPDATE))
    at, first = backend.asarray(start, dtype="int32"), min(max(start, 0), 2)
    with backend.scope():
        assert_equal(
            methods.dynamic_slice(x, at, size=2, axis=-2), X[:, first : first + 2], backend,
            dtype="float32",
        )  # fmt: skip
        y = methods.dynamic_update_slice(x, update, at, axis=1)
    assert_equal(y, updated(start), backend, dtype="float32")
    assert_equal(x, X, backend, dtype="float32")  # left alone


@pytest.mark.parametrize(("dtype", "place"), [("int8", -5), ("int8", 127), ("uint8", 255)])
def test_a_start_of_few_bits_reaches_as_far_as_it_can(
    dtype: str, place: int, backend: backends.Backend
) -> None:
    x, update = backend.asarray(np.arange(300.0)), backend.asarray(np.asarray([-1.0, -2.0]))
    start, first = backend.asarray(np.asarray(place, dtype)), max(place, 0)
    y = np.arange(300.0)
    y[first : first + 2] = [-1.0, -2.0]
    assert_equal(dynamic_slice(x, start, 2), [first, first + 1], backend)
    assert_equal(dynamic_update_slice(x, update, start), y, backend)
    starts = backend.asarray(np.asarray([place], dtype))
    rows = tinynn.vmap(lambda s: dynamic_slice(x, s, 2))(starts)
    assert_equal(rows, [[first, first + 1]], backend)
    rows = tinynn.vmap(lambda s: dynamic_update_slice(x, update, s))(starts)
    assert_equal(rows, y[None], backend)


def test_an_update_of_nothing_and_integers_beyond(backend: backends.Backend) -> None:
    x, start = backend.asarray(X), backend.asarray(2, dtype="int32")
    for each in (X, X[:, :0]):
        y = dynamic_update_slice(backend.asarray(each), backend.asarray(X[:, :0]), start, axis=1)
        assert_equal(y, each, backend)
    starts, nothing = backend.asarray([0, 1], dtype="int32"), backend.asarray(X[:, :0])
    empty = tinynn.vmap(dynamic_update_slice)(x, nothing, starts)
    assert_equal(empty, X, backend)
    for far in (-(2**40), 2**40):
        assert_equal(dynamic_slice(x, far, 1), X[:1] if far < 0 else X[1:], backend)


def test_a_compiled_program_writes_into_what_is_donated(backend: backends.Backend) -> None:
    def step(x: Any, update: Any, start: Any) -> Any:
        return dynamic_update_slice(x, update, start, axis=1), start + 1

    kept, given = tinynn.compile(step), tinynn.compile(step, donate_argnums=(0,))
    x = backend.asarray(X.copy())
    update, at = backend.asarray(UPDATE), backend.asarray(1, dtype="int32")
    y, _ = kept(x, update, at)
    assert_equal(x, X, backend)
    assert_equal(y, updated(1), backend)
    z, at = given(x, update, at)
    assert_equal(z, updated(1), backend)
    assert (z is x) == (backend.name in ("numpy", "torch", "cupy"))
    assert int(at) == 2


@pytest.mark.only("numpy")
def test_what_is_read_afterwards_is_not_overwritten() -> None:
    update, start = UPDATE, np.asarray(1)

    def late(x: Any, update: Any, start: Any) -> Any:
        y = dynamic_update_slice(x, update, start, axis=1)
        return y, x * 2.0

    def of_itself(x: Any, update: Any, start: Any) -> Any:
        return dynamic_update_slice(x, x[:, 2:], start, axis=1)

    def twice(x: Any, update: Any, start: Any) -> Any:
        y = dynamic_update_slice(x, update, start, axis=1)
        return y, dynamic_update_slice(x, update + 1.0, start, axis=1)

    def itself(x: Any, update: Any, start: Any) -> Any:
        return dynamic_update_slice(x, update, start, axis=1), x

    for f in (late, of_itself, twice, itself):
        expected = f(X.copy(), update, start)
        found = tinynn.compile(f, donate_argnums=(0,))(X.copy(), update, start)
        for a, b in zip(expected, found, strict=True):
            np.testing.assert_array_equal(a, b)


def test_entries_of_a_batch_begin_where_they_like(backend: backends.Backend) -> None:
    x, update = backend.asarray(X), backend.asarray(UPDATE)
    starts = backend.asarray([2, -1], dtype="int32")
    rows = tinynn.vmap(lambda x, s: dynamic_slice(x, s, 2))(x, starts)
    assert_equal(rows, np.stack([X[0, 2:], X[1, :2]]), backend)
    y = tinynn.vmap(lambda x, u, s: dynamic_update_slice(x, u, s))(x, update, starts)
    assert_equal(y, np.stack([updated(2)[0], updated(0)[1]]), backend)


def test_a_scan_that_fills_an_array_has_its_gradient(backend: backends.Backend) -> None:
    steps = backend.asarray(np.arange(4), dtype="int32")
    numbers = backend.asarray(np.arange(4.0))

    def fill(numbers: Any) -> Any:
        def step(held: Any, given: Any) -> Any:
            at, x = given
            before = dynamic_slice(held, at - 1, 1)  # of the first that is itself, still 0
            return dynamic_update_slice(held, x * x + before, at), None

        held, _ = tinynn.scan(step, numbers * 0.0, (steps, numbers[:, None]))
        return held

    expected = np.cumsum(np.arange(4.0) ** 2)
    assert_close(fill(numbers), expected, backend)
    assert_close(tinynn.compile(fill)(numbers), expected, backend)
    gradient = tinynn.compile(tinynn.grad(lambda n: fill(n)[3]))
    assert_close(gradient(numbers), 2.0 * np.arange(4.0), backend)


def test_what_does_not_fit_is_named() -> None:
    x, at = X, np.asarray(0)
    with pytest.raises(ShapeError, match="expected at most the 4 entries of axis 1, got 5"):
        dynamic_slice(x, at, 5, axis=1)
    with pytest.raises(ShapeError, match="expected an axis of the array"):
        dynamic_slice(x, at, 1, axis=3)
    with pytest.raises(ShapeError, match="expected a 0-d start"):
        dynamic_slice(x, np.asarray([1]), 1)
    with pytest.raises(DtypeError, match="expected start of an integer dtype"):
        dynamic_slice(x, np.asarray(1.0), 1)
    with pytest.raises(ShapeError, match="expected an array with an axis"):
        dynamic_update_slice(x[0, 0, 0], x[0, 0, 0], at)
    with pytest.raises(ShapeError, match="expected an axis of the array"):
        dynamic_slice(x, at, 1, axis=1.0)  # type: ignore[arg-type]
    for update in (UPDATE[:1], UPDATE[0], UPDATE.astype("float32"), 1.0):
        with pytest.raises(ShapeError, match="expected an update like x"):
            dynamic_update_slice(x, update, at, axis=1)


def test_an_array_that_is_donated_is_no_other_array_as_well(backend: backends.Backend) -> None:
    def f(x: Any, y: Any) -> Any:
        return x + 1.0, y * 2.0

    one, both = tinynn.compile(f, donate_argnums=(0,)), tinynn.compile(f, donate_argnums=(0, 1))
    x = backend.asarray(X.copy())
    for g in (one, both):
        with pytest.raises(ValueError, match="got one that is given twice"):
            g(x, x)
    outside = tinynn.compile(lambda y: (y + 1.0, y * x), donate_argnums=(0,))
    with pytest.raises(ValueError, match="or from outside as well"):
        outside(x)
    assert_equal(x, X, backend)
    y = backend.asarray(X.copy())
    found = both(x, y)
    assert (found[0] is x) == (backend.name in ("numpy", "torch", "cupy"))
    assert_equal(found[0], X + 1.0, backend)
    assert_equal(found[1], X * 2.0, backend)


@pytest.mark.only("numpy", "torch", "cupy")
def test_views_that_are_donated(backend: backends.Backend) -> None:
    f = tinynn.compile(lambda x, y: (x + 1.0, y * 2.0), donate_argnums=(0,))
    whole = backend.asarray(np.arange(8.0))
    with pytest.raises(ValueError, match="or of which a view is"):
        f(whole[:4], whole[2:6])
    x, y = f(whole[:4], whole[4:])  # beside each other
    assert_equal(x, np.arange(4.0) + 1.0, backend)
    assert_equal(y, np.arange(4.0, 8.0) * 2.0, backend)
    one = backend.asarray(np.asarray([1.0]))
    repeated = backend.xp.broadcast_to(one, (4,))  # copied: it cannot be written to
    x, _ = f(repeated, y)
    assert_equal(x, np.full(4, 2.0), backend)
    assert_equal(one, np.ones(1), backend)


@pytest.mark.only("numpy")
def test_numbers_and_read_only_arrays_are_donated_as_copies() -> None:
    f = tinynn.compile(lambda x: x + 1.0, donate_argnums=(0,))
    x = np.float64(1.0)
    for _ in range(3):
        x = f(x)
    assert float(x) == 4.0
    given = X.copy()
    given.flags.writeable = False
    np.testing.assert_array_equal(f(given), X + 1.0)
    np.testing.assert_array_equal(given, X)


def test_positions_of_what_is_donated_are_looked_at() -> None:
    for wrong in (0, (-1,), ("a",), None):
        with pytest.raises(TypeError, match="a tuple of positions"):
            tinynn.compile(lambda x: x, donate_argnums=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="below the number of arguments, 1"):
        tinynn.compile(lambda x: x, donate_argnums=(1,))(X)
