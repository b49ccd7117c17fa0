"""The base class of losses: weighing by sample, reduction and checks, in one place for all."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, TypeAlias

from tinynn.config import Configured, require
from tinynn.functional.errors import DtypeError, ShapeError
from tinynn.trace import namespace
from tinynn.trace.scopes import composite

Array: TypeAlias = Any
Shape: TypeAlias = tuple[int, ...]
REDUCTIONS = ("mean", "sum", "half_sum")
TASKS = ("binary", "multiclass", "multilabel", "regression", "quantiles", "embedding")


@dataclass(frozen=True)
class Loss(Configured):
    """A function of (prediction, target) that training makes small.

    Derive from it with a frozen dataclass and write `values`. `task` tells metrics what kind of
    answer a prediction is; without it, metrics for classes have to be told.

    Parameters
    ----------
    reduction : {"mean", "sum", "half_sum"}
        With l the values, w the weights of the samples and c those of the classes, "mean" is
        `sum(w * c * l) / sum(w * c)`, as PyTorch defines it for class weights (and 0 where all
        weights are 0), "sum" is `sum(w * c * l)`, and "half_sum" is half of that: of a squared
        error it has the gradient prediction - target.
    """

    reduction: str = field(default="mean", kw_only=True)

    threshold: ClassVar[float | None] = None
    """The prediction above which a binary answer is class 1; None for other tasks."""
    convex: ClassVar[bool] = False
    """True if it is convex in the prediction, and curved: Gauss-Newton asks it of a loss."""

    by_row: ClassVar[bool] = True
    """True if the value of a row depends on that row alone, and not on others of its batch."""

    def __post_init__(self) -> None:
        require(self, "reduction", REDUCTIONS.__contains__, f"one of {', '.join(REDUCTIONS)}")

    # What a subclass says.

    def values(self, prediction: Array, target: Array) -> Array:
        """The loss of each row or entry, (batch, ...), class weights included.

        Shapes are those that `target_shapes` allows: `__call__` and `check` see to that.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no method values(self, prediction, target)"
        )

    def entry_weights(self, prediction: Array, target: Array) -> Array | None:
        """The class weight of each of `values`, by which "mean" divides; None if all are 1."""
        return None

    def target_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """The shapes a target may have for predictions of this shape, the usual one first."""
        return column_shapes(shape)

    def check_prediction(self, prediction: Array) -> None:
        """ValueError if the predictions cannot be what the loss expects; reads the device."""

    def check_target(self, prediction: Array, target: Array) -> None:
        """ValueError if the target's values are out of range; reads the device."""

    def task(self, prediction: Array) -> str | None:
        """The kind of answer a prediction is.

        One of `TASKS`: "binary", "multiclass", "multilabel", "regression", "quantiles" or
        "embedding"; None where the loss does not say.
        """
        return None

    def decide(self, prediction: Array) -> Array:
        """The labels that predictions stand for. Raises TypeError for a loss of numbers."""
        raise TypeError(f"{self}: expected a loss for classes: its predictions are not labels")

    def probabilities(self, prediction: Array) -> Array:
        """The probabilities that predictions stand for. Raises TypeError for a loss of numbers."""
        raise TypeError(f"{self}: expected a loss for classes: it has no probabilities")

    def estimate(self, prediction: Array) -> Array:
        """The numbers that predictions stand for, such as the means of distributions.

        `predict` gives them, and metrics of numbers measure them; the predictions themselves,
        where a loss does not say otherwise.
        """
        return prediction

    def outputs(self, numbers: int) -> int:
        """The width of a network for targets of so many numbers a sample."""
        return numbers

    def leading(self, target: Any) -> Array:
        """The array of the target that has a row a sample and whose shape is checked."""
        return target

    def fit_to(
        self,
        prediction: Array,
        target: Array,
        sample_weight: Array | None = None,
        classes: Any = None,
    ) -> Self:
        """The loss with all that is computed from the training data, such as "balanced" weights.

        Parameters
        ----------
        prediction : (rows, ...)
            The network's output for any number of rows.
        target
            The targets of the whole training data.
        sample_weight
            (samples,), by which samples are counted.
        classes
            The names of the classes in order, for a `class_weight` that uses them.
        """
        return self

    # What is the same for all.

    @composite
    def __call__(
        self, prediction: Array, target: Array, sample_weight: Array | None = None
    ) -> Array:
        """The loss, 0-d, of the prediction's dtype.

        The values of the target are not looked at, since that waits for the device in each step:
        `check` does it once, for all data, as `fit` calls it.

        Parameters
        ----------
        prediction : (batch, ...)
        target
            As the loss documents.
        sample_weight : (batch,)
            One for each sample, or of the shape of `values`; any real dtype.

        Raises
        ------
        ShapeError
            The shapes do not fit; nothing is broadcast.
        """
        self.check_shapes(prediction.shape, self.leading(target).shape)
        values, weight = self.values(prediction, target), self.entry_weights(prediction, target)
        if sample_weight is not None:
            rows = match_rows(self, sample_weight, values)
            values = namespace(values, rows).multiply(values, rows)
            weight = rows if weight is None else namespace(weight, rows).multiply(weight, rows)
        xp = namespace(values, weight)
        if self.reduction == "mean":
            return xp.mean(values) if weight is None else _mean(values, weight)
        total = xp.sum(values)
        return total if self.reduction == "sum" else 0.5 * total

    def total_weight(
        self, prediction: Array, target: Array, sample_weight: Array | None = None
    ) -> Array | None:
        """The sum of weights that a "mean" is divided by, 0-d; None where all entries weigh 1.

        Parameters
        ----------
        prediction, target, sample_weight
            As `__call__` has them.
        """
        weight = self.entry_weights(prediction, target)
        if self.reduction != "mean" or (weight is None and sample_weight is None):
            return None
        values = self.values(prediction, target)
        if sample_weight is not None:
            rows = match_rows(self, sample_weight, values)
            weight = rows if weight is None else namespace(weight, rows).multiply(weight, rows)
        xp = namespace(weight)
        return xp.sum(xp.broadcast_to(weight, values.shape))

    def check(self, prediction: Array, target: Array, sample_weight: Array | None = None) -> None:
        """Find what would keep training from working, before it starts.

        Parameters
        ----------
        prediction : (rows, ...), the network's output for any number of rows
        target, sample_weight : of the whole data

        Raises
        ------
        ShapeError, DtypeError, ValueError : the message says what was expected, what came, and
            what to do. A few numbers are read from the device.

        Examples
        --------
        >>> import numpy as np
        >>> from tinynn.losses import SoftmaxCrossEntropy
        >>> SoftmaxCrossEntropy().check(np.zeros((1, 3)), np.asarray([0, 1, 3]))
        Traceback (most recent call last):
        ...
        ValueError: SoftmaxCrossEntropy(): expected labels from 0 to 2, as the network has 3 \
outputs, got labels from 0 to 3. To fix it: give the network more outputs, or number the classes \
from 0

        """
        shape = tuple(self.leading(target).shape)
        if shape[:1] == (0,):
            raise ValueError(f"{self}: expected at least one sample, got none")
        if not namespace(prediction).isdtype(prediction.dtype, "real floating"):
            raise DtypeError(
                f"{self}: expected predictions of a real floating-point dtype, "
                f"got {prediction.dtype}. To fix it: let the network end in a Linear layer"
            )
        rows = shape[:1]
        self.check_shapes(rows + tuple(prediction.shape[1:]), shape)
        if sample_weight is not None and tuple(sample_weight.shape[:1]) != rows:
            raise ShapeError(
                f"{self}: expected sample_weight to have one weight for each of {rows[0]} samples, "
                f"got the shape {tuple(sample_weight.shape)}"
            )
        if sample_weight is not None and not holds(sample_weight >= 0):
            raise ValueError(f"{self}: expected sample weights of 0 or more, got one below 0")
        self.check_target(prediction, target)
        self.check_prediction(prediction)

    def check_shapes(self, prediction: Shape, target: Shape) -> None:
        """ShapeError if a target of this shape does not fit predictions of that one."""
        expected = self.target_shapes(tuple(prediction))
        if tuple(target) not in expected:
            raise ShapeError(
                f"{self}: expected a target of shape {' or '.join(map(str, expected))} for "
                f"predictions of shape {tuple(prediction)}, got {tuple(target)}. To fix it: "
                "change the target, or the width of the last layer"
            )


