"""Losses: frozen dataclasses, called as loss(prediction, target, weights=None) -> 0-d array.

A loss gives each entry a value and a weight of its own (`terms`); weighing by sample and reducing
happen once, in `Loss`. `loss.check` finds, before training, targets that cannot be meant.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from tinynn import config
from tinynn.config import Configured, require
from tinynn.functional import DtypeError, ShapeError, log_softmax, one_hot, softplus
from tinynn.trace import backend_of, namespace

__all__ = [
    "AbsoluteError",
    "BinaryCrossEntropy",
    "Huber",
    "Loss",
    "NegativeLogLikelihood",
    "SoftmaxCrossEntropy",
    "SquaredError",
    "from_config",
    "get",
    "to_config",
]

Array: TypeAlias = Any
Shape: TypeAlias = tuple[int, ...]
REDUCTIONS = ("mean", "sum", "half_sum")


@dataclass(frozen=True)
class Loss(Configured):
    """What losses share; derive from it with a frozen dataclass and write `terms`.

    reduction: with l the values, w the weights of the samples and c those of the classes,
        "mean" is sum(w * c * l) / sum(w * c), as PyTorch has it for class weights (and 0 where
        all weights are 0), "sum" is sum(w * c * l), and "half_sum" is half of that: of a squared
        error it has the gradient prediction - target.
    """

    reduction: str = field(default="mean", kw_only=True)

    def __post_init__(self) -> None:
        require(self, "reduction", REDUCTIONS.__contains__, f"one of {', '.join(REDUCTIONS)}")

    def terms(self, prediction: Array, target: Array) -> tuple[Array, Array | None]:
        """(values, weights): each entry's loss, its weight included, and that weight or None."""
        raise NotImplementedError(f"{type(self).__name__} has no terms(self, prediction, target)")

    def target_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """The shapes a target of a prediction of this shape may have, the usual one first."""
        return (shape, shape[:-1]) if shape[-1:] == (1,) else (shape, (*shape, 1))

    def check_values(self, prediction: Array, target: Array) -> None:
        """ValueError if the target's values cannot be meant; this reads the device."""

    def __call__(self, prediction: Array, target: Array, weights: Array | None = None) -> Array:
        """The loss, 0-d, of the prediction's dtype.

        prediction: (batch, ...), target: as the loss says, weights: (batch,), one for each sample
        (or of the shape of the losses' values), of any real dtype.
        Raises ShapeError where the shapes do not fit; nothing is broadcast.
        """
        self._require_shapes(prediction.shape, target.shape)
        values, own = self.terms(prediction, target)
        if weights is not None:
            weights = _like_rows(self, weights, values)
            xp = namespace(values, weights)
            values = xp.multiply(values, weights)
            own = weights if own is None else namespace(own, weights).multiply(own, weights)
        xp = namespace(values, own)
        if self.reduction == "mean":
            return xp.mean(values) if own is None else _mean(values, own)
        total = xp.sum(values)
        return total if self.reduction == "sum" else 0.5 * total

    def check(self, prediction: Array, target: Array, weights: Array | None = None) -> None:
        """Raises ValueError, saying what was expected and what came, if training cannot work.

        prediction: the network's output for any number of rows: only its width and dtype count.
        target, weights: of the whole data. Reads a few numbers from the device.

        >>> import numpy as np
        >>> SoftmaxCrossEntropy().check(np.zeros((1, 3)), np.asarray([0, 1, 3]))
        Traceback (most recent call last):
        ...
        ValueError: SoftmaxCrossEntropy(): expected labels from 0 to 2, as the network has 3 \
outputs, got labels from 0 to 3; give the network more outputs or number the classes from 0
        """
        if target.ndim and target.shape[0] == 0:
            raise ValueError(f"{self}: expected at least one sample, got none")
        kind = namespace(prediction).isdtype
        if not kind(prediction.dtype, "real floating"):
            raise DtypeError(
                f"{self}: expected predictions of a real floating-point dtype, "
                f"got {prediction.dtype}; let the network end in a Linear layer"
            )
        rows = tuple(target.shape[:1])
        self._require_shapes(rows + tuple(prediction.shape[1:]), target.shape)
        if weights is not None and tuple(weights.shape[:1]) != rows:
            raise ShapeError(
                f"{self}: expected one weight for each of {rows[0]} samples, "
                f"got weights of shape {tuple(weights.shape)}"
            )
        if weights is not None and not _holds(weights >= 0):
            raise ValueError(f"{self}: expected sample weights of 0 or more, got a lesser one")
        self.check_values(prediction, target)

    def _require_shapes(self, prediction: Shape, target: Shape) -> None:
        expected = self.target_shapes(tuple(prediction))
        if tuple(target) not in expected:
            raise ShapeError(
                f"{self}: expected a target of shape {' or '.join(map(str, expected))} for "
                f"predictions of shape {tuple(prediction)}, got {tuple(target)}; "
                "change the target, or the width of the last layer"
            )


