"""Layers that change samples at random in training: flips, shifts, crops, holes and noise.

Each sample has draws of its own, counted by its row in the whole batch and the same on every
library. In inference the layers do nothing (`RandomCrop` takes the middle).
"""

import math
from dataclasses import KW_ONLY, dataclass

from tinynn import functional
from tinynn.config import require, require_count
from tinynn.functional.errors import ShapeError
from tinynn.functional.windows import channels_last, per_axis
from tinynn.trace import backend_of, namespace

from .base import Layer, require_array
from .scope import Array, Scope


def _whole(scope: Scope, x: Array, count: int) -> Array:
    """A draw from 0 to count - 1 for each sample of x, (batch, 1, ...) int32."""
    # Of float32 everywhere: the same 24 bits, whatever dtype x has.
    drawn = scope.random.uniform((x.shape[0], *(1,) * (x.ndim - 1)), "float32")
    xp = namespace(drawn)
    number = xp.astype(drawn * float(count), xp.int32)
    return xp.where(number < count, number, count - 1)  # the product may round up to `count`


def _places(x: Array, axis: int, length: int) -> Array:
    """0 to length - 1 along this axis of x, as an array that broadcasts with x."""
    xp = namespace(x)
    shape = tuple(length if i == axis else 1 for i in range(x.ndim))
    places = xp.arange(length, dtype=xp.int32, device=backend_of(x).device)
    return xp.reshape(places, shape)


@dataclass(frozen=True)
class RandomFlip(Layer):
    """In training, samples turned round along an axis, each with probability `rate`.

    Parameters
    ----------
    axis
        The axis of the input, (batch, ...): 2 is the width of images (batch, height, width,
        channels).
    rate
        The probability.

    Notes
    -----
    The input may have any shape, which is kept. No parameters.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.asarray([[1.0, 2.0]])
    >>> RandomFlip(axis=1, rate=1.0).apply({}, {}, x, key=0, training=True)[0].tolist()
    [[2.0, 1.0]]
    """

    axis: int
    _: KW_ONLY
    rate: float = 0.5

    def __post_init__(self) -> None:
        require(self, "rate", lambda rate: 0.0 <= rate <= 1.0, "a number in [0, 1]")
        require(
            self, "axis", lambda i: isinstance(i, int) and i != 0, "a whole number other than 0"
        )

    def forward(self, scope: Scope, x: Array) -> Array:
        require_array(self, x)
        if not -x.ndim < self.axis < x.ndim:
            raise ShapeError(
                f"{self}: expected input with an axis {self.axis} beside that of the batch, got "
                f"shape {tuple(x.shape)}. To fix it: choose an axis from 1 to {x.ndim - 1}"
            )
        if not scope.training:
            return x
        turned = scope.random.bernoulli(self.rate, (x.shape[0], *(1,) * (x.ndim - 1)))
        xp = namespace(x, turned)
        return xp.where(turned, xp.flip(x, axis=self.axis), x)


@dataclass(frozen=True)
class GaussianNoise(Layer):
    """In training, normal noise added to each element.

    Parameters
    ----------
    deviation
        The standard deviation of the noise.

    Notes
    -----
    The input may have any shape, which is kept. No parameters.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.ones((2, 3))
    >>> y, _ = GaussianNoise(0.1).apply({}, {}, x, key=0, training=True)
    >>> bool(0 < abs(y - x).max() < 1)
    True
    """

    deviation: float

    def __post_init__(self) -> None:
        require(self, "deviation", lambda size: 0.0 <= size < math.inf, "a number of 0 or more")

    def forward(self, scope: Scope, x: Array) -> Array:
        require_array(self, x)
        if not scope.training or not self.deviation:
            return x
        noise = scope.random.normal(tuple(x.shape), scope.dtype)
        return scope.narrowed(scope.widened(x) + self.deviation * noise)


@dataclass(frozen=True)
class _Spatial(Layer):
    """A change of the spatial axes, which `changed` finds in the middle."""

    _: KW_ONLY
    fill: float = 0.0
    channels: str = "last"

    def __post_init__(self) -> None:
        channels_last(type(self).__name__, self.channels)
        require(self, "fill", lambda fill: fill == fill + 0.0, "a number")

    def forward(self, scope: Scope, x: Array) -> Array:
        if getattr(x, "ndim", 0) < 3:
            got = tuple(x.shape) if hasattr(x, "shape") else type(x).__name__
            raise ShapeError(
                f"{self}: expected input with spatial axes, such as (batch, height, width, "
                f"channels), got {got}. To fix it: reshape the data; one channel needs an axis, too"
            )
        x = scope.as_float(x)
        if self.channels == "last":
            return self.changed(scope, x)
        y = self.changed(scope, namespace(x).moveaxis(x, 1, -1))
        return namespace(y).moveaxis(y, -1, 1)

    def changed(self, scope: Scope, x: Array) -> Array:
        """The output for x: (batch, ..., channels)."""
        raise NotImplementedError

    def _cropped(
        self, scope: Scope, x: Array, sizes: tuple[int, ...], padding: tuple[int, ...]
    ) -> Array:
        """A part of that size of each sample, padded: at random in training, else the middle."""
        if any(padding):
            x = functional.pad(x, tuple((n, n) for n in padding), self.fill)
        spare = [n - size for n, size in zip(x.shape[1:-1], sizes, strict=True)]
        if not scope.training:
            middle = (slice(n // 2, n // 2 + size) for n, size in zip(spare, sizes, strict=True))
            return x[(slice(None), *middle, slice(None))]
        xp = namespace(x)
        place = _places(x, 0, x.shape[0])  # of an element among those of all samples
        for axis, (free, size) in enumerate(zip(spare, sizes, strict=True), 1):
            start = _whole(scope, x, free + 1)
            place = place * x.shape[axis] + (start + _places(x, axis, size))
        flat = xp.reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))
        taken = xp.take(flat, xp.reshape(place, (-1,)), axis=0)
        return xp.reshape(taken, (x.shape[0], *sizes, x.shape[-1]))


