"""Metrics of numbers: predictions (batch, ...), targets of their shape.

A last axis of length 1 may be left out on either side.
"""

from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar, Self

from tinynn.losses.base import Loss, match_rows, match_target
from tinynn.losses.distributions import Quantile
from tinynn.losses.regression import AbsoluteError, SquaredError
from tinynn.metrics.base import Array, Collected, Mean, Metric, State, ratio
from tinynn.trace import namespace


@dataclass(frozen=True)
class _OfNumbers(Metric):
    """Base class of the metrics of numbers, which measure what the loss says predictions stand for.

    loss: the loss whose `estimate` that is; None takes the loss of training, and predictions as
    they are without one.
    """

    _: KW_ONLY
    loss: Loss | None = None

    tasks: ClassVar[tuple[str, ...]] = ("regression",)
    greater_is_better: ClassVar[bool | None] = False

    def prepare(self, loss: Any, prediction: Array, target: Array) -> Self:
        told = self
        if self.loss is None and isinstance(loss, Loss):
            same = loss.estimate(prediction) is prediction
            told = self if same else replace(self, loss=loss)
        return super(_OfNumbers, told).prepare(loss, prediction, target)

    def numbers(self, prediction: Array, target: Array) -> tuple[Array, Array]:
        """(estimates, targets) of one shape and dtype."""
        if self.loss is not None:
            prediction = self.loss.estimate(prediction)
        SquaredError().check_shapes(prediction.shape, target.shape)
        return prediction, match_target(prediction, target)

    def columns(
        self, prediction: Array, target: Array, sample_weight: Any
    ) -> tuple[Array, Array, Array]:
        """(estimates, targets, weights): (samples, outputs) twice, and (samples, 1)."""
        estimates, target = map(_outputs, self.numbers(prediction, target))
        if sample_weight is None:
            return estimates, target, namespace(target).ones_like(target[:, :1])
        return estimates, target, match_rows(self, sample_weight, target)


@dataclass(frozen=True)
class _MeanError(_OfNumbers, Mean):
    """The mean of a loss's values."""

    error: ClassVar[Loss]

    def values(self, prediction: Array, target: Array) -> Array:
        return self.error.values(*self.numbers(prediction, target))


@dataclass(frozen=True)
class MeanAbsoluteError(_MeanError):
    """The mean absolute difference of predictions and targets, over samples and outputs.

    Parameters
    ----------
    name
        In histories; None is its own.
    loss
        The loss whose `estimate` is measured; None takes that of training.

    Examples
    --------
    >>> import numpy as np
    >>> print(MeanAbsoluteError()(np.asarray([1.0, 2.0]), np.asarray([1.0, 4.0])))
    1.0
    """

    default_name: ClassVar[str] = "mean_absolute_error"
    error: ClassVar[Loss] = AbsoluteError()


@dataclass(frozen=True)
class MeanSquaredError(_MeanError):
    """The mean squared difference of predictions and targets, over samples and outputs.

    Parameters
    ----------
    name
        In histories; None is its own.
    loss
        The loss whose `estimate` is measured; None takes that of training.

    Examples
    --------
    >>> import numpy as np
    >>> print(MeanSquaredError()(np.asarray([1.0, 2.0]), np.asarray([1.0, 4.0])))
    2.0
    """

    default_name: ClassVar[str] = "mean_squared_error"
    error: ClassVar[Loss] = SquaredError()


@dataclass(frozen=True)
class RootMeanSquaredError(_OfNumbers):
    """The root of the mean squared difference of predictions and targets.

    With several outputs it is the mean over the roots of each, as in scikit-learn.

    Parameters
    ----------
    name
        In histories; None is its own.
    loss
        The loss whose `estimate` is measured; None takes that of training.

    Examples
    --------
    >>> import numpy as np
    >>> print(RootMeanSquaredError()(np.asarray([1.0, 2.0]), np.asarray([4.0, 5.0])))
    3.0
    """

    default_name: ClassVar[str] = "root_mean_squared_error"

    def measure(self, prediction: Array, target: Array, sample_weight: Any = None) -> State:
        estimates, target, weight = self.columns(prediction, target, sample_weight)
        xp = namespace(estimates, target)
        return xp.sum(weight), xp.sum(weight * (estimates - target) ** 2, axis=0)

    def compute(self, state: State) -> Array:
        total, errors = state
        xp = namespace(errors)
        return xp.mean(xp.sqrt(ratio(errors, total)))


