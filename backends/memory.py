"""Whose memory an array is in, and whether it can be written to."""

from typing import Any

Array = Any


class Memory:
    """The part of a `Backend` that is asked before results are written into an array given away."""

    def kind_of(self, kind: type) -> type:
        """The type of arrays that stands for a type of this library's, arrays or numbers.

        >>> import backends, numpy as np
        >>> backends.get("numpy").kind_of(np.float64)
        <class 'numpy.ndarray'>
        """
        return kind

    def memory_of(self, x: Array) -> int:
        """A number that arrays in one piece of memory have in common."""
        return id(x)

    def shares_memory(self, x: Array, y: Array) -> bool:
        """True if two arrays of one `memory_of` have an element in common.

        >>> import backends, numpy as np
        >>> x = np.zeros(4)
        >>> backends.get("numpy").shares_memory(x[:3], x[3:])
        False
        """
        return True

    def writable(self, x: Array) -> Array:
        """The array, or a copy if it is one that cannot be written to.

        >>> import backends, numpy as np
        >>> backends.get("numpy").writable(np.float64(1.0))
        array(1.)
        """
        return x

    def stop_gradient(self, x: Array) -> Array:
        """The array, in the same memory, as a constant of derivatives that are the library's own.

        >>> import backends, numpy as np
        >>> backends.get("numpy").stop_gradient(np.asarray([1.0]))
        array([1.])
        """
        return x


def span(start: int, shape: Any, strides: Any, itemsize: int) -> range:
    """The bytes from the first to the last of an array, by the address and strides in bytes."""
    ends = [(n - 1) * step for n, step in zip(shape, strides, strict=True)]
    if 0 in shape:
        return range(0)
    first = start + sum(end for end in ends if end < 0)
    return range(first, start + sum(end for end in ends if end > 0) + itemsize)


def overlap(a: range, b: range) -> bool:
    """True if two spans have a byte in common."""
    return bool(a and b) and a.start < b.stop and b.start < a.stop


def repeats(shape: Any, strides: Any) -> bool:
    """True of an array whose elements are several times in one place, as broadcasting makes it."""
    return any(n > 1 and step == 0 for n, step in zip(shape, strides, strict=True))
