"""Losses of classes: the base classes of all, and the cross-entropies.

`OfLabels` is the base of losses of independent yes-or-no labels, which write `cost`; `OfOneClass`
of those of classes that exclude each other, which write `scores`.
"""

from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Self

from tinynn.config import require
from tinynn.functional import log_softmax, one_hot, sigmoid, softmax, softplus
from tinynn.functional.errors import DtypeError, ShapeError
from tinynn.losses.base import Array, Loss, Shape, holds, match_target, rows_are_probabilities
from tinynn.losses.class_weight import ClassWeight, balanced, by_class, class_counts, normalized
from tinynn.trace import backend_of, namespace


@dataclass(frozen=True)
class _Classification(Loss):
    """Base class of the losses of classes.

    class_weight: how much each class counts, as in scikit-learn. None: all the same. "balanced":
    samples / (classes * samples of the class), computed from the training targets by `fit_to`. A
    mapping of class to weight: classes that it leaves out count 1. A sequence: one number a class.
    """

    _: KW_ONLY
    class_weight: ClassWeight = None

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        object.__setattr__(self, "class_weight", normalized(name, self.class_weight))

    def class_count(self, prediction: Array) -> int:
        """The number of classes that predictions of this width tell apart."""
        return int(prediction.shape[-1])

    def by_class(self, prediction: Array, names: Any = ()) -> tuple[float, ...]:
        """`class_weight` as one number for each class."""
        return by_class(self, self.class_weight, self.class_count(prediction), names)

    def fit_to(
        self,
        prediction: Array,
        target: Array,
        sample_weight: Array | None = None,
        classes: Any = None,
    ) -> Self:
        """The loss with a number for each class as its `class_weight`.

        >>> import numpy as np
        >>> loss = SoftmaxCrossEntropy(class_weight="balanced")
        >>> loss.fit_to(np.zeros((4, 2)), np.asarray([0, 0, 0, 1]))
        SoftmaxCrossEntropy(class_weight=(0.6666666666666666, 2.0))
        """
        if self.class_weight is None:
            return self
        names = () if classes is None else tuple(classes)
        if self.class_weight != "balanced":
            return replace(self, class_weight=self.by_class(prediction, names))
        self.check_shapes((*target.shape[:1], *prediction.shape[1:]), target.shape)
        self.check_target(prediction, target)
        counts = self.count_classes(prediction, target, sample_weight)
        return replace(self, class_weight=balanced(counts))

    def count_classes(
        self, prediction: Array, target: Array, sample_weight: Array | None
    ) -> list[float]:
        """The number of samples of each class, weighed by `sample_weight`."""
        by_label = target.ndim < prediction.ndim
        count = self.class_count(prediction)
        return class_counts(target, count, prediction, sample_weight, by_label=by_label)

    def check(self, prediction: Array, target: Array, sample_weight: Array | None = None) -> None:
        if self.class_weight is not None:
            self.by_class(prediction)
        super().check(prediction, target, sample_weight)


