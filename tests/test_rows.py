"""Rows: of each call, whether rows of a batch meet in it, and of networks the same, tried out."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinynn
from backends import Backend
from tests.checks import assert_close
from tinynn import custom_vjp
from tinynn.compiler.rows import bytes_of_row, mixing, rows_of
from tinynn.functional import gelu, log_softmax, relu, softmax
from tinynn.layers import BatchNorm, Dropout, Flatten, LayerNorm, Linear, Sequential
from tinynn.trace import namespace

pytestmark = [
    pytest.mark.only("numpy", "torch", "jax", "array_api_strict"),
    pytest.mark.usefixtures("float64"),
]
X = np.random.RandomState(0).randn(6, 4, 3)
TABLE = np.random.RandomState(1).randn(5, 3)
F = Callable[[Any, Any], Any]

ALONE: dict[str, F] = {
    "elementwise": lambda xp, x: xp.exp(x) + x * 2 - xp.where(x > 0, x, -x),
    "with what is the same": lambda xp, x: x * xp.asarray(TABLE[:1]),
    "sum": lambda xp, x: xp.sum(x, axis=(1, 2)),
    "mean, max": lambda xp, x: xp.mean(x, axis=-1) - xp.max(x, axis=2),
    "softmax": lambda xp, x: softmax(x) + log_softmax(x, axis=1),
    "matmul": lambda xp, x: x @ xp.asarray(TABLE).T,
    "matmul of rows": lambda xp, x: x @ xp.matrix_transpose(x),
    "vecdot": lambda xp, x: xp.vecdot(x, x),
    "tensordot": lambda xp, x: xp.tensordot(x, xp.asarray(TABLE), axes=((2,), (1,))),
    "there and back": lambda xp, x: xp.permute_dims(
        xp.sum(xp.permute_dims(x, (1, 0, 2)), axis=0, keepdims=True), (1, 0, 2)
    ),
    "flatten": lambda xp, x: xp.reshape(x, (x.shape[0], -1)),
    "merged and parted": lambda xp, x: xp.reshape(
        xp.reshape(x, (-1, 3)) @ xp.asarray(TABLE).T, (x.shape[0], 4, 5)
    ),
    "merged behind": lambda xp, x: xp.permute_dims(
        xp.reshape(xp.reshape(xp.permute_dims(x, (1, 0, 2)), (4, -1)), (4, -1, 3)), (1, 0, 2)
    ),
    "sorted": lambda xp, x: xp.sort(x, axis=1) + xp.cumulative_sum(x, axis=1),
    "flipped": lambda xp, x: xp.flip(x, axis=1) + xp.roll(x, 1, axis=2),
    "concat, stack": lambda xp, x: xp.stack([xp.concat([x, x], axis=1)], axis=-1),
    "sliced": lambda xp, x: x[:, 1:, 0] + x[..., ::2, 1][:, :1],
    "taken": lambda xp, x: xp.take(x, xp.asarray([2, 0]), axis=1),
    "looked up": lambda xp, x: xp.take(xp.asarray(TABLE), xp.argmax(x[:, 0, :], axis=1), axis=0),
    "squeezed": lambda xp, x: xp.squeeze(xp.expand_dims(x, axis=1), axis=1),
    "zeros": lambda xp, x: xp.zeros_like(x) + 1,
    "repeated": lambda xp, x: xp.broadcast_to(x[:, None, :, :], (x.shape[0], 2, 4, 3)),
    "inverse": lambda xp, x: xp.linalg.inv(x @ xp.matrix_transpose(x) + 5 * xp.asarray(np.eye(4))),
}
MEETING: dict[str, F] = {
    "mean": lambda xp, x: x - xp.mean(x, axis=0),
    "mean of all": lambda xp, x: x - xp.mean(x),
    "kept mean": lambda xp, x: x - xp.mean(x, axis=(0, 1), keepdims=True),
    "softmax": lambda xp, x: softmax(x, axis=0),
    "number of rows": lambda xp, x: x / x.shape[0],
    "products of rows": lambda xp, x: (x[:, 0, :] @ x[:, 0, :].T) @ x[:, 0, :],
    "contracted": lambda xp, x: x[:, 0, :] @ (x[:, 0, :].T @ x[:, 0, :]),
    "sorted": lambda xp, x: xp.sort(x, axis=0),
    "cumulative": lambda xp, x: xp.cumulative_sum(x, axis=0),
    "flipped": lambda xp, x: xp.flip(x),
    "rolled": lambda xp, x: xp.roll(x, 1, axis=0),
    "rolled as if flat": lambda xp, x: xp.roll(x, 1),
    "first row": lambda xp, x: x - x[0, ...],
    "first rows": lambda xp, x: x - x[:1, ...],
    "from the second row": lambda xp, x: x[1:, ...],
    "shuffled": lambda xp, x: xp.reshape(xp.permute_dims(x, (1, 0, 2)), (x.shape[0], 4, 3)),
    "doubled": lambda xp, x: xp.concat([x, x], axis=0)[: x.shape[0], ...],
    "counted": lambda xp, x: x + xp.cumulative_sum(xp.ones_like(x), axis=0),
    "lower triangle": lambda xp, x: xp.tril(x[:, 0, :]),
    "not the batch in front": lambda xp, x: xp.permute_dims(x, (1, 0, 2)),
    "a number": lambda xp, x: xp.sum(x),
    "compared": lambda xp, x: xp.where(x >= xp.max(x), 1.0, x),
}


def outputs(f: F, backend: Backend) -> Callable[[Any], Any]:
    return lambda x: f(Standard(backend, x), x)


class Standard:
    """The namespace of x, whose `asarray` takes what is on the host."""

    def __init__(self, backend: Backend, x: Any) -> None:
        self.asarray, self._space = backend.asarray, namespace(x)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._space, name)


@pytest.mark.parametrize("case", ALONE)
def test_rows_that_stay_alone(backend: Backend, case: str) -> None:
    f, x = outputs(ALONE[case], backend), backend.asarray(X)
    assert mixing(rows_of(f, x)) is None
    whole = f(tinynn.Namespace(backend.xp).asarray(x))
    for row in range(6):  # and so they do
        alone = f(tinynn.Namespace(backend.xp).asarray(x[row : row + 1, ...]))
        want = backend.to_host(plain(whole))[row : row + 1]
        assert_close(plain(alone), want, backend)


def plain(array: Any) -> Any:
    return array.value


@pytest.mark.parametrize("case", MEETING)
def test_rows_that_meet(backend: Backend, case: str) -> None:
    found = mixing(rows_of(outputs(MEETING[case], backend), backend.asarray(X)))
    assert found is not None
    assert found.certain
    assert "test_rows.py" in found.where or found.where.startswith("the output")


def test_of_functions_of_the_users_nobody_can_tell(backend: Backend) -> None:
    @custom_vjp(lambda g, y, x: (2 * g,))
    def mine(x: Any) -> Any:
        return x * 2

    found = mixing(rows_of(lambda x: mine(x) + 1, backend.asarray(X)))
    assert found is not None
    assert not found.certain
    assert "mine" in found.where


@pytest.mark.parametrize(
    "net",
    [
        Sequential(Flatten(), Linear(8), relu, LayerNorm(), Dropout(0.5), Linear(2), softmax),
        Sequential(Linear(8), BatchNorm(), gelu, log_softmax),
        relu,
    ],
    ids=["layers", "norms", "function"],
)
def test_networks_of_our_own(backend: Backend, net: Any) -> None:
    x = backend.asarray(X)
    params, state = net.init(0, x) if net is not relu else ({}, {})
    graph = rows_of(lambda x: tinynn.layers.run(net, params, state, x).output, x)
    assert mixing(graph) is None
    widest = max(12, 8 if net is not relu and isinstance(net.layers[0], Flatten) else 32)
    assert bytes_of_row(graph) == 8 * (widest if net is not relu else 12)
