"""Losses with data and their definitions in NumPy: what tests/test_other_losses.py goes through."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tinynn.losses import (
    CTC,
    BinaryFocal,
    CosineDistance,
    GaussianNLL,
    Hinge,
    InfoNCE,
    KLDivergence,
    LogCosh,
    Loss,
    MulticlassHinge,
    Quantile,
    SmoothL1,
    SoftmaxFocal,
    SquaredHinge,
    Triplet,
)

DRAW = np.random.default_rng(4)
P = DRAW.normal(size=(6, 4)) * 2
NUMBERS = DRAW.normal(size=(6, 4))
BITS = DRAW.integers(0, 2, size=(6, 4))
LABELS = np.asarray([0, 1, 3, 2, 1, 1])
SHARES = DRAW.dirichlet(np.ones(4), size=6) * [1, 1, 1, 0]
SHARES = SHARES / SHARES.sum(axis=1, keepdims=True)
CLASSES = (0.5, 1.0, 3.0, 2.0)
TIMES = DRAW.normal(size=(6, 5, 4))
SPELLED = np.asarray([[1, 2, 3], [2, 2, -1], [3, -1, -1], [1, 3, -1], [2, 1, 2], [-1, -1, -1]])
PAIRS = np.asarray([7, 2, 7, 2, 7, 9])  # 9 is alone

Values = Callable[[Any, np.ndarray, Any], np.ndarray]
"""A loss's values by its definition, of the loss, predictions and targets."""


class Case(NamedTuple):
    loss: Loss
    prediction: np.ndarray
    target: Any
    values: Values
    weights: Values | None = None  # by which "mean" divides; None: all 1


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def off_and_on(loss: Any) -> tuple[float, float]:
    return loss.class_weight or (1.0, 1.0)


def of_bits(cost: Callable[[Any, np.ndarray], np.ndarray]) -> Values:
    """Values of labels, by the value of a prediction for the target 1."""

    def values(loss: Any, p: np.ndarray, t: np.ndarray) -> np.ndarray:
        t = np.where(t > 0, t, 0)
        e = getattr(loss, "label_smoothing", 0.0)
        (off, on), soft = off_and_on(loss), t * (1 - e) + e / 2
        return on * soft * cost(loss, p) + off * (1 - soft) * cost(loss, -p)

    return values


def weights_of_bits(loss: Any, p: np.ndarray, t: np.ndarray) -> np.ndarray:
    off, on = off_and_on(loss)
    return np.where(t > 0, on, off)


def hot(t: np.ndarray) -> np.ndarray:
    return np.eye(4)[t] if t.ndim == 1 else t


def by_class(loss: Any) -> np.ndarray:
    return np.asarray(loss.class_weight or np.ones(4))


def of_classes(cost: Callable[[Any, np.ndarray], np.ndarray]) -> Values:
    """Values of classes, by the value that each would have as the target."""

    def values(loss: Any, p: np.ndarray, t: np.ndarray) -> np.ndarray:
        e = getattr(loss, "label_smoothing", 0.0)
        return np.sum(by_class(loss) * (hot(t) * (1 - e) + e / 4) * cost(loss, p), axis=1)

    return values


def weights_of_classes(loss: Any, p: np.ndarray, t: np.ndarray) -> np.ndarray:
    return np.sum(by_class(loss) * hot(t), axis=1)


def rival(loss: Any, p: np.ndarray) -> np.ndarray:
    others = [np.delete(p, c, axis=1).max(axis=1) for c in range(4)]
    return np.maximum(0, 1 + np.stack(others, axis=1) - p)


def kl(loss: Any, p: np.ndarray, t: np.ndarray) -> np.ndarray:
    logs = np.log(np.where(t > 0, t, 1)) - np.log(softmax(p))
    return np.sum(by_class(loss) * t * logs, axis=1)


def cosine(loss: Any, p: np.ndarray, t: np.ndarray) -> np.ndarray:
    return 1 - np.sum(p * t, axis=-1) / np.linalg.norm(p, axis=-1) / np.linalg.norm(t, axis=-1)


def gaussian(loss: Any, p: np.ndarray, t: np.ndarray) -> np.ndarray:
    mean, variance = p[:, :2], np.maximum(np.exp(p[:, 2:]), loss.eps)
    constant = np.log(2 * np.pi) if loss.full else 0.0
    return (np.log(variance) + (t.reshape(6, -1) - mean) ** 2 / variance + constant) / 2


def pinball(loss: Any, p: np.ndarray, t: np.ndarray) -> np.ndarray:
    qs = np.asarray(loss.quantiles)[:, None]
    off = t.reshape(6, 1, -1) - p.reshape(6, len(qs), -1)
    return np.where(off > 0, qs * off, (qs - 1) * off).mean(axis=1)


def partners(p: np.ndarray, t: np.ndarray) -> tuple[Any, Any, Any, Any]:
    """Vectors and labels of anchors, and the places of positives and negatives of each."""
    views = 1 if p.ndim == 2 else p.shape[1]
    vectors, labels = p.reshape(-1, p.shape[-1]), np.repeat(t, views)
    n = range(len(labels))
    near = [[j for j in n if j != i and labels[j] == labels[i]] for i in n]
    return vectors, labels, near, [[j for j in n if labels[j] != labels[i]] for i in n]


