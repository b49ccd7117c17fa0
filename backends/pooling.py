"""The largest of each window in one call, for libraries that have it."""

from typing import Any, NamedTuple

Array = Any
Ints = tuple[int, ...]


class Windows(NamedTuple):
    """The windows of a pool, with an entry for each spatial axis.

    `dilation` - 1 elements are left out between neighbours of a window. What `padding` adds at both
    ends is smaller than every number.
    """

    window: Ints
    stride: Ints
    dilation: Ints
    padding: tuple[tuple[int, int], ...]


class Pooling:
    """The part of a `Backend` that pools: by default nothing, and tinynn does it by slices."""

    def takes_max_pool(self, x: Array, windows: Windows) -> bool:
        """True for what the others take; of `x` its shape and dtype are read."""
        return False

    def max_pool(self, x: Array, windows: Windows) -> Array:
        """The largest element of each window of `x`: (batch, *spatial, channels)."""
        raise NotImplementedError

    def max_pool_pullback(self, g: Array, x: Array, windows: Windows) -> Array:
        """`x`'s cotangent: that of each window, `g`, goes to the first of its largest elements."""
        raise NotImplementedError

    def max_pool_with_indices(self, x: Array, windows: Windows) -> tuple[Array, Array]:
        """`max_pool`, and where these elements are, if the lowering keeps it."""
        raise NotImplementedError

    def max_pool_from_indices(self, g: Array, x: Array, places: Array, windows: Windows) -> Array:
        """`max_pool_pullback`, given where the elements are."""
        raise NotImplementedError
