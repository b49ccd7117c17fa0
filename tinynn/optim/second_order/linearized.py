"""The model of Gauss-Newton at a point, and its damped minimum: by matrices or by products."""

from collections.abc import Callable
from typing import Any, Protocol

from tinynn.optim.second_order.conjugate import steihaug
from tinynn.trace import backend_of, namespace

Array = Any


class Linearized(Protocol):
    """A quadratic model of the loss around a point.

    Attributes:
        value: the loss there, 0-d.
        gradient: (n,)
        diagonal: (n,), of the matrix of the model, or what stands for it.
        least: the damping below which nothing is changed by it but rounding.
    """

    value: Array
    gradient: Array
    diagonal: Array
    least: float

    def step(self, damping: Array | float, scale: Array) -> Array:
        """(n,): the minimum of the model with damping * scale added to the matrix's diagonal."""
        ...

    def bend(self, second: Array, damping: Array | float, scale: Array) -> Array:
        """(n,): half of what the step changes by for predictions that bend by `second` along it."""
        ...


class Normal:
    """The model by its matrix, which is positive semi-definite.

    curved: (m, n), the Jacobian times the second derivatives of the cost by the prediction.
    """

    def __init__(self, value: Array, gradient: Array, matrix: Array, curved: Array) -> None:
        xp = namespace(matrix)
        self.value, self.gradient, self.matrix, self.curved = value, gradient, matrix, curved
        self.diagonal = xp.linalg.diagonal(matrix)
        self.least = 8.0 * matrix.shape[0] * float(xp.finfo(matrix.dtype).eps)

    def step(self, damping: Array | float, scale: Array) -> Array:
        return self._solved(self.gradient, damping, scale)

    def bend(self, second: Array, damping: Array | float, scale: Array) -> Array:
        return self._solved(0.5 * namespace(second).matmul(second, self.curved), damping, scale)

    def _solved(self, right: Array, damping: Array | float, scale: Array) -> Array:
        xp, size = namespace(self.matrix), right.shape[0]
        unit = 1.0 / xp.sqrt(scale)
        columns = xp.expand_dims(unit, axis=1) * self.matrix * xp.expand_dims(unit, axis=0)
        eye = xp.eye(size, dtype=columns.dtype, device=backend_of(columns).device)
        found = xp.linalg.solve(columns + damping * eye, xp.expand_dims(unit * right, axis=1))
        return -unit * xp.reshape(found, (size,))


class Dual:
    """The same model for fewer answers than parameters: a system of as many unknowns as answers.

    With E the damping and the penalty, both diagonal, (J^T H J + E) x = J^T s + p has the solution
    x = E^-1 (J^T z + p), where (I + H J E^-1 J^T) z = s - H J E^-1 p.

    jac, curved: (m, n), the Jacobian, and it times the second derivatives of the cost. slope: (m,),
    the cost's gradient by the prediction. curve: those second derivatives times a vector. pull: the
    penalty's gradient, and strengths its second derivatives, (n,) each, or None.
    """

    def __init__(
        self,
        value: Array,
        gradient: Array,
        jac: Array,
        curved: Array,
        slope: Array,
        curve: Callable[[Array], Array],
        pull: Array | None,
        strengths: Array | None,
    ) -> None:
        xp = namespace(jac, curved)
        self.value, self.gradient, self.jac, self.curved = value, gradient, jac, curved
        self.slope, self.curve, self.pull, self.strengths = slope, curve, pull, strengths
        self.diagonal = xp.sum(jac * curved, axis=0)
        if strengths is not None:
            self.diagonal = xp.add(self.diagonal, strengths)
        self.least = 8.0 * jac.shape[0] * float(xp.finfo(jac.dtype).eps)

    def step(self, damping: Array | float, scale: Array) -> Array:
        return self._solved(self.slope, self.pull, damping, scale)

    def bend(self, second: Array, damping: Array | float, scale: Array) -> Array:
        return self._solved(0.5 * self.curve(second), None, damping, scale)

    def _solved(
        self, right: Array, pull: Array | None, damping: Array | float, scale: Array
    ) -> Array:
        xp, size = namespace(self.jac, scale), right.shape[0]
        added = damping * scale
        added = added if self.strengths is None else xp.add(added, self.strengths)
        columns = xp.matrix_transpose(self.jac / xp.expand_dims(added, axis=0))
        if pull is not None:
            right = right - xp.matmul(self.curved, pull / added)
        eye = xp.eye(size, dtype=columns.dtype, device=backend_of(columns).device)
        matrix = eye + xp.matmul(self.curved, columns)
        found = xp.reshape(xp.linalg.solve(matrix, xp.expand_dims(right, axis=1)), (size,))
        moved = xp.matmul(columns, found)
        return -(moved if pull is None else moved + pull / added)


