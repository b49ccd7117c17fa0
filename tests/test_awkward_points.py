"""Derivatives at the points where they need thought: at each, what JAX says, or why not."""

import itertools
from dataclasses import dataclass
from math import inf, nan
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from tests.checks import assert_close
from tests.rule_rows import require, skip_if_missing
from tinynn.rules import special
from tinynn.trace import Namespace, namespace


@dataclass(frozen=True)
class Point:
    """sum(weights * f(*args)), and its gradient by each argument.

    jax: the gradient that JAX gives, where ours is another; `why` says the reason.
    """

    name: str
    args: tuple[Any, ...]
    gradients: tuple[Any, ...]
    jax: tuple[Any, ...] = ()
    why: str = ""
    f: Any = None
    kwargs: Any = None

    def __call__(self, xp: Any, *arrays: Any) -> Any:
        if self.f:
            return self.f(xp, *arrays)
        *extension, name = self.name.split(".")
        home = getattr(xp, extension[0]) if extension else xp
        return getattr(home, name)(*arrays, **(self.kwargs or {}))


def weighted(xp: Any, y: Any) -> Any:
    """1 y[0] + 2 y[1] + ..., so that no two elements of a result are alike."""
    return xp.sum(y * xp.cumulative_sum(xp.ones_like(y), axis=-1)) if y.ndim else y


EYE, SINGULAR = [[1, 0], [0, 1]], [[1, 0, 0], [0, 2, 0], [0, 0, 0]]
DEFINED = "the derivative exists"

POINTS = [
    Point("sign", (0,), (0,)),
    Point("abs", (0,), (1,)),
    Point("abs", (-0.0,), (1,)),
    Point("sqrt", (0,), (inf,)),
    Point("reciprocal", (0,), (-inf,)),
    Point("log", (0,), (inf,)),
    Point("acos", (1,), (-inf,)),
    Point("round", (0.5,), (0,)),
    Point("floor", (1,), (0,)),
    Point("copysign", (0, -1), (-1, 0)),
    Point("atan2", (0, 0), (nan, nan)),
    Point("hypot", (0, 0), (0.5, 0.5)),
    Point("hypot", (3, 0), (1, 0)),
    Point("remainder", (6, 2), (1, -3)),
    Point("floor_divide", (6, 2), (0, 0)),
    Point("maximum", (1, 1), (0.5, 0.5)),
    Point("minimum", (1, 1), (0.5, 0.5)),
    Point("pow", (0, 0), (0, 0), jax=(nan, 0), why=DEFINED),
    Point("pow", (0, 1), (1, 0)),
    Point("pow", (0, 2), (0, 0)),
    Point("pow", (0, 0.5), (inf, 0)),
    Point("pow", (-1, 2), (-2, nan)),
    Point("x ** 0", (0,), (0,), f=lambda xp, x: x**0),
    Point("x ** 1", (0,), (1,), f=lambda xp, x: x**1),
    Point("x ** 2", (0,), (0,), f=lambda xp, x: x**2),
    Point("logaddexp", (-inf, -inf), (nan, nan)),
    Point("logaddexp", (-inf, 0), (0, 1)),
    Point("logaddexp", (inf, inf), (1, 1)),
    Point("logaddexp", (inf, 0), (1, 0), jax=(1, 1), why=DEFINED),
    Point("clip", ([0, 0.5, 1],), ([0.5, 2, 1.5],), kwargs={"min": 0, "max": 1}),
    Point("clip", ([0, 1], 0, 1), ([0.5, 1], 0.5, 1)),
    Point("where(x > 0, log x, 0)", (0,), (nan,), f=lambda xp, x: xp.where(x > 0, xp.log(x), 0.0)),
    Point(
        "where(x > 0, log where(x > 0, x, 1), 0)",
        (0,),
        (0,),
        f=lambda xp, x: xp.where(x > 0, xp.log(xp.where(x > 0, x, 1.0)), 0.0),
    ),
    Point("max", ([1, 1, 0],), ([0.5, 0.5, 0],)),
    Point("min", ([1, 1, 2],), ([0.5, 0.5, 0],)),
    Point("sort", ([1, 1, 0],), ([2, 3, 1],)),
    Point("unique_values", ([3, 1, 1],), ([2, 1, 0],), jax=([0, 0, 0],), why=DEFINED),
    Point("prod", ([0, 2, 3],), ([6, 0, 0],)),
    Point("prod", ([0, 0, 3],), ([0, 0, 0],)),
    Point("cumulative_prod", ([0, 2, 0],), ([5, 0, 0],)),
    Point("var", ([1, 1],), ([0, 0],)),
    Point("std", ([1, 1],), ([nan, nan],)),
    Point("std", ([2],), ([0],), jax=([nan],), why=DEFINED),
    Point("linalg.vector_norm", ([0, 0],), ([nan, nan],)),
    Point("linalg.vector_norm", ([0, 0],), ([1, 1],), kwargs={"ord": 1}),
    Point("linalg.vector_norm", ([0, 0],), ([nan, nan],), kwargs={"ord": 3}),
    Point("linalg.vector_norm", ([1, 1],), ([0.5, 0.5],), kwargs={"ord": inf}),
    Point("linalg.matrix_norm", ([[0, 0]],), ([[nan, nan]],)),
    Point("linalg.matrix_norm", (EYE,), (EYE,), kwargs={"ord": "nuc"}),
    Point("linalg.det", (SINGULAR,), ([[0, 0, 0], [0, 0, 0], [0, 0, 2]],)),
    Point("linalg.det", ([[0, 0], [0, 0]],), ([[0, 0], [0, 0]],)),
    Point("linalg.eigvalsh", (EYE,), ([[1, 0], [0, 2]],)),
    Point("linalg.svdvals", ([[2, 0], [0, 2]],), ([[1, 0], [0, 2]],)),
    Point(
        "logsumexp",
        ([-inf, -inf],),
        ([nan, nan],),
        f=lambda xp, x: special.logsumexp(x, axis=-1),
    ),
    Point(
        "logsumexp", ([inf, 0],), ([nan, 0],), f=lambda xp, x: special.logsumexp(x, axis=-1)
    ),
    Point("relu", (0,), (0,), f=lambda xp, x: special.relu(x), jax=(0.5,), why="jax.nn.relu's"),
    Point("sigmoid", (200,), (0,), f=lambda xp, x: special.sigmoid(x)),
    Point("sigmoid", (-200,), (0,), f=lambda xp, x: special.sigmoid(x)),
]  # fmt: skip
each_point = pytest.mark.parametrize(
    "point", [pytest.param(point, id=f"{point.name}{point.args}") for point in POINTS]
)


