"""Losses of embeddings: vectors of one label are to be near each other, and far from others.

The pairs are those of a batch, so a batch has to hold some of one label: let the network give
several views of each sample, or make batches of few labels with several samples each.
"""

from dataclasses import dataclass

from tinynn.config import require
from tinynn.functional.errors import ShapeError
from tinynn.losses.base import Array, Loss, Shape, holds
from tinynn.losses.classification import require_integers
from tinynn.losses.regression import unit
from tinynn.rules.special import logsumexp, stop_gradient
from tinynn.trace import backend_of, namespace


@dataclass(frozen=True)
class _OfEmbeddings(Loss):
    """Base class of the losses of embeddings; derive from it and write `of_anchors`.

    prediction: (batch, features), or (batch, views, features) with several vectors of one sample;
    target: (batch,) integer labels. Each vector is an anchor: others of its label are its
    positives, all of other labels its negatives.
    """

    by_row = False

    def target_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        if len(shape) not in (2, 3):
            raise ShapeError(
                f"{self}: expected predictions of shape (batch, features) or (batch, views, "
                f"features), got {shape}. To fix it: let the network give a vector for each sample"
            )
        return (shape[:1],)

    def task(self, prediction: Array) -> str:
        return "embedding"

    def of_anchors(self, vectors: Array, positive: Array, negative: Array) -> Array:
        """The value of each anchor, (anchors,); of one without a partner it does not count.

        vectors: (anchors, features); positive, negative: booleans (anchors, anchors).
        """
        raise NotImplementedError

    def values(self, prediction: Array, target: Array) -> Array:
        positive, negative = self.partners(prediction, target)
        vectors = namespace(prediction).reshape(prediction, (-1, prediction.shape[-1]))
        values = self.of_anchors(vectors, positive, negative)
        xp = namespace(values)
        values = xp.where(self.counts(positive, negative), values, xp.zeros_like(values))
        return xp.mean(xp.reshape(values, (prediction.shape[0], -1)), axis=1)

    def entry_weights(self, prediction: Array, target: Array) -> Array:
        # All views of a sample have partners, or none has.
        counts = self.counts(*self.partners(prediction, target))
        xp = namespace(counts)
        counts = xp.reshape(counts, (prediction.shape[0], -1))[:, 0]
        return xp.astype(counts, prediction.dtype)

    def partners(self, prediction: Array, target: Array) -> tuple[Array, Array]:
        """(positives, negatives) of each anchor: booleans (anchors, anchors)."""
        require_integers(self, target)
        xp, views = namespace(target), 1 if prediction.ndim == 2 else prediction.shape[1]
        labels = xp.reshape(target, (-1, 1))
        labels = xp.reshape(xp.broadcast_to(labels, (target.shape[0], views)), (-1, 1))
        same = labels == xp.reshape(labels, (1, -1))
        backend = backend_of(prediction)
        itself = backend.xp.eye(labels.shape[0], dtype=prediction.dtype, device=backend.device)
        return xp.logical_and(same, itself == 0), xp.logical_not(same)

    def counts(self, positive: Array, negative: Array) -> Array:
        """True for each anchor that has the partners it needs."""
        return namespace(positive).any(positive, axis=1)

    def check_target(self, prediction: Array, target: Array) -> None:
        require_integers(self, target)
        xp = namespace(target)
        in_order = xp.sort(xp.astype(target, xp.int64))
        same = in_order[1:] == in_order[:-1]
        alone = prediction.ndim == 2 or prediction.shape[1] == 1
        if alone and holds(xp.logical_not(same)):
            raise ValueError(
                f"{self}: expected labels of which some come twice, got labels that all differ. To "
                "fix it: give samples of one label that label, or let the network give several "
                "views of each sample, (batch, views, features)"
            )


