"""Losses of numbers.

In all of them the prediction is (batch, ...), and the target has its shape; a last axis of length
1 may be left out.
"""

import math
from dataclasses import dataclass

from tinynn.config import require
from tinynn.functional import softplus
from tinynn.functional.errors import ShapeError
from tinynn.losses.base import Array, Loss, Shape, holds, match_target
from tinynn.rules.special import stop_gradient
from tinynn.trace import namespace


@dataclass(frozen=True)
class _Regression(Loss):
    """Base class of the losses of numbers."""

    def task(self, prediction: Array) -> str:
        return "regression"


@dataclass(frozen=True)
class SquaredError(_Regression):
    """The squared error, (prediction - target) ** 2.

    Parameters
    ----------
    reduction
        "mean", "sum" or "half_sum" of the values: see `tinynn.losses.Loss`.

    Notes
    -----
    Prediction and target have one shape, or the target lacks a last axis of length 1.

    Examples
    --------
    >>> import numpy as np
    >>> float(SquaredError(reduction="half_sum")(np.asarray([1.0, 3.0]), np.zeros(2)))
    5.0
    """

    convex = True

    def residuals(self, prediction: Array, target: Array) -> Array:
        """prediction - target, whose squares are the values: what least squares works on."""
        return difference(prediction, target)

    def values(self, prediction: Array, target: Array) -> Array:
        residuals = self.residuals(prediction, target)
        return residuals * residuals


@dataclass(frozen=True)
class AbsoluteError(_Regression):
    """The absolute error, abs(prediction - target), whose derivative at 0 is 0.

    Parameters
    ----------
    reduction
        "mean", "sum" or "half_sum" of the values: see `tinynn.losses.Loss`.

    Notes
    -----
    Shapes are those of `SquaredError`.

    Examples
    --------
    >>> import numpy as np
    >>> float(AbsoluteError()(np.asarray([1.0, -3.0]), np.zeros(2)))
    2.0
    """

    def values(self, prediction: Array, target: Array) -> Array:
        off = difference(prediction, target)
        # Not abs, whose slope at 0 is 1 here as in JAX: a perfect fit would move.
        return namespace(off).maximum(off, -off)


@dataclass(frozen=True)
class Huber(_Regression):
    """Half the squared error up to `delta`, linear beyond.

    Parameters
    ----------
    delta
        The error at which the square turns into a line.
    reduction
        "mean", "sum" or "half_sum" of the values: see `tinynn.losses.Loss`.

    Notes
    -----
    Shapes are those of `SquaredError`.

    References
    ----------
    Huber 1964, "Robust Estimation of a Location Parameter".

    Examples
    --------
    >>> import numpy as np
    >>> float(Huber(delta=1.0, reduction="sum")(np.asarray([1.0, 3.0]), np.zeros(2)))
    3.0
    """

    convex = True

    delta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "delta", lambda delta: delta > 0, "a number above 0")

    def values(self, prediction: Array, target: Array) -> Array:
        return huber(difference(prediction, target), self.delta)


@dataclass(frozen=True)
class SmoothL1(_Regression):
    """The squared error up to `beta`, over 2 * beta, and the absolute error less beta / 2 beyond.

    It is `Huber` with delta = beta, over beta.

    Parameters
    ----------
    beta
        The error at which the square turns into a line.
    reduction
        "mean", "sum" or "half_sum" of the values: see `tinynn.losses.Loss`.

    Notes
    -----
    Shapes are those of `SquaredError`.

    References
    ----------
    Girshick 2015, "Fast R-CNN".

    Examples
    --------
    >>> import numpy as np
    >>> float(SmoothL1(beta=2.0, reduction="sum")(np.asarray([1.0, 3.0]), np.zeros(2)))
    2.25
    """

    convex = True

    beta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "beta", lambda beta: beta > 0, "a number above 0")

    def values(self, prediction: Array, target: Array) -> Array:
        return huber(difference(prediction, target), self.beta) / self.beta


