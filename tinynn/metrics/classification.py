"""Metrics of classes.

What a prediction is, `prepare` learns from the loss, or the metric is told:

- "multiclass": (batch, ..., classes), of which the largest is the answer; targets are integer
  labels (batch, ...), or one-hot or probabilities of the prediction's shape;
- "binary": (batch,) or (batch, 1), an answer of class 1 above `threshold`; targets are 0 or 1 (or
  booleans), and a last axis of 1 may be left out;
- "multilabel": (batch, ..., labels), each an answer of its own above `threshold`; targets likewise.
"""

from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import Any, ClassVar, Self

from tinynn.config import require
from tinynn.functional import one_hot
from tinynn.functional.errors import DtypeError
from tinynn.losses.base import Loss, column_shapes, match_rows, match_target
from tinynn.losses.classification import (
    BinaryCrossEntropy,
    NegativeLogLikelihood,
    OfSoftmax,
    SoftmaxCrossEntropy,
)
from tinynn.metrics.base import (
    Array,
    Mean,
    Metric,
    State,
    check_shapes,
    counted,
    in_dtype,
    ratio,
    task_of,
    unsuited,
)
from tinynn.trace import namespace

CLASSES = ("binary", "multiclass", "multilabel")
AVERAGES = ("macro", "micro", "weighted")


@dataclass(frozen=True)
class OfClasses(Metric):
    """Base class of the metrics of classes.

    task: what a prediction is; None takes the loss's word. threshold: 0.0 for logits, 0.5 for
    probabilities; None takes the loss's.
    """

    _: KW_ONLY
    task: str | None = None
    threshold: float | None = None

    tasks: ClassVar[tuple[str, ...]] = CLASSES
    greater_is_better: ClassVar[bool | None] = True
    by_threshold: ClassVar[bool] = True
    """False for a metric that goes by the order of predictions."""

    def __post_init__(self) -> None:
        allowed = (None, *self.tasks)
        require(self, "task", allowed.__contains__, f"None or one of {', '.join(self.tasks)}")

    def prepare(self, loss: Any, prediction: Array, target: Array) -> Self:
        said = task_of(loss, prediction)
        if self.task is None and said is not None and said not in self.tasks:
            raise unsuited(self, loss, said)
        task = self.task or said
        threshold = self.threshold
        if threshold is None and task != "multiclass":
            threshold = getattr(loss, "threshold", None)
        metric = replace(self, task=task, threshold=threshold)._told(prediction, target)
        metric.measure(prediction[:1, ...], target[:1, ...])  # for its errors
        return metric

    def _told(self, prediction: Array, target: Array) -> Self:
        """The metric with its task, if none was given and the shapes or dtypes leave no doubt."""
        task = self.task
        if task is None and prediction.ndim > 1 and prediction.shape[-1] > 1:
            of_classes = namespace(target).isdtype(target.dtype, ("integral", "bool"))
            if of_classes and target.ndim == prediction.ndim - 1:
                task = "multiclass"
        unknown = self.threshold is None and self.by_threshold
        if task is None or (task != "multiclass" and unknown):
            name = type(self).__name__
            raise ValueError(
                f"metrics: {self}: expected to be told what the predictions are, got a loss that "
                f"does not say. To fix it: {name}(task='multiclass'), or 'binary' or 'multilabel' "
                "with threshold=0.0 for logits or threshold=0.5 for probabilities"
            )
        return self if task == self.task else replace(self, task=task)

    def answers(self, prediction: Array, target: Array) -> tuple[Array, Array]:
        """(answers, truth) of one shape: labels of a multiclass task, else booleans."""
        metric = self._told(prediction, target)
        shape = tuple(prediction.shape)
        if metric.task == "multiclass":
            check_shapes(self, (shape[:-1], shape), prediction, target)
            answers = namespace(prediction).argmax(prediction, axis=-1)
            return answers, _labels(self, prediction, target, answers)
        check_shapes(self, column_shapes(shape), prediction, target)
        # 0.5 parts 0 from 1 in targets of any dtype.
        return prediction > (metric.threshold or 0.0), match_target(prediction, target) > 0.5

    def _weights(self, sample_weight: Any, answers: Array, prediction: Array) -> Array | None:
        """The weight of each answer, of their shape and the prediction's dtype; None for none."""
        if sample_weight is None:
            return None
        weight = match_rows(self, sample_weight, in_dtype(answers, prediction.dtype))
        return namespace(weight).broadcast_to(weight, answers.shape)


def _labels(metric: Metric, prediction: Array, target: Array, answers: Array) -> Array:
    """The target as labels, in the dtype of the answers."""
    xp = namespace(target)
    if target.ndim == prediction.ndim:
        return in_dtype(xp.argmax(in_dtype(target, prediction.dtype), axis=-1), answers.dtype)
    if not xp.isdtype(target.dtype, ("integral", "bool")):
        raise DtypeError(
            f"{metric}: expected integer labels, got {target.dtype}. To fix it: convert them, "
            "xp.astype(y, xp.int32)"
        )
    return in_dtype(target, answers.dtype)


