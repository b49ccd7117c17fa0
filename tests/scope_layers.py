"""Layers and helpers that the tests of scopes share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import backends
from tinynn import tree
from tinynn.initializers import zeros
from tinynn.layers import (
    Layer,
    Scope,
)
from tinynn.trace import namespace

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
