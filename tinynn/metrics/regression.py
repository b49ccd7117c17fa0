"""Metrics of numbers: predictions (batch, ...), targets of their shape.

A last axis of length 1 may be left out on either side.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from tinynn.losses.base import Loss, match_rows, match_target
from tinynn.losses.regression import AbsoluteError, SquaredError
from tinynn.metrics.base import Array, Mean, Metric, State, ratio
from tinynn.trace import namespace


@dataclass(frozen=True)
class _MeanError(Mean):
    """The mean of a loss's values."""

    tasks: ClassVar[tuple[str, ...]] = ("regression",)
    greater_is_better: ClassVar[bool | None] = False
    loss: ClassVar[Loss]

    def values(self, prediction: Array, target: Array) -> Array:
        self.loss.check_shapes(prediction.shape, target.shape)
        return self.loss.values(prediction, target)


@dataclass(frozen=True)
class MeanAbsoluteError(_MeanError):
    """The mean absolute difference of predictions and targets, over samples and outputs.

    Parameters
    ----------
    name
        In histories; None is its own.

    Examples
    --------
    >>> import numpy as np
    >>> print(MeanAbsoluteError()(np.asarray([1.0, 2.0]), np.asarray([1.0, 4.0])))
    1.0
    """

    default_name: ClassVar[str] = "mean_absolute_error"
    loss: ClassVar[Loss] = AbsoluteError()


@dataclass(frozen=True)
class MeanSquaredError(_MeanError):
    """The mean squared difference of predictions and targets, over samples and outputs.

    Parameters
    ----------
    name
        In histories; None is its own.

    Examples
    --------
    >>> import numpy as np
    >>> print(MeanSquaredError()(np.asarray([1.0, 2.0]), np.asarray([1.0, 4.0])))
    2.0
    """

    default_name: ClassVar[str] = "mean_squared_error"
    loss: ClassVar[Loss] = SquaredError()


@dataclass(frozen=True)
class R2(Metric):
    """The coefficient of determination: the share of the target's variance that is explained.

    1 is perfect, 0 is no better than the mean. With several outputs, the mean over them. An output
    whose target never varies counts 1 where it is met exactly, else 0 (as in scikit-learn).

    The state of an output is (sum of weights, mean and squared deviations of the target, squared
    errors), merged as in Chan, Golub and LeVeque 1979, "Updating Formulae and a Pairwise Algorithm
    for Computing Sample Variances": no large sums are subtracted from each other.

    Parameters
    ----------
    name
        In histories; None is its own.

    Examples
    --------
    >>> import numpy as np
    >>> print(R2()(np.asarray([1.0, 2.0, 4.0]), np.asarray([1.0, 2.0, 3.0])))
    0.5
    """

    tasks: ClassVar[tuple[str, ...]] = ("regression",)
    greater_is_better: ClassVar[bool | None] = True
    default_name: ClassVar[str] = "r2"

    def measure(self, prediction: Array, target: Array, sample_weight: Any = None) -> State:
        SquaredError().check_shapes(prediction.shape, target.shape)
        target = _outputs(match_target(prediction, target))
        prediction = _outputs(prediction)
        xp = namespace(prediction, target)
        if sample_weight is None:
            weight = xp.ones_like(target[:, :1])
        else:
            weight = match_rows(self, sample_weight, target)
        total = xp.sum(weight)
        # Deviations from the first target, so that those of a constant one are exactly 0.
        first = target[:1, :]
        mean = ratio(xp.sum(weight * (target - first), axis=0, keepdims=True), total) + first
        deviations = xp.sum(weight * (target - mean) ** 2, axis=0)
        errors = xp.sum(weight * (target - prediction) ** 2, axis=0)
        return total, xp.reshape(mean, (-1,)), deviations, errors

    def merge(self, first: State, second: State) -> State:
        total = first[0] + second[0]
        share = ratio(second[0], total)
        apart = second[1] - first[1]
        mean = first[1] + share * apart
        deviations = first[2] + second[2] + first[0] * share * apart * apart
        return total, mean, deviations, first[3] + second[3]

    def compute(self, state: State) -> Array:
        _, _, deviations, errors = state
        xp = namespace(deviations, errors)
        explained = 1.0 - ratio(errors, deviations)
        met = xp.astype(errors == 0, errors.dtype)
        return xp.mean(xp.where(deviations > 0, explained, met))


def _outputs(x: Array) -> Array:
    """(batch, ...) as (batch, outputs)."""
    return namespace(x).reshape(x, (x.shape[0], -1))
