"""The loss that suits the targets, and the ends of networks that do not suit a loss."""

import functools
from typing import Any

from tinynn import functional
from tinynn.losses.base import Array, Loss, holds
from tinynn.losses.classification import (
    BinaryCrossEntropy,
    KLDivergence,
    NegativeLogLikelihood,
    SoftmaxCrossEntropy,
)
from tinynn.losses.margins import Hinge, MulticlassHinge
from tinynn.losses.regression import SquaredError
from tinynn.trace import namespace

_NUMBERS = "loss='squared_error' (numbers)"
_BINARY = "loss='binary_cross_entropy' (classes 0 and 1)"
_ONE_OF = "loss='cross_entropy' (one-hot: one class a row)"
_SEVERAL = "loss='binary_cross_entropy' (labels that do not exclude each other)"
_SHARES = "loss='cross_entropy' (the probabilities of the classes)"


def for_targets(prediction: Array, target: Array) -> tuple[Loss, str]:
    """Choose the loss that suits the targets, and say why; an error where several would.

    Parameters
    ----------
    prediction : (rows, ...), the network's output for any number of rows
    target : (samples, ...), the targets of the whole training data

    Returns
    -------
    loss, reason : the loss with its defaults, and a sentence for people

    Raises
    ------
    ValueError : several losses suit the targets, and the message lists them; or none does

    Notes
    -----
    ===========================  ================  =============================================
    target                       outputs           loss
    ===========================  ================  =============================================
    integers or booleans (n,)    2 or more         SoftmaxCrossEntropy
    0 and 1, or booleans (n,)    1                 BinaryCrossEntropy
    other integers (n,)          1                 error: cast them, or give a loss
    0 and 1, or booleans (n, k)  k, 2 or more      BinaryCrossEntropy, but if each row sums to 1
                                                   (one-hot or labels): error that asks
    other integers (n, k)        k, 2 or more      error: cast them, or give a loss
    floats 0.0 and 1.0 alone     any               error that asks: numbers or classes
    floats, rows sum to 1        k, 2 or more      error that asks: numbers or probabilities
    other floats (n,) or (n, k)  as many           SquaredError
    floats (n,)                  2 or more         error: labels are integers
    ===========================  ================  =============================================

    (n, 1) counts as (n,) where the network has one output.

    Examples
    --------
    >>> import numpy as np
    >>> loss, reason = for_targets(np.zeros((1, 3)), np.asarray([0, 2, 1, 1]))
    >>> loss, reason
    (SoftmaxCrossEntropy(), 'y holds integer labels, and the network has 3 outputs')

    """
    outputs = int(prediction.shape[-1]) if prediction.ndim > 1 else 1
    of_classes = namespace(target).isdtype(target.dtype, ("integral", "bool"))
    a_label_a_row = outputs > 1 and target.ndim < prediction.ndim
    if outputs > 1 and not a_label_a_row and target.shape[1:] != prediction.shape[1:]:
        wanted = (int(target.shape[0]), *prediction.shape[1:])
        raise ValueError(
            f"loss: expected y of shape {wanted}, or labels of shape {wanted[:-1]}, as the network "
            f"has {outputs} outputs, got {tuple(target.shape)}. To fix it: reshape y, or change "
            "the width of the last layer"
        )
    if not of_classes:
        return _for_floats(outputs, target, a_label_a_row)
    kind = "booleans" if namespace(target).isdtype(target.dtype, "bool") else "integers"
    if a_label_a_row:
        labels = "integer labels" if kind == "integers" else "booleans"
        return SoftmaxCrossEntropy(), f"y holds {labels}, and the network has {outputs} outputs"
    if not _zeros_and_ones(target):
        raise _no_loss_for_integers(outputs, target)
    values = "booleans" if kind == "booleans" else "0 and 1 alone"
    if outputs == 1:
        return BinaryCrossEntropy(), f"y holds {values}, and the network has one output"
    if _rows_sum_to_one(target):
        raise _ask(f"{kind}, a single one in each row", _ONE_OF, _SEVERAL)
    return (
        BinaryCrossEntropy(),
        f"y holds {values}, in rows with several ones or none: labels that do not exclude each "
        "other",
    )


