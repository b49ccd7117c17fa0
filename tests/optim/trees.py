"""A tree of parameters, gradients of it, and how trees are compared."""

from typing import Any

import numpy as np

import backends
from tests.checks import assert_close
from tinynn import tree

DRAW = np.random.default_rng(0)
PARAMS = {"0": {"weight": DRAW.normal(size=(3, 2)), "bias": DRAW.normal(size=2)}, "2": [1.5]}
GRADIENTS = [tree.map(lambda leaf: DRAW.normal(size=np.shape(leaf)), PARAMS) for _ in range(5)]


def placed(host: Any, backend: backends.Backend, dtype: Any) -> Any:
    return tree.map(lambda leaf: backend.asarray(leaf, dtype=dtype), host)


def assert_trees_close(actual: Any, expected: Any, backend: backends.Backend, **how: Any) -> None:
    assert tree.flatten(actual)[1] == tree.flatten(expected)[1]
    for leaf, other in zip(tree.leaves(actual), tree.leaves(expected), strict=True):
        assert_close(leaf, other, backend, **how)
