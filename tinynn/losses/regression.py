"""Losses of numbers.

In all of them the prediction is (batch, ...), and the target has its shape; a last axis of length
1 may be left out.
"""

from dataclasses import dataclass

from tinynn.config import require
from tinynn.losses.base import Array, Loss, holds, match_target
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

    delta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "delta", lambda delta: delta > 0, "a number above 0")

    def values(self, prediction: Array, target: Array) -> Array:
        off = difference(prediction, target)
        xp = namespace(off)
        size = xp.abs(off)
        near = 0.5 * off * off
        return xp.where(size <= self.delta, near, self.delta * (size - 0.5 * self.delta))


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

    def values(self, prediction: Array, target: Array) -> Array:
        xp = namespace(prediction)
        expected = xp.exp(prediction)
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
