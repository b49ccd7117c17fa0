"""The base classes of metrics, and what metrics by batch consist of."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, TypeAlias

from tinynn.config import Configured
from tinynn.functional.errors import ShapeError
from tinynn.losses.base import TASKS, match_rows
from tinynn.trace import backend_of, namespace

Array: TypeAlias = Any
State: TypeAlias = tuple[Array, ...]


@dataclass(frozen=True)
class Metric(Configured):
    """A measure of how good predictions are, as a number for people.

    Called on all predictions at once, `metric(prediction, target, sample_weight=None)` is a 0-d
    array, or one of several numbers such as a confusion matrix. By batches it is the same number: a
    state, a tuple of arrays, is made by `init`, takes each batch by `update` and gives the number
    by `compute`; states of parts are put together by `merge`. Nothing is read from the device.

    Derive from it with a frozen dataclass and write `measure` and `compute`, and `merge` where a
    state is not a tuple of sums. A state of zeros must stand for no samples. A metric that needs
    all samples at once, to sort them for one, derives from `Collected`, whose state grows.

    Parameters
    ----------
    name : str or None
        What the metric is called in histories; None takes `default_name`.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.metrics import MeanAbsoluteError
    >>> metric = MeanAbsoluteError()
    >>> prediction, target = np.asarray([1.0, 2.0, 3.0]), np.asarray([1.0, 4.0, 3.5])
    >>> state = metric.init(prediction, target)
    >>> for rows in (slice(0, 2), slice(2, 3)):
    ...     state = metric.update(state, prediction[rows], target[rows])
    >>> print(metric.compute(state).round(4), metric(prediction, target).round(4))
    0.8333 0.8333

    """

    name: str | None = field(default=None, kw_only=True)

    tasks: ClassVar[tuple[str, ...]] = TASKS
    """The kinds of answers, of `Loss.task`, that the metric is for."""

    greater_is_better: ClassVar[bool | None] = None
    """True if a larger number is a better one; None: unknown."""

    default_name: ClassVar[str] = ""

    # What a subclass says.

    def measure(self, prediction: Array, target: Array, sample_weight: Any = None) -> State:
        """The state of one batch."""
        raise NotImplementedError(
            f"{type(self).__name__} has no method measure(self, prediction, target, sample_weight)"
        )

    def merge(self, first: State, second: State) -> State:
        """The state of two sets of samples together."""
        return tuple(a + b for a, b in zip(first, second, strict=True))

    def compute(self, state: State) -> Array:
        """The number, 0-d, or numbers that a state stands for."""
        raise NotImplementedError(f"{type(self).__name__} has no method compute(self, state)")

    def prepare(self, loss: Any, prediction: Array, target: Array) -> Self:
        """The metric as it is to be measured under this loss.

        Parameters
        ----------
        loss
            A loss, or any function, which does not say what its predictions are.
        prediction, target : (rows, ...)
            The network's output and targets; only shapes and dtypes count.

        Raises
        ------
        ValueError
            The metric makes no sense for the loss; the message says what does.
        """
        task = task_of(loss, prediction)
        if task is not None and task not in self.tasks:
            raise unsuited(self, loss, task)
        self.measure(prediction[:1, ...], target[:1, ...])  # for its errors
        return self

    # What is the same for all.

    def __call__(
        self, prediction: Array, target: Array, sample_weight: Array | None = None
    ) -> Array:
        """The number for these samples: a 0-d array on their device, or one of several numbers.

        Parameters
        ----------
        prediction : (batch, ...)
        target
            As the metric documents.
        sample_weight : (batch,)
            One for each sample.
        """
        return self.compute(self.measure(prediction, target, sample_weight))

    def init(self, prediction: Array, target: Array, sample_weight: Array | None = None) -> State:
        """The state for no samples, on the device of the given ones; any number of them will do."""
        state = self.measure(prediction, target, sample_weight)
        return tuple(namespace(entry).zeros_like(entry) for entry in state)

    def update(
        self, state: State, prediction: Array, target: Array, sample_weight: Array | None = None
    ) -> State:
        """The state with the samples of one more batch."""
        return self.merge(state, self.measure(prediction, target, sample_weight))


@dataclass(frozen=True)
class Collected(Metric):
    """A metric whose state keeps all samples; derive from it and write `measure` and `compute`.

    The arrays of the state have a row for each sample, and grow batch by batch, so the number is
    exact, whatever it is: a median, or an order. It takes as much memory as the predictions.

    Parameters
    ----------
    name
        In histories; None is its own.
    """

    def init(self, prediction: Array, target: Array, sample_weight: Array | None = None) -> State:
        """The state for no samples, on the device of the given ones: arrays without rows."""
        state = self.measure(prediction, target, sample_weight)
        return tuple(entry[:0, ...] for entry in state)

    def merge(self, first: State, second: State) -> State:
        pairs = zip(first, second, strict=True)
        return tuple(namespace(a, b).concat([a, b], axis=0) for a, b in pairs)


@dataclass(frozen=True)
class Mean(Metric):
    """A mean over samples, or over the entries of each; derive from it and write `values`.

    The state is the sum of the values and the sum of their weights, each of which is exact
    integers for values that are booleans and have no weights.

    Parameters
    ----------
    name
        In histories; None is its own.
    """

    def values(self, prediction: Array, target: Array) -> Array:
        """The number, or boolean, of each sample or entry: (batch, ...)."""
        raise NotImplementedError(
            f"{type(self).__name__} has no method values(self, prediction, target)"
        )

    def measure(self, prediction: Array, target: Array, sample_weight: Any = None) -> State:
        values = self.values(prediction, target)
        count = 1
        for length in values.shape:
            count *= length
        if sample_weight is None:
            total = namespace(values).sum(counted(values, prediction))
            return total, namespace(total).zeros_like(total) + count
        values = in_dtype(values, prediction.dtype)
        weight = match_rows(self, sample_weight, values)
        xp = namespace(values, weight)
        weighed = xp.sum(values * weight)
        return weighed, xp.sum(weight) * (count // max(1, weight.shape[0]))

    def compute(self, state: State) -> Array:
        return ratio(*state)


def in_dtype(x: Array, dtype: Any) -> Array:
    """The array in that dtype."""
    return x if x.dtype == dtype else namespace(x).astype(x, dtype)


def counted(values: Array, like: Array) -> Array:
    """Booleans as integers of the default dtype of the device of `like`; numbers as they are."""
    xp = namespace(values)
    if not xp.isdtype(values.dtype, "bool"):
        return values
    backend = backend_of(like)
    info = backend.xp.__array_namespace_info__()
    return xp.astype(values, info.default_dtypes(device=backend.device)["integral"])


def as_floats(x: Array) -> Array:
    """Integers in the default floating dtype of their device; floats as they are."""
    xp = namespace(x)
    return xp.astype(x, backend_of(x).default_float) if xp.isdtype(x.dtype, "integral") else x


def ratio(part: Array, whole: Array) -> Array:
    """part / whole in a floating dtype, and 0 where the whole is 0."""
    part, whole = as_floats(part), as_floats(whole)
    xp = namespace(part, whole)
    return part / xp.where(whole == 0, xp.ones_like(whole), whole)


def check_shapes(metric: Metric, expected: tuple[Any, ...], prediction: Any, target: Any) -> None:
    """ShapeError if the target's shape is none of those."""
    if tuple(target.shape) not in expected:
        raise ShapeError(
            f"{metric}: expected a target of shape {' or '.join(map(str, expected))} for "
            f"predictions of shape {tuple(prediction.shape)}, got {tuple(target.shape)}"
        )


def task_of(loss: Any, prediction: Array) -> str | None:
    """The task that the loss says a prediction is of; None for a plain function."""
    says = getattr(loss, "task", None)
    task: str | None = says(prediction) if callable(says) else None
    return task


def unsuited(metric: Metric, loss: Any, task: str) -> ValueError:
    """The error for a metric that makes no sense for what the loss says predictions are."""
    fixes = {
        "regression": 'use "r2", "mae" or "mse", or give a loss for classes such as '
        'loss="cross_entropy"',
        "quantiles": 'use "interval_coverage", or give a loss for numbers such as '
        'loss="squared_error"',
        "embedding": "leave it out: vectors are neither classes nor numbers",
    }
    of_classes = 'use "accuracy" or "f1", or give a loss for numbers such as loss="squared_error"'
    fix = fixes.get(task, of_classes)
    return ValueError(
        f"metrics: {metric}: expected a task of {' or '.join(metric.tasks)}, got {loss}, "
        f"under which predictions are those of a {task} task. To fix it: {fix}"
    )
