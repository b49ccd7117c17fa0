"""Sequences that differ in length, padded to one: which of their steps are valid."""

from typing import Any, TypeAlias

from tinynn.functional.errors import DtypeError, ShapeError
from tinynn.functional.integers import require_integers, require_range
from tinynn.trace import backend_of, namespace

Array: TypeAlias = Any


def valid_steps(owner: Any, lengths: Array, batch: int, steps: int) -> Array:
    """Booleans, (batch, steps): True at the first `lengths` steps of each sequence.

    owner: what messages begin with. Raises ShapeError, DtypeError, and InputError for lengths out
    of range, where they can be read.
    """
    if shape_of(lengths) != f"({batch},)":
        raise ShapeError(
            f"{owner}: expected lengths of shape (batch,), here ({batch},), got "
            f"{shape_of(lengths)}. To fix it: give the number of valid steps of each sequence"
        )
    xp = namespace(lengths)
    require_integers(owner, "lengths", lengths, "xp.astype(lengths, xp.int64)")
    fix = "give the number of valid steps of each sequence, at most the length of the time axis"
    require_range(owner, "lengths", lengths, 0, steps, fix)
    times = counted(lengths, steps)  # of a wide dtype: 300 steps are more than uint8 can count
    return xp.less(times, xp.expand_dims(xp.astype(lengths, times.dtype), axis=1))


def valid_rows(owner: Any, valid: Array, batch: int, steps: int) -> Array:
    """Booleans, (batch, steps), of lengths, (batch,), or of a mask, which they are already."""
    if getattr(valid, "ndim", 1) != 2:
        return valid_steps(owner, valid, batch, steps)
    if shape_of(valid) != f"({batch}, {steps})":
        raise ShapeError(
            f"{owner}: expected a mask of shape (batch, time), here ({batch}, {steps}), got "
            f"{shape_of(valid)}. To fix it: give True or False for each step of each sequence"
        )
    if not namespace(valid).isdtype(valid.dtype, "bool"):
        raise DtypeError(
            f"{owner}: expected a mask of booleans, True at valid steps, got {valid.dtype}. To "
            "fix it: mask != 0"
        )
    return valid


def without_padding(x: Array, valid: Array | None) -> Array:
    """(batch, time, ...) with zeros at the steps that are not valid, whatever is there.

    A NaN in the padding would reach the gradient of a weight as 0 * NaN.
    """
    if valid is None:
        return x
    xp = namespace(x, valid)
    rows = xp.reshape(valid, (*valid.shape, *(1,) * (x.ndim - 2)))
    return xp.where(rows, x, xp.zeros_like(x))


def counted(like: Array, count: int) -> Array:
    """0, 1, 2, ... on the device of an array."""
    backend = backend_of(like)
    with backend.scope():
        return backend.xp.arange(count, device=backend.device)


def shape_of(x: Any) -> str:
    """The shape, for a message; the type of what has none."""
    return str(tuple(x.shape)) if hasattr(x, "shape") else type(x).__name__