def _mean(values: Array, weights: Array) -> Array:
    xp = namespace(weights)
    total = xp.sum(xp.broadcast_to(weights, values.shape))
    divisor = xp.where(total == 0, xp.ones_like(total), total)
    xp = namespace(values, divisor)
    return xp.divide(xp.sum(values), divisor)


def _like_rows(loss: Loss, weights: Array, values: Array) -> Array:
    """Weights of the samples, (batch,) made (batch, 1, ...), in the dtype of the values."""
    xp, shape = namespace(weights), tuple(weights.shape)
    if shape not in (tuple(values.shape), tuple(values.shape[:1])):
        raise ShapeError(
            f"{loss}: expected weights of shape {tuple(values.shape[:1])}, one for each sample, "
            f"got {shape}"
        )
    weights = xp.reshape(weights, shape + (1,) * (values.ndim - len(shape)))
    return weights if weights.dtype == values.dtype else xp.astype(weights, values.dtype)


def _holds(condition: Array) -> bool:
    return bool(namespace(condition).all(condition))


def _matched(prediction: Array, target: Array) -> Array:
    """The target in the prediction's dtype and shape (a last axis of 1 may have been left out)."""
    xp = namespace(target)
    if target.dtype != prediction.dtype:
        target = xp.astype(target, prediction.dtype)
    if target.ndim != prediction.ndim:
        target = xp.reshape(target, tuple(prediction.shape))
    return target


def _difference(prediction: Array, target: Array) -> Array:
    target = _matched(prediction, target)
    return namespace(prediction, target).subtract(prediction, target)


@dataclass(frozen=True)
class SquaredError(Loss):
    """(prediction - target) ** 2.

    prediction: (batch, ...), target: of its shape; a last axis of length 1 may be left out.

    >>> import numpy as np
    >>> float(SquaredError(reduction="half_sum")(np.asarray([1.0, 3.0]), np.zeros(2)))
    5.0
    """

    def terms(self, prediction: Array, target: Array) -> tuple[Array, Array | None]:
        difference = _difference(prediction, target)
        return difference * difference, None


@dataclass(frozen=True)
class AbsoluteError(Loss):
    """abs(prediction - target); shapes as of `SquaredError`. Its slope at 0 is 0.

    >>> import numpy as np
    >>> float(AbsoluteError()(np.asarray([1.0, -3.0]), np.zeros(2)))
    2.0
    """

    def terms(self, prediction: Array, target: Array) -> tuple[Array, Array | None]:
        difference = _difference(prediction, target)
        # Not abs, whose slope at 0 is 1 here as in JAX: a fit that is perfect stays where it is.
        return namespace(difference).maximum(difference, -difference), None


