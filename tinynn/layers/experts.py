"""Mixture of experts."""

import math
from dataclasses import KW_ONLY, dataclass

from tinynn import functional, tree
from tinynn.config import require, require_count
from tinynn.functional.errors import ShapeError
from tinynn.functional.lengths import counted, shape_of, without_padding
from tinynn.rules.special import stop_gradient
from tinynn.trace import namespace

from .base import Layer, features, require_layer
from .linear import Linear
from .scope import Array, Scope, Tree
from .sequences.inputs import sequences


@dataclass(frozen=True)
class MixtureOfExperts(Layer):
    """Layers of which a gate chooses the best few for each row, and mixes their outputs.

    Parameters
    ----------
    layer
        What an expert is: all are of this kind, each with parameters of its own.
    experts
        The number of experts.
    chosen
        How many of them count for a row, those that the gate likes best; of equal ones the first.
    balance
        The weight of the loss "balance", which training adds so that all experts are used.

    Notes
    -----
    The input is (batch, ..., features), and an expert's output (batch, ..., its features). Of
    sequences, (batch, time, features), lengths or a mask may follow, as for `MultiHeadAttention`,
    in a pair with x or as the next input: padding is not read, is no part of the loss, and its own
    outputs depend on the parameters alone.

    The gate is softmax(x @ weight), of which the chosen entries are divided by their sum, and the
    rest are 0. With f the share of the rows' choices that
    fall to an expert and p the mean of its entry of the softmax, the loss is balance * experts *
    sum(f * p): `balance` itself where all are used alike, and more where they are not.

    All experts compute all rows, since shapes that depend on the data are no part of the standard:
    this gives the mixture's results, and saves none of its work. So there is no capacity, and no
    row is dropped, however many choose one expert; and what an expert gathers of its rows, as a
    `BatchNorm` does, is of all of them. Of rows that have not chosen it an expert's outputs are not
    read, be they NaN. On several processes the loss is that of each one's own rows, averaged.

    Children: "gate", a `Linear` without bias, and "expert0", "expert1", ...

    References
    ----------
    Shazeer et al. 2017, arXiv:1701.06538; the loss of Fedus, Zoph and Shazeer 2021,
    arXiv:2101.03961.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.layers import Linear
    >>> layer, x = MixtureOfExperts(Linear(3), experts=4), np.ones((5, 2))
    >>> params, state = layer.init(0, x)
    >>> sorted(params), layer(params, x).shape
    (['expert0', 'expert1', 'expert2', 'expert3', 'gate'], (5, 3))
    """

    layer: Layer
    _: KW_ONLY
    experts: int
    chosen: int = 2
    balance: float = 0.01

    def __post_init__(self) -> None:
        require_layer(self, "layer")
        require_count(self, "experts")
        require_count(self, "chosen")
        require(self, "chosen", lambda n: n <= self.experts, f"at most {self.experts}, the experts")
        require(self, "balance", lambda n: 0.0 <= n < math.inf, "a finite number of 0 or more")

    def forward(self, scope: Scope, *inputs: Tree) -> Array:
        x, seen = self._rows(inputs)
        features(self, x)
        x = without_padding(x, seen)
        likes = functional.softmax(scope("gate", Linear(self.experts, bias=False), x))
        xp = namespace(likes)
        chosen = self._chosen(stop_gradient(likes))
        gates = likes * chosen
        gates = gates / xp.sum(gates, axis=-1, keepdims=True)
        if scope.training and self.balance:
            share = _mean(scope.widened(chosen), seen) / self.chosen
            mean = _mean(scope.widened(likes), seen)
            scope.add_loss("balance", self.balance * self.experts * xp.sum(share * mean))
        y = None
        for i in range(self.experts):
            part = scope(f"expert{i}", self.layer, x)
            if tuple(part.shape[:-1]) != tuple(x.shape[:-1]):
                raise ShapeError(
                    f"{self}: expected an expert that keeps all axes but the last, got "
                    f"{shape_of(part)} of {shape_of(x)}. To fix it: give what takes axes away, or "
                    "adds some, a place before or behind the mixture"
                )
            # Not times 0 alone: what is not finite would be NaN, here and in the gate's gradient.
            part = xp.where(chosen[..., i : i + 1] > 0.0, part, 0.0) * gates[..., i : i + 1]
            y = part if y is None else y + part
        return y

    def _rows(self, inputs: tuple[Tree, ...]) -> tuple[Array, Array | None]:
        """The rows, and booleans, (batch, time), of those that are no padding."""
        if len(tree.leaves(inputs)) == 1:
            return tree.leaves(inputs)[0], None
        return sequences(self, inputs, 1)[0]

    def _chosen(self, likes: Array) -> Array:
        """1 where fewer than `chosen` experts are liked better, 0 elsewhere.

        By comparing each with each, which no sort is needed for, and equal ones keep their order.
        """
        xp = namespace(likes)
        own, other = xp.expand_dims(likes, axis=-1), xp.expand_dims(likes, axis=-2)
        places = counted(likes, self.experts)
        earlier = xp.expand_dims(places, axis=0) < xp.expand_dims(places, axis=1)
        better = xp.logical_or(other > own, xp.logical_and(other == own, earlier))
        rank = xp.sum(xp.astype(better, likes.dtype), axis=-1)
        return xp.astype(rank < self.chosen, likes.dtype)


def _mean(x: Array, seen: Array | None) -> Array:
    """(experts,): the mean over all rows, or over those that are no padding."""
    rows = tuple(range(x.ndim - 1))
    if seen is None:
        return namespace(x).mean(x, axis=rows)
    xp = namespace(x, seen)
    real = xp.astype(seen, x.dtype)
    count = xp.sum(real)  # of a batch that is all padding, 0
    total = xp.sum(x * xp.expand_dims(real, axis=-1), axis=rows)
    return total / xp.maximum(count, xp.ones_like(count))
