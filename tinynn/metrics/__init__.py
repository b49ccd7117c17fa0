"""Metrics: how good predictions are, in numbers for people.

`fit(metrics=...)` takes them, their names, or any function of (prediction, target) that gives a
0-d array. A `Metric` learns from the loss what predictions are (`prepare`), knows whether a larger
number is better (`greater_is_better`), and gives the same number over batches of any size as over
all samples at once (`init`, `update`, `merge`, `compute`).

>>> import numpy as np
>>> from tinynn.losses import BinaryCrossEntropy
>>> logits, labels = np.asarray([[2.0, -1.0], [-3.0, 4.0]]), np.asarray([[1, 1], [0, 1]])
>>> metric = prepare("accuracy", BinaryCrossEntropy(), logits, labels)
>>> metric, float(metric(logits, labels))
(Accuracy(task='multilabel', threshold=0.0), 0.75)
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import backends
from tinynn import losses
from tinynn.losses.names import find
from tinynn.metrics.base import Collected, Mean, Metric
from tinynn.metrics.classification import (
    F1,
    Accuracy,
    LogLoss,
    Perplexity,
    Precision,
    Recall,
    TopKAccuracy,
)
from tinynn.metrics.confusion import (
    BalancedAccuracy,
    CohenKappa,
    ConfusionMatrix,
    MatthewsCorrelation,
)
from tinynn.metrics.ranking import ROCAUC, AveragePrecision
from tinynn.metrics.regression import (
    R2,
    IntervalCoverage,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    MedianAbsoluteError,
    RootMeanSquaredError,
)

__all__ = [
    "F1",
    "KNOWN",
    "R2",
    "ROCAUC",
    "Accuracy",
    "AveragePrecision",
    "BalancedAccuracy",
    "CohenKappa",
    "Collected",
    "ConfusionMatrix",
    "IntervalCoverage",
    "LogLoss",
    "MatthewsCorrelation",
    "Mean",
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanSquaredError",
    "MedianAbsoluteError",
    "Metric",
    "Perplexity",
    "Precision",
    "Recall",
    "RootMeanSquaredError",
    "TopKAccuracy",
    "direction",
    "get",
    "name_of",
    "prepare",
]

NAMES: dict[str, type[Metric]] = {
    "accuracy": Accuracy,
    "top_k_accuracy": TopKAccuracy,
    "precision": Precision,
    "recall": Recall,
    "f1": F1,
    "balanced_accuracy": BalancedAccuracy,
    "matthews_correlation": MatthewsCorrelation,
    "cohen_kappa": CohenKappa,
    "confusion_matrix": ConfusionMatrix,
    "roc_auc": ROCAUC,
    "average_precision": AveragePrecision,
    "log_loss": LogLoss,
    "perplexity": Perplexity,
    "mean_absolute_error": MeanAbsoluteError,
    "mae": MeanAbsoluteError,
    "mean_squared_error": MeanSquaredError,
    "mse": MeanSquaredError,
    "root_mean_squared_error": RootMeanSquaredError,
    "rmse": RootMeanSquaredError,
    "median_absolute_error": MedianAbsoluteError,
    "mean_absolute_percentage_error": MeanAbsolutePercentageError,
    "mape": MeanAbsolutePercentageError,
    "r2": R2,
    "interval_coverage": IntervalCoverage,
}
KNOWN: Mapping[str, Any] = {
    **losses.KNOWN,  # which a metric may hold
    **{metric.__name__: metric for metric in NAMES.values()},
}
"""The metric and loss classes by name, which a description may hold."""

MetricLike = Metric | Callable[[Any, Any], Any]


def get(metric: Any) -> MetricLike:
    """The metric of this name; a metric or a function is returned as it is.

    Parameters
    ----------
    metric
        A name, a metric, or a function of (prediction, target).

    Raises
    ------
    ValueError
        An unknown name; the message has the nearest one and all.
    TypeError
        Neither a name nor callable.

    Examples
    --------
    >>> get("mae")
    MeanAbsoluteError(name='mae')
    """
    if isinstance(metric, str):
        found = find("metrics", metric, NAMES)()
        return found if name_of(found) == metric else replace(found, name=metric)
    if not callable(metric) or isinstance(metric, type):
        raise TypeError(
            f"metrics: expected one of {', '.join(NAMES)}, a metric such as Accuracy(), or a "
            f"function of (prediction, target), got {metric!r}"
        )
    function: MetricLike = metric
    return function


def prepare(metric: str | MetricLike, loss: Any, prediction: Any, target: Any) -> MetricLike:
    """Set up the metric for this loss, and check it before training.

    Parameters
    ----------
    metric
        A metric, its name, or a function of (prediction, target).
    loss
        The loss, which says what predictions are.
    prediction, target : (rows, ...)
        The network's output for some samples and their targets. A function is tried on them, a
        metric goes by their shapes and dtypes.

    Raises
    ------
    ValueError
        The metric makes no sense for the loss; the message says what does.
    TypeError
        A function that fails on the arrays, or gives no 0-d array of their library.
    """
    metric = get(metric)
    if isinstance(metric, Metric):
        return metric.prepare(loss, prediction, target)
    _try(metric, prediction, target)
    return metric


def name_of(metric: MetricLike) -> str:
    """The name of a metric in histories.

    Parameters
    ----------
    metric
        A metric, or a function of (prediction, target).

    Examples
    --------
    >>> name_of(Accuracy()), name_of(Accuracy(name="right"))
    ('accuracy', 'right')
    """
    if isinstance(metric, Metric):
        return metric.name or metric.default_name or type(metric).__name__.lower()
    name: str = getattr(metric, "__name__", type(metric).__name__.lower())
    return name


def direction(metric: str | MetricLike) -> bool | None:
    """True if a larger number is better; None if unknown, as for a plain function.

    A name that is not known has no direction either, but for "loss".

    Parameters
    ----------
    metric
        A metric, its name, or a function of (prediction, target).

    Examples
    --------
    >>> direction("f1"), direction(MeanAbsoluteError()), direction("loss"), direction(max)
    (True, False, False, None)
    """
    if isinstance(metric, str):
        if metric == "loss":
            return False
        return NAMES[metric].greater_is_better if metric in NAMES else None
    better: bool | None = getattr(metric, "greater_is_better", None)
    return better


def _try(function: Callable[[Any, Any], Any], prediction: Any, target: Any) -> None:
    """TypeError, with a way out, for a function that is no metric of arrays."""
    name, backend = name_of(function), backends.of(prediction)
    fix = (
        f"write a function of (prediction, target) in xp = backends.of(prediction).xp, or use one "
        f"of {', '.join(NAMES)}; what works on the host alone belongs after training: "
        f"{name}(y, backend.to_host(model.predict(X)))"
    )
    if _first_parameter(function) in ("y_true", "y_test"):
        raise TypeError(
            f"metrics: {name}: expected a function of (prediction, target), got one of "
            f"(y_true, y_pred), the other way round. To fix it: {fix}"
        )
    rows = min(prediction.shape[0], target.shape[0])
    try:
        with backend.scope():
            value = function(prediction[:rows, ...], target[:rows, ...])
    except Exception as error:
        raise TypeError(
            f"metrics: {name}: expected a function of two arrays of {backend!r}, got "
            f"{type(error).__name__}: {error}. To fix it: {fix}"
        ) from error
    sound = backends.is_array(value) and backends.of(value) == backend and value.ndim == 0
    if not sound:
        raise TypeError(
            f"metrics: {name}: expected a 0-d array of {backend!r}, got {_described(value)}. "
            f"To fix it: {fix}"
        )


def _first_parameter(function: Any) -> str:
    try:
        return next(iter(inspect.signature(function).parameters), "")
    except (TypeError, ValueError):  # built-in functions have none
        return ""


def _described(value: Any) -> str:
    if backends.is_array(value):
        return f"an array of shape {tuple(value.shape)} on {backends.of(value)!r}"
    return f"{value!r} ({type(value).__name__})"
