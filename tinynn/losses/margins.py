"""Losses that spare what is predicted well: focal losses and hinges."""

from dataclasses import dataclass

from tinynn.config import require
from tinynn.functional import log_softmax, one_hot, softplus
from tinynn.losses.base import Array, holds
from tinynn.losses.classification import (
    BinaryCrossEntropy,
    OfLabels,
    OfOneClass,
    SoftmaxCrossEntropy,
)
from tinynn.trace import namespace


@dataclass(frozen=True)
class BinaryFocal(BinaryCrossEntropy):
    """The binary cross-entropy, lessened where the prediction is right already.

    With p = sigmoid(prediction) it is
    -(t * (1 - p) ** gamma * log(p) + (1 - t) * p ** gamma * log(1 - p)), without overflow.
    Predictions and targets are those of `BinaryCrossEntropy`.

    Parameters
    ----------
    gamma : float, 0 or more
        How much less right predictions count; 0 is the cross-entropy.
    class_weight : None, "balanced", a mapping of class to weight, or two numbers
        The alpha of the paper is `class_weight=(1 - alpha, alpha)`.
    label_smoothing : float in [0, 1]
        With e, t becomes t * (1 - e) + e / 2.
    reduction
        "mean", "sum" or "half_sum" of the values: see `tinynn.losses.Loss`.

    References
    ----------
    Lin, Goyal, Girshick, He and Dollar 2017, "Focal Loss for Dense Object Detection".

    Examples
    --------
    >>> import numpy as np
    >>> loss = BinaryFocal(gamma=2.0)
    >>> loss.values(np.asarray([0.0, 4.0]), np.asarray([1, 1])).round(6).tolist()
    [0.173287, 6e-06]
    """

    convex = False

    gamma: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "gamma", lambda gamma: gamma >= 0, "a number of 0 or more")

    def cost(self, prediction: Array) -> Array:
        # sigmoid(prediction) ** gamma, whose slope is finite where that is 0.
        spared = namespace(prediction).exp(-self.gamma * softplus(-prediction))
        return spared * super().cost(prediction)


@dataclass(frozen=True)
class SoftmaxFocal(SoftmaxCrossEntropy):
    """The cross-entropy of classes, lessened where the prediction is right already.

    With p = softmax(prediction) it is -sum(t * (1 - p) ** gamma * log(p)) over the classes.
    Predictions and targets are those of `SoftmaxCrossEntropy`.

    Parameters
    ----------
    gamma : float, 0 or more
        How much less right predictions count; 0 is the cross-entropy.
    class_weight : None, "balanced", a mapping of class to weight, or one number for each class
        The paper's alpha.
    label_smoothing : float in [0, 1]
        With e, the target t becomes t * (1 - e) + e / classes.
    reduction
        "mean", "sum" or "half_sum" of the values: see `tinynn.losses.Loss`.

    References
    ----------
    Lin, Goyal, Girshick, He and Dollar 2017, "Focal Loss for Dense Object Detection".

    Examples
    --------
    >>> import numpy as np
    >>> loss = SoftmaxFocal(gamma=2.0)
    >>> loss(np.zeros((2, 4)), np.asarray([0, 3])).round(6).tolist()
    0.779791
    """

    convex = False

    gamma: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "gamma", lambda gamma: gamma >= 0, "a number of 0 or more")

    def scores(self, prediction: Array) -> Array:
        log_p = log_softmax(prediction)
        xp = namespace(log_p)
        off = -xp.expm1(log_p)
        # Of 0 a power below 1 has no slope.
        least = float(xp.finfo(off.dtype).smallest_normal) ** 0.5
        return xp.maximum(off, xp.full_like(off, least)) ** self.gamma * log_p