@dataclass(frozen=True)
class RandomShift(_Spatial):
    """In training, samples moved along their spatial axes; what comes in is filled.

    Parameters
    ----------
    limit
        The largest shift in elements, either way: one number for all spatial axes, or one for each.
    fill
        The value of what comes in.
    channels
        "last" or "first".

    Notes
    -----
    The input is (batch, ..., channels), and the shape is kept. Each whole number of elements up to
    the limit is equally likely. No parameters.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(4.0).reshape(1, 4, 1)
    >>> y, _ = RandomShift(1).apply({}, {}, x, key=2, training=True)
    >>> y.ravel().tolist()
    [0.0, 0.0, 1.0, 2.0]
    """

    limit: int | tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        axes = len(self.limit) if isinstance(self.limit, tuple) else 1
        per_axis(type(self).__name__, "limit", self.limit, axes, least=0)

    def changed(self, scope: Scope, x: Array) -> Array:
        limits = per_axis(str(self), "limit", self.limit, x.ndim - 2, least=0)
        if not scope.training:
            return x
        return self._cropped(scope, x, tuple(x.shape[1:-1]), limits)


@dataclass(frozen=True)
class RandomCrop(_Spatial):
    """In training, a part of each sample from anywhere in it; in inference, the middle.

    Parameters
    ----------
    size
        The lengths of the part: one number for all spatial axes, or one for each.
    padding
        How many elements are put around each sample before, likewise.
    fill
        The value of the padding.
    channels
        "last" or "first".

    Notes
    -----
    The input is (batch, ..., channels), the output as long as `size` along each spatial axis. No
    parameters.

    Examples
    --------
    >>> import numpy as np
    >>> RandomCrop(3)({}, np.arange(5.0).reshape(1, 5, 1)).ravel().tolist()
    [1.0, 2.0, 3.0]
    """

    size: int | tuple[int, ...]
    _: KW_ONLY
    padding: int | tuple[int, ...] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, given, least in (("size", self.size, 1), ("padding", self.padding, 0)):
            axes = len(given) if isinstance(given, tuple) else 1
            per_axis(type(self).__name__, name, given, axes, least=least)

    def changed(self, scope: Scope, x: Array) -> Array:
        sizes = per_axis(str(self), "size", self.size, x.ndim - 2)
        padding = per_axis(str(self), "padding", self.padding, x.ndim - 2, least=0)
        lengths = tuple(x.shape[1:-1])
        if any(size > n + 2 * p for size, n, p in zip(sizes, lengths, padding, strict=True)):
            raise ShapeError(
                f"{self}: expected samples of {sizes} elements or more along their spatial axes, "
                f"got {lengths}. To fix it: crop less, or give padding="
            )
        return self._cropped(scope, x, sizes, padding)


@dataclass(frozen=True)
class Cutout(_Spatial):
    """In training, a square hole in each sample, at any place; also called random erasing.

    Parameters
    ----------
    size
        The length of the hole along each spatial axis.
    fill
        The value in the hole.
    channels
        "last" or "first".

    Notes
    -----
    The input is (batch, ..., channels), and the shape is kept. The centre may be anywhere, so a
    hole at the border is cut off there. No parameters.

    References
    ----------
    DeVries and Taylor 2017, arXiv:1708.04552.

    Examples
    --------
    >>> import numpy as np
    >>> y, _ = Cutout(1).apply({}, {}, np.ones((1, 4, 4, 2)), key=0, training=True)
    >>> int((y == 0).sum())
    2
    """

    size: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count(self, "size")

    def changed(self, scope: Scope, x: Array) -> Array:
        if not scope.training:
            return x
        xp, hole = namespace(x), None
        for axis in range(1, x.ndim - 1):
            start = _whole(scope, x, x.shape[axis]) - self.size // 2
            place = _places(x, axis, x.shape[axis]) - start
            inside = xp.logical_and(place >= 0, place < self.size)
            hole = inside if hole is None else xp.logical_and(hole, inside)
        return xp.where(hole, self.fill, x)