def _for_floats(outputs: int, target: Array, a_label_a_row: bool) -> tuple[Loss, str]:
    if a_label_a_row:
        raise ValueError(
            f"loss: expected y with {outputs} numbers a sample, as the network has {outputs} "
            f"outputs, or integer labels, got {target.dtype} of shape {tuple(target.shape)}. "
            "To fix it: cast labels to integers, or let the network have one output"
        )
    if _zeros_and_ones(target):
        if outputs == 1:
            raise _ask("0.0 and 1.0 alone", _BINARY, _NUMBERS)
        if _rows_sum_to_one(target):
            raise _ask("0.0 and 1.0 alone, a single 1.0 in each row", _ONE_OF, _SEVERAL, _NUMBERS)
        raise _ask("0.0 and 1.0 alone", _SEVERAL, _NUMBERS)
    if outputs > 1 and _rows_sum_to_one(target) and holds(target >= 0):
        raise _ask("rows of numbers that sum to 1", _SHARES, _NUMBERS)
    return SquaredError(), "y holds floating-point numbers"


def _no_loss_for_integers(outputs: int, target: Array) -> ValueError:
    xp = namespace(target)
    if not xp.isdtype(target.dtype, "signed integer"):  # some libraries lack min of the others
        target = xp.astype(target, xp.float32)
    low, high = int(xp.min(target)), int(xp.max(target))
    got = f"y of integers from {low} to {high}, with a network of {outputs} output"
    got += "s" if outputs > 1 else ""
    fix = "for numbers, cast y to a floating-point dtype or give loss='squared_error'"
    if outputs == 1 and (low, high) == (-1, 1):
        fix += "; for two classes, code them as 0 and 1"
    elif outputs == 1:
        fix += "; for classes, let the network have an output for each"
    return ValueError(f"loss: cannot choose one for {got}. To fix it: {fix}")


def _ask(got: str, *meant: str) -> ValueError:
    return ValueError(
        f"loss: more than one loss suits y of {got}. To fix it: give {' or '.join(meant)}"
    )


def _zeros_and_ones(target: Array) -> bool:
    if namespace(target).isdtype(target.dtype, "bool"):
        return True
    return holds((target == 0) | (target == 1))


def _rows_sum_to_one(target: Array) -> bool:
    xp = namespace(target)
    if xp.isdtype(target.dtype, ("integral", "bool")):
        return holds(xp.sum(xp.astype(target, xp.int32), axis=-1) == 1)
    return holds(xp.abs(xp.sum(target, axis=-1) - 1.0) < 1e-3)


_TAKE_OFF = (
    "take it off the end of the network; loss.probabilities(prediction) gives the probabilities"
)
_OR_NLL = _TAKE_OFF + ", or end in log_softmax and use NegativeLogLikelihood()"
_LOG_SOFTMAX = "end the network in log_softmax instead"
_NO_RANGE = "take it off the end of the network: a hinge is of numbers of any size"
_BOUNDED = {"sigmoid": _NO_RANGE, "softmax": _NO_RANGE, "log_softmax": _NO_RANGE}
_CONFLICTS: dict[type[Loss], dict[str, str]] = {
    BinaryCrossEntropy: {"sigmoid": _TAKE_OFF, "softmax": _TAKE_OFF, "log_softmax": _TAKE_OFF},
    SoftmaxCrossEntropy: {"sigmoid": _TAKE_OFF, "softmax": _OR_NLL},
    KLDivergence: {"sigmoid": _TAKE_OFF, "softmax": _TAKE_OFF},
    NegativeLogLikelihood: {"sigmoid": _LOG_SOFTMAX, "softmax": _LOG_SOFTMAX},
    Hinge: _BOUNDED,
    MulticlassHinge: _BOUNDED,
}


def activation_conflict(loss: Any, last: Any) -> str | None:
    """The reason why a network ending in this activation cannot learn; None if it can.

    A loss that expects logits takes their sigmoid or softmax itself; twice, training stands still.

    Parameters
    ----------
    loss : a loss or any function
    last : the function that the network ends in; a partial counts as what it calls

    Examples
    --------
    >>> from tinynn.functional import sigmoid
    >>> activation_conflict(BinaryCrossEntropy(), sigmoid)
    'BinaryCrossEntropy(): expected logits, got a network that ends in sigmoid. To fix it: take \
it off the end of the network; loss.probabilities(prediction) gives the probabilities'
    >>> activation_conflict(SquaredError(), sigmoid) is None
    True

    """
    while isinstance(last, functools.partial):
        last = last.func
    expected = "log-probabilities" if isinstance(loss, NegativeLogLikelihood) else "logits"
    kind = next((each for each in _CONFLICTS if isinstance(loss, each)), None)
    for name, fix in ({} if kind is None else _CONFLICTS[kind]).items():
        if last is getattr(functional, name):
            return (
                f"{loss}: expected {expected}, got a network that ends in {name}. To fix it: {fix}"
            )
    return None