@dataclass(frozen=True)
class Huber(Loss):
    """Half the squared error up to `delta`, linear beyond; shapes as of `SquaredError`.

    Source: Huber 1964, "Robust Estimation of a Location Parameter".

    >>> import numpy as np
    >>> float(Huber(delta=1.0, reduction="sum")(np.asarray([1.0, 3.0]), np.zeros(2)))
    3.0
    """

    delta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "delta", lambda delta: delta > 0, "a number above 0")

    def terms(self, prediction: Array, target: Array) -> tuple[Array, Array | None]:
        difference = _difference(prediction, target)
        xp = namespace(difference)
        size = xp.abs(difference)
        near = 0.5 * difference * difference
        return xp.where(size <= self.delta, near, self.delta * (size - 0.5 * self.delta)), None


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """-(t * log(p) + (1 - t) * log(1 - p)) with p = sigmoid(prediction), without overflow.

    prediction: (batch, ...) logits, target t: 0 or 1 (or between, or booleans), of its shape; a
    last axis of length 1 may be left out.
    class_weights: of class 0 and class 1. label_smoothing e: t becomes t * (1 - e) + e / 2.

    >>> import numpy as np
    >>> loss = BinaryCrossEntropy()
    >>> loss(np.asarray([[0.0], [1000.0]]), np.asarray([1, 1])).round(6).tolist()
    0.346574
    """

    class_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _prepare(self)
        require(self, "class_weights", lambda w: w is None or len(w) == 2, "two numbers")

    def terms(self, prediction: Array, target: Array) -> tuple[Array, Array | None]:
        target = _matched(prediction, target)
        soft = target * (1.0 - self.label_smoothing) + 0.5 * self.label_smoothing
        off, on = self.class_weights or (1.0, 1.0)
        xp = namespace(prediction, soft)
        values = xp.add(
            xp.multiply(on * soft, softplus(-prediction)),
            xp.multiply(off * (1.0 - soft), softplus(prediction)),
        )
        return values, None if self.class_weights is None else on * target + off * (1.0 - target)

    def check_values(self, prediction: Array, target: Array) -> None:
        target = namespace(target).astype(target, prediction.dtype)
        if not _holds((target >= 0) & (target <= 1)):
            xp = namespace(target)
            raise ValueError(
                f"{self}: expected targets from 0 to 1, got targets from "
                f"{float(xp.min(target))} to {float(xp.max(target))}; "
                "for more than two classes use SoftmaxCrossEntropy"
            )


@dataclass(frozen=True)
class _OfClasses(Loss):
    """What the losses of classes that exclude each other share."""

    class_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _prepare(self)

    def target_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        if len(shape) < 2:
            raise ShapeError(
                f"{self}: expected predictions of shape (batch, classes), got {shape}; "
                "let the network have an output for each class"
            )
        return shape[:-1], shape

    def check_values(self, prediction: Array, target: Array) -> None:
        _check_classes(self, prediction, target)


@dataclass(frozen=True)
class NegativeLogLikelihood(_OfClasses):
    """Minus the log-probability of the class that is right.

    prediction: (batch, ..., classes) log-probabilities; target: (batch, ...) integer labels, or
    (batch, ..., classes) one-hot or probabilities.
    class_weights: one for each class.

    >>> import numpy as np
    >>> log_p = np.log(np.asarray([[0.25, 0.75], [0.5, 0.5]]))
    >>> loss = NegativeLogLikelihood(reduction="sum")
    >>> loss(log_p, np.asarray([1, 0])).round(6).tolist()
    0.980829
    """

    def terms(self, prediction: Array, target: Array) -> tuple[Array, Array | None]:
        return _cross_entropy(self, prediction, target, 0.0)


@dataclass(frozen=True)
class SoftmaxCrossEntropy(_OfClasses):
    """Minus the log of the probability that softmax gives the class that is right.

    prediction: (batch, ..., classes) logits; target: (batch, ...) integer labels, or
    (batch, ..., classes) one-hot or probabilities.
    class_weights: one for each class. label_smoothing e: the target t becomes
    t * (1 - e) + e / classes; each class of that is weighed, and "mean" divides by the weights of
    t itself, as PyTorch does for labels.

    >>> import numpy as np
    >>> loss = SoftmaxCrossEntropy()
    >>> loss(np.zeros((2, 4)), np.asarray([0, 3])).round(6).tolist()
    1.386294
    """

    label_smoothing: float = 0.0

    def terms(self, prediction: Array, target: Array) -> tuple[Array, Array | None]:
        return _cross_entropy(self, log_softmax(prediction), target, self.label_smoothing)

    def check_values(self, prediction: Array, target: Array) -> None:
        if prediction.shape[-1] < 2:
            raise ShapeError(
                f"{self}: expected two outputs or more, got one, whose probability is always 1; "
                "use BinaryCrossEntropy, or as many outputs as there are classes"
            )
        super().check_values(prediction, target)


def _prepare(loss: Any) -> None:
    """Class weights as a tuple of floats, so that a list may be given; both settings in range."""
    if loss.class_weights is not None:
        require(loss, "class_weights", lambda w: all(c >= 0 for c in w), "numbers of 0 or more")
        object.__setattr__(loss, "class_weights", tuple(map(float, loss.class_weights)))
    if hasattr(loss, "label_smoothing"):
        require(loss, "label_smoothing", lambda e: 0.0 <= e <= 1.0, "a number in [0, 1]")


