"""Connectionist temporal classification: labels in order, without a word on when each occurs."""

from dataclasses import dataclass
from typing import Any

from tinynn.config import require
from tinynn.functional import log_softmax
from tinynn.functional.errors import DtypeError, ShapeError
from tinynn.losses.base import Array, Loss, Shape, holds
from tinynn.rules.special import logsumexp
from tinynn.trace import backend_of, namespace
from tinynn.transforms.scan import scan


@dataclass(frozen=True)
class CTC(Loss):
    """Minus the log-probability of the labels, over all times at which they may occur.

    The network says at each time which label occurs, or `blank` for none. An answer is read by
    taking repeats together and then blanks out; the loss counts every answer that reads as the
    target.

    prediction: (batch, time, classes) logits. target: labels (batch, length), integers from 0 to
    classes - 1 except `blank`, where numbers below 0 pad the shorter ones; or a pair (labels,
    input_lengths) with the valid times of each prediction, (batch,); or a triple (labels,
    input_lengths, target_lengths), whose labels may be padded by anything.

    Parameters
    ----------
    blank : int
        The class that stands for no label.
    zero_infinity : bool
        The loss, and its gradient, of a target that is too long for its times: 0, else infinity.
    reduction
        "mean", "sum" or "half_sum" of the values: see `tinynn.losses.Loss`.

    Notes
    -----
    It is `torch.nn.functional.ctc_loss` of the logarithms of the softmax with reduction="none";
    "mean" is the mean of these values, which are not divided by the lengths of the targets.

    References
    ----------
    Graves, Fernandez, Gomez and Schmidhuber 2006, "Connectionist Temporal Classification".

    Examples
    --------
    >>> import numpy as np
    >>> logits, labels = np.zeros((1, 2, 3)), np.asarray([[1, -1]])
    >>> loss = CTC()(logits, labels)  # read as [1]: three of nine answers
    >>> np.exp(-loss).round(6).tolist()
    0.333333
    """

    blank: int = 0
    zero_infinity: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "blank", lambda blank: int(blank) == blank >= 0, "a whole number, 0 or more")

    def leading(self, target: Any) -> Array:
        labels: Array = target[0] if isinstance(target, tuple | list) else target
        return labels

    def check_shapes(self, prediction: Shape, target: Shape) -> None:
        _check_shapes(self, tuple(prediction), tuple(target), self.blank)

    def values(self, prediction: Array, target: Any) -> Array:
        given = _parts(target)
        return ctc_loss(prediction, *given, blank=self.blank, zero_infinity=self.zero_infinity)

    def check_target(self, prediction: Array, target: Any) -> None:
        labels, *lengths = parts = _parts(target)
        _check_parts(self, parts)
        time, classes = prediction.shape[1:]
        inputs, targets, valid = _lengths(time, labels, *lengths)
        xp = namespace(labels)
        for name, each, low, high in (
            ("input_lengths", inputs, 1, time),
            ("target_lengths", targets, 0, labels.shape[1]),
        ):
            if not holds((each >= low) & (each <= high)):
                raise ValueError(
                    f"{self}: expected {name} from {low} to {high}, got lengths from "
                    f"{int(xp.min(each))} to {int(xp.max(each))}. To fix it: count the valid "
                    "entries of each sequence"
                )
        sound = (labels >= 0) & (labels < classes) & (labels != self.blank)
        padding = labels < 0 if len(lengths) < 2 else xp.logical_not(valid)
        if not holds(xp.where(valid, sound, padding)):
            raise ValueError(
                f"{self}: expected labels from 0 to {classes - 1} other than the blank "
                f"{self.blank}, and padding below 0 after them, got others. To fix it: let the "
                "network have an output for each label and one for the blank"
            )
        repeats = (labels[:, 1:] == labels[:, :-1]) & valid[:, 1:]
        least = targets + xp.sum(xp.astype(repeats, targets.dtype), axis=1)
        if not self.zero_infinity and not holds(least <= inputs):
            raise ValueError(
                f"{self}: expected a time for each label, and one more between two that are the "
                f"same, got a target too long for its {time} times or its input_lengths. To fix "
                "it: give longer sequences, or zero_infinity=True, by which it does not count"
            )


