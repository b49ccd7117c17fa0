"""Slices that begin where an array says: read, and written to."""

from collections.abc import Sequence
from typing import Any

Array = Any


class Slicing:
    """The part of a `Backend` that reads and writes slices from a place known on the device alone.

    The slice is of a fixed length, and always inside: a start below 0 counts as 0, one from which
    it would not fit as the last from which it does.
    """

    xp: Any = None
    device: Any = None

    def joined(self, parts: Sequence[Array]) -> Array:
        """Arrays of one dimension, one after the other, however many there happen to be."""
        return parts[0] if len(parts) == 1 else self.xp.concat(parts)

    def dynamic_slice(self, x: Array, start: Array, *, size: int, axis: int = 0) -> Array:
        """`size` entries of `x` along `axis`, from number `start` on.

        start: a 0-d integer array.

        >>> import backends, numpy as np
        >>> backends.of(np.ones(1)).dynamic_slice(np.arange(5), np.asarray(2), size=2)
        array([2, 3])
        """
        return self.xp.take(x, self._places(start, size, x.shape[axis]), axis=axis)

    def dynamic_update_slice(
        self, x: Array, update: Array, start: Array, *, axis: int = 0
    ) -> Array:
        """`x` with `update` in place of its entries along `axis`, from number `start` on.

        update: of the dtype and shape of x, but for the axis, along which it is as long or shorter.
        start: a 0-d integer array.

        >>> import backends, numpy as np
        >>> backend, x = backends.of(np.ones(1)), np.zeros(5)
        >>> backend.dynamic_update_slice(x, np.asarray([1.0, 2.0]), np.asarray(3))
        array([0., 0., 0., 1., 2.])
        """
        xp, length, size = self.xp, x.shape[axis], update.shape[axis]
        if not size:  # nothing could be taken of it
            return xp.asarray(x, copy=True)
        start = xp.astype(_clamped(xp, start, length - size), xp.int32)
        ahead = xp.arange(length, dtype=xp.int32, device=self.device) - start
        new = (ahead >= 0) & (ahead < size)
        taken = xp.take(update, xp.where(new, ahead, xp.zeros_like(ahead)), axis=axis)
        return xp.where(xp.reshape(new, _along(axis, x.ndim)), taken, x)

    def _places(self, start: Array, size: int, length: int) -> Array:
        """The places of the slice's entries, (size,)."""
        xp = self.xp
        first = _clamped(xp, start, length - size)
        return xp.arange(size, dtype=first.dtype, device=self.device) + first


def first_of(start: Array, size: int, length: int) -> int:
    """The first entry of the slice, where it can be read."""
    return min(max(int(start), 0), length - size)


def _clamped(xp: Any, start: Array, last: int) -> Array:
    # By where: a clip costs several times as much in some libraries.
    start = xp.where(start < 0, xp.zeros_like(start), start)
    return xp.where(start > last, xp.full_like(start, last), start)


def _along(axis: int, ndim: int) -> tuple[int, ...]:
    """A shape in which a vector stands along one axis."""
    return tuple(-1 if place == axis % ndim else 1 for place in range(ndim))
