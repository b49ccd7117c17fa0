"""How good predictions are, in numbers for people: `metric(prediction, target)`, a 0-d array.

A metric works where its arrays are and reads nothing back. `evaluate`, `fit(metrics=...)` and the
progress bar know it by its name; any function of the same form is one too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import backends
from backends import scoped

Metric = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Accuracy:
    """The share of samples whose class is the right one.

    A network with several outputs answers with the largest; one with a single output answers
    "yes" above `threshold`: 0.0 for logits, 0.5 for probabilities.
    """

    threshold: float = 0.0

    @scoped
    def __call__(self, prediction: Any, target: Any) -> Any:
        """Share of right answers: a 0-d array of the prediction's dtype.

        Parameters
        ----------
        prediction : (batch, classes), (batch, 1) or (batch,), floating
        target : (batch,) integer or boolean labels, (batch, 1) likewise, or (batch, classes): of
            numbers the largest is the label, booleans are answers of their own, each counted

        """
        xp = backends.of(prediction, target).xp
        several = target.shape == prediction.shape and target.dtype == xp.bool
        if prediction.ndim == 2 and prediction.shape[1] > 1 and not several:
            answers = xp.argmax(prediction, axis=1)
            if target.dtype == xp.bool:  # which are not compared with integers
                target = xp.astype(target, xp.int32)
            if target.shape == prediction.shape:
                target = xp.argmax(target, axis=1)
        else:
            answers = prediction > self.threshold
            # 0.5 parts 0 from 1 in labels of any dtype.
            target = xp.astype(target, prediction.dtype) > 0.5
        right = xp.reshape(answers, (-1,)) == xp.reshape(target, (-1,))
        return xp.mean(xp.astype(right, prediction.dtype))


@scoped
def accuracy(prediction: Any, target: Any) -> Any:
    """Share of right answers, single outputs being logits; see `Accuracy`.

    >>> import numpy as np
    >>> logits = np.asarray([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0], [0.0, 1.0]])
    >>> print(accuracy(logits, np.asarray([0, 1, 0, 0])))
    0.75
    """
    return Accuracy()(prediction, target)


@scoped
def mean_absolute_error(prediction: Any, target: Any) -> Any:
    """Mean distance of `prediction` from `target`, both (batch, outputs): a 0-d array.

    >>> import numpy as np
    >>> print(mean_absolute_error(np.asarray([1.0, 2.0]), np.asarray([1.0, 4.0])))
    1.0
    """
    xp = backends.of(prediction, target).xp
    return xp.mean(xp.abs(prediction - xp.astype(target, prediction.dtype)))


@scoped
def r2(prediction: Any, target: Any) -> Any:
    """Coefficient of determination: the share of the target's variance that is explained.

    1 is perfect, 0 is no better than the mean. With several outputs, the mean over them. An output
    whose target never varies counts as 1 where it is met exactly, else as 0 (as scikit-learn).

    >>> import numpy as np
    >>> print(r2(np.asarray([1.0, 2.0, 4.0]), np.asarray([1.0, 2.0, 3.0])))
    0.5
    """
    xp = backends.of(prediction, target).xp
    target = xp.astype(target, prediction.dtype)
    unexplained = xp.sum((target - prediction) ** 2, axis=0)
    variation = xp.sum((target - xp.mean(target, axis=0, keepdims=True)) ** 2, axis=0)
    varies = variation > 0
    share = 1 - unexplained / xp.where(varies, variation, xp.ones_like(variation))
    constant = xp.astype(unexplained == 0, prediction.dtype)
    return xp.mean(xp.where(varies, share, constant))


METRICS: dict[str, Any] = {
    "accuracy": accuracy,
    "mean_absolute_error": mean_absolute_error,
    "r2": r2,
}
KNOWN = {**METRICS, "Accuracy": Accuracy}  # what a model file may name
LARGER_IS_BETTER = ("accuracy", "r2")


def get(metric: str | Metric) -> Metric:
    """The metric of this name, or the metric itself.

    Raises
    ------
    ValueError : an unknown name; the known ones are listed

    """
    if callable(metric):
        return metric
    if metric in METRICS:
        found: Metric = METRICS[metric]
        return found
    raise ValueError(
        f"metrics: expected one of {', '.join(METRICS)}, or a function of (prediction, target), "
        f"got {metric!r}"
    )


def name_of(metric: Metric) -> str:
    """What a metric is called in histories: its own name, or its class's in small letters."""
    name: str = getattr(metric, "__name__", type(metric).__name__.lower())
    return name