@dataclass(frozen=True)
class Accuracy(OfClasses, Mean):
    """The share of correct predictions; in a multilabel task each label counts as one.

    Parameters
    ----------
    name
        In histories; None is its own.
    task
        "binary", "multiclass" or "multilabel"; None takes that of the loss of training.
    threshold
        From which output on a label is 1; None takes that of the loss of training.

    Examples
    --------
    >>> import numpy as np
    >>> logits = np.asarray([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0], [0.0, 1.0]])
    >>> print(Accuracy()(logits, np.asarray([0, 1, 0, 0])))
    0.75
    """

    default_name: ClassVar[str] = "accuracy"

    def values(self, prediction: Array, target: Array) -> Array:
        answers, truth = self.answers(prediction, target)
        return namespace(answers, truth).equal(answers, truth)


@dataclass(frozen=True)
class TopKAccuracy(OfClasses, Mean):
    """The share of samples whose class is among the k largest outputs.

    Of equal outputs the first counts as the larger, as `Accuracy` takes it.

    Parameters
    ----------
    k
        How many outputs count, 1 or more.
    name, task, threshold
        As for `Accuracy`.

    Examples
    --------
    >>> import numpy as np
    >>> logits = np.asarray([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    >>> print(TopKAccuracy(2)(logits, np.asarray([1, 2])))
    0.5
    """

    k: int = 5

    tasks: ClassVar[tuple[str, ...]] = ("multiclass",)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "k", lambda k: int(k) == k and k >= 1, "a whole number of 1 or more")

    @property
    def default_name(self) -> str:  # type: ignore[override]
        """The name with its k."""
        return f"top_{self.k}_accuracy"

    def values(self, prediction: Array, target: Array) -> Array:
        _, truth = self.answers(prediction, target)
        classes = prediction.shape[-1]
        if self.k >= classes:
            raise ValueError(
                f"metrics: {self}: expected k below {classes}, the number of outputs, got {self.k}"
            )
        own = in_dtype(one_hot(truth, classes, prediction.dtype), prediction.dtype)
        xp = namespace(prediction, own)
        score = xp.sum(xp.where(own > 0, prediction, xp.zeros_like(prediction)), axis=-1)
        score = xp.expand_dims(score, axis=-1)
        # own sums to 1 from the class itself on: before it, equal outputs go first.
        before = xp.cumulative_sum(own, axis=-1) == 0
        ahead = (prediction > score) | ((prediction == score) & before)
        return xp.sum(counted(ahead, prediction), axis=-1) < self.k


@dataclass(frozen=True)
class _Counts(OfClasses):
    """Base class of metrics of right answers, answers and truths counted by class.

    Of a binary task it is the number of class 1, else that of the classes, or labels, together, as
    `average` says. Classes that occur neither in answers nor in targets are left out of a mean, as
    in scikit-learn; labels of a multilabel task never are.
    """

    _: KW_ONLY
    average: str = "macro"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "average", AVERAGES.__contains__, f"one of {', '.join(AVERAGES)}")

    def measure(self, prediction: Array, target: Array, sample_weight: Any = None) -> State:
        metric = self._told(prediction, target)
        answers, truth = metric.answers(prediction, target)
        weight = self._weights(sample_weight, answers, prediction)
        if metric.task == "multiclass":
            classes, dtype = prediction.shape[-1], namespace(answers).bool
            answers, truth = (one_hot(labels, classes, dtype) for labels in (answers, truth))
            weight = None if weight is None else namespace(weight).expand_dims(weight, axis=-1)
        columns = prediction.shape[-1] if metric.task != "binary" else 1
        xp = namespace(answers, truth)

        def count(flags: Array) -> Array:
            if weight is None:
                numbers = counted(flags, prediction)
            else:
                numbers = in_dtype(flags, weight.dtype) * weight
            return xp.sum(xp.reshape(numbers, (-1, columns)), axis=0)

        return count(xp.logical_and(answers, truth)), count(answers), count(truth)

    def score(self, right: Array, answers: Array, truths: Array) -> Array:
        """The number of each class, (classes,), from its counts."""
        raise NotImplementedError

    def compute(self, state: State) -> Array:
        right, answers, truths = state
        if self.average == "micro":
            xp = namespace(right)
            return self.score(*(xp.sum(counts) for counts in (right, answers, truths)))
        scores = self.score(right, answers, truths)
        xp = namespace(scores)
        occurs = xp.astype(answers + truths > 0, scores.dtype)
        if self.task in ("binary", "multilabel"):
            occurs = xp.ones_like(scores)
        if self.average == "weighted" and self.task != "binary":
            occurs = xp.astype(truths, scores.dtype)
        return ratio(xp.sum(scores * occurs), xp.sum(occurs))


