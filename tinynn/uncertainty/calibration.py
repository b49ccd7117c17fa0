"""Measures of doubt itself: do probabilities and intervals hold as often as they say?"""

from math import prod
from typing import Any, NamedTuple, TypeAlias

from tinynn.trace import backend_of, namespace
from tinynn.uncertainty.conformal import check_shapes
from tinynn.uncertainty.predictions import two_columns

Array: TypeAlias = Any


class Reliability(NamedTuple):
    """Answers by their confidence: what a reliability diagram shows.

    Attributes
    ----------
    confidence, accuracy
        Of the rows of each bin, on average: (bins,), 0 where there are none.
    share
        Of all rows, (bins,).
    """

    confidence: Array
    accuracy: Array
    share: Array

    @property
    def error(self) -> Array:
        """The expected calibration error: a 0-d array."""
        xp = namespace(self.share)
        return xp.sum(self.share * xp.abs(self.accuracy - self.confidence))


def reliability(probabilities: Array, labels: Array, bins: int = 15) -> Reliability:
    """The accuracy of answers beside the probability that they were given, in bins of one width.

    Parameters
    ----------
    probabilities : (rows, classes)
        Or (rows,) and (rows, 1), of class 1 against class 0, whose answer is the likelier one.
    labels : (rows,)
        Whole numbers.
    bins
        Of equal width; a confidence on an edge belongs to the lower bin.

    Raises
    ------
    ValueError
        Fewer than one bin, labels of another number of rows, or labels that are no number of a
        class.

    References
    ----------
    DeGroot and Fienberg 1983, "The Comparison and Evaluation of Forecasters".

    Examples
    --------
    >>> import numpy as np
    >>> found = reliability(np.asarray([[0.1, 0.9], [0.2, 0.8]]), np.asarray([1, 0]), bins=2)
    >>> found.accuracy.tolist(), found.share.tolist()
    ([0.0, 0.5], [0.0, 1.0])
    """
    if isinstance(bins, bool) or not hasattr(bins, "__index__") or bins < 1:
        raise ValueError(f"reliability: bins: expected a whole number of 1 or more, got {bins!r}")
    p = two_columns(probabilities)
    labels = _labels("reliability", probabilities, labels, p.shape[-1])
    xp = namespace(p, labels)
    confidence = xp.max(p, axis=-1)
    right = xp.astype(xp.astype(xp.argmax(p, axis=-1), labels.dtype) == labels, p.dtype)
    place = xp.clip(xp.ceil(confidence * bins) - 1.0, 0.0, bins - 1.0)
    numbers = xp.arange(bins, dtype=p.dtype, device=p.device)
    within = xp.astype(xp.expand_dims(place, axis=0) == xp.expand_dims(numbers, axis=1), p.dtype)
    count = xp.sum(within, axis=1)
    least = xp.maximum(count, xp.ones_like(count))
    sums = [xp.matmul(within, each) / least for each in (confidence, right)]
    return Reliability(sums[0], sums[1], count / p.shape[0])


def expected_calibration_error(probabilities: Array, labels: Array, bins: int = 15) -> Array:
    """The mean distance of accuracy from confidence over the bins of `reliability`: 0-d.

    Parameters
    ----------
    probabilities, labels, bins
        As `reliability` takes them.

    References
    ----------
    Naeini, Cooper and Hauskrecht 2015; Guo et al. 2017, "On Calibration of Modern Neural Networks".

    Examples
    --------
    >>> import numpy as np
    >>> p, labels = np.asarray([[0.25, 0.75]] * 4), np.asarray([1, 1, 1, 0])
    >>> float(expected_calibration_error(p, labels))
    0.0
    """
    return reliability(probabilities, labels, bins).error