def column_shapes(shape: Shape) -> tuple[Shape, ...]:
    """A shape of predictions, and the same with or without a last axis of length 1."""
    if len(shape) > 1 and shape[-1] == 1:
        return shape, shape[:-1]
    return shape, (*shape, 1)


def match_rows(owner: Any, sample_weight: Array, values: Array) -> Array:
    """Sample weights, (batch,) made (batch, 1, ...), in the dtype of the values."""
    xp, shape = namespace(sample_weight), tuple(sample_weight.shape)
    if shape not in (tuple(values.shape), tuple(values.shape[:1])):
        raise ShapeError(
            f"{owner}: expected sample_weight of shape {tuple(values.shape[:1])}, one for each "
            f"sample, got {shape}"
        )
    rows = xp.reshape(sample_weight, shape + (1,) * (values.ndim - len(shape)))
    return rows if rows.dtype == values.dtype else xp.astype(rows, values.dtype)


def match_target(prediction: Array, target: Array) -> Array:
    """The target in the prediction's dtype and shape (a last axis of 1 may be left out)."""
    xp = namespace(target)
    if target.dtype != prediction.dtype:
        target = xp.astype(target, prediction.dtype)
    if target.ndim != prediction.ndim:
        target = xp.reshape(target, tuple(prediction.shape))
    return target


def holds(condition: Array) -> bool:
    """True if a condition is true everywhere; reads one boolean from the device."""
    return bool(namespace(condition).all(condition))


def rows_are_probabilities(x: Array) -> bool:
    """True if no entry is below 0 and each row sums to 1, to rounding; reads one boolean."""
    xp = namespace(x)
    off = xp.abs(xp.sum(x, axis=-1) - 1.0)
    sums = off <= (8 + x.shape[-1]) * xp.finfo(x.dtype).eps
    return holds(xp.logical_and(sums, xp.all(x >= 0, axis=-1)))


def _mean(values: Array, weight: Array) -> Array:
    xp = namespace(weight)
    total = xp.sum(xp.broadcast_to(weight, values.shape))
    divisor = xp.where(total == 0, xp.ones_like(total), total)
    xp = namespace(values, divisor)
    return xp.divide(xp.sum(values), divisor)