def _cross_entropy(
    loss: Any, log_p: Array, target: Array, smoothing: float
) -> tuple[Array, Array | None]:
    """(values, weights), one for each sample; labels and one-hot targets give the same."""
    classes = log_p.shape[-1]
    if target.ndim < log_p.ndim:
        _require_integers(loss, target)
        target = one_hot(target, classes, log_p.dtype)
    elif target.dtype != log_p.dtype:
        target = namespace(target).astype(target, log_p.dtype)
    soft = target * (1.0 - smoothing) + smoothing / classes if smoothing else target
    own = None
    if loss.class_weights is not None:
        by_class = _class_weights(loss, classes, target)
        xp = namespace(target)
        soft = xp.multiply(soft, by_class)
        own = xp.sum(xp.multiply(target, by_class), axis=-1)
    xp = namespace(log_p, soft)
    return -xp.sum(xp.multiply(log_p, soft), axis=-1), own


def _class_weights(loss: Any, classes: int, like: Array) -> Array:
    if len(loss.class_weights) != classes:
        raise ShapeError(
            f"{loss}: expected {classes} class weights, one for each output, "
            f"got {len(loss.class_weights)}"
        )
    return backend_of(like).asarray(loss.class_weights, dtype=like.dtype)


def _require_integers(loss: Any, target: Array) -> None:
    if not namespace(target).isdtype(target.dtype, ("integral", "bool")):
        raise DtypeError(
            f"{loss}: expected integer labels, got {target.dtype}; "
            "convert them: xp.astype(y, xp.int32), or use a loss for numbers"
        )


def _check_classes(loss: Any, prediction: Array, target: Array) -> None:
    xp, classes = namespace(target), prediction.shape[-1]
    if loss.class_weights is not None:
        _class_weights(loss, classes, prediction)
    if target.ndim == prediction.ndim:
        target = xp.astype(target, prediction.dtype)
        if not (_holds(target >= 0) and _holds(xp.abs(xp.sum(target, axis=-1) - 1.0) < 1e-3)):
            raise ValueError(
                f"{loss}: expected each row of the target to be probabilities whose sum is 1, "
                "got others; give integer labels, or use BinaryCrossEntropy for classes that do "
                "not exclude each other"
            )
        return
    _require_integers(loss, target)
    if not xp.isdtype(target.dtype, "signed integer"):  # some libraries lack min of the others
        target = xp.astype(target, prediction.dtype)  # which holds the largest, and wraps none
    low, high = int(xp.min(target)), int(xp.max(target))
    if low < 0 or high >= classes:
        raise ValueError(
            f"{loss}: expected labels from 0 to {classes - 1}, as the network has {classes} "
            f"outputs, got labels from {low} to {high}; "
            "give the network more outputs or number the classes from 0"
        )


_NAMES: dict[str, type[Loss]] = {
    "squared_error": SquaredError,
    "absolute_error": AbsoluteError,
    "huber": Huber,
    "binary_cross_entropy": BinaryCrossEntropy,
    "cross_entropy": SoftmaxCrossEntropy,
    "nll": NegativeLogLikelihood,
}
_KNOWN: dict[str, Any] = {loss.__name__: loss for loss in _NAMES.values()}


def get(name: str) -> Loss:
    """The loss of that name, with its defaults. Raises ValueError for a name that is not known.

    >>> get("huber") == Huber(delta=1.0)
    True
    """
    if name not in _NAMES:
        raise ValueError(f"no loss is known as {name!r}; known are {', '.join(sorted(_NAMES))}")
    return _NAMES[name]()


def to_config(loss: Any) -> Any:
    """The loss's settings in what JSON can hold; a plain function by its name.

    >>> to_config(Huber(2.0))
    {'class': 'Huber', 'reduction': 'mean', 'delta': 2.0}
    """
    return config.to_config(loss, _KNOWN)


def from_config(description: Any, custom: Mapping[str, Any] | None = None) -> Any:
    """The loss that `to_config` wrote down; `custom` names classes and functions of your own.

    >>> from_config({"class": "Huber", "delta": 2.0}) == Huber(2.0)
    True
    """
    return config.from_config(description, {**_KNOWN, **(custom or {})})
