"""What training does not keep, copy or make: memory that a run can do without."""

import gc
import weakref
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from backends import Backend
from tests.checks import assert_close
from tinynn.compiler.engines import kind_of
from tinynn.layers import Linear
from tinynn.rules.special import scatter_add
from tinynn.trace import namespace
from tinynn.transforms.record import record


def loop_of_ones(x: Any) -> Any:
    """A program that counts up a parameter, loaded."""

    def step(w: Any, x: Any) -> tuple[Any, Any]:
        return w + 1.0, namespace(x).sum(namespace(x).exp(x))

    w = np.ones((2, 3), "float32")
    loop = kind_of("calls", backends.get("numpy"))(
        record(step, w, x[:2, :]), 1, backends.get("numpy"), []
    )
    loop.load([w])
    return loop


def test_what_is_handed_over_is_no_copy_and_is_not_written_again() -> None:
    x = np.ones((4, 2), "float32")
    loop = loop_of_ones(x)
    batches = loop.batches(2, [x], [])
    loop.run(batches)
    kept = loop.kept[0]
    (given,) = loop.values(loop.handed_over())
    assert given is kept
    loop.load([given])
    loop.run(batches)
    np.testing.assert_array_equal(loop.values()[0], np.full((2, 3), 5.0, "float32"))
    np.testing.assert_array_equal(given, np.full((2, 3), 3.0, "float32"))


def test_a_callback_may_have_other_epochs_follow() -> None:
    def two_more(run: Any) -> None:
        run.epochs = 3

    x, y = np.ones((4, 2), "float32"), np.full((4, 1), 0.7, "float32")
    settings = {"engine": "calls", "progress": False}
    longer = tinynn.fit(Linear(1), x, y, epochs=1, callbacks=[two_more], **settings)
    assert longer.history == tinynn.fit(Linear(1), x, y, epochs=3, **settings).history


def test_the_arrays_of_a_program_go_with_it() -> None:
    x = np.ones((4, 2), "float32")
    loop = loop_of_ones(x)
    loop.run(loop.batches(2, [x], []))
    bound = [*loop.kept, *loop.emitter.names.bound.values()]
    gone = [weakref.ref(array) for array in bound if type(array) is np.ndarray]
    del bound
    gc.disable()  # a search for cycles would find them too, at some time
    try:
        del loop
        assert len(gone) > 1
        assert [each() for each in gone] == [None] * len(gone)
    finally:
        gc.enable()


@pytest.mark.only("numpy", "torch")
@pytest.mark.parametrize("axis", [0, 1])
def test_rows_are_summed_where_the_gradient_belongs(backend: Backend, axis: int) -> None:
    xp = backend.xp
    indices = backend.asarray([1, -1, 1], dtype=xp.int32)
    given = np.arange(6, dtype="float32").reshape((3, 2) if axis == 0 else (2, 3))

    def step(w: Any, updates: Any) -> tuple[Any, Any]:
        rows = scatter_add(namespace(w).zeros_like(w), indices, updates * 2.0, axis=axis)
        return w + rows, namespace(w).sum(updates)

    w, updates = backend.asarray(np.ones((4, 4), "float32")[:, :2]), backend.asarray(given)
    w = w if axis == 0 else backend.asarray(np.ones((2, 4), "float32"))
    loop = kind_of("calls", backend)(record(step, w, updates), 1, backend, [])
    loop.load([w])
    for _ in range(2):
        loop.run(loop.batches(given.shape[0], [updates], []))
    assert "scattered(" in loop.source
    expected = step(step(w, updates)[0], updates)[0]
    assert_close(loop.values()[0], backend.to_host(expected), backend)


def test_parameters_that_are_given_are_not_drawn() -> None:
    def drawn(key: Any, shape: Any, dtype: Any) -> Any:
        raise AssertionError(f"drew {shape}")

    x, y = np.ones((4, 3), "float32"), np.full((4, 2), 0.7, "float32")
    net, settings = Linear(2, weight_init=drawn), {"epochs": 2, "batch_size": 2, "progress": False}
    params = {"weight": np.ones((3, 2), "float32"), "bias": np.zeros(2, "float32")}
    model = tinynn.fit(net, x, y, params=params, **settings)
    plain = tinynn.fit(Linear(2), x, y, params=params, **settings)
    np.testing.assert_array_equal(model.params["weight"], plain.params["weight"])
    with pytest.raises(AssertionError, match="drew"):  # it does not fit, of which is told then
        tinynn.fit(net, x, y, params={**params, "weight": np.ones((2, 2), "float32")}, **settings)