@dataclass(frozen=True)
class LogCosh(_Regression):
    """The logarithm of the hyperbolic cosine of the error: nearly its square, far out its size.

    Parameters
    ----------
    reduction
        "mean", "sum" or "half_sum" of the values: see `tinynn.losses.Loss`.

    Notes
    -----
    Shapes are those of `SquaredError`. The derivative is tanh(prediction - target).

    Examples
    --------
    >>> import numpy as np
    >>> float(LogCosh(reduction="sum")(np.asarray([0.0, 1000.0]), np.zeros(2)).round(6))
    999.306853
    """

    convex = True

    def values(self, prediction: Array, target: Array) -> Array:
        off = difference(prediction, target)
        return off + softplus(-2.0 * off) - math.log(2.0)


@dataclass(frozen=True)
class CosineDistance(_Regression):
    """One minus the cosine of the angle between prediction and target.

    prediction: (batch, ..., features); target: of its shape. The values are (batch, ...).

    Parameters
    ----------
    eps
        Vectors that are shorter count as this long.
    reduction
        "mean", "sum" or "half_sum" of the values: see `tinynn.losses.Loss`.

    Examples
    --------
    >>> import numpy as np
    >>> a, b = np.asarray([[3.0, 0.0], [1.0, 1.0]]), np.asarray([[1.0, 0.0], [-2.0, -2.0]])
    >>> CosineDistance().values(a, b).round(6).tolist()
    [0.0, 2.0]
    """

    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "eps", lambda eps: eps > 0, "a number above 0")

    def target_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        if len(shape) < 2:
            raise ShapeError(
                f"{self}: expected predictions of shape (batch, features), got {shape}. "
                "To fix it: let the network give a vector for each sample"
            )
        return (shape,)

    def values(self, prediction: Array, target: Array) -> Array:
        p = unit(prediction, self.eps)
        t = unit(match_target(prediction, target), self.eps)
        xp = namespace(p, t)
        return 1.0 - xp.sum(xp.multiply(p, t), axis=-1)


@dataclass(frozen=True)
class Poisson(_Regression):
    """Negative log-likelihood of counts, whose mean is exp(prediction).

    Parameters
    ----------
    reduction
        "mean", "sum" or "half_sum" of the values: see `tinynn.losses.Loss`.

    Notes
    -----
    Half the Poisson deviance with its logarithmic link, but for what depends on the target alone.
    Shapes are those of `SquaredError`.

    Examples
    --------
    >>> import numpy as np
    >>> float(Poisson()(np.asarray([0.0, 0.0]), np.asarray([1, 3])))
    1.0
    """

    convex = True

    def estimate(self, prediction: Array) -> Array:
        return namespace(prediction).exp(prediction)

    def values(self, prediction: Array, target: Array) -> Array:
        expected = self.estimate(prediction)
        counted = match_target(prediction, target)
        both = namespace(prediction, counted)
        return both.subtract(expected, both.multiply(counted, prediction))

    def check_target(self, prediction: Array, target: Array) -> None:
        if not holds(target >= 0):
            raise ValueError(
                f"{self}: expected counts of 0 or more, got one below 0. To fix it: use "
                "SquaredError for numbers that may be negative"
            )


def difference(prediction: Array, target: Array) -> Array:
    """prediction - target, in the prediction's dtype and shape."""
    target = match_target(prediction, target)
    return namespace(prediction, target).subtract(prediction, target)


def huber(off: Array, delta: float) -> Array:
    """off ** 2 / 2 up to the size `delta`, and the line that goes on from there."""
    xp = namespace(off)
    size = xp.abs(off)
    near = 0.5 * off * off
    return xp.where(size <= delta, near, delta * (size - 0.5 * delta))


def unit(x: Array, eps: float) -> Array:
    """x / max(norm(x), eps) along the last axis, (..., features), of norms of any size."""
    xp = namespace(x)
    eps = max(eps, float(xp.finfo(x.dtype).smallest_normal))  # 1e-8 is 0 in float16
    # Divided by the largest entry first, so that no square overflows; it cancels out.
    largest = xp.max(xp.abs(stop_gradient(x)), axis=-1, keepdims=True)
    scale = xp.maximum(largest, xp.full_like(largest, eps))
    x = x / scale
    squares = xp.sum(x * x, axis=-1, keepdims=True)
    least = eps / scale
    return x / xp.sqrt(xp.maximum(squares, least * least))
