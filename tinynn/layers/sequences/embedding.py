"""Tokens and places in a sequence as vectors."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any

from tinynn import functional, tree
from tinynn.config import require, require_count
from tinynn.functional.embeddings import NUMBERED
from tinynn.functional.errors import ShapeError
from tinynn.functional.integers import require_integers, require_range
from tinynn.functional.lengths import counted, shape_of, valid_rows, without_padding
from tinynn.initializers import Initializer, Normal
from tinynn.layers.base import Layer
from tinynn.layers.scope import Array, Scope, Tree
from tinynn.trace import namespace

VECTORS, PLACES = Normal(), Normal(0.02)


def _check_ids(layer: Any, ids: Array, count: int, **made: Any) -> None:
    """An error for what is no id; out of range, where the numbers can be read."""
    require_integers(layer, "ids", ids, NUMBERED)
    fix = "number the tokens from 0, or give the layer a larger count"
    require_range(layer, "ids", ids, 0, count - 1, fix, **made)


@dataclass(frozen=True)
class Embedding(Layer):
    """A vector for each of `count` tokens, which training learns.

    Parameters
    ----------
    count
        The number of tokens: ids go from 0 to count - 1.
    width
        The number of features of a vector.
    weight_init
        A function of (key, shape, dtype) that makes the vectors: see `tinynn.initializers`.

    Notes
    -----
    The input is integers of any dtype and shape; the output has one more axis, (..., width). The
    gradient adds up the rows of each token.

    Ids out of range are an error before anything is computed, in `init`, in a pass, in `fit` and in
    `predict`. In a compiled program of one's own, which reads no numbers, they give NaN.

    Parameters: weight (count, width).

    Examples
    --------
    >>> import numpy as np
    >>> layer, ids = Embedding(10, 4), np.asarray([[1, 5, 9]])
    >>> layer(layer.init(0, ids)[0], ids).shape
    (1, 3, 4)
    """

    count: int
    width: int
    _: KW_ONLY
    weight_init: Initializer = VECTORS

    def __post_init__(self) -> None:
        require_count(self, "count")
        require_count(self, "width")

    def forward(self, scope: Scope, ids: Array) -> Array:
        _check_ids(self, ids, self.count)
        weight = scope.param("weight", self.weight_init, (self.count, self.width))
        return functional.embedding(ids, weight)


@dataclass(frozen=True)
class EmbeddingBag(Layer):
    """The sum, mean or maximum of the vectors of all tokens of a sequence.

    Parameters
    ----------
    count, width, weight_init
        As for `Embedding`.
    mode
        "mean", "sum" or "max".

    Notes
    -----
    The input is ids, (batch, time) integers, or a pair (ids, lengths), or these as two inputs, as
    `fit` gives them: (batch,) integers, or a mask, (batch, time) booleans. Padding is not read. The
    output is (batch, width), zeros where a sequence is empty.

    Parameters: weight (count, width).

    Examples
    --------
    >>> import numpy as np
    >>> layer, ids = EmbeddingBag(10, 4), np.asarray([[1, 5, 9], [3, 0, 0]])
    >>> lengths = np.asarray([3, 1])
    >>> layer(layer.init(0, ids)[0], ids, lengths).shape
    (2, 4)
    """

    count: int
    width: int
    _: KW_ONLY
    mode: str = "mean"
    weight_init: Initializer = VECTORS

    def __post_init__(self) -> None:
        require_count(self, "count")
        require_count(self, "width")
        require(self, "mode", ("mean", "sum", "max").__contains__, '"mean", "sum" or "max"')

    def forward(self, scope: Scope, *inputs: Tree) -> Array:
        given: list[Any] = tree.leaves(inputs) or [None]
        ids, *valid = given
        if getattr(ids, "ndim", 0) != 2 or not ids.shape[1] or len(valid) > 1:
            raise ShapeError(
                f"{self}: expected ids of shape (batch, time), of one step or more, and at most "
                f"lengths or a mask, got {', '.join(map(shape_of, (ids, *valid)))}. To fix it: "
                "pad the sequences to one length"
            )
        seen = self._seen(ids, *valid)
        require_integers(self, "ids", ids, NUMBERED)
        ids = without_padding(ids, seen)
        _check_ids(self, ids, self.count, sources=tuple(given), made=self._unpadded)
        weight = scope.param("weight", self.weight_init, (self.count, self.width))
        rows = functional.embedding(ids, weight)
        if seen is None:
            return getattr(namespace(rows), self.mode)(rows, axis=1)
        return self._pooled(rows, namespace(seen).expand_dims(seen, axis=2))

    def _seen(self, ids: Array, valid: Array | None = None) -> Array | None:
        """Booleans, (batch, time), of the steps that are no padding; None: all."""
        return None if valid is None else valid_rows(self, valid, ids.shape[0], ids.shape[1])

    def _unpadded(self, ids: Array, valid: Array | None = None) -> Array:
        """The ids, 0 in the padding."""
        return without_padding(ids, self._seen(ids, valid))

    def _pooled(self, rows: Array, seen: Array) -> Array:
        xp = namespace(rows, seen)
        count = xp.sum(xp.astype(seen, rows.dtype), axis=1)
        if self.mode == "max":
            most = xp.max(xp.where(seen, rows, float("-inf")), axis=1)
            return xp.where(count > 0, most, xp.zeros_like(most))
        total = xp.sum(xp.where(seen, rows, xp.zeros_like(rows)), axis=1)
        return total if self.mode == "sum" else total / xp.maximum(count, xp.ones_like(count))


@dataclass(frozen=True)
class PositionEmbedding(Layer):
    """Each step of a sequence, with a vector of its place added, which training learns.

    Parameters
    ----------
    length
        The largest number of steps.
    weight_init
        As for `Embedding`.

    Notes
    -----
    The input is (batch, time, features), and the shape is kept. A second input, a 0-d integer, is
    the place of the first step, as in a `MultiHeadAttention.cache`; without it that is 0. Places
    from `length` on are an error, or NaN where the place cannot be read.

    Parameters: weight (length, features).

    Examples
    --------
    >>> import numpy as np
    >>> layer, x = PositionEmbedding(8), np.zeros((2, 3, 4))
    >>> layer(layer.init(0, x)[0], x).shape
    (2, 3, 4)
    """

    length: int
    _: KW_ONLY
    weight_init: Initializer = PLACES

    def __post_init__(self) -> None:
        require_count(self, "length")

    def forward(self, scope: Scope, x: Array, start: Array | None = None) -> Array:
        places = _places(self, x, start)
        if start is None and x.shape[1] > self.length:
            raise ShapeError(
                f"{self}: expected sequences of {self.length} steps or fewer, got {x.shape[1]}. "
                "To fix it: cut them, or give the layer a larger length"
            )
        weight = scope.param("weight", self.weight_init, (self.length, int(x.shape[2])))
        x = scope.as_float(x)
        if start is None:
            return x + weight[: x.shape[1], :]
        _check_ids(self, places, self.length)
        return x + functional.embedding(places, weight)


@dataclass(frozen=True)
class SinusoidalEncoding(Layer):
    """Each step of a sequence, with sines and cosines of its place added.

    Parameters
    ----------
    base
        The wavelengths go from 2 pi to 2 pi * base, as `tinynn.functional.sinusoidal` says.

    Notes
    -----
    The input is (batch, time, features), of an even number of features, and the shape is kept; a
    second input is the place of the first step, as for `PositionEmbedding`. There are no parameters
    and no largest place.

    References
    ----------
    Vaswani et al. 2017, arXiv:1706.03762.

    Examples
    --------
    >>> import numpy as np
    >>> SinusoidalEncoding()({}, np.zeros((1, 2, 2))).round(3).tolist()
    [[[0.0, 1.0], [0.841, 0.54]]]
    """

    _: KW_ONLY
    base: float = 10_000.0

    def __post_init__(self) -> None:
        require(self, "base", lambda base: 0.0 < base < math.inf, "a finite number above 0")

    def forward(self, scope: Scope, x: Array, start: Array | None = None) -> Array:
        places = _places(self, x, start)
        if not x.shape[2] or x.shape[2] % 2:
            raise ShapeError(
                f"{self}: expected an even number of features, got {x.shape[2]}. To fix it: give "
                "the layer before it one more"
            )
        x = scope.as_float(x)
        table = functional.sinusoidal(places, int(x.shape[2]), base=self.base, dtype=x.dtype)
        return namespace(x, table).add(x, table)


def _places(layer: Any, x: Array, start: Array | None) -> Array:
    """(time,), the places of the steps."""
    if getattr(x, "ndim", 0) != 3:
        raise ShapeError(
            f"{layer}: expected input of shape (batch, time, features), got {shape_of(x)}. To fix "
            "it: embed the tokens first"
        )
    places = counted(x, x.shape[1])
    if start is None:
        return places
    require_integers(layer, "the place of the first step", start, "count the steps from 0")
    if tuple(start.shape):
        raise ShapeError(
            f"{layer}: expected a 0-d array, the place of the first step of all sequences, got "
            f"{shape_of(start)}. To fix it: give one number; lengths go to the layers that mask"
        )
    xp = namespace(start, places)
    return xp.add(xp.astype(start, places.dtype), places)
