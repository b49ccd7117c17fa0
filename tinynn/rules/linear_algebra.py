"""Derivatives of the products."""

from math import prod
from typing import Any

from tinynn.rules.kinds import RULES, Bilinear, Composed, axes_of


def _matmul_left(xp: Any, g: Any, a: Any, b: Any) -> Any:
    if b.ndim == 1:
        return (g if a.ndim == 1 else xp.expand_dims(g, axis=-1)) * b
    if a.ndim == 1:
        return xp.squeeze(xp.matmul(b, xp.expand_dims(g, axis=-1)), -1)
    return xp.matmul(g, xp.matrix_transpose(b))


def _matmul_right(xp: Any, g: Any, a: Any, b: Any) -> Any:
    if a.ndim == 1:
        return (g if b.ndim == 1 else xp.expand_dims(g, axis=-2)) * (
            a if b.ndim == 1 else xp.expand_dims(a, axis=-1)
        )
    if b.ndim == 1:
        return xp.squeeze(xp.matmul(xp.matrix_transpose(a), xp.expand_dims(g, axis=-1)), -1)
    return xp.matmul(xp.matrix_transpose(a), g)


def _vecdot(xp: Any, a: Any, b: Any, *, axis: int = -1) -> Any:
    return xp.sum(a * b, axis=axis)


def _tensordot(xp: Any, a: Any, b: Any, *, axes: Any = 2) -> Any:
    if isinstance(axes, int):
        axes = (tuple(range(a.ndim - axes, a.ndim)), tuple(range(axes)))
    left, right = (axes_of(tuple(x), y.ndim) for x, y in zip(axes, (a, b), strict=True))
    rest_a = tuple(i for i in range(a.ndim) if i not in left)
    rest_b = tuple(i for i in range(b.ndim) if i not in right)
    inner = prod(a.shape[i] for i in left)
    out = xp.matmul(
        xp.reshape(xp.permute_dims(a, rest_a + left), (-1, inner)),
        xp.reshape(xp.permute_dims(b, right + rest_b), (inner, -1)),
    )
    return xp.reshape(out, tuple(a.shape[i] for i in rest_a) + tuple(b.shape[i] for i in rest_b))


for prefix in ("", "linalg."):
    RULES[prefix + "matmul"] = Bilinear(_matmul_left, _matmul_right)
    RULES[prefix + "vecdot"] = Composed(_vecdot)
    RULES[prefix + "tensordot"] = Composed(_tensordot)
