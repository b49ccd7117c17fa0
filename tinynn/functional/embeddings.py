"""Vectors of numbers: of tokens, and of places in a sequence."""

from typing import Any, TypeAlias

from backends import scoped
from tinynn.functional.errors import ShapeError
from tinynn.functional.integers import require_integers
from tinynn.functional.lengths import counted, shape_of
from tinynn.trace import backend_of, namespace
from tinynn.trace.scopes import composite

__all__ = ["embedding", "rotary", "sinusoidal"]

Array: TypeAlias = Any

NUMBERED = "number the tokens from 0, and convert them, xp.astype(ids, xp.int32)"


@composite
@scoped
def embedding(ids: Array, weight: Array) -> Array:
    """The rows of a weight that integers name; NaN where they name none, as in JAX.

    Parameters
    ----------
    ids
        Integers of any dtype, from 0 to count - 1, of any shape.
    weight
        (count, width).

    Returns
    -------
    array
        The shape of `ids` and (width,), of the dtype of the weight.

    Raises
    ------
    DtypeError, ShapeError
        The ids are no integers, or the weight is no matrix.

    Examples
    --------
    >>> import numpy as np
    >>> embedding(np.asarray([1, 0]), np.asarray([[0.5, 2.0], [3.0, 4.0]])).tolist()
    [[3.0, 4.0], [0.5, 2.0]]
    """
    if getattr(weight, "ndim", 0) != 2:
        raise ShapeError(
            f"embedding: expected a weight of shape (count, width), got {shape_of(weight)}. To "
            "fix it: give a row for each id"
        )
    require_integers("embedding", "ids", ids, NUMBERED)
    xp = namespace(ids, weight)
    index = xp.astype(ids, counted(ids, 1).dtype)
    known = xp.logical_and(xp.greater_equal(index, 0), xp.less(index, weight.shape[0]))
    # An index out of range is an error here and another row there: no library is given one.
    index = xp.reshape(xp.where(known, index, xp.zeros_like(index)), (-1,))
    rows = xp.reshape(xp.take(weight, index, axis=0), (*ids.shape, weight.shape[1]))
    return xp.where(xp.expand_dims(known, axis=-1), rows, float("nan"))


@composite
@scoped
def rotary(x: Array, positions: Array | None = None, *, base: float = 10_000.0) -> Array:
    """Queries or keys, turned by angles that grow with their place in the sequence.

    The product of a turned query and a turned key depends on the distance of their places alone.

    Parameters
    ----------
    x
        (batch, time, heads, width), of an even width. Entry i of the first half and entry i of the
        second are turned together, as in Llama and GPT-NeoX; the paper takes neighbours.
    positions
        Integers, (time,) or (batch, time); None counts from 0.
    base
        Pair i turns by `base ** (-2 * i / width)` a step.

    Returns
    -------
    array
        The shape and dtype of `x`.

    Raises
    ------
    ShapeError, DtypeError
        The width is odd, or the positions are no integers or not those of the steps.

    References
    ----------
    Su et al. 2021, arXiv:2104.09864.

    Examples
    --------
    >>> import numpy as np
    >>> rotary(np.ones((1, 2, 1, 2))).round(3).ravel().tolist()
    [1.0, 1.0, -0.301, 1.382]
    """
    if getattr(x, "ndim", 0) != 4 or x.shape[3] % 2:
        raise ShapeError(
            "rotary: expected input of shape (batch, time, heads, width) of an even width, got "
            f"{shape_of(x)}. To fix it: choose a width that is twice a whole number"
        )
    positions = counted(x, x.shape[1]) if positions is None else positions
    if shape_of(positions) not in (f"({x.shape[1]},)", f"({x.shape[0]}, {x.shape[1]})"):
        raise ShapeError(
            f"rotary: expected positions of shape ({x.shape[1]},) or ({x.shape[0]}, {x.shape[1]}), "
            f"got {shape_of(positions)}. To fix it: give the place of each step"
        )
    half = x.shape[3] // 2
    sin, cos = _waves("rotary", positions, half, base, x.dtype)
    xp = namespace(x, sin)
    sin, cos = (xp.expand_dims(each, axis=-2) for each in (sin, cos))  # of all heads alike
    a, b = x[..., :half], x[..., half:]
    return xp.concat([a * cos - b * sin, b * cos + a * sin], axis=-1)


@composite
@scoped
def sinusoidal(positions: Array, width: int, *, base: float = 10_000.0, dtype: Any) -> Array:
    """Sines and cosines of places in a sequence, with wavelengths from 2 pi to 2 pi * base.

    Parameters
    ----------
    positions
        Integers of any shape.
    width
        The number of features, an even one: each sine stands before its cosine.
    base
        Pair i has the angle `position * base ** (-2 * i / width)`.
    dtype
        Of the result.

    Returns
    -------
    array
        The shape of the positions and (width,).

    References
    ----------
    Vaswani et al. 2017, arXiv:1706.03762.

    Examples
    --------
    >>> import numpy as np
    >>> sinusoidal(np.asarray([0, 1]), 2, dtype=np.float64).round(3).tolist()
    [[0.0, 1.0], [0.841, 0.54]]
    """
    if width < 2 or width % 2:
        raise ValueError(
            f"sinusoidal: expected an even width of 2 or more, got {width}. To fix it: take one "
            "feature more or less"
        )
    sin, cos = _waves("sinusoidal", positions, width // 2, base, dtype)
    xp = namespace(sin)
    return xp.reshape(xp.stack([sin, cos], axis=-1), (*positions.shape, width))


def _waves(
    owner: str, positions: Array, count: int, base: float, dtype: Any
) -> tuple[Array, Array]:
    """Sines and cosines of places: each has their shape and (count,)."""
    if not base > 0.0:
        raise ValueError(
            f"{owner}: expected a base above 0, got {base!r}. To fix it: give 10000, as usual"
        )
    require_integers(owner, "positions", positions, "xp.astype(positions, xp.int32)")
    backend = backend_of(positions)
    # 16 bits hold no angle of a late place to a part of a turn.
    known = backend.dtypes()
    wide = dtype if dtype in known.values() else known["float32"]
    steps = backend.asarray([base ** (-i / count) for i in range(count)], dtype=wide)
    xp = namespace(positions, steps)
    angles = xp.multiply(xp.expand_dims(xp.astype(positions, wide), axis=-1), steps)
    waves = xp.sin(angles), xp.cos(angles)
    return waves if wide == dtype else tuple(xp.astype(wave, dtype) for wave in waves)
