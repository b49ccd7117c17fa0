"""Mixup: samples that lie between two of a batch, and their targets with them."""

from typing import Any

import backends
from backends import random
from tinynn import tree
from tinynn.data.dataset import Array, Samples

_DRAWS = 32  # of which one is accepted at least, but for one in four billion


def mixup(key: Array, x: Any, y: Any, *, alpha: float = 0.2) -> Samples:
    """A batch whose rows are mixed with others of it, and their targets in the same shares.

    Row i becomes s * row i + (1 - s) * row j, where j is that of a permutation, and the share s of
    each row is drawn from Beta(alpha, alpha): most often near 0 or 1 where alpha is small.

    Parameters
    ----------
    key
        Of `backends.random`; the same key gives the same batch on every library.
    x
        (batch, ...) floats, or a tree of them.
    y
        (batch, ...) floats: numbers, or the shares of classes, as `functional.one_hot` makes them
        of labels, for labels cannot be mixed.
    alpha
        Above 0 and at most 1, which draws every share alike.

    Returns
    -------
    Samples
        x and y, of their shapes and dtypes.

    Raises
    ------
    ValueError
        Integers among x or y; arrays of another number of rows; an alpha out of range.

    Notes
    -----
    Losses that take such targets: `SoftmaxCrossEntropy`, `NegativeLogLikelihood`, `KLDivergence`
    and the others of classes that take probabilities; `BinaryCrossEntropy`; and those of
    regression. In `fit` batches are mixed where they are made: `fit(net, batches)`, with a function
    of the number of the epoch, and a key folded with it.

    References
    ----------
    Zhang et al. 2018, arXiv:1710.09412; the draws: Joehnk 1964, Metrika 8.

    Examples
    --------
    >>> import numpy as np
    >>> x, y = np.asarray([[0.0], [1.0]]), np.eye(2)
    >>> mixed = mixup(random.key(1, "numpy"), x, y, alpha=1.0)
    >>> bool((mixed.x[:, 0] == mixed.y[:, 1]).all())
    True
    """
    if not 0.0 < alpha <= 1.0:
        raise ValueError(f"mixup: expected alpha above 0 and at most 1, got {alpha!r}")
    for path, leaf in tree.paths({"x": x, "y": y}):
        if not backends.of(leaf).xp.isdtype(leaf.dtype, "real floating"):
            raise ValueError(
                f"mixup: {path}: expected floats, which can be mixed, got {leaf.dtype}. To fix it: "
                "give labels as tinynn.functional.one_hot(y, classes, x.dtype)"
            )
    if len(found := {int(leaf.shape[0]) for leaf in tree.leaves((x, y))}) > 1:
        raise ValueError(
            f"mixup: expected as many rows in x as in y, got {sorted(found)}. To fix it: give both "
            "of one batch"
        )
    backend = backends.of(*tree.leaves((x, y)))
    with backend.scope():
        rows = tree.leaves(x)[0].shape[0]
        other = random.permutation(random.fold_in(key, 0), rows)
        share = _beta(random.fold_in(key, 1), rows, alpha)
        pair: tuple[Any, Any] = tree.map(lambda a: _mixed(a, other, share), (x, y))
        return Samples(*pair)


def _mixed(a: Array, other: Array, share: Array) -> Array:
    xp = backends.of(a).xp
    share = xp.astype(xp.reshape(share, (a.shape[0], *(1,) * (a.ndim - 1))), a.dtype)
    return share * a + (1.0 - share) * xp.take(a, other, axis=0)


def _beta(key: Array, rows: int, alpha: float) -> Array:
    """Draws from Beta(alpha, alpha): (rows,) float32, by rejection in logarithms."""
    xp = backends.of(key).xp
    least = 2.0**-25  # a uniform draw may be 0
    first, second = (
        xp.log(random.uniform(random.fold_in(key, i), (rows, _DRAWS), "float32") + least) / alpha
        for i in (0, 1)
    )
    accepted = xp.astype(xp.logaddexp(first, second) <= 0.0, xp.int32)
    place = xp.expand_dims(xp.argmax(accepted, axis=1), axis=1)
    ratio = xp.take_along_axis(second, place, axis=1) - xp.take_along_axis(first, place, axis=1)
    return 1.0 / (1.0 + xp.exp(xp.clip(ratio[:, 0], -80.0, 80.0)))
