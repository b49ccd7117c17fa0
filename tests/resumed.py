"""A run, and the comparison of the models of two, for tests of resumed runs."""

from typing import Any

import numpy as np

from backends import Backend
from tinynn import tree
from tinynn.functional import tanh
from tinynn.layers import BatchNorm, Dropout, Linear, Sequential
from tinynn.training import Model

NET = Sequential(Linear(5), BatchNorm(), tanh, Dropout(0.25), Linear(3))
ROWS = 22


def data(backend: Backend) -> tuple[Any, Any]:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(ROWS, 4)).astype("float32")
    return backend.asarray(x), backend.asarray(np.arange(ROWS) % 3)


class Stop(Exception):
    """Stands in for whatever ends a process."""


def assert_same(one: Model, other: Model) -> None:
    """Both models hold the same bits and have seen the same history."""
    assert one.history == other.history
    for part in ("params", "state"):
        left, right = (tree.paths(getattr(model, part)) for model in (one, other))
        assert [name for name, _ in left] == [name for name, _ in right]
        for (name, a), (_, b) in zip(left, right, strict=True):
            a, b = one.backend.to_host(a), other.backend.to_host(b)
            assert a.dtype == b.dtype
            assert a.tobytes() == b.tobytes(), name
