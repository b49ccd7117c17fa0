"""Metrics of the order of predictions, whatever threshold is set in it.

Their states hold the predictions of all samples, so that they are exact, with ties and weights.
"""

from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar, Self

import backends
from tinynn.functional import one_hot
from tinynn.losses.base import Loss, match_rows
from tinynn.metrics.base import Array, Collected, State, in_dtype, ratio
from tinynn.metrics.classification import OfClasses
from tinynn.trace import Traced, is_readable, namespace


@dataclass(frozen=True)
class _Ranking(Collected, OfClasses):
    """Base class of the metrics of one number for each class or label; write `of_column`.

    The state is (scores, truths), both (samples, classes), and the weights of samples, (samples,).
    """

    _: KW_ONLY
    loss: Loss | None = None

    by_threshold: ClassVar[bool] = False
    unknown: ClassVar[float] = 0.0  # the number where no class has one

    def __call__(
        self, prediction: Array, target: Array, sample_weight: Array | None = None
    ) -> Array:
        """The number for these samples; NaN has no place in the order, and is an error.

        Parameters
        ----------
        prediction : (batch, ...)
        target
            As the metric documents.
        sample_weight : (batch,)
            One for each sample.
        """
        number = super().__call__(prediction, target, sample_weight)
        if is_readable(number) and type(number) is not Traced:  # a trace takes NaN as it is
            xp = namespace(prediction)
            unordered = xp.any(xp.isnan(prediction))
            if backends.of(unordered).to_host(unordered):
                raise ValueError(
                    f"{self}: expected scores that can be put in order, got NaN among them. To fix "
                    "it: look for what made it, in the data or in a training that diverged"
                )
        return number

    def prepare(self, loss: Any, prediction: Array, target: Array) -> Self:
        told = self
        if self.loss is None and isinstance(loss, Loss) and loss.task(prediction) == "multiclass":
            told = replace(self, loss=loss)
        return super(_Ranking, told).prepare(loss, prediction, target)

    def measure(self, prediction: Array, target: Array, sample_weight: Any = None) -> State:
        metric = self._told(prediction, target)
        answers, truth = metric.answers(prediction, target)
        weight = in_dtype(namespace(answers).ones_like(answers), prediction.dtype)
        if sample_weight is not None:
            weight = weight * match_rows(self, sample_weight, weight)
        scores, columns = prediction, 1
        if metric.task != "binary":
            columns = prediction.shape[-1]
        if metric.task == "multiclass":
            truth, scores = one_hot(truth, columns, prediction.dtype), self._scores(prediction)
        if metric.task == "multilabel":
            weight = weight[..., 0]
        xp = namespace(scores, truth)
        scores, truth = (
            xp.reshape(in_dtype(each, prediction.dtype), (-1, columns)) for each in (scores, truth)
        )
        return scores, truth, xp.reshape(weight, (-1,))

    def _scores(self, prediction: Array) -> Array:
        """Probabilities of classes, whose order among samples is not that of logits."""
        try:
            return prediction if self.loss is None else self.loss.probabilities(prediction)
        except TypeError:  # of a hinge
            return prediction

    def of_column(self, scores: Array, positive: Array, negative: Array) -> tuple[Array, Array]:
        """(sum, whole): the number is sum / whole, and there is none where the whole is 0.

        scores, and the weights of positives and negatives: (samples,).
        """
        raise NotImplementedError

    def compute(self, state: State) -> Array:
        scores, truth, weight = state
        xp = namespace(scores)
        parts = [
            self.of_column(scores[:, c], truth[:, c] * weight, (1 - truth[:, c]) * weight)
            for c in range(scores.shape[1])
        ]
        values = xp.stack([ratio(*part) for part in parts])
        known = xp.stack([xp.astype(whole > 0, whole.dtype) for _, whole in parts])
        number = ratio(xp.sum(values * known), xp.sum(known))
        number = xp.where(xp.sum(known) > 0, number, self.unknown)
        # Where nobody can raise an error, NaN among the scores is NaN, and no place in the order.
        return number + xp.sum(xp.where(xp.isnan(scores), scores, xp.zeros_like(scores)))


@dataclass(frozen=True)
class ROCAUC(_Ranking):
    """The area under the ROC curve: how often a positive sample has the larger score.

    A tie counts half. Of a multiclass task it is the mean over the classes of each against the
    rest, by the probabilities of the loss; of labels the mean over them. Classes of which there
    are no samples, or none else, are left out; with none left the number is NaN, as in
    scikit-learn.

    Parameters
    ----------
    loss
        The loss whose `probabilities` are ranked in a multiclass task; None takes that of
        training, and predictions as they are without one.
    name, task, threshold
        As for `Accuracy`.

    References
    ----------
    Hanley and McNeil 1982, "The Meaning and Use of the Area under a Receiver Operating
    Characteristic Curve".

    Examples
    --------
    >>> import numpy as np
    >>> print(ROCAUC(task="binary")(np.asarray([0.1, 0.4, 0.35, 0.8]), np.asarray([0, 0, 1, 1])))
    0.75
    """

    default_name: ClassVar[str] = "roc_auc"
    unknown: ClassVar[float] = float("nan")

    def of_column(self, scores: Array, positive: Array, negative: Array) -> tuple[Array, Array]:
        order, above, reached = _ranked(scores, positive)
        xp = namespace(positive)
        won = xp.sum(xp.take(negative, order) * (above + reached)) / 2
        return won, xp.sum(positive) * xp.sum(negative)


@dataclass(frozen=True)
class AveragePrecision(_Ranking):
    """The mean over positive samples of the precision among those with as large a score or larger.

    It is the area below the steps of the precision-recall curve. Of a multiclass task it is the
    mean over the classes of each against the rest, by the probabilities of the loss; of labels the
    mean over them. Classes without samples are left out.

    Parameters
    ----------
    loss
        The loss whose `probabilities` are ranked in a multiclass task; None takes that of
        training, and predictions as they are without one.
    name, task, threshold
        As for `Accuracy`.

    Examples
    --------
    >>> import numpy as np
    >>> metric = AveragePrecision(task="binary")
    >>> print(metric(np.asarray([0.1, 0.4, 0.35, 0.8]), np.asarray([0, 0, 1, 1])).round(4))
    0.8333
    """

    default_name: ClassVar[str] = "average_precision"

    def of_column(self, scores: Array, positive: Array, negative: Array) -> tuple[Array, Array]:
        order, _, right = _ranked(scores, positive)
        _, _, wrong = _ranked(scores, negative)
        xp = namespace(positive)
        precision = ratio(right, right + wrong)
        return xp.sum(xp.take(positive, order) * precision), xp.sum(positive)


def _ranked(scores: Array, weight: Array) -> tuple[Array, Array, Array]:
    """(order, above, reached): samples from the largest score on, and for each the sums of the
    weights of those with a larger score, and with one as large or larger."""
    xp = namespace(scores, weight)
    order = xp.argsort(-scores)
    ranked = xp.take(-scores, order)
    sums = xp.cumulative_sum(xp.take(weight, order))
    sums = xp.concat([xp.zeros_like(sums[:1]), sums])
    places = (xp.searchsorted(ranked, ranked, side=side) for side in ("left", "right"))
    above, reached = (xp.take(sums, each) for each in places)
    return order, above, reached
