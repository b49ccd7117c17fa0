"""Metrics made of the numbers of samples by class and answer."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from tinynn.config import require
from tinynn.functional import one_hot
from tinynn.metrics.base import Array, State, as_floats, counted, ratio
from tinynn.metrics.classification import OfClasses
from tinynn.trace import backend_of, namespace


@dataclass(frozen=True)
class _OfCounts(OfClasses):
    """Base class of the metrics of a confusion matrix; derive from it and write `compute`.

    The state is that matrix, (classes, classes): a row for each class, a column for each answer;
    of samples without weights whole numbers. Of a binary task the classes are 0 and 1.
    """

    tasks: ClassVar[tuple[str, ...]] = ("binary", "multiclass")

    def measure(self, prediction: Array, target: Array, sample_weight: Any = None) -> State:
        metric = self._told(prediction, target)
        pair = metric.answers(prediction, target)
        classes = prediction.shape[-1] if metric.task == "multiclass" else 2
        answers, truth = (
            namespace(labels).reshape(one_hot(labels, classes, prediction.dtype), (-1, classes))
            for labels in pair
        )
        xp = namespace(answers, truth)
        weight = self._weights(sample_weight, pair[0], prediction)
        if weight is not None:
            answers = answers * namespace(weight).reshape(weight, (-1, 1))
            return (xp.matmul(xp.matrix_transpose(truth), answers),)
        matrix = xp.matmul(xp.matrix_transpose(truth), answers)
        whole = counted(xp.ones((), dtype=xp.bool, device=backend_of(truth).device), prediction)
        return (xp.astype(xp.round(matrix), whole.dtype),)


@dataclass(frozen=True)
class ConfusionMatrix(_OfCounts):
    """The numbers of samples by class and answer: (classes, classes), a row for each class.

    In histories, and in what `Model.evaluate` gives, it is a list of rows; progress bars leave it
    out.

    Parameters
    ----------
    normalize : None or {"true", "pred", "all"}
        Shares of each class, of each answer or of all samples instead of numbers.
    name, task, threshold
        As for `Accuracy`.

    Examples
    --------
    >>> import numpy as np
    >>> scores = np.asarray([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]])
    >>> ConfusionMatrix()(scores, np.asarray([0, 1, 1])).tolist()
    [[1, 0], [1, 1]]
    """

    _: KW_ONLY
    normalize: str | None = None

    greater_is_better: ClassVar[bool | None] = None
    default_name: ClassVar[str] = "confusion_matrix"

    def __post_init__(self) -> None:
        super().__post_init__()
        allowed = (None, "true", "pred", "all")
        require(self, "normalize", allowed.__contains__, 'None, "true", "pred" or "all"')

    def compute(self, state: State) -> Array:
        (matrix,) = state
        if self.normalize is None:
            return matrix
        axis = {"true": 1, "pred": 0}.get(self.normalize)
        return ratio(matrix, namespace(matrix).sum(matrix, axis=axis, keepdims=True))


@dataclass(frozen=True)
class BalancedAccuracy(_OfCounts):
    """The mean over the classes of the share of their samples that are answered correctly.

    Classes without samples are left out.

    Parameters
    ----------
    name, task, threshold
        As for `Accuracy`.

    Examples
    --------
    >>> import numpy as np
    >>> metric = BalancedAccuracy(task="binary", threshold=0.5)
    >>> print(metric(np.asarray([0.9, 0.8, 0.2, 0.7]), np.asarray([1, 0, 0, 1])))
    0.75
    """

    default_name: ClassVar[str] = "balanced_accuracy"

    def compute(self, state: State) -> Array:
        right, _, truths, _ = _sums(state)
        xp = namespace(truths)
        return ratio(xp.sum(ratio(right, truths)), xp.sum(xp.astype(truths > 0, truths.dtype)))


@dataclass(frozen=True)
class MatthewsCorrelation(_OfCounts):
    """Matthews' correlation of classes and answers: 1 where they agree, 0 by chance.

    0 if all samples are of one class, or all answers. Of several classes it is the form of
    Gorodkin 2004, "Comparing Two K-Category Assignments by a K-Category Correlation Coefficient".

    Parameters
    ----------
    name, task, threshold
        As for `Accuracy`.

    Examples
    --------
    >>> import numpy as np
    >>> metric = MatthewsCorrelation(task="binary", threshold=0.5)
    >>> print(metric(np.asarray([0.9, 0.8, 0.2, 0.1]), np.asarray([1, 0, 0, 1])))
    0.0
    """

    default_name: ClassVar[str] = "matthews_correlation"

    def compute(self, state: State) -> Array:
        right, answers, truths, total = _sums(state)
        xp = namespace(right)
        right, answers, truths = (ratio(each, total) for each in (right, answers, truths))
        some = xp.astype(total > 0, total.dtype)
        spread = (some - xp.sum(answers**2)) * (some - xp.sum(truths**2))
        return ratio(xp.sum(right) - xp.sum(answers * truths), xp.sqrt(xp.abs(spread)))


@dataclass(frozen=True)
class CohenKappa(_OfCounts):
    """Cohen's kappa: the share of correct answers beyond what chance gives, of what it leaves.

    Parameters
    ----------
    name, task, threshold
        As for `Accuracy`.

    Examples
    --------
    >>> import numpy as np
    >>> metric = CohenKappa(task="binary", threshold=0.5)
    >>> print(metric(np.asarray([0.9, 0.8, 0.2, 0.1]), np.asarray([1, 0, 0, 0])))
    0.5
    """

    default_name: ClassVar[str] = "cohen_kappa"

    def compute(self, state: State) -> Array:
        right, answers, truths, total = _sums(state)
        xp = namespace(right)
        chance = xp.sum(ratio(answers, total) * ratio(truths, total))
        some = xp.astype(total > 0, total.dtype)
        return ratio(ratio(xp.sum(right), total) - chance, some - chance)


def _sums(state: State) -> tuple[Array, Array, Array, Array]:
    """(right answers, answers, truths) of each class, and the number of all, as floats."""
    matrix = as_floats(state[0])
    xp = namespace(matrix)
    diagonal = xp.linalg.diagonal(matrix)
    return diagonal, xp.sum(matrix, axis=0), xp.sum(matrix, axis=1), xp.sum(matrix)