@dataclass(frozen=True)
class Precision(_Counts):
    """The share of predictions of a class that are correct; 0 for a class never predicted.

    Of a binary task it is that of class 1.

    Parameters
    ----------
    name, task, threshold
        As for `Accuracy`.
    average
        Of several classes or labels: "macro" is the mean over them, "micro" the number of all
        counts together, "weighted" the mean weighed by the number of their samples.

    Examples
    --------
    >>> import numpy as np
    >>> metric = Precision(task="binary", threshold=0.5)
    >>> print(metric(np.asarray([0.9, 0.8, 0.2]), np.asarray([1, 0, 1])))
    0.5
    """

    default_name: ClassVar[str] = "precision"

    def score(self, right: Array, answers: Array, truths: Array) -> Array:
        return ratio(right, answers)


@dataclass(frozen=True)
class Recall(_Counts):
    """The share of samples of a class that are predicted as it; 0 for a class without samples.

    Of a binary task it is that of class 1.

    Parameters
    ----------
    name, task, threshold, average
        As for `Precision`.

    Examples
    --------
    >>> import numpy as np
    >>> metric = Recall(task="binary", threshold=0.5)
    >>> print(metric(np.asarray([0.9, 0.8, 0.2, 0.7]), np.asarray([1, 0, 1, 0])))
    0.5
    """

    default_name: ClassVar[str] = "recall"

    def score(self, right: Array, answers: Array, truths: Array) -> Array:
        return ratio(right, truths)


@dataclass(frozen=True)
class F1(_Counts):
    """The harmonic mean of precision and recall.

    Of a binary task it is that of class 1.

    Parameters
    ----------
    name, task, threshold, average
        As for `Precision`.

    Examples
    --------
    >>> import numpy as np
    >>> metric = F1(task="binary", threshold=0.5)
    >>> print(metric(np.asarray([0.9, 0.8, 0.2, 0.1]), np.asarray([1, 0, 1, 0])))
    0.5
    """

    default_name: ClassVar[str] = "f1"

    def score(self, right: Array, answers: Array, truths: Array) -> Array:
        return ratio(2 * right, answers + truths)


@dataclass(frozen=True)
class LogLoss(Mean):
    """The mean cross-entropy, in nats, without class weights and label smoothing.

    Parameters
    ----------
    name
        In histories; None is its own.
    loss
        The cross-entropy whose predictions are measured; None takes the loss of training.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.losses import SoftmaxCrossEntropy
    >>> print(LogLoss(loss=SoftmaxCrossEntropy())(np.zeros((2, 4)), np.asarray([0, 3])).round(6))
    1.386294
    """

    _: KW_ONLY
    loss: Loss | None = None

    tasks: ClassVar[tuple[str, ...]] = CLASSES
    greater_is_better: ClassVar[bool | None] = False
    default_name: ClassVar[str] = "log_loss"

    def prepare(self, loss: Any, prediction: Array, target: Array) -> Self:
        told = self if self.loss or not isinstance(loss, Loss) else replace(self, loss=_plain(loss))
        if told.loss is not None and task_of(told.loss, prediction) in CLASSES:
            try:
                told.loss.probabilities(prediction[:1, ...])
            except TypeError:  # of a hinge
                raise ValueError(
                    f"metrics: {self}: expected a loss that knows probabilities, got {loss}. "
                    'To fix it: use "accuracy" or "f1"'
                ) from None
        return super(LogLoss, told).prepare(loss, prediction, target)

    def values(self, prediction: Array, target: Array) -> Array:
        if self.loss is None:
            raise ValueError(
                f"metrics: {self}: expected to be told the loss of the predictions, got none. "
                "To fix it: LogLoss(loss=SoftmaxCrossEntropy())"
            )
        self.loss.check_shapes(prediction.shape, target.shape)
        return self.loss.values(prediction, target)


@dataclass(frozen=True)
class Perplexity(LogLoss):
    """The exponential of the mean cross-entropy: among how many classes the network wavers.

    It is 1 for a network that is always right, and the number of classes for one that knows
    nothing; of a language model it is the perplexity by token.

    Parameters
    ----------
    loss
        The cross-entropy whose predictions are measured; None takes the loss of training.
    name
        In histories; None is its own.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.losses import SoftmaxCrossEntropy
    >>> metric = Perplexity(loss=SoftmaxCrossEntropy())
    >>> print(metric(np.zeros((2, 4)), np.asarray([0, 3])).round(6))
    4.0
    """

    default_name: ClassVar[str] = "perplexity"

    def compute(self, state: State) -> Array:
        mean = super().compute(state)
        return namespace(mean).exp(mean)


def _plain(loss: Loss) -> Loss:
    """The cross-entropy of a loss's probabilities, without class weights and label smoothing."""
    for family, cross_entropy in (
        (OfSoftmax, SoftmaxCrossEntropy),
        (BinaryCrossEntropy, BinaryCrossEntropy),
        (NegativeLogLikelihood, NegativeLogLikelihood),
    ):
        if isinstance(loss, family):
            return cross_entropy()
    plain: dict[str, Any] = {"class_weight": None, "label_smoothing": 0.0}
    return replace(loss, **{f.name: plain[f.name] for f in fields(loss) if f.name in plain})
