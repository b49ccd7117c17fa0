"""Pools and upsampling in one call, for libraries that have them."""

from typing import Any, NamedTuple, TypeAlias

Array = Any
Ints = tuple[int, ...]


class Windows(NamedTuple):
    """The windows of a pool, with an entry for each spatial axis.

    `dilation` - 1 elements are left out between neighbours of a window. What `padding` adds at both
    ends is smaller than every number, and no part of a mean.
    """

    window: Ints
    stride: Ints
    dilation: Ints
    padding: tuple[tuple[int, int], ...]


class Parts(NamedTuple):
    """`size` windows along each spatial axis, of nearly equal lengths, that cover all of it.

    Window i reaches from floor(i * length / size) to ceil((i + 1) * length / size).
    """

    size: Ints


AnyWindows: TypeAlias = Windows | Parts


class Pooling:
    """The part of a `Backend` that pools and upsamples: by default nothing, and slices do it.

    Arrays are (batch, *spatial, channels). Of equal elements of a window the first is its largest;
    of several that are NaN, the last.
    """

    def takes_pool(self, x: Array, windows: AnyWindows) -> bool:
        """True for what the others take; of `x` its dtype is read."""
        return False

    def max_pool(self, x: Array, windows: AnyWindows) -> Array:
        """The largest element of each window of `x`."""
        raise NotImplementedError

    def max_pool_pullback(self, g: Array, x: Array, windows: AnyWindows) -> Array:
        """`x`'s cotangent: that of each window, `g`, goes to its largest element."""
        raise NotImplementedError

    def max_pool_pushforward(self, t: Array, x: Array, windows: AnyWindows) -> Array:
        """The elements of `t` where the largest of each window of `x` are."""
        raise NotImplementedError

    def max_pool_with_indices(self, x: Array, windows: AnyWindows) -> tuple[Array, Array]:
        """`max_pool`, and where these elements are, if the lowering keeps it."""
        raise NotImplementedError

    def max_pool_from_indices(
        self, g: Array, x: Array, places: Array, windows: AnyWindows
    ) -> Array:
        """`max_pool_pullback`, given where the elements are."""
        raise NotImplementedError

    def avg_pool(self, x: Array, windows: AnyWindows) -> Array:
        """The mean of each window of `x`."""
        raise NotImplementedError

    def avg_pool_pullback(self, g: Array, lengths: Ints, windows: AnyWindows) -> Array:
        """The cotangent of an `x` with these spatial lengths: its share of that of each window."""
        raise NotImplementedError

    def takes_upsample(self, x: Array) -> bool:
        """True for what the others take; of `x` its dtype and number of axes are read."""
        return False

    def upsample_linear(self, x: Array, scale: Ints) -> Array:
        """Axes `scale` times as long, linear between the centres of elements, the ends repeated."""
        raise NotImplementedError

    def upsample_linear_pullback(self, g: Array, scale: Ints) -> Array:
        """Its transpose: the cotangent of what was upsampled."""
        raise NotImplementedError
