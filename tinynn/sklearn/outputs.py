"""Several columns of classes from one network, and what outputs say of labels."""

from dataclasses import dataclass
from typing import Any

from tinynn.functional import log_softmax, one_hot, softmax, softplus
from tinynn.losses import BinaryCrossEntropy, Loss, NegativeLogLikelihood, SoftmaxCrossEntropy
from tinynn.trace import namespace


@dataclass(frozen=True)
class SeveralSoftmax(Loss):
    """The sum of the cross-entropies of several columns of classes.

    prediction: (batch, sum(widths)) logits, column after column; target: (batch, columns) numbers
    of classes.

    Parameters
    ----------
    widths : how many classes each column has

    >>> import numpy as np
    >>> loss = SeveralSoftmax((2, 4))
    >>> print(loss(np.zeros((1, 6)), np.asarray([[1, 3]])).round(4))
    2.0794

    """

    widths: tuple[int, ...]

    def target_shapes(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        return ((*shape[:-1], len(self.widths)),)

    def values(self, prediction: Any, target: Any) -> Any:
        total = None
        for column, part in enumerate(split(prediction, self.widths)):
            log_p = log_softmax(part)
            hot = one_hot(target[:, column], part.shape[-1], log_p.dtype)
            xp = namespace(log_p, hot)
            value = -xp.sum(xp.multiply(log_p, hot), axis=-1)
            total = value if total is None else total + value
        return total


def split(outputs: Any, widths: tuple[int, ...]) -> list[Any]:
    """The outputs of each column."""
    ends = [sum(widths[: place + 1]) for place in range(len(widths))]
    return [outputs[:, end - width : end] for end, width in zip(ends, widths, strict=True)]


def is_single(outputs: Any) -> bool:
    """True if there is one output a sample, which parts two classes."""
    return outputs.ndim == 1 or outputs.shape[-1] == 1


def probabilities(loss: Any, outputs: Any) -> Any:
    """The probabilities that outputs stand for, of one column of classes if there are several."""
    return softmax(outputs) if isinstance(loss, SeveralSoftmax) else loss.probabilities(outputs)


def log_probabilities(loss: Any, outputs: Any) -> Any:
    """The logarithms of what `loss.probabilities` gives, without rounding small ones to 0."""
    if isinstance(loss, SoftmaxCrossEntropy | SeveralSoftmax):
        return log_softmax(outputs)
    if isinstance(loss, NegativeLogLikelihood):
        return outputs
    if isinstance(loss, BinaryCrossEntropy):
        return -softplus(-outputs)
    return namespace(outputs).log(loss.probabilities(outputs))