def triplet(loss: Any, p: np.ndarray, t: np.ndarray) -> np.ndarray:
    vectors, _, near, far = partners(p, t)
    apart = np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)
    found = []
    for i, row in enumerate(apart):
        pairs = list(itertools.product(near[i], far[i]))
        short = [max(0.0, loss.margin + row[a] - row[b]) for a, b in pairs]
        hardest = max(short, default=0.0)
        found.append(hardest if loss.mining == "hard" else np.mean(short or [0.0]))
    return np.asarray(found).reshape(len(p), -1).mean(axis=1)


def nce(loss: Any, p: np.ndarray, t: np.ndarray) -> np.ndarray:
    vectors, _, near, far = partners(p, t)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    s = vectors @ vectors.T / loss.temperature
    found = [
        np.log(np.exp(row[near[i] + far[i]]).sum()) - row[near[i]].mean() if near[i] else 0.0
        for i, row in enumerate(s)
    ]
    return np.asarray(found).reshape(len(p), -1).mean(axis=1)


def have_partners(loss: Any, p: np.ndarray, t: np.ndarray) -> np.ndarray:
    return np.asarray([float(p.ndim == 3 or (t == label).sum() > 1) for label in t])


def ctc(loss: CTC, p: np.ndarray, t: Any) -> np.ndarray:
    """The sum over every answer that reads as the target, one by one."""
    labels, lengths = t if isinstance(t, tuple) else (t, np.full(len(t), p.shape[1]))
    found = []
    for scores, row, length in zip(p, labels, lengths, strict=True):
        wanted, total = [c for c in row if c >= 0], 0.0
        chances = softmax(scores)[:length]
        for answer in itertools.product(range(4), repeat=int(length)):
            read = [c for c, _ in itertools.groupby(answer) if c != loss.blank]
            total += np.prod(chances[range(length), answer]) if read == wanted else 0.0
        found.append(-np.log(total))
    return np.asarray(found)


CASES = {
    "binary focal": Case(
        BinaryFocal(), P, BITS,
        of_bits(lambda loss, p: -((1 - sigmoid(p)) ** loss.gamma) * np.log(sigmoid(p))),
    ),
    "binary focal, weighed": Case(
        BinaryFocal(0.5, class_weight=(0.75, 0.25), label_smoothing=0.2), P, BITS,
        of_bits(lambda loss, p: -((1 - sigmoid(p)) ** loss.gamma) * np.log(sigmoid(p))),
        weights_of_bits,
    ),
    "focal": Case(
        SoftmaxFocal(), P, LABELS,
        of_classes(lambda loss, p: -((1 - softmax(p)) ** loss.gamma) * np.log(softmax(p))),
    ),
    "focal, weighed": Case(
        SoftmaxFocal(0.5, class_weight=CLASSES, label_smoothing=0.1), P, LABELS,
        of_classes(lambda loss, p: -((1 - softmax(p)) ** loss.gamma) * np.log(softmax(p))),
        weights_of_classes,
    ),
    "hinge": Case(Hinge(), P, BITS, of_bits(lambda loss, p: np.maximum(0, 1 - p))),
    "hinge, signs": Case(
        Hinge(class_weight=(0.5, 2.0)), P, 2 * BITS - 1,
        of_bits(lambda loss, p: np.maximum(0, 1 - p)), weights_of_bits,
    ),
    "squared hinge": Case(
        SquaredHinge(reduction="sum"), P, BITS, of_bits(lambda loss, p: np.maximum(0, 1 - p) ** 2)
    ),
    "multiclass hinge": Case(MulticlassHinge(), P, LABELS, of_classes(rival)),
    "multiclass hinge, weighed": Case(
        MulticlassHinge(class_weight=CLASSES), P, LABELS, of_classes(rival), weights_of_classes
    ),
    "kl": Case(KLDivergence(), P, SHARES, kl),
    "kl, weighed": Case(KLDivergence(class_weight=CLASSES), P, SHARES, kl, weights_of_classes),
    "smooth l1": Case(
        SmoothL1(0.7), P, NUMBERS,
        lambda loss, p, t: np.where(
            abs(p - t) < 0.7, (p - t) ** 2 / 1.4, abs(p - t) - 0.35
        ),
    ),
    "log cosh": Case(LogCosh(), P, NUMBERS, lambda loss, p, t: np.log(np.cosh(p - t))),
    "cosine": Case(CosineDistance(), P, NUMBERS, cosine),
    "gaussian": Case(GaussianNLL(), P, NUMBERS[:, :2], gaussian),
    "gaussian, full": Case(GaussianNLL(full=True, eps=0.5), P, NUMBERS[:, :2], gaussian),
    "quantiles": Case(Quantile((0.1, 0.9)), P, NUMBERS[:, :2], pinball),
    "quantiles of one": Case(Quantile((0.1, 0.4, 0.5, 0.9)), P, NUMBERS[:, 0], pinball),
    "triplet": Case(Triplet(), P, PAIRS, triplet, have_partners),
    "triplet, all": Case(Triplet(3.0, "all"), P, PAIRS, triplet, have_partners),
    "triplet, views": Case(
        Triplet(2.0), P.reshape(3, 2, 4), np.asarray([1, 2, 3]), triplet, have_partners
    ),
    "contrast": Case(InfoNCE(0.5), P, PAIRS, nce, have_partners),
    "contrast, views": Case(
        InfoNCE(), P.reshape(3, 2, 4), np.asarray([1, 2, 3]), nce, have_partners
    ),
    "ctc": Case(CTC(), TIMES, SPELLED, ctc),
    "ctc, lengths": Case(
        CTC(blank=3), TIMES, (SPELLED % 3 * (SPELLED >= 0) - (SPELLED < 0),
        np.asarray([5, 3, 4, 5, 4, 1])), ctc,
    ),
}  # fmt: skip