@dataclass(frozen=True)
class MeanAbsolutePercentageError(_OfNumbers, Mean):
    """The mean absolute difference of predictions and targets, as a share of the target.

    Targets of 0 count as the smallest number above it, as in scikit-learn.

    Parameters
    ----------
    name
        In histories; None is its own.
    loss
        The loss whose `estimate` is measured; None takes that of training.

    Examples
    --------
    >>> import numpy as np
    >>> metric = MeanAbsolutePercentageError()
    >>> print(metric(np.asarray([1.0, 3.0]), np.asarray([2.0, 4.0])))
    0.375
    """

    default_name: ClassVar[str] = "mean_absolute_percentage_error"

    def values(self, prediction: Array, target: Array) -> Array:
        estimates, target = self.numbers(prediction, target)
        xp = namespace(estimates, target)
        size = xp.abs(target)
        least = xp.full_like(size, float(xp.finfo(size.dtype).eps))
        return xp.abs(estimates - target) / xp.maximum(size, least)


@dataclass(frozen=True)
class MedianAbsoluteError(_OfNumbers, Collected):
    """The median absolute difference of predictions and targets.

    With weights it is the number that has half of them on either side. With several outputs it is
    the mean over them. Its state holds the errors of all samples.

    Parameters
    ----------
    name
        In histories; None is its own.
    loss
        The loss whose `estimate` is measured; None takes that of training.

    Examples
    --------
    >>> import numpy as np
    >>> print(MedianAbsoluteError()(np.asarray([1.0, 2.0, 30.0]), np.asarray([1.5, 4.0, 3.0])))
    2.0
    """

    default_name: ClassVar[str] = "median_absolute_error"

    def measure(self, prediction: Array, target: Array, sample_weight: Any = None) -> State:
        estimates, target, weight = self.columns(prediction, target, sample_weight)
        xp = namespace(estimates, target)
        return xp.abs(estimates - target), xp.broadcast_to(weight, target.shape)

    def compute(self, state: State) -> Array:
        errors, weight = state
        xp = namespace(errors, weight)
        order = xp.argsort(errors, axis=0)
        errors = xp.take_along_axis(errors, order, axis=0)
        sums = xp.cumulative_sum(xp.take_along_axis(weight, order, axis=0), axis=0)
        half = sums[-1:, :] / 2
        # The last error up to the half and the first beyond it: two where the half is met.
        places = (
            xp.sum(xp.astype(each, order.dtype), axis=0) for each in (sums < half, sums <= half)
        )
        last = errors.shape[0] - 1
        middle = [
            xp.take_along_axis(
                errors, xp.minimum(place, xp.full_like(place, last))[None, :], axis=0
            )
            for place in places
        ]
        known = xp.astype(half > 0, errors.dtype)
        return xp.mean(known * (middle[0] + middle[1]) / 2)


@dataclass(frozen=True)
class IntervalCoverage(Mean):
    """The share of targets between the lowest and the highest quantile that are predicted.

    Of the quantiles 0.1 and 0.9 it should be about 0.8: see `tinynn.losses.Quantile`.

    Parameters
    ----------
    loss
        The quantile loss whose predictions are measured; None takes the loss of training.
    name
        In histories; None is its own.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.losses import Quantile
    >>> metric = IntervalCoverage(loss=Quantile((0.25, 0.75)))
    >>> print(metric(np.asarray([[1.0, 2.0], [1.0, 2.0]]), np.asarray([1.5, 3.0])))
    0.5
    """

    _: KW_ONLY
    loss: Quantile | None = None

    tasks: ClassVar[tuple[str, ...]] = ("quantiles",)
    default_name: ClassVar[str] = "interval_coverage"

    def prepare(self, loss: Any, prediction: Array, target: Array) -> Self:
        told = self
        if self.loss is None and isinstance(loss, Quantile):
            told = replace(self, loss=loss)
        return super(IntervalCoverage, told).prepare(loss, prediction, target)

    def values(self, prediction: Array, target: Array) -> Array:
        if self.loss is None:
            raise ValueError(
                f"metrics: {self}: expected to be told the quantiles of the predictions, got "
                "none. To fix it: IntervalCoverage(loss=Quantile((0.1, 0.9)))"
            )
        self.loss.check_shapes(prediction.shape, target.shape)
        parts = self.loss.split(prediction)
        low, high = parts[..., 0, :], parts[..., -1, :]
        target = match_target(low, target)
        xp = namespace(low, target)
        return xp.logical_and(low <= target, target <= high)


@dataclass(frozen=True)
class R2(_OfNumbers):
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
    loss
        The loss whose `estimate` is measured; None takes that of training.

    Examples
    --------
    >>> import numpy as np
    >>> print(R2()(np.asarray([1.0, 2.0, 4.0]), np.asarray([1.0, 2.0, 3.0])))
    0.5
    """

    greater_is_better: ClassVar[bool | None] = True
    default_name: ClassVar[str] = "r2"

    def measure(self, prediction: Array, target: Array, sample_weight: Any = None) -> State:
        prediction, target, weight = self.columns(prediction, target, sample_weight)
        xp = namespace(prediction, target)
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
