"""Distillation: a small network learns what a large one answers."""

from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

from tinynn.config import require
from tinynn.functional import log_softmax
from tinynn.losses import SoftmaxCrossEntropy
from tinynn.losses.classification import OfSoftmax
from tinynn.metrics import Metric, direction, get, name_of
from tinynn.metrics import prepare as prepared
from tinynn.trace import namespace
from tinynn.training import Model, fit
from tinynn.training.problem import several

Array = Any


@dataclass(frozen=True)
class Distillation(OfSoftmax):
    """The loss of a student: its distance from the teacher's softened answers, and from the labels.

    With the temperature T it is `share * T ** 2 * KL(softmax(teacher / T), softmax(student / T))`
    and the rest of the cross-entropy with the labels.

    prediction: (batch, classes) logits; target: a pair of integer labels, (batch,), and the
    teacher's logits, (batch, classes).

    Parameters
    ----------
    temperature
        Above 0: the higher it is, the more the teacher says of the wrong classes.
    share
        Of the teacher, from 0 to 1.
    class_weight
        Of the whole, by the labels: as `SoftmaxCrossEntropy` has it.
    reduction
        As `Loss` has it.

    References
    ----------
    Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531.

    Examples
    --------
    >>> import numpy as np
    >>> logits, labels = np.asarray([[0.0, 2.0]]), np.asarray([1])
    >>> float(Distillation(share=1.0)(logits, (labels, logits)))
    0.0
    """

    _: KW_ONLY
    temperature: float = 2.0
    share: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "temperature", lambda t: t > 0.0, "a number above 0")
        require(self, "share", lambda share: 0.0 <= share <= 1.0, "a number from 0 to 1")

    def leading(self, target: Any) -> Array:
        return target[0]

    def values(self, prediction: Array, target: Any) -> Array:
        labels, teacher = target
        hard = SoftmaxCrossEntropy().values(prediction, labels)
        theirs = log_softmax(teacher / self.temperature)
        ours = log_softmax(prediction / self.temperature)
        xp = namespace(theirs, ours)
        soft = xp.sum(xp.multiply(xp.exp(theirs), xp.subtract(theirs, ours)), axis=-1)
        xp = namespace(soft, hard)
        return xp.add(self.share * self.temperature**2 * soft, (1.0 - self.share) * hard)

    def check_target(self, prediction: Array, target: Any) -> None:
        labels, teacher = target
        if teacher.shape[1:] != prediction.shape[1:]:
            raise ValueError(
                f"{self}: expected a teacher of {prediction.shape[-1]} classes, as the student "
                f"has, got one of {teacher.shape[-1]}. To fix it: give the student as many outputs"
            )
        super().check_target(prediction, labels)


@dataclass(frozen=True)
class _OfLabels(Metric):
    """A metric of the labels, where targets are pairs of them and of the teacher's logits."""

    metric: Any

    @property
    def greater_is_better(self) -> bool | None:  # type: ignore[override]
        return direction(self.metric)

    def prepare(self, loss: Any, prediction: Array, target: Any) -> "_OfLabels":
        metric = prepared(self.metric, SoftmaxCrossEntropy(), prediction, target[0])
        return _OfLabels(metric, name=name_of(metric))

    def measure(self, prediction: Array, target: Any, sample_weight: Any = None) -> Any:
        if isinstance(self.metric, Metric):
            return self.metric.measure(prediction, target[0], sample_weight)
        return (self.metric(prediction, target[0]),)

    def compute(self, state: Any) -> Array:
        return self.metric.compute(state) if isinstance(self.metric, Metric) else state[0]


def distill(
    teacher: Model,
    net: Any,
    X: Any,
    y: Any,
    *,
    temperature: float = 2.0,
    share: float = 0.9,
    validation: tuple[Any, Any] | float | None = None,
    metrics: Any = (),
    **arguments: Any,
) -> Model:
    """Train a network on what a model answers, and on labels.

    Parameters
    ----------
    teacher
        A model of classes that exclude each other, whose outputs are logits.
    net
        The student, with as many outputs.
    X, y
        Rows and their labels, arrays on the teacher's backend.
    temperature, share
        As `Distillation` has them.
    validation
        A pair (X, y) of other rows, a fraction to hold out, or None.
    metrics
        As `tinynn.fit` takes them, of the student's answers and the labels.
    arguments
        Further ones of `tinynn.fit`.

    Returns
    -------
    Model
        The student, whose loss is `SoftmaxCrossEntropy`, so that `evaluate` takes labels.

    Raises
    ------
    TypeError
        The teacher has another loss.
    ValueError
        As `tinynn.fit`.

    Examples
    --------
    >>> import numpy as np
    >>> import tinynn
    >>> from tinynn.layers import Linear
    >>> x = np.linspace(-1.0, 1.0, 40)[:, None]
    >>> labels = (x[:, 0] > 0).astype(int)
    >>> teacher = tinynn.fit(Linear(2), x, labels, epochs=50)
    >>> distill(teacher, Linear(2), x, labels, epochs=2).loss
    SoftmaxCrossEntropy()
    """
    if not isinstance(teacher.loss, SoftmaxCrossEntropy):
        raise TypeError(
            f"distill: teacher: expected a model of SoftmaxCrossEntropy, got {teacher.loss!r}. To "
            "fix it: a student of numbers learns by fit(net, X, teacher.predict(X))"
        )
    held: Any = validation
    if isinstance(validation, tuple | list):
        held = (validation[0], (validation[1], teacher.outputs(validation[0])))
    loss = Distillation(temperature=temperature, share=share)
    measured = [_OfLabels(get(each), name=name_of(get(each))) for each in several(metrics)]
    pair = (y, teacher.outputs(X))
    model = fit(net, X, pair, loss=loss, validation=held, metrics=measured, **arguments)
    own: Any = model.metrics
    return replace(model, loss=SoftmaxCrossEntropy(), metrics=tuple(each.metric for each in own))
