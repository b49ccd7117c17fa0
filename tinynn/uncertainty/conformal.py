"""Split conformal prediction: intervals and sets that hold the truth as often as they say.

Rows that training did not see are scored by how badly the model answers for them. As long as a new
row is exchangeable with these n, its score is at or below the k-th smallest of theirs with
probability k / (n + 1) at least, whatever the model and the distribution. Source: Vovk, Gammerman
and Shafer 2005, "Algorithmic Learning in a Random World"; Angelopoulos and Bates 2023, "Conformal
Prediction: A Gentle Introduction", https://doi.org/10.1561/2200000101.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod
from numbers import Real
from typing import Any, NamedTuple, TypeAlias

from tinynn.trace import namespace

Array: TypeAlias = Any
#: What scores are of, by the name in a model's file.
KINDS = ("absolute", "scaled", "quantile", "least_ambiguous", "adaptive")

_PAIRS = 2**22  # of classes, that are looked at in one go


class Interval(NamedTuple):
    """A prediction, and the bounds of its interval.

    Attributes
    ----------
    estimate
        The prediction: (samples, ...).
    lower, upper
        The bounds, of the same shape.
    """

    estimate: Array
    lower: Array
    upper: Array


def conformal_quantile(scores: Array, level: float) -> Array:
    """The score that a new row's does not exceed with probability `level`: its k-th smallest.

    k is ceil((n + 1) * level); averaged over calibration rows and new rows the coverage is
    k / (n + 1), if no two scores are equal, and at least that if some are.

    Parameters
    ----------
    scores : (rows, ...)
        Of the calibration rows.
    level
        Between 0 and 1.

    Returns
    -------
    array
        (...), the axes after the first.

    Raises
    ------
    ValueError
        A level that is not between 0 and 1, or too few rows for it.

    Examples
    --------
    >>> import numpy as np
    >>> float(conformal_quantile(np.asarray([3.0, 1.0, 2.0, 4.0]), 0.6))
    3.0
    """
    return _smallest(namespace(scores).sort(scores, axis=0), level)


def _smallest(scores: Array, level: float) -> Array:
    """The quantile of scores that are sorted."""
    check_level("conformal_quantile", level)
    count = int(scores.shape[0])
    place = ceil((count + 1) * level - 1e-9)  # 0.9 * 10 is 9, however it is rounded
    if place > count:
        need = ceil(level / (1.0 - level) - 1e-9)
        raise ValueError(
            f"interval: expected {need} calibration rows or more for the level {level:g}, got "
            f"{count}. To fix it: calibrate with more rows, or ask for a level of "
            f"{count / (count + 1):.3g} at most"
        )
    return scores[max(place, 1) - 1, ...]


def _unit(array: Array) -> float:
    """The unit of the last place, by some of which margins are wider.

    Scores of equal rows differ by rounding, in a batch and alone or on another library. Where rows
    are of few kinds and theirs is the quantile, all of them would be lost.
    """
    return float(namespace(array).finfo(array.dtype).eps)


def check_level(where: str, level: Any) -> None:
    """ValueError unless the level is a number between 0 and 1."""
    if isinstance(level, bool) or not isinstance(level, Real) or not 0.0 < float(level) < 1.0:
        raise ValueError(
            f"{where}: expected a level between 0 and 1, got {level!r}. To fix it: give 0.9 for "
            "intervals that hold nine targets of ten"
        )


def check_shapes(where: str, *arrays: Array) -> None:
    """ValueError unless all are of one shape: (rows, 1) and (rows,) would make (rows, rows)."""
    shapes = [tuple(array.shape) for array in arrays]
    if len(set(shapes)) > 1:
        raise ValueError(
            f"{where}: expected arrays of one shape, got {', '.join(map(str, shapes))}. To fix it: "
            "reshape the target, xp.reshape(target, prediction.shape)"
        )


def absolute_scores(prediction: Array, target: Array) -> Array:
    """The distance of each prediction from its target: intervals of one width for all rows.

    Parameters
    ----------
    prediction, target : (rows, ...)
        Of one shape.

    Examples
    --------
    >>> import numpy as np
    >>> absolute_scores(np.asarray([1.0, 2.0]), np.asarray([1.5, 0.0])).tolist()
    [0.5, 2.0]
    """
    xp = namespace(prediction, target)
    check_shapes("absolute_scores", prediction, target)
    return xp.abs(xp.subtract(target, prediction))


def scaled_scores(prediction: Array, deviation: Array, target: Array) -> Array:
    """The distances of predictions from targets, in deviations that the model predicts itself.

    Parameters
    ----------
    prediction, deviation, target : (rows, ...)
        Of one shape; deviations above 0.

    References
    ----------
    Lei et al. 2018, "Distribution-Free Predictive Inference for Regression".

    Examples
    --------
    >>> import numpy as np
    >>> scaled_scores(np.asarray([1.0]), np.asarray([2.0]), np.asarray([5.0])).tolist()
    [2.0]
    """
    check_shapes("scaled_scores", prediction, deviation, target)
    return absolute_scores(prediction, target) / deviation


def quantile_scores(lower: Array, upper: Array, target: Array) -> Array:
    """How far targets lie outside of predicted quantiles, below 0 within: conformalized quantiles.

    Parameters
    ----------
    lower, upper, target : (rows, ...)
        Of one shape.

    References
    ----------
    Romano, Patterson and Candes 2019, "Conformalized Quantile Regression".

    Examples
    --------
    >>> import numpy as np
    >>> one = np.asarray([0.0, 0.0])
    >>> quantile_scores(one, one + 2.0, np.asarray([0.5, 3.0])).tolist()
    [-0.5, 1.0]
    """
    xp = namespace(lower, upper, target)
    check_shapes("quantile_scores", lower, upper, target)
    return xp.maximum(xp.subtract(lower, target), xp.subtract(target, upper))


def least_ambiguous_scores(probabilities: Array) -> Array:
    """1 minus the probability of each class: the smallest sets on average, which may be empty.

    Parameters
    ----------
    probabilities : (rows, classes)

    References
    ----------
    Sadinle, Lei and Wasserman 2019, "Least Ambiguous Set-Valued Classifiers with Bounded Error
    Levels".

    Examples
    --------
    >>> import numpy as np
    >>> least_ambiguous_scores(np.asarray([[0.25, 0.75]])).tolist()
    [[0.75, 0.25]]
    """
    return 1.0 - probabilities


def adaptive_scores(probabilities: Array) -> Array:
    """The probability of all classes at least as likely as each: sets that grow with the doubt.

    Parameters
    ----------
    probabilities : (rows, classes)

    References
    ----------
    Romano, Sesia and Candes 2020, "Classification with Valid and Adaptive Coverage", without its
    randomisation.

    Examples
    --------
    >>> import numpy as np
    >>> adaptive_scores(np.asarray([[0.25, 0.125, 0.625]])).tolist()
    [[0.875, 1.0, 0.625]]
    """
    (rows, classes), xp = probabilities.shape, namespace(probabilities)
    most = max(1, _PAIRS // classes**2)
    parts = [
        _at_least(probabilities[start : min(start + most, rows), ...])
        for start in range(0, max(1, rows), most)
    ]
    return parts[0] if len(parts) == 1 else xp.concat(parts, axis=0)


def _at_least(probabilities: Array) -> Array:
    """The sum over all classes at least as likely as each."""
    xp = namespace(probabilities)
    mine, others = xp.expand_dims(probabilities, axis=-1), xp.expand_dims(probabilities, axis=-2)
    at_least = xp.astype(others >= mine, probabilities.dtype)
    return xp.sum(at_least * others, axis=-1)


@dataclass(frozen=True, eq=False)
class Calibration:
    """The scores of calibration rows, which intervals or sets are made by.

    With `folds` they are cross-validation's, CV+ and with one row a fold the jackknife+: of each
    row by the network that was trained without it. A new row is compared with each of these rows by
    the network of that row, and is inside where it would be for enough of them. Of new rows the
    share 1 - 2 (1 - level) is held at least, as a rule `level`, and no row is kept from training.

    Attributes
    ----------
    kind
        "absolute", "scaled", "quantile", "least_ambiguous" or "adaptive": the score.
    scores : (rows, ...)
        Sorted along the first axis, but with folds.
    draws, seed
        Of the passes with dropout, that `monte_carlo` makes, which predictions are the mean of;
        0 draws for predictions without.
    folds : (rows,) integers
        The number of the network that did not see each row, or None.

    References
    ----------
    Barber, Candes, Ramdas and Tibshirani 2021, "Predictive Inference with the Jackknife+"; for
    classes Romano, Sesia and Candes 2020, "Classification with Valid and Adaptive Coverage".

    Examples
    --------
    >>> import numpy as np
    >>> known = Calibration.of("absolute", [np.asarray([[0.5], [0.1], [0.3]])])
    >>> known.interval(np.asarray([[1.0]]), level=0.5).upper.round(6).tolist()
    [[1.3]]
    """

    kind: str
    scores: Array
    draws: int = 0
    seed: int = 0
    folds: Array | None = None

    @classmethod
    def of(cls, kind: str, scores: Sequence[Array], **rest: Any) -> "Calibration":
        """The calibration by these scores, in any order.

        scores: an array (rows, ...) in a list; with `folds=` one for the network of each fold.
        """
        if scores[0].shape[0] < 1:
            raise ValueError(
                "calibrate: expected rows that training did not see, got none. To fix it: keep "
                "some of the data apart, and give them to model.calibrate(X, y)"
            )
        xp, found = namespace(*scores), scores[0]
        if rest.get("folds") is None:
            return cls(kind, xp.sort(found, axis=0), **rest)
        of_row = xp.reshape(rest["folds"], (-1, *[1] * (found.ndim - 1)))
        for fold, those in enumerate(scores[1:], start=1):
            found = xp.where(of_row == fold, those, found)
        return cls(kind, found, **rest)

    def to_config(self) -> dict[str, Any]:
        """What a file's description says of it, beside its arrays."""
        return {"kind": self.kind, "draws": self.draws, "seed": self.seed}

    def interval(self, estimate: Array, level: float, *others: Array) -> Interval:
        """The interval of each prediction.

        others: the deviations for "scaled", the lower and the upper quantiles for "quantile". With
        folds all of them have an axis of the networks in front, and the result has the mean of
        the estimates. Bounds are wider by some units of the last place, so that rounding loses
        no target.
        """
        lower, upper = others if self.kind == "quantile" else (estimate, estimate)
        width = others[0] if self.kind == "scaled" else None
        xp = namespace(estimate)
        size = xp.abs(lower) + xp.abs(upper)
        if self.folds is None:
            margin = _smallest(self.scores, level)
            margin = margin if width is None else margin * width
            below, above = lower - margin, upper + margin
        else:
            below = -self._of_folds(-lower, width, level)
            above = self._of_folds(upper, width, level)
            estimate, size = xp.mean(estimate, axis=0), xp.max(size, axis=0)
        slack = 8.0 * _unit(estimate) * (size + xp.abs(below) + xp.abs(above))
        return Interval(estimate, below - slack, above + slack)

    def sets(self, probabilities: Array, level: float) -> Array:
        """True for the classes of each row's set: (rows, classes) booleans.

        Sets of "adaptive" always have the likeliest class. With folds the probabilities have an
        axis of the networks in front.
        """
        xp = namespace(probabilities)
        slack = 64.0 * _unit(probabilities)
        adaptive = self.kind == "adaptive"
        score = adaptive_scores if adaptive else least_ambiguous_scores
        if self.folds is None:
            inside = score(probabilities) <= _smallest(self.scores, level) + slack
        else:
            each = [score(probabilities[k, ...]) for k in range(probabilities.shape[0])]
            inside = self._of_folds(-xp.stack(each), None, level) >= -slack
            probabilities = xp.mean(probabilities, axis=0)
        if not adaptive:
            return inside
        return xp.logical_or(inside, probabilities >= xp.max(probabilities, axis=-1, keepdims=True))

    def _of_folds(self, values: Array, width: Array | None, level: float) -> Array:
        """The quantile over the calibration rows of score * width + value, by their networks.

        values, width: (networks, rows, ...). The result is (rows, ...). In parts that fit.
        """
        xp = namespace(values, self.scores)
        _, rows, *rest = map(int, values.shape)
        count, *own = map(int, self.scores.shape)
        scores = xp.reshape(self.scores, (count, 1, *own, *[1] * (len(rest) - len(own))))
        most, parts = max(1, _PAIRS // max(1, count * prod(rest))), []
        for start in range(0, max(1, rows), most):
            some = slice(start, min(start + most, rows))
            margins = scores if width is None else scores * self._by_row(width[:, some, ...])
            found = margins + self._by_row(values[:, some, ...])
            parts.append(conformal_quantile(found, level))
        return parts[0] if len(parts) == 1 else xp.concat(parts, axis=0)

    def _by_row(self, values: Array) -> Array:
        """Of each calibration row what its network says: (calibration rows, rows, ...)."""
        return namespace(values).take(values, self.folds, axis=0)
