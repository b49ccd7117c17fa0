"""What a layer keeps from step to step, however its new values come about, on every engine."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import tinynn
from backends import Backend
from tests.engines import compiled_by
from tinynn import tree
from tinynn.initializers import ones, zeros
from tinynn.layers import Layer, Scope
from tinynn.trace import namespace

New = Callable[[Any, Any, Any], dict[str, Any]]


@dataclass(frozen=True)
class Keeping(Layer):
    """Scales its input, and keeps two values whose new ones a function gives."""

    shape: tuple[int, ...]
    new: New

    def forward(self, scope: Scope, x: Any) -> Any:
        a = scope.param("a", ones, (3,))
        kept = {name: scope.state(name, zeros, self.shape) for name in "rs"}
        if scope.training:
            old = {name: variable.value for name, variable in kept.items()}
            for name, value in self.new(namespace(x, a), {"a": a, **old}, x).items():
                kept[name].value = value
        return x * a


def shared(xp: Any, p: Any, x: Any) -> dict[str, Any]:
    mean = xp.add(p["r"] * 0.9, xp.mean(xp.multiply(x, p["a"]), axis=0))
    return {"r": mean, "s": mean}


def merged(xp: Any, p: Any, x: Any) -> dict[str, Any]:
    mean = xp.mean(xp.multiply(x, p["a"]), axis=0)
    return {"r": mean, "s": mean * 1.0}


def of_the_batch(xp: Any, p: Any, x: Any) -> dict[str, Any]:
    return {"r": xp.mean(x, axis=0), "s": p["s"]}


def counted_twice(xp: Any, p: Any, x: Any) -> dict[str, Any]:
    return {"r": p["r"] + 1, "s": p["r"] + 1}


def counted_before(xp: Any, p: Any, x: Any) -> dict[str, Any]:
    return {"r": p["r"] + 1, "s": p["r"]}


def of_the_count(xp: Any, p: Any, x: Any) -> dict[str, Any]:
    return {"r": p["r"] + 1, "s": 0.5 / (p["r"] + 1)}


WAYS: list[tuple[tuple[int, ...], New]] = [
    ((3,), shared),
    ((3,), merged),
    ((3,), of_the_batch),
    ((), counted_twice),
    ((), counted_before),
    ((), of_the_count),
]


@pytest.mark.parametrize(("shape", "new"), WAYS, ids=[new.__name__ for _, new in WAYS])
def test_kept_values(backend: Backend, shape: tuple[int, ...], new: New) -> None:
    host = np.random.RandomState(0).randn(12, 3).astype("float32")
    x, y = backend.asarray(host), backend.asarray(2 * host)
    settings: dict[str, Any] = {"loss": "squared_error", "batch_size": 4, "epochs": 3}
    net = Keeping(shape, new)
    eager, compiled = [
        tinynn.fit(net, x, y, engine=engine, **settings)
        for engine in ("eager", compiled_by(backend))
    ]
    kept = [(model.params, model.state) for model in (eager, compiled)]
    for (name, want), found in zip(tree.paths(kept[0]), tree.leaves(kept[1]), strict=True):
        found, want = backend.to_host(found), backend.to_host(want)
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-6, err_msg=name)
