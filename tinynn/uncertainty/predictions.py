"""The prediction for rows, of one network or several: what scores and intervals are made of."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from tinynn.config import label
from tinynn.losses import GaussianNLL, Loss, Quantile
from tinynn.trace import namespace
from tinynn.uncertainty.conformal import (
    absolute_scores,
    adaptive_scores,
    least_ambiguous_scores,
    quantile_scores,
    scaled_scores,
)
from tinynn.uncertainty.ensembles import moments

Array: TypeAlias = Any


class Prediction(NamedTuple):
    """What is predicted for rows; None for what a loss says nothing of.

    Attributes
    ----------
    methods
        The scores that suit it, the usual one first.
    estimate, deviation, lower, upper
        Of numbers: (rows, ...). The last two are predicted quantiles.
    probabilities : (rows, classes)
        Of classes that exclude each other.
    """

    methods: tuple[str, ...]
    estimate: Array | None = None
    deviation: Array | None = None
    lower: Array | None = None
    upper: Array | None = None
    probabilities: Array | None = None

    def beside(self, kind: str) -> tuple[Array, ...]:
        """What an interval of that kind is made of beside the estimate and the scores."""
        known: dict[str, Any] = {"scaled": (self.deviation,), "quantile": (self.lower, self.upper)}
        return known.get(kind, ())

    def scores(self, kind: str, y: Array) -> Array:
        """The scores of rows whose truth is known: (rows, ...), of classes (rows,)."""
        if self.probabilities is not None:
            return _of_labels(kind, self.probabilities, y)
        estimate: Any = self.estimate
        y = namespace(estimate).reshape(namespace(y).astype(y, estimate.dtype), estimate.shape)
        if kind == "quantile":
            return quantile_scores(self.lower, self.upper, y)
        if kind == "scaled":
            return scaled_scores(estimate, self.deviation, y)
        return absolute_scores(estimate, y)


def _of_labels(kind: str, probabilities: Array, y: Array) -> Array:
    """The score of each row's own class."""
    xp = namespace(probabilities)
    adaptive = kind == "adaptive"
    every = (adaptive_scores if adaptive else least_ambiguous_scores)(probabilities)
    classes = xp.arange(probabilities.shape[-1], dtype=xp.int32, device=probabilities.device)
    truth = xp.astype(xp.reshape(y, (-1, 1)), xp.int32) == classes
    return xp.sum(xp.where(truth, every, xp.zeros_like(every)), axis=-1)


def predicted(loss: Any, output: Array) -> Prediction:
    """What a network's outputs (rows, ...) predict under a loss.

    Raises TypeError for a loss whose predictions are neither numbers nor classes that exclude each
    other.
    """
    task = loss.task(output) if isinstance(loss, Loss) else "regression"
    if task in ("binary", "multiclass"):
        return Prediction(("least_ambiguous", "adaptive"), probabilities=of_classes(loss, output))
    if isinstance(loss, GaussianNLL):
        parts, xp = loss.split(output), namespace(output)
        return Prediction(("scaled", "absolute"), parts[..., 0, :], xp.exp(0.5 * parts[..., 1, :]))
    if isinstance(loss, Quantile) and len(loss.quantiles) > 1:
        parts = loss.split(output)
        middle = min(range(len(loss.quantiles)), key=lambda place: abs(loss.quantiles[place] - 0.5))
        return Prediction(
            ("quantile",), parts[..., middle, :], lower=parts[..., 0, :], upper=parts[..., -1, :]
        )
    if task == "regression":
        return Prediction(
            ("absolute",), loss.estimate(output) if isinstance(loss, Loss) else output
        )
    raise TypeError(
        f"calibrate: expected a loss of numbers, of quantiles, or of classes that exclude each "
        f"other, got {label(loss)}. To fix it: score its predictions yourself, and take "
        "tinynn.uncertainty.conformal_quantile"
    )


def together(each: Sequence[Prediction]) -> Prediction:
    """The prediction of several networks, or of several passes of one: that of their mixture.

    Estimates, quantiles and probabilities are means. The variance is what the networks disagree in,
    and that which they predict.
    """
    all_ = stacked(each)
    if all_.probabilities is not None:
        return all_._replace(probabilities=_mean(all_.probabilities))
    if all_.lower is not None:
        return all_._replace(
            estimate=_mean(all_.estimate), lower=_mean(all_.lower), upper=_mean(all_.upper)
        )
    own = all_.deviation
    found = moments(all_.estimate, None if own is None else own * own)
    methods = ("absolute", "scaled") if own is None else all_.methods
    root = namespace(found.mean).sqrt(found.variance)
    return Prediction(methods, found.mean, root)


def stacked(each: Sequence[Prediction]) -> Prediction:
    """Several predictions with an axis of them in front of every array."""
    methods, *fields = zip(*each, strict=True)
    return Prediction(
        methods[0],
        *(None if parts[0] is None else namespace(*parts).stack(list(parts)) for parts in fields),
    )


def _mean(array: Array) -> Array:
    return namespace(array).mean(array, axis=0)


def of_classes(loss: Any, output: Array) -> Array:
    """The probability of each class by a loss: (rows, classes)."""
    return two_columns(loss.probabilities(output))


def two_columns(probabilities: Array) -> Array:
    """Probabilities of each class, (rows, classes), where only that of class 1 may be given."""
    xp = namespace(probabilities)
    if probabilities.ndim == 2 and probabilities.shape[-1] > 1:
        return probabilities
    column = xp.reshape(probabilities, (-1, 1))
    return xp.concat([1.0 - column, column], axis=1)