@dataclass(frozen=True)
class Triplet(_OfEmbeddings):
    """The triplet loss: a negative has to be farther from its anchor than a positive, by a margin.

    It is max(0, margin + d(anchor, positive) - d(anchor, negative)) with the Euclidean distance d.

    prediction: (batch, features), or (batch, views, features) with several vectors of one sample;
    target: (batch,) integer labels. An anchor without a positive or a negative in its batch does
    not count.

    Parameters
    ----------
    margin : float
        How much farther a negative has to be.
    mining : {"hard", "all"}
        "hard" takes the farthest positive and the nearest negative of each anchor; "all" is the
        mean over all triplets of an anchor, whose number grows with the third power of the batch.
    reduction
        "mean", "sum" or "half_sum" of the values: see `tinynn.losses.Loss`.

    References
    ----------
    Schroff, Kalenichenko and Philbin 2015, "FaceNet"; Hermans, Beyer and Leibe 2017, "In Defense
    of the Triplet Loss for Person Re-Identification".

    Examples
    --------
    >>> import numpy as np
    >>> vectors = np.asarray([[0.0], [1.0], [1.5], [9.0]])
    >>> Triplet(margin=1.0).values(vectors, np.asarray([0, 0, 1, 1])).tolist()
    [0.5, 1.5, 8.0, 0.5]
    """

    margin: float = 1.0
    mining: str = "hard"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "margin", lambda margin: margin >= 0, "a number of 0 or more")
        require(self, "mining", ("hard", "all").__contains__, "one of hard, all")

    def check_target(self, prediction: Array, target: Array) -> None:
        super().check_target(prediction, target)
        if holds(target == target[:1]):
            raise ValueError(
                f"{self}: expected labels of two kinds or more, got one for all samples, which "
                "leaves no negatives. To fix it: give each class its label"
            )

    def counts(self, positive: Array, negative: Array) -> Array:
        xp = namespace(positive)
        return xp.logical_and(xp.any(positive, axis=1), xp.any(negative, axis=1))

    def of_anchors(self, vectors: Array, positive: Array, negative: Array) -> Array:
        apart = _distances(vectors)
        xp = namespace(apart, positive, negative)
        if self.mining == "hard":
            far = xp.full_like(apart, float(xp.finfo(apart.dtype).max))
            farthest = xp.max(xp.where(positive, apart, xp.zeros_like(apart)), axis=1)
            nearest = xp.min(xp.where(negative, apart, far), axis=1)
            short = self.margin + farthest - nearest
            return xp.where(short > 0, short, xp.zeros_like(short))
        triplet = xp.logical_and(positive[:, :, None], negative[:, None, :])
        short = self.margin + apart[:, :, None] - apart[:, None, :]
        counted = xp.logical_and(triplet, short > 0)
        total = xp.sum(xp.where(counted, short, xp.zeros_like(short)), axis=(1, 2))
        count = xp.sum(xp.astype(triplet, apart.dtype), axis=(1, 2))
        return xp.divide(total, xp.maximum(count, xp.ones_like(count)))


@dataclass(frozen=True)
class InfoNCE(_OfEmbeddings):
    """The cross-entropy of telling an anchor's positives from all other vectors of its batch.

    With s the cosines of the anchor and the others over `temperature`, it is the mean of
    -log(exp(s[p]) / sum(exp(s))) over the positives p.

    prediction: (batch, features), or (batch, views, features) with several vectors of one sample;
    target: (batch,) integer labels. With two views and labels that all differ it is SimCLR's
    NT-Xent, with classes as labels the supervised contrastive loss. An anchor without a positive
    in its batch does not count.

    Parameters
    ----------
    temperature : float
        Small numbers stress the nearest negatives.
    reduction
        "mean", "sum" or "half_sum" of the values: see `tinynn.losses.Loss`.

    References
    ----------
    van den Oord, Li and Vinyals 2018, "Representation Learning with Contrastive Predictive
    Coding"; Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual
    Representations"; Khosla et al. 2020, "Supervised Contrastive Learning".

    Examples
    --------
    >>> import numpy as np
    >>> vectors = np.asarray([[[1.0, 0.0], [2.0, 0.0]], [[0.0, 1.0], [0.0, 3.0]]])
    >>> loss = InfoNCE(temperature=1.0)
    >>> loss(vectors, np.asarray([0, 1])).round(6).tolist()
    0.551445
    """

    temperature: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "temperature", lambda t: t > 0, "a number above 0")

    def of_anchors(self, vectors: Array, positive: Array, negative: Array) -> Array:
        vectors = unit(vectors, 1e-8)
        xp = namespace(vectors)
        near = xp.matmul(vectors, xp.matrix_transpose(vectors)) / self.temperature
        xp = namespace(near, positive, negative)
        low = xp.full_like(near, -float(xp.finfo(near.dtype).max))
        total = logsumexp(xp.where(xp.logical_or(positive, negative), near, low), axis=1)
        count = xp.sum(xp.astype(positive, near.dtype), axis=1)
        mean = xp.sum(xp.where(positive, near, xp.zeros_like(near)), axis=1)
        return total - xp.divide(mean, xp.maximum(count, xp.ones_like(count)))


def _distances(vectors: Array) -> Array:
    """The Euclidean distances of vectors, (n, features), from each other: (n, n)."""
    xp = namespace(vectors)
    # Around their middle, as squares of what all have in common would leave no digits for the rest.
    vectors = vectors - xp.mean(stop_gradient(vectors), axis=0, keepdims=True)
    squares = xp.sum(vectors * vectors, axis=1)
    products = xp.matmul(vectors, xp.matrix_transpose(vectors))
    apart = squares[:, None] + squares[None, :] - 2.0 * products
    # The root has no slope at 0, where rounding may lead below it, too.
    least = xp.full_like(apart, float(xp.finfo(apart.dtype).smallest_normal) ** 0.5)
    return xp.sqrt(xp.maximum(apart, least))