def brier_score(probabilities: Array, labels: Array) -> Array:
    """The mean squared distance of probabilities from the classes that came: 0-d, 0 is best.

    Summed over the classes, as Brier has it: of two classes it is twice what scikit-learn's
    `brier_score_loss` gives by default.

    Parameters
    ----------
    probabilities, labels
        As `reliability` takes them.

    References
    ----------
    Brier 1950, "Verification of Forecasts Expressed in Terms of Probability".

    Examples
    --------
    >>> import numpy as np
    >>> brier_score(np.asarray([[0.5, 0.5]]), np.asarray([1])).tolist()
    0.5
    """
    p = two_columns(probabilities)
    labels = _labels("brier_score", probabilities, labels, p.shape[-1])
    xp = namespace(p, labels)
    classes = xp.arange(p.shape[-1], dtype=labels.dtype, device=p.device)
    truth = xp.astype(xp.expand_dims(labels, axis=1) == classes, p.dtype)
    return xp.mean(xp.sum((p - truth) ** 2, axis=-1))


def interval_coverage(lower: Array, upper: Array, target: Array) -> Array:
    """The share of targets within their intervals: 0-d.

    Parameters
    ----------
    lower, upper, target : (rows, ...)
        Of one shape.

    Raises
    ------
    ValueError
        They are of several.

    Examples
    --------
    >>> import numpy as np
    >>> zero, target = np.zeros(4), np.asarray([0.5, 2.0, 1.0, 0.0])
    >>> float(interval_coverage(zero, zero + 1.0, target))
    0.75
    """
    xp = namespace(lower, upper, target)
    check_shapes("interval_coverage", lower, upper, target)
    inside = xp.logical_and(lower <= target, target <= upper)
    return xp.mean(xp.astype(inside, lower.dtype))


def set_coverage(sets: Array, labels: Array, dtype: Any = None) -> Array:
    """The share of labels that are in their sets: 0-d.

    Parameters
    ----------
    sets : (rows, classes)
        Booleans, as `Calibration.sets` gives them.
    labels : (rows,)
        Whole numbers.
    dtype
        Of the result; None is the namespace's default for floats.

    Examples
    --------
    >>> import numpy as np
    >>> sets = np.asarray([[True, False], [True, True]])
    >>> float(set_coverage(sets, np.asarray([1, 1])))
    0.5
    """
    xp = namespace(sets, labels)
    labels = _labels("set_coverage", sets, labels, sets.shape[-1])
    classes = xp.arange(sets.shape[-1], dtype=labels.dtype, device=sets.device)
    inside = xp.any(xp.logical_and(sets, xp.expand_dims(labels, axis=1) == classes), axis=-1)
    floats = xp.zeros(0, device=sets.device).dtype if dtype is None else dtype
    return xp.mean(xp.astype(inside, floats))


def _labels(where: str, rows: Array, labels: Array, classes: int) -> Array:
    """The labels as (rows,) integers, from 0 to classes - 1; reads three numbers."""
    xp, backend = namespace(labels), backend_of(labels)
    count = rows.shape[0]
    if labels.shape[:1] != rows.shape[:1] or prod(labels.shape) != count:
        raise ValueError(
            f"{where}: labels: expected one for each of {count} rows, got the shape "
            f"{tuple(labels.shape)}"
        )
    if not count:
        raise ValueError(f"{where}: expected one row or more, got none")
    flat = xp.reshape(labels, (-1,))
    found = xp.astype(flat, xp.int32)  # 8 bits do not count 300 classes
    whole = xp.all(xp.astype(found, flat.dtype) == flat)
    numbers = xp.stack([xp.min(found), xp.max(found), xp.astype(whole, xp.int32)])
    low, high, is_whole = backend.to_host(numbers).tolist()
    if not is_whole or low < 0 or high >= classes:
        got = f"labels from {low} to {high}" if is_whole else "numbers between them"
        raise ValueError(
            f"{where}: labels: expected whole numbers from 0 to {classes - 1}, one for each of "
            f"{classes} classes, got {got}. To fix it: number the classes as the columns of the "
            "probabilities have them"
        )
    return found