@dataclass(frozen=True)
class OfLabels(_Classification):
    """Base class of the losses of independent yes-or-no labels; derive from it and write `cost`.

    prediction: (batch, ...), of which those above 0 are answers of yes; target: 0 or 1, of its
    shape, where a last axis of length 1 may be left out.
    """

    threshold = 0.0

    def cost(self, prediction: Array) -> Array:
        """The value of predictions for the target 0; `cost(-prediction)` is that for 1."""
        raise NotImplementedError

    def truth(self, target: Array) -> Array:
        """The target as numbers from 0 to 1, or as booleans."""
        return target

    def shares(self, prediction: Array, target: Array) -> Array:
        """The target from 0 to 1, in the prediction's dtype and shape."""
        return match_target(prediction, self.truth(target))

    def task(self, prediction: Array) -> str:
        return "multilabel" if prediction.ndim > 1 and prediction.shape[-1] > 1 else "binary"

    def decide(self, prediction: Array) -> Array:
        return prediction > self.threshold

    def class_count(self, prediction: Array) -> int:
        return 2

    def values(self, prediction: Array, target: Array) -> Array:
        target, smoothing = self.shares(prediction, target), getattr(self, "label_smoothing", 0.0)
        soft = target * (1.0 - smoothing) + 0.5 * smoothing
        off, on = (1.0, 1.0) if self.class_weight is None else self.by_class(prediction)
        xp = namespace(prediction, soft)
        return xp.add(
            self.part(on * soft, self.cost(-prediction)),
            self.part(off * (1.0 - soft), self.cost(prediction)),
        )

    def part(self, share: Array, cost: Array) -> Array:
        """The part of a value that a share of the target has in it."""
        return namespace(share, cost).multiply(share, cost)

    def entry_weights(self, prediction: Array, target: Array) -> Array | None:
        if self.class_weight is None:
            return None
        target = self.shares(prediction, target)
        off, on = self.by_class(prediction)
        return on * target + off * (1.0 - target)

    def count_classes(
        self, prediction: Array, target: Array, sample_weight: Array | None
    ) -> list[float]:
        xp = namespace(target)
        target = xp.reshape(self.truth(target), (*target.shape, 1))
        if xp.isdtype(target.dtype, "bool"):
            target = xp.astype(target, xp.int8)
        off = 1 - target
        shares = xp.concat([off, target], axis=-1)
        return class_counts(shares, 2, prediction, sample_weight, by_label=False)

    def check_target(self, prediction: Array, target: Array) -> None:
        target = namespace(target).astype(target, prediction.dtype)
        if not holds((target >= 0) & (target <= 1)):
            xp = namespace(target)
            raise ValueError(
                f"{self}: expected targets from 0 to 1, got targets from "
                f"{float(xp.min(target))} to {float(xp.max(target))}. "
                "To fix it: use SoftmaxCrossEntropy for more than two classes"
            )


@dataclass(frozen=True)
class BinaryCrossEntropy(OfLabels):
    """The cross-entropy of independent yes-or-no labels, from logits.

    It is -(t * log(p) + (1 - t) * log(1 - p)) with p = sigmoid(prediction), without overflow.

    prediction: (batch, ...) logits, target t: 0 or 1 (or between, or booleans), of its shape; a
    last axis of length 1 may be left out. One output is an answer of yes or no; several are
    labels that do not exclude each other.

    Parameters
    ----------
    reduction : {"mean", "sum", "half_sum"}
        As `Loss` has it.
    class_weight : None, "balanced", a mapping of class to weight, or two numbers
        How much 0 and 1 count, for all outputs alike; "balanced" is computed by `fit_to`.
    label_smoothing : float in [0, 1]
        With e, t becomes t * (1 - e) + e / 2; the class weights are those of t itself in the
        divisor of "mean".

    Examples
    --------
    >>> import numpy as np
    >>> loss = BinaryCrossEntropy()
    >>> loss(np.asarray([[0.0], [1000.0]]), np.asarray([1, 1])).round(6).tolist()
    0.346574
    """

    convex = True

    _: KW_ONLY
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_smoothing(self)

    def cost(self, prediction: Array) -> Array:
        return softplus(prediction)

    def probabilities(self, prediction: Array) -> Array:
        return sigmoid(prediction)

    def check_prediction(self, prediction: Array) -> None:
        if self.task(prediction) == "multilabel" and rows_are_probabilities(prediction):
            raise _no_logits(self, "take the softmax off the end of the network")


