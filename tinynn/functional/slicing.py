"""Slices that begin where an array says, as a cache is read and written."""

from typing import Any, TypeAlias

from backends import scoped
from tinynn.functional.errors import ShapeError
from tinynn.functional.integers import require_integers
from tinynn.functional.lengths import shape_of
from tinynn.rules import slicing
from tinynn.trace import backend_of, namespace

__all__ = ["dynamic_slice", "dynamic_update_slice"]

Array: TypeAlias = Any


@scoped
def dynamic_slice(x: Array, start: Array | int, size: int, *, axis: int = 0) -> Array:
    """So many entries along an axis, from one on whose number may be an array.

    A slice of Python begins at a number that a compiled program is made for; this one begins where
    the array says in each call.

    Parameters
    ----------
    x
        (..., n, ...) of any dtype.
    start
        A 0-d array of integers, or an integer. Below 0 it counts as 0, beyond n - size as that:
        the slice is always inside of `x`, as XLA has it.
    size
        The number of entries, at most n.
    axis
        The axis of the entries.

    Returns
    -------
    array
        (..., size, ...).

    Raises
    ------
    ShapeError, DtypeError
        `x` has no such axis or too few entries, or the start is no integer.

    Examples
    --------
    >>> import numpy as np
    >>> dynamic_slice(np.arange(5), np.asarray(2), 2)
    array([2, 3])
    """
    _check("dynamic_slice", x, size, axis)
    start = _start("dynamic_slice", x, size, axis, start)
    return slicing.dynamic_slice(x, start, size=size, axis=axis)


@scoped
def dynamic_update_slice(x: Array, update: Array, start: Array | int, *, axis: int = 0) -> Array:
    """An array with other entries along an axis, from one on whose number may be an array.

    `x` itself is left alone. A program of `tinynn.compile` to which `x` is donated writes into its
    memory all the same, so that to write one entry takes the time of one entry.

    Parameters
    ----------
    x
        (..., n, ...) of any dtype.
    update
        (..., size, ...) of the dtype of `x`, size at most n, its other axes as long as those of
        `x`.
    start
        As for `dynamic_slice`.
    axis
        The axis of the entries.

    Returns
    -------
    array
        The shape and dtype of `x`.

    Raises
    ------
    ShapeError, DtypeError
        The arrays do not fit each other, or the start is no integer.

    Examples
    --------
    >>> import numpy as np
    >>> dynamic_update_slice(np.zeros(5), np.asarray([1.0, 2.0]), np.asarray(3))
    array([0., 0., 0., 1., 2.])
    """
    name = "dynamic_update_slice"
    _check(name, x, 0, axis)
    size = update.shape[axis] if getattr(update, "ndim", 0) == x.ndim else 0
    _check(name, x, size, axis)
    place = axis % x.ndim
    expected = (*x.shape[:place], size, *x.shape[place + 1 :])
    if tuple(getattr(update, "shape", ())) != expected or update.dtype != x.dtype:
        raise ShapeError(
            f"{name}: expected an update like x, {shape_of(x)} of {x.dtype}, but for axis {axis}, "
            f"got {shape_of(update)} of {getattr(update, 'dtype', type(update).__name__)}. To fix "
            "it: reshape or convert it"
        )
    start = _start(name, x, size, axis, start)
    return slicing.dynamic_update_slice(x, update, start, axis=axis)


def _start(name: str, x: Array, size: int, axis: int, start: Any) -> Array:
    """The start as an array of 32 bits or more: the last place would not fit into fewer."""
    if type(start) is int:
        return backend_of(x).asarray(min(max(start, 0), x.shape[axis] - size), dtype="int32")
    require_integers(name, "start", start, "xp.astype(start, xp.int32)")
    if start.ndim:
        raise ShapeError(
            f"{name}: expected a 0-d start, got {shape_of(start)}. To fix it: give one number, or "
            "take each entry's own by tinynn.vmap"
        )
    backend_of(x, start)  # of one library, on one device
    xp = namespace(start)
    return start if xp.iinfo(start.dtype).bits >= 32 else xp.astype(start, xp.int32)


def _check(name: str, x: Array, size: int, axis: int) -> None:
    ndim = getattr(x, "ndim", 0)
    if not (type(axis) is int and -ndim <= axis < ndim):
        raise ShapeError(
            f"{name}: expected an axis of the array of shape {shape_of(x)}, got {axis}. To fix it: "
            f"give an integer from {-ndim} to {ndim - 1}"
            if ndim
            else f"{name}: expected an array with an axis, got {shape_of(x)}. To fix it: reshape it"
        )
    if not (type(size) is int and 0 <= size <= x.shape[axis]):
        raise ShapeError(
            f"{name}: expected at most the {x.shape[axis]} entries of axis {axis}, got {size}. To "
            "fix it: take or give fewer"
        )