class Orthogonal:
    """The model of half a sum of squares, by the QR decomposition of the Jacobian.

    It does not square the condition of the problem, as the matrix does.
    """

    def __init__(self, residuals: Array, jac: Array) -> None:
        xp = namespace(jac, residuals)
        self.value = 0.5 * xp.vecdot(residuals, residuals)
        self.gradient = xp.matmul(residuals, jac)
        self.diagonal = xp.sum(jac * jac, axis=0)
        self.least = float(xp.finfo(jac.dtype).eps) ** 3
        self.residuals, self.triangle, self.turn = residuals, jac, None
        if jac.shape[0] >= jac.shape[1]:
            self.turn, self.triangle = xp.linalg.qr(jac)

    def step(self, damping: Array | float, scale: Array) -> Array:
        return self._solved(self.residuals, damping, scale)

    def bend(self, second: Array, damping: Array | float, scale: Array) -> Array:
        return self._solved(0.5 * second, damping, scale)

    def _solved(self, residuals: Array, damping: Array | float, scale: Array) -> Array:
        xp, size = namespace(self.triangle), self.gradient.shape[0]
        unit = 1.0 / xp.sqrt(scale)
        eye = xp.eye(size, dtype=unit.dtype, device=backend_of(unit).device)
        damped = [self.triangle * xp.expand_dims(unit, axis=0), xp.sqrt(damping) * eye]
        q, r = xp.linalg.qr(xp.concat(damped))
        right = residuals if self.turn is None else xp.matmul(residuals, self.turn)
        right = xp.matmul(right, q[: right.shape[0], :])
        found = xp.linalg.solve(r, xp.expand_dims(right, axis=1))
        return -unit * xp.reshape(found, (size,))


class Products:
    """The model by its products with vectors, and its minimum by conjugate gradients.

    pulled: of a change of the prediction, (m,), the gradient's change, (n,).
    steps: how many of them at most; tolerance: of the residual, relative to the gradient.
    """

    least = 0.0

    def __init__(
        self,
        value: Array,
        gradient: Array,
        product: Callable[[Array], Array],
        pulled: Callable[[Array], Array],
        steps: int,
        tolerance: float,
    ) -> None:
        xp = namespace(gradient)
        self.value, self.gradient, self.product = value, gradient, product
        self.pulled = pulled
        self.steps, self.tolerance = steps, tolerance
        # No diagonal is known; the curvature along the gradient is of its size.
        square = xp.vecdot(gradient, gradient)
        tiny = float(xp.finfo(gradient.dtype).smallest_normal)
        curvature = xp.vecdot(gradient, product(gradient)) / (square + tiny)
        self.diagonal = curvature + xp.zeros_like(gradient)

    def step(self, damping: Array | float, scale: Array) -> Array:
        return self._solved(self.gradient, damping, scale)

    def bend(self, second: Array, damping: Array | float, scale: Array) -> Array:
        return self._solved(0.5 * self.pulled(second), damping, scale)

    def _solved(self, right: Array, damping: Array | float, scale: Array) -> Array:
        def damped(direction: Array) -> Array:
            return self.product(direction) + damping * scale * direction

        found = steihaug(damped, right, None, steps=self.steps, tolerance=self.tolerance)
        return found.step
