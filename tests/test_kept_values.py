"""What a layer keeps from step to step, however its new values come about, on every engine."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinynn
from backends import Backend
from tests.engines import compiled_by
from tinynn import tree
from tinynn.trace import namespace

New = Callable[[Any, Any, Any], dict[str, Any]]


class Keeping:
    """Scales its input, and keeps two statistics whose new values a function gives."""

    def __init__(self, shape: tuple[int, ...], new: New) -> None:
        self.shape, self.new = shape, new

    def init(self, key: Any, x: Any) -> Any:
        xp, place = namespace(x), {"dtype": x.dtype, "device": x.device}
        kept = {f"running_{name}": xp.zeros(self.shape, **place) for name in "rs"}
        return {"a": xp.ones((3,), **place), **kept}

    def __call__(self, params: Any, x: Any) -> Any:
        return namespace(x, params["a"]).multiply(x, params["a"])

    def train(self, params: Any, x: Any, key: Any = None) -> Any:
        new = self.new(namespace(x, params["a"]), params, x)
        return namespace(x, params["a"]).multiply(x, params["a"]), {"a": params["a"], **new}


def shared(xp: Any, p: Any, x: Any) -> dict[str, Any]:
    mean = xp.add(p["running_r"] * 0.9, xp.mean(xp.multiply(x, p["a"]), axis=0))
    return {"running_r": mean, "running_s": mean}


def merged(xp: Any, p: Any, x: Any) -> dict[str, Any]:
    mean = xp.mean(xp.multiply(x, p["a"]), axis=0)
    return {"running_r": mean, "running_s": mean * 1.0}


def of_the_batch(xp: Any, p: Any, x: Any) -> dict[str, Any]:
    return {"running_r": xp.mean(x, axis=0), "running_s": p["running_s"]}


def counted_twice(xp: Any, p: Any, x: Any) -> dict[str, Any]:
    return {"running_r": p["running_r"] + 1, "running_s": p["running_r"] + 1}


def counted_before(xp: Any, p: Any, x: Any) -> dict[str, Any]:
    return {"running_r": p["running_r"] + 1, "running_s": p["running_r"]}


def of_the_count(xp: Any, p: Any, x: Any) -> dict[str, Any]:
    return {"running_r": p["running_r"] + 1, "running_s": 0.5 / (p["running_r"] + 1)}


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
        tinynn.fit(net, x, y, engine=engine, **settings)  # type: ignore[arg-type]
        for engine in ("eager", compiled_by(backend))
    ]
    for (name, want), found in zip(
        tree.paths(eager.params), tree.leaves(compiled.params), strict=True
    ):
        found, want = backend.to_host(found), backend.to_host(want)
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-6, err_msg=name)