@dataclass(frozen=True)
class Hinge(OfLabels):
    """The hinge of independent yes-or-no labels, max(0, 1 - s * prediction) with s = -1 or 1.

    prediction: (batch, ...), of which those above 0 are answers of yes; target: 0 and 1, -1 and 1
    or booleans, of its shape; a last axis of length 1 may be left out.

    Parameters
    ----------
    class_weight : None, "balanced", a mapping of class to weight, or two numbers
        How much 0 (or -1) and 1 count, for all outputs alike; "balanced" is computed by `fit_to`.
    reduction
        "mean", "sum" or "half_sum" of the values: see `tinynn.losses.Loss`.

    References
    ----------
    Cortes and Vapnik 1995, "Support-Vector Networks".

    Examples
    --------
    >>> import numpy as np
    >>> loss = Hinge(reduction="sum")
    >>> loss(np.asarray([0.25, -3.0]), np.asarray([1, 0])).tolist()
    0.75
    """

    def cost(self, prediction: Array) -> Array:
        return _positive(1.0 + prediction)

    def truth(self, target: Array) -> Array:
        return target if namespace(target).isdtype(target.dtype, "bool") else target > 0

    def check_target(self, prediction: Array, target: Array) -> None:
        xp = namespace(target)
        if xp.isdtype(target.dtype, "bool"):
            return
        target = xp.astype(target, prediction.dtype)
        if not (holds((target == 0) | (target == 1)) or holds((target == -1) | (target == 1))):
            raise ValueError(
                f"{self}: expected targets of 0 and 1, or of -1 and 1, got targets from "
                f"{float(xp.min(target))} to {float(xp.max(target))}. To fix it: use "
                "MulticlassHinge for more than two classes"
            )


@dataclass(frozen=True)
class SquaredHinge(Hinge):
    """The square of `Hinge`, whose slope has no jump.

    Predictions, targets and class weights are those of `Hinge`.

    Parameters
    ----------
    class_weight : None, "balanced", a mapping of class to weight, or two numbers
        How much 0 (or -1) and 1 count, for all outputs alike; "balanced" is computed by `fit_to`.
    reduction
        "mean", "sum" or "half_sum" of the values: see `tinynn.losses.Loss`.

    Examples
    --------
    >>> import numpy as np
    >>> loss = SquaredHinge(reduction="sum")
    >>> loss(np.asarray([0.5, -3.0]), np.asarray([1, 0])).tolist()
    0.25
    """

    def cost(self, prediction: Array) -> Array:
        hinge = super().cost(prediction)
        return hinge * hinge

    def part(self, share: Array, cost: Array) -> Array:
        # The square of the other answer's hinge may overflow: 0 * inf is no number.
        xp = namespace(share, cost)
        cost = xp.where(xp.equal(share, 0.0), xp.zeros_like(cost), cost)
        return xp.multiply(share, cost)


@dataclass(frozen=True)
class MulticlassHinge(OfOneClass):
    """The hinge of classes that exclude each other: how far the best other class comes too near.

    It is max(0, 1 + max(other predictions) - prediction[t]), the form of Crammer and Singer. It
    gives no probabilities.

    prediction: (batch, ..., classes); target t: (batch, ...) integer labels, or
    (batch, ..., classes) one-hot or probabilities, of which it is the mean.

    Parameters
    ----------
    class_weight : None, "balanced", a mapping of class to weight, or one number for each class
        "balanced" is computed by `fit_to`.
    reduction
        "mean", "sum" or "half_sum" of the values: see `tinynn.losses.Loss`.

    References
    ----------
    Crammer and Singer 2001, "On the Algorithmic Implementation of Multiclass Kernel-based Vector
    Machines".

    Examples
    --------
    >>> import numpy as np
    >>> loss = MulticlassHinge(reduction="sum")
    >>> loss(np.asarray([[3.0, 1.0, 2.5], [0.0, 2.0, 0.0]]), np.asarray([0, 1])).tolist()
    0.5
    """

    def scores(self, prediction: Array) -> Array:
        xp = namespace(prediction)
        first = one_hot(xp.argmax(prediction, axis=-1), prediction.shape[-1], xp.bool)
        low = xp.full_like(prediction, -float(xp.finfo(prediction.dtype).max))
        second = xp.max(xp.where(first, low, prediction), axis=-1, keepdims=True)
        other = xp.where(first, second, xp.max(prediction, axis=-1, keepdims=True))
        return -_positive(1.0 + other - prediction)


def _positive(x: Array) -> Array:
    """max(x, 0), whose slope at 0 is 0."""
    xp = namespace(x)
    return xp.where(x > 0, x, xp.zeros_like(x))