def placed(point: Point, backend: backends.Backend) -> list[Any]:
    dtype = backend.dtypes()["float32"]
    return [backend.asarray(np.asarray(a), dtype=dtype) for a in point.args]


@each_point
def test_derivative_at_an_awkward_point(point: Point, backend: backends.Backend) -> None:
    if not point.f:
        require(point.name, backend)
    space, args = Namespace(backend.xp), placed(point, backend)
    f = lambda *arrays: weighted(space, point(space, *arrays))  # noqa: E731
    with np.errstate(all="ignore"):
        skip_if_missing(lambda: f(*args), backend)
        found = tinynn.grad(f, argnums=tuple(range(len(args))))(*args)
    for gradient, expected in zip(found, point.gradients, strict=True):
        assert_close(gradient, expected, backend, dtype="float32", atol=1e-6)


@pytest.mark.only("jax-x64")
@each_point
def test_jax_gives_the_same(point: Point, backend: backends.Backend) -> None:
    """Or what the table says that it gives."""
    import jax

    xp, args = jax.numpy, placed(point, backend)
    f = lambda *arrays: weighted(xp, point(xp, *arrays))  # noqa: E731
    found = jax.grad(f, argnums=tuple(range(len(args))))(*args)
    assert bool(point.jax) == bool(point.why)
    for gradient, expected in zip(found, point.jax or point.gradients, strict=True):
        assert_close(gradient, expected, backend, dtype="float32", atol=1e-6)


def second(f: Any, x: Any) -> Any:
    """The derivative of the sum of f's gradient."""
    return tinynn.grad(lambda x: namespace(x).sum(tinynn.grad(f)(x)))(x)


@pytest.mark.parametrize(
    ("values", "expected"), [([0, 2, 3], [5, 3, 2]), ([0, 0, 3], [3, 3, 0]), ([4, 2, 3], [5, 7, 6])]
)
def test_products_with_zeros_to_second_order(
    values: Any, expected: Any, backend: backends.Backend
) -> None:
    x = backend.asarray(np.asarray(values), dtype=backend.dtypes()["float32"])
    assert_close(second(lambda x: namespace(x).prod(x), x), expected, backend, dtype="float32")
    last = lambda x: namespace(x).cumulative_prod(x)[-1]  # noqa: E731
    assert_close(second(last, x), expected, backend, dtype="float32")


@pytest.mark.parametrize(
    "values", [np.zeros((3, 3)), np.eye(3), SINGULAR, [[2, 1, 0], [0, 1, 3], [1, 0, 1]]], ids=str
)
def test_determinants_to_second_order(values: Any, backend: backends.Backend) -> None:
    signs = np.zeros((3, 3, 3))  # of permutations
    for i, j, k in itertools.permutations(range(3)):
        signs[i, j, k] = (j - i) * (k - i) * (k - j) / 2
    expected = np.einsum("ikp,jmq,pq->ijkm", signs, signs, np.asarray(values))
    x = backend.asarray(np.asarray(values), dtype=backend.dtypes()["float32"])
    found = tinynn.hessian(lambda x: namespace(x).linalg.det(x))(x)
    assert_close(found, expected, backend, dtype="float32", atol=3e-6)


@pytest.mark.only("array_api_strict", "torch", "jax-x64")
def test_sort_in_descending_order_keeps_the_order_of_ties(backend: backends.Backend) -> None:
    """NumPy has ascending order alone."""
    x = backend.asarray(np.asarray([1, 2, 1]), dtype=backend.dtypes()["float32"])
    f = lambda x: weighted(namespace(x), namespace(x).sort(x, descending=True))  # noqa: E731
    assert_close(tinynn.grad(f)(x), [2, 1, 3], backend, dtype="float32")


@pytest.mark.parametrize(
    ("f", "advice"),
    [
        (lambda xp, x: xp.linalg.svd(x)[0], "full_matrices=False"),
        (lambda xp, x: xp.linalg.qr(x, mode="complete")[0], "mode='reduced'"),
    ],
)
def test_bases_of_the_rest_have_no_derivative(
    f: Any, advice: str, backend: backends.Backend
) -> None:
    x = backend.asarray(np.eye(3, 2), dtype=backend.dtypes()["float32"])
    with pytest.raises(ValueError, match=f"any basis of the rest.*{advice}"):
        tinynn.grad(lambda x: namespace(x).sum(f(namespace(x), x)))(x)