@dataclass(frozen=True)
class OfOneClass(_Classification):
    """Base class of the losses of classes that exclude each other; write `scores`.

    prediction: (batch, ..., classes), of which the largest is the answer; target: (batch, ...)
    integer labels, or (batch, ..., classes) one-hot or probabilities.
    """

    def target_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        if len(shape) < 2:
            raise ShapeError(
                f"{self}: expected predictions of shape (batch, classes), got {shape}. "
                "To fix it: let the network have an output for each class"
            )
        return shape[:-1], shape

    def task(self, prediction: Array) -> str:
        return "multiclass"

    def decide(self, prediction: Array) -> Array:
        return namespace(prediction).argmax(prediction, axis=-1)

    def scores(self, prediction: Array) -> Array:
        """Minus the value that each class has as the target: (batch, ..., classes)."""
        raise NotImplementedError

    def values(self, prediction: Array, target: Array) -> Array:
        scores = self.scores(prediction)
        smoothing = getattr(self, "label_smoothing", 0.0)
        if target.ndim < scores.ndim and not smoothing and self.class_weight is None:
            require_integers(self, target)
            backend = backend_of(scores)
            hit = one_hot(target, scores.shape[-1], backend.xp.bool)
            xp = namespace(scores, hit)
            return -xp.sum(xp.where(hit, scores, xp.zeros_like(scores)), axis=-1)
        soft = self.shares(scores, target)
        if smoothing:
            soft = soft * (1.0 - smoothing) + smoothing / scores.shape[-1]
        if self.class_weight is not None:
            weights = self._weights(scores)
            soft = namespace(soft, weights).multiply(soft, weights)
        xp = namespace(scores, soft)
        # A class with no share adds nothing, however impossible it is: 0 * inf is no number.
        scores = xp.where(xp.equal(soft, 0.0), xp.zeros_like(scores), scores)
        return -xp.sum(xp.multiply(scores, soft), axis=-1)

    def shares(self, prediction: Array, target: Array) -> Array:
        """The target as the share of each class, (batch, ..., classes), in the same dtype."""
        if target.ndim < prediction.ndim:
            require_integers(self, target)
            return one_hot(target, prediction.shape[-1], prediction.dtype)
        xp = namespace(target)
        return target if target.dtype == prediction.dtype else xp.astype(target, prediction.dtype)

    def entry_weights(self, prediction: Array, target: Array) -> Array | None:
        if self.class_weight is None:
            return None
        shares, weights = self.shares(prediction, target), self._weights(prediction)
        xp = namespace(shares, weights)
        return xp.sum(xp.multiply(shares, weights), axis=-1)

    def _weights(self, prediction: Array) -> Array:
        """The class weights as an array, (classes,)."""
        numbers = self.by_class(prediction)
        return backend_of(prediction).asarray(numbers, dtype=prediction.dtype)

    def check_target(self, prediction: Array, target: Array) -> None:
        if prediction.shape[-1] < 2:
            raise ShapeError(
                f"{self}: expected two outputs or more, got one, which is the answer always. "
                "To fix it: use BinaryCrossEntropy, or as many outputs as there are classes"
            )
        if target.ndim == prediction.ndim:
            _check_probabilities(self, prediction, target)
        else:
            _check_labels(self, prediction, target)


@dataclass(frozen=True)
class NegativeLogLikelihood(OfOneClass):
    """Minus the log-probability of the correct class.

    prediction: (batch, ..., classes) log-probabilities, as log_softmax gives them; target:
    (batch, ...) integer labels, or (batch, ..., classes) one-hot or probabilities.

    Parameters
    ----------
    reduction : {"mean", "sum", "half_sum"}
        As `Loss` has it.
    class_weight : None, "balanced", a mapping of class to weight, or one number for each class
        "balanced" is computed by `fit_to`.

    Examples
    --------
    >>> import numpy as np
    >>> log_p = np.log(np.asarray([[0.25, 0.75], [0.5, 0.5]]))
    >>> loss = NegativeLogLikelihood(reduction="sum")
    >>> loss(log_p, np.asarray([1, 0])).round(6).tolist()
    0.980829
    """

    def scores(self, prediction: Array) -> Array:
        return prediction

    def probabilities(self, prediction: Array) -> Array:
        return namespace(prediction).exp(prediction)

    def check_prediction(self, prediction: Array) -> None:
        """Probabilities sum to 1, but log_softmax of large logits is rounded coarsely."""
        xp = namespace(prediction)
        # exp sees nothing above 1, where it could overflow.
        small = xp.minimum(prediction, xp.ones_like(prediction))
        total = xp.sum(xp.exp(small), axis=-1)
        if bool(xp.any(xp.abs(total - 1.0) > 0.1)):
            raise ValueError(
                f"{self}: expected log-probabilities, got predictions whose exponentials do not "
                "sum to 1. To fix it: let the network end in log_softmax, or use "
                "SoftmaxCrossEntropy() for logits"
            )


@dataclass(frozen=True)
class OfSoftmax(OfOneClass):
    """Base class of the losses of logits, whose softmax the probabilities are."""

    def scores(self, prediction: Array) -> Array:
        return log_softmax(prediction)

    def probabilities(self, prediction: Array) -> Array:
        return softmax(prediction)

    def check_prediction(self, prediction: Array) -> None:
        if rows_are_probabilities(prediction):
            raise _no_logits(
                self,
                "take the softmax off the end of the network, or let it end in log_softmax "
                "and use NegativeLogLikelihood()",
            )


