"""Conjugate gradients, within a trust region, of a matrix that is known by its products."""

from collections.abc import Callable
from typing import Any, NamedTuple

from tinynn.trace import backend_of, namespace
from tinynn.transforms.cond import while_loop

Array = Any


class Found(NamedTuple):
    """The end of conjugate gradients.

    Attributes:
        step: (n,)
        fall: by how much the model falls along it, 0-d.
        at_edge: whether the step ends where the trust region does.
        is_indefinite: whether a direction without positive curvature was met.
        count: how many products were taken.
    """

    step: Array
    fall: Array
    at_edge: Array
    is_indefinite: Array
    count: Array


class _Carry(NamedTuple):
    step: Array
    residual: Array
    direction: Array
    square: Array  # of the residual
    at_edge: Array
    is_indefinite: Array
    count: Array


def steihaug(
    product: Callable[[Array], Array],
    gradient: Array,
    radius: Array | None,
    *,
    steps: int,
    tolerance: float,
) -> Found:
    """The minimum of gradient @ p + p @ matrix @ p / 2 for p no longer than the radius, about.

    It ends where the residual is below `tolerance` times the gradient (or times its square root,
    if that is less: what makes Newton's method superlinear), at the edge of the region, where it
    goes on to along a direction of negative curvature, or after so many steps. Without a radius the
    matrix is positive definite.

    Source: Steihaug 1983; Nocedal and Wright, "Numerical Optimization", algorithm 7.2.
    """
    xp, backend = namespace(gradient), backend_of(gradient)
    square = xp.vecdot(gradient, gradient)
    size = xp.sqrt(square)
    limit = size * xp.minimum(xp.sqrt(size), xp.full_like(size, tolerance))
    no, zero = backend.asarray(False), backend.asarray(0, dtype=backend.xp.int32)
    none = xp.zeros_like(gradient)
    start = _Carry(none, gradient, -gradient, square, no, no, zero)

    def going(carry: _Carry) -> Array:
        unfinished = xp.logical_and(xp.sqrt(carry.square) > limit, carry.count < steps)
        return xp.logical_and(unfinished, xp.logical_not(carry.at_edge))

    def body(carry: _Carry) -> _Carry:
        curved = product(carry.direction)
        curvature = xp.vecdot(carry.direction, curved)
        indefinite = xp.logical_not(curvature > 0)
        length = carry.square / xp.where(indefinite, xp.ones_like(curvature), curvature)
        leaves, new = indefinite, carry.step + length * carry.direction
        if radius is not None:
            leaves = xp.logical_or(leaves, xp.vecdot(new, new) >= radius * radius)
            far = _to_edge(carry.step, carry.direction, radius)
            length = xp.where(leaves, far, length)
        else:
            length = xp.where(leaves, xp.zeros_like(length), length)
        residual = carry.residual + length * curved
        square = xp.vecdot(residual, residual)
        direction = -residual + square / carry.square * carry.direction
        step = carry.step + length * carry.direction
        return _Carry(step, residual, direction, square, leaves, indefinite, carry.count + 1)

    end = while_loop(going, body, start, steps + 1)
    # p @ matrix @ p is p @ (residual - gradient), without another product.
    fall = -0.5 * (xp.vecdot(gradient, end.step) + xp.vecdot(end.residual, end.step))
    return Found(end.step, fall, end.at_edge, end.is_indefinite, end.count)


def _to_edge(step: Array, direction: Array, radius: Array) -> Array:
    """How far it is from a step along a direction to the edge of the region."""
    xp = namespace(step)
    tiny = float(xp.finfo(step.dtype).smallest_normal)
    size = xp.sqrt(xp.vecdot(direction, direction)) + tiny
    along = xp.vecdot(step, direction) / size
    rest = radius * radius - xp.vecdot(step, step)
    root = xp.sqrt(xp.maximum(along * along + rest, xp.zeros_like(size)))
    return rest / (along + root + tiny) / size
