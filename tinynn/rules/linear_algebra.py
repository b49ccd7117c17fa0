"""Derivatives of the products, and of what is made of products."""

from math import inf, prod
from typing import Any

from tinynn.rules.complex import conj, device_of, squared_size
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
    return xp.sum(conj(xp, a) * b, axis=axis)


def _tensordot(xp: Any, a: Any, b: Any, *, axes: Any = 2) -> Any:
    if isinstance(axes, int):
        axes = (tuple(range(a.ndim - axes, a.ndim)), tuple(range(axes)))
    left, right = (axes_of(tuple(x), y.ndim) for x, y in zip(axes, (a, b), strict=True))
    rest_a = tuple(i for i in range(a.ndim) if i not in left)
    rest_b = tuple(i for i in range(b.ndim) if i not in right)
    inner = prod(a.shape[i] for i in left)
    shape_a, shape_b = (tuple(y.shape[i] for i in r) for y, r in ((a, rest_a), (b, rest_b)))
    out = xp.matmul(
        xp.reshape(xp.permute_dims(a, rest_a + left), (prod(shape_a), inner)),
        xp.reshape(xp.permute_dims(b, right + rest_b), (inner, prod(shape_b))),
    )
    return xp.reshape(out, shape_a + shape_b)


def _outer(xp: Any, a: Any, b: Any) -> Any:
    return xp.expand_dims(a, axis=-1) * b


def _cross(xp: Any, a: Any, b: Any, *, axis: int = -1) -> Any:
    a_next, a_last = (xp.roll(a, by, axis=axis) for by in (-1, 1))
    b_next, b_last = (xp.roll(b, by, axis=axis) for by in (-1, 1))
    return a_next * b_last - a_last * b_next


def _diagonal(xp: Any, x: Any, *, offset: int = 0) -> Any:
    *batch, m, n = x.shape
    length = max(0, min(m, n - offset) if offset >= 0 else min(m + offset, n))
    start = (offset if offset >= 0 else -offset * n) if length else 0
    flat = xp.reshape(x, (*batch, m * n))
    stop = start + length * (n + 1)
    return flat[..., start : stop if stop < m * n else None : n + 1]


def _trace(xp: Any, x: Any, *, offset: int = 0, dtype: Any = None) -> Any:
    return xp.sum(xp.linalg.diagonal(x, offset=offset), axis=-1, dtype=dtype)


def _matrix_power(xp: Any, x: Any, *, n: int) -> Any:
    if n == 0:
        return xp.broadcast_to(xp.eye(x.shape[-1], dtype=x.dtype, device=device_of(x)), x.shape)
    square, n = (x, n) if n > 0 else (xp.linalg.inv(x), -n)
    power = None
    while n:
        if n % 2:
            power = square if power is None else xp.matmul(power, square)
        n //= 2
        square = xp.matmul(square, square) if n else square
    return power


def _vector_norm(
    xp: Any, x: Any, *, axis: Any = None, keepdims: bool = False, ord: float = 2
) -> Any:
    over = {"axis": axis, "keepdims": keepdims}
    if ord == 2:
        return xp.sqrt(xp.sum(squared_size(xp, x), **over))
    size = xp.abs(x)
    if ord == inf:
        return xp.max(size, **over)
    if ord == -inf:
        return xp.min(size, **over)
    if ord == 0:
        return xp.sum(xp.astype(xp.not_equal(x, 0), size.dtype), **over)
    if ord == 1:
        return xp.sum(size, **over)
    return xp.pow(xp.sum(xp.pow(size, ord), **over), 1 / ord)


def _matrix_norm(xp: Any, x: Any, *, keepdims: bool = False, ord: Any = "fro") -> Any:
    if ord in ("fro", None):
        return xp.sqrt(xp.sum(squared_size(xp, x), axis=(-2, -1), keepdims=keepdims))
    reduce = xp.sum if ord == "nuc" else xp.max if ord > 0 else xp.min
    if ord in ("nuc", 2, -2):
        norm = reduce(xp.linalg.svdvals(x), axis=-1, keepdims=keepdims)
        return xp.expand_dims(norm, axis=-1) if keepdims else norm
    lines = xp.sum(xp.abs(x), axis=-2 if abs(ord) == 1 else -1, keepdims=True)
    return reduce(lines, axis=(-2, -1), keepdims=keepdims)


for prefix in ("", "linalg."):
    RULES[prefix + "matmul"] = Bilinear(_matmul_left, _matmul_right)
    RULES[prefix + "vecdot"] = Composed(_vecdot)
    RULES[prefix + "tensordot"] = Composed(_tensordot)

RULES["linalg.outer"] = Composed(_outer)
RULES["linalg.cross"] = Composed(_cross)
RULES["linalg.diagonal"] = Composed(_diagonal)
RULES["linalg.trace"] = Composed(_trace)
RULES["linalg.matrix_power"] = Composed(_matrix_power)
RULES["linalg.vector_norm"] = Composed(_vector_norm)
RULES["linalg.matrix_norm"] = Composed(_matrix_norm)