def ctc_loss(
    logits: Array,
    labels: Array,
    input_lengths: Array | None = None,
    target_lengths: Array | None = None,
    *,
    blank: int = 0,
    zero_infinity: bool = False,
) -> Array:
    """Minus the log-probability of labels whose times are not known, for each sequence.

    Parameters
    ----------
    logits : (batch, time, classes)
        Or their logarithms of probabilities, which make no difference.
    labels : (batch, length)
        Integers; those below 0 are padding if `target_lengths` is None.
    input_lengths, target_lengths : (batch,)
        The valid times and labels of each sequence; None: all, and all labels of 0 or more.
    blank : int
        The class that stands for no label.
    zero_infinity : bool
        0 instead of infinity for labels that are too many for their times.

    Returns
    -------
    array
        (batch,), of the dtype of the logits.

    Raises
    ------
    ShapeError, DtypeError
        Shapes do not fit, or labels or lengths are no integers. Their values are not looked at.

    Examples
    --------
    >>> import numpy as np
    >>> ctc_loss(np.zeros((1, 3, 2)), np.asarray([[1, 1]])).round(4).tolist()
    [2.0794]
    """
    lengths = [each for each in (input_lengths, target_lengths) if each is not None]
    _check_shapes("ctc_loss", tuple(logits.shape), tuple(labels.shape), blank)
    _check_parts("ctc_loss", [labels, *lengths])
    xp, batch, time = namespace(logits), logits.shape[0], logits.shape[1]
    inputs, targets, valid = _lengths(time, labels, input_lengths, target_lengths)
    dtype, like = inputs.dtype, namespace(labels)
    labels = like.where(valid, like.astype(labels, dtype), like.full_like(inputs, blank)[:, None])
    # The labels with a blank around each: (batch, states).
    blanks = like.full_like(labels, blank)
    states = like.reshape(like.stack([blanks, labels], axis=2), (batch, 2 * labels.shape[1]))
    states = like.concat([states, like.full_like(inputs, blank)[:, None]], axis=1)
    count = states.shape[1]
    # A label may follow the one before without the blank between, unless they are the same.
    free = states[:, 2:] != states[:, :-2]
    skips = like.concat([like.zeros_like(states[:, :2], dtype=like.bool), free], axis=1)
    skips = like.logical_and(skips, states != blank)
    steps = xp.moveaxis(log_softmax(logits), 1, 0)
    index = like.broadcast_to(states[None, :, :], (time, batch, count))
    steps = namespace(steps, index).take_along_axis(steps, index, axis=2)
    low = -float(xp.finfo(logits.dtype).max) / 8  # finite, as infinity has no slope
    nothing = xp.full_like(steps[0, ...], low)
    first = _places(dtype, 0, count, logits) < 2
    start = namespace(steps, first).where(first, steps[0, ...], nothing)

    def step(before: Array, given: tuple[Array, Array]) -> tuple[Array, None]:
        log_p, place = given
        xp = namespace(before, log_p)
        one = xp.concat([xp.full_like(before[:, :1], low), before[:, :-1]], axis=1)
        two = xp.concat([xp.full_like(before[:, :1], low), one[:, :-1]], axis=1)
        two = xp.where(skips, two, xp.full_like(two, low))
        after = xp.logaddexp(xp.logaddexp(before, one), two) + log_p
        lasts = xp.expand_dims(place < inputs, axis=1)
        return xp.where(lasts, after, before), None

    last, _ = scan(step, start, (steps[1:, ...], _places(dtype, 1, time, logits)))
    ends = _places(dtype, 0, count, logits)
    ended = (ends == 2 * targets[:, None]) | (ends == 2 * targets[:, None] - 1)
    xp = namespace(last, ended)
    total = logsumexp(xp.where(ended, last, xp.full_like(last, low)), axis=1)
    found = total > 0.5 * low
    instead = xp.zeros_like(total) if zero_infinity else xp.full_like(total, float("inf"))
    return xp.where(found, -total, instead)


def _places(dtype: Any, start: int, stop: int, like: Array) -> Array:
    backend = backend_of(like)
    return backend.xp.arange(start, stop, dtype=dtype, device=backend.device)


def _lengths(
    time: int, labels: Array, inputs: Any = None, targets: Any = None
) -> tuple[Array, Array, Array]:
    """(input lengths, target lengths), (batch,), and which labels are valid: (batch, length)."""
    xp, backend = namespace(labels), backend_of(labels)
    places = backend.xp.arange(labels.shape[1], device=backend.device)
    if targets is None:
        before = xp.cumulative_sum(xp.astype(labels < 0, places.dtype), axis=1)
        targets = xp.sum(xp.astype(before == 0, places.dtype), axis=1)
    targets = xp.astype(targets, places.dtype)
    if inputs is None:
        inputs = xp.full_like(targets, time)
    return xp.astype(inputs, places.dtype), targets, places < targets[:, None]


def _parts(target: Any) -> list[Array]:
    """The labels, and the lengths that are given."""
    return list(target) if isinstance(target, tuple | list) else [target]


def _check_shapes(owner: Any, logits: Shape, labels: Shape, blank: int) -> None:
    if len(logits) != 3 or not logits[1] or logits[2] <= blank:
        raise ShapeError(
            f"{owner}: expected predictions of shape (batch, time, classes) with more than {blank} "
            f"classes, the blank among them, got {logits}. To fix it: let the network give logits "
            "for each time"
        )
    if len(labels) != 2 or labels[0] != logits[0]:
        raise ShapeError(
            f"{owner}: expected labels of shape ({logits[0]}, length) for predictions of shape "
            f"{logits}, got {labels}. To fix it: pad shorter ones by -1"
        )


def _check_parts(owner: Any, parts: list[Array]) -> None:
    """DtypeError or ShapeError for labels and lengths that are no integers, one for each row."""
    rows = tuple(parts[0].shape[:1])
    for name, each in zip(("labels", "input_lengths", "target_lengths"), parts, strict=False):
        if not namespace(each).isdtype(each.dtype, "integral"):
            raise DtypeError(
                f"{owner}: expected {name} of integers, got {each.dtype}. To fix it: convert "
                "them, xp.astype(y, xp.int32)"
            )
        if each is not parts[0] and tuple(each.shape) != rows:
            raise ShapeError(
                f"{owner}: expected {name} of shape {rows}, one for each sample, got "
                f"{tuple(each.shape)}. To fix it: give the number of valid entries of each"
            )
