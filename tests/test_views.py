"""Products and choices of arrays that repeat, skip or turn round what is in memory.

Gradients are full of such views: that of a sum is one number, broadcast.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tinynn
from backends import Backend
from tests.checks import assert_close
from tinynn.trace import namespace

pytestmark = pytest.mark.usefixtures("float64")

PRODUCTS = {
    "matmul": [((3, 4), (4, 5)), ((4,), (4, 5)), ((3, 4), (4,)), ((2, 3, 4), (4, 5)),
               ((2, 3, 4), (2, 4, 5)), ((1, 4), (4, 1))],
    "vecdot": [((3, 4), (3, 4)), ((2, 3, 4), (4,))],
    "tensordot": [((3, 4, 2), (4, 2, 5)), ((3, 4, 2), (4, 2))],
}  # fmt: skip
View = Callable[[Any, Any], Any]


def views(shape: tuple[int, ...]) -> Iterator[View]:
    """Functions of (xp, x of that shape) that give an array of the same shape."""
    yield lambda xp, x: x
    yield lambda xp, x: xp.concat([x, x], axis=-1)[..., ::2]
    yield lambda xp, x: xp.permute_dims(xp.reshape(x, shape[::-1]), tuple(range(len(shape))[::-1]))
    for axis in range(len(shape)):
        first = (*(slice(None),) * axis, slice(0, 1), ...)
        yield lambda xp, x, first=first: xp.broadcast_to(x[first], shape)
        yield lambda xp, x, axis=axis: xp.flip(x, axis=axis)


@pytest.mark.parametrize(
    ("name", "shapes"), [(name, shapes) for name, rows in PRODUCTS.items() for shapes in rows]
)
def test_products(name: str, shapes: Any, backend: Backend) -> None:
    draw = np.random.default_rng(3)
    hosts = [draw.normal(size=shape) for shape in shapes]
    arrays = [backend.asarray(host, dtype="float64") for host in hosts]
    for first, second in itertools.product(*map(views, shapes)):
        ours, expected = (
            getattr(xp, name)(first(xp, a), second(xp, b))
            for xp, (a, b) in ((backend.xp, arrays), (np, hosts))
        )
        assert_close(ours, expected, backend, rtol=1e-12)


@pytest.mark.parametrize("pair", [lambda x: (1.0, x), lambda x: (x, 1.0)], ids=["first", "last"])
def test_where(pair: Any, backend: Backend) -> None:
    host = np.random.default_rng(4).normal(size=(3, 4))
    x = backend.asarray(host, dtype="float64")
    for first, second in itertools.product(views((3, 4)), repeat=2):
        ours, expected = (
            xp.where(first(xp, xp.greater(array, 0.0)), *pair(second(xp, array)))
            for xp, array in ((backend.xp, x), (np, host))
        )
        assert_close(ours, expected, backend, rtol=0)


def test_a_program_reads_a_view_before_it_overwrites_what_is_seen(backend: Backend) -> None:
    """A flip is a view in some libraries, and their kernels write while others read."""
    x = backend.asarray(np.random.default_rng(5).normal(size=(3, 4)), dtype="float64")
    looks = list(views((3, 4)))

    def f(x: Any) -> list[Any]:
        xp, found = namespace(x), []
        for view in looks:
            y = xp.sin(x)
            found.append(xp.where(view(xp, y) > 0.0, view(xp, y), y) * 3.0)
        return found

    for ours, wanted in zip(tinynn.compile(f)(x), f(x), strict=True):
        assert_close(ours, backend.to_host(wanted), backend, rtol=1e-12)