@dataclass(frozen=True)
class SoftmaxCrossEntropy(OfSoftmax):
    """Minus the log of the probability that softmax gives the correct class.

    prediction: (batch, ..., classes) logits; target: (batch, ...) integer labels, or
    (batch, ..., classes) one-hot or probabilities.

    Parameters
    ----------
    reduction : {"mean", "sum", "half_sum"}
        As `Loss` has it.
    class_weight : None, "balanced", a mapping of class to weight, or one number for each class
        "balanced" is computed by `fit_to`.
    label_smoothing : float in [0, 1]
        With e, the target t becomes t * (1 - e) + e / classes; each class of that is weighed, and
        "mean" divides by the weights of t itself, as PyTorch does for labels.

    Examples
    --------
    >>> import numpy as np
    >>> loss = SoftmaxCrossEntropy()
    >>> loss(np.zeros((2, 4)), np.asarray([0, 3])).round(6).tolist()
    1.386294
    """

    convex = True

    _: KW_ONLY
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_smoothing(self)


@dataclass(frozen=True)
class KLDivergence(OfSoftmax):
    """The Kullback-Leibler divergence of the softmax of logits from given probabilities.

    With t the target and p = softmax(prediction) it is sum(t * (log(t) - log(p))): the
    cross-entropy less what no prediction can save, and 0 where p is t.

    prediction: (batch, ..., classes) logits; target: probabilities of its shape.

    Parameters
    ----------
    class_weight : None, "balanced", a mapping of class to weight, or one number for each class
        "balanced" is computed by `fit_to`.
    reduction
        "mean", "sum" or "half_sum" of the values: see `tinynn.losses.Loss`.

    References
    ----------
    Kullback and Leibler 1951, "On Information and Sufficiency".

    Examples
    --------
    >>> import numpy as np
    >>> target = np.asarray([[0.5, 0.5], [0.0, 1.0]])
    >>> KLDivergence().values(np.zeros((2, 2)), target).round(6).tolist()
    [0.0, 0.693147]
    """

    def target_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        return super().target_shapes(shape)[1:]

    def values(self, prediction: Array, target: Array) -> Array:
        shares = self.shares(prediction, target)
        xp = namespace(shares)
        known = shares * xp.log(xp.where(shares > 0, shares, xp.ones_like(shares)))
        if self.class_weight is not None:
            weights = self._weights(prediction)
            known = namespace(known, weights).multiply(known, weights)
        known = xp.sum(known, axis=-1)
        cross_entropy = super().values(prediction, target)
        return namespace(cross_entropy, known).add(cross_entropy, known)


def _no_logits(loss: Loss, fix: str) -> ValueError:
    return ValueError(
        f"{loss}: expected logits, got predictions that are probabilities: no entry is below 0 "
        f"and each row sums to 1. The loss would take their softmax again. To fix it: {fix}; "
        "loss.probabilities(prediction) gives the probabilities"
    )


def _check_smoothing(loss: Any) -> None:
    require(loss, "label_smoothing", lambda e: 0.0 <= e <= 1.0, "a number in [0, 1]")


def require_integers(loss: Loss, target: Array) -> None:
    """DtypeError for a target that is not of integers or booleans."""
    if not namespace(target).isdtype(target.dtype, ("integral", "bool")):
        raise DtypeError(
            f"{loss}: expected integer labels, got {target.dtype}. To fix it: "
            "convert them, xp.astype(y, xp.int32), or use a loss for numbers"
        )


def _check_probabilities(loss: Loss, prediction: Array, target: Array) -> None:
    xp = namespace(target)
    target = xp.astype(target, prediction.dtype)
    if not (holds(target >= 0) and holds(xp.abs(xp.sum(target, axis=-1) - 1.0) < 1e-3)):
        raise ValueError(
            f"{loss}: expected each row of the target to be probabilities whose sum is 1, "
            "got others. To fix it: give integer labels, or use BinaryCrossEntropy for classes "
            "that do not exclude each other"
        )


def _check_labels(loss: Loss, prediction: Array, target: Array) -> None:
    require_integers(loss, target)
    xp, classes = namespace(target), prediction.shape[-1]
    if not xp.isdtype(target.dtype, "signed integer"):  # some libraries lack min of the others
        target = xp.astype(target, prediction.dtype)  # which holds the largest, and wraps none
    low, high = int(xp.min(target)), int(xp.max(target))
    if low < 0 or high >= classes:
        raise ValueError(
            f"{loss}: expected labels from 0 to {classes - 1}, as the network has {classes} "
            f"outputs, got labels from {low} to {high}. To fix it: "
            "give the network more outputs, or number the classes from 0"
        )
