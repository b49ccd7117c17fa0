"""Losses of networks that answer with more than a number: a distribution, or its quantiles.

The network has several outputs for each number of the target, block after block: with two numbers
a, b and the parts p, q the outputs are p_a, p_b, q_a, q_b.
"""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any

from tinynn.config import require
from tinynn.functional.errors import ShapeError
from tinynn.losses.base import Array, Loss, Shape, column_shapes, match_target
from tinynn.trace import backend_of, namespace


@dataclass(frozen=True)
class _Parts(Loss):
    """Base class of the losses whose predictions have several parts."""

    @property
    def parts(self) -> int:
        """The number of outputs for each number of the target."""
        raise NotImplementedError

    def outputs(self, numbers: int) -> int:
        return self.parts * numbers

    def target_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        if len(shape) < 2 or shape[-1] % self.parts:
            raise ShapeError(
                f"{self}: expected predictions of shape (batch, {self.parts} * numbers), "
                f"{self.parts} outputs for each number of the target, got {shape}. To fix it: "
                "change the width of the last layer"
            )
        return column_shapes((*shape[:-1], shape[-1] // self.parts))

    def split(self, prediction: Array) -> Array:
        """The parts on an axis of their own: (batch, ..., parts, numbers)."""
        shape = (*prediction.shape[:-1], self.parts, prediction.shape[-1] // self.parts)
        return namespace(prediction).reshape(prediction, shape)


@dataclass(frozen=True)
class GaussianNLL(_Parts):
    """The negative log-likelihood of a normal distribution, whose mean and variance are predicted.

    With the mean m and the variance v it is (log(v) + (target - m) ** 2 / v) / 2.

    prediction: (batch, ..., 2 * numbers), the means and then the logarithms of the variances;
    target: (batch, ..., numbers), or without a last axis of length 1. A model's `predict` gives
    the means; what the network gives, variances included, `outputs` has.

    Parameters
    ----------
    full : bool
        Add the constant log(2 * pi) / 2.
    eps : float
        Smaller variances count as this one.
    reduction
        "mean", "sum" or "half_sum" of the values: see `tinynn.losses.Loss`.

    References
    ----------
    Nix and Weigend 1994, "Estimating the Mean and Variance of the Target Probability Distribution".

    Examples
    --------
    >>> import numpy as np
    >>> loss = GaussianNLL()
    >>> loss(np.asarray([[1.0, 0.0], [2.0, 0.0]]), np.asarray([1.0, 4.0])).tolist()
    1.0
    """

    _: KW_ONLY
    full: bool = False
    eps: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "eps", lambda eps: eps > 0, "a number above 0")

    @property
    def parts(self) -> int:
        return 2

    def task(self, prediction: Array) -> str:
        return "regression"

    def estimate(self, prediction: Array) -> Array:
        return self.split(prediction)[..., 0, :]

    def values(self, prediction: Array, target: Array) -> Array:
        parts = self.split(prediction)
        mean, log_variance = parts[..., 0, :], parts[..., 1, :]
        off = _less(match_target(mean, target), mean)
        xp = namespace(log_variance)
        least = xp.full_like(log_variance, math.log(self.eps))
        log_variance = xp.maximum(log_variance, least)
        values = 0.5 * (log_variance + off * off * xp.exp(-log_variance))
        return values + 0.5 * math.log(2.0 * math.pi) if self.full else values


@dataclass(frozen=True)
class Quantile(_Parts):
    """The pinball loss, by which predictions become quantiles of the target.

    For the quantile q it is max(q * (target - p), (q - 1) * (target - p)), and the mean of that
    over the quantiles. A model's `predict` gives the quantiles.

    prediction p: (batch, ..., quantiles * numbers), all numbers for the first quantile, then for
    the next; target: (batch, ..., numbers), or without a last axis of length 1.

    Parameters
    ----------
    quantiles : numbers between 0 and 1, in ascending order
        One number will do for a single quantile.
    reduction
        "mean", "sum" or "half_sum" of the values: see `tinynn.losses.Loss`.

    Notes
    -----
    Quantiles are learned one by one, so those of a poor network may cross.

    References
    ----------
    Koenker and Bassett 1978, "Regression Quantiles".

    Examples
    --------
    >>> import numpy as np
    >>> loss = Quantile((0.25, 0.75))
    >>> loss.values(np.asarray([[1.0, 3.0]]), np.asarray([5.0])).tolist()
    [[1.25]]
    """

    quantiles: tuple[float, ...] = (0.1, 0.5, 0.9)

    def __post_init__(self) -> None:
        super().__post_init__()
        given: Any = self.quantiles
        if isinstance(given, int | float):
            object.__setattr__(self, "quantiles", (given,))
        elif isinstance(given, list):
            object.__setattr__(self, "quantiles", tuple(given))
        require(
            self,
            "quantiles",
            lambda qs: bool(qs) and list(qs) == sorted(set(qs)) and qs[0] > 0 and qs[-1] < 1,
            "numbers above 0 and below 1 in ascending order",
        )

    @property
    def parts(self) -> int:
        return len(self.quantiles)

    def task(self, prediction: Array) -> str:
        return "quantiles"

    def values(self, prediction: Array, target: Array) -> Array:
        parts = self.split(prediction)
        target = match_target(parts[..., 0, :], target)
        off = _less(namespace(target).expand_dims(target, axis=-2), parts)
        backend = backend_of(prediction)
        q = backend.asarray([[each] for each in self.quantiles], dtype=prediction.dtype)
        xp = namespace(off, q)
        return xp.mean(xp.maximum(xp.multiply(q, off), xp.multiply(q - 1.0, off)), axis=-2)


def _less(a: Array, b: Array) -> Array:
    return namespace(a, b).subtract(a, b)
