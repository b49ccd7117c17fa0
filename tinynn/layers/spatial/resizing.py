"""Upsample and Pad."""

from dataclasses import KW_ONLY, dataclass

from tinynn import functional
from tinynn.config import require
from tinynn.functional.windows import around, channels_last, per_axis
from tinynn.layers.base import Layer, require_array
from tinynn.layers.scope import Array, Scope


@dataclass(frozen=True)
class Upsample(Layer):
    """Spatial axes `scale` times as long.

    Parameters
    ----------
    scale
        A whole number for all spatial axes, or one for each.
    method
        "nearest" repeats each element; "linear" goes from centre to centre, as PyTorch's
        `align_corners=False`, along each axis.
    channels
        "last" or "first".

    Examples
    --------
    >>> import numpy as np
    >>> Upsample(2, method="linear")({}, np.ones((2, 4, 4, 3))).shape
    (2, 8, 8, 3)
    """

    scale: int | tuple[int, ...] = 2
    _: KW_ONLY
    method: str = "nearest"
    channels: str = "last"

    def __post_init__(self) -> None:
        name, axes = type(self).__name__, len(self.scale) if isinstance(self.scale, tuple) else 1
        require(self, "method", lambda m: m in ("nearest", "linear"), '"nearest" or "linear"')
        channels_last(name, self.channels)
        per_axis(name, "scale", self.scale, axes)

    def forward(self, scope: Scope, x: Array) -> Array:
        require_array(self, x)
        x = scope.as_float(x)
        return functional.upsample(x, self.scale, method=self.method, channels=self.channels)


@dataclass(frozen=True)
class Pad(Layer):
    """Elements of one value around the spatial axes.

    Parameters
    ----------
    padding
        A whole number for both ends of all spatial axes, or a pair (before, after) for each;
        negative numbers cut.
    value
        What is added.
    channels
        "last" or "first".

    Examples
    --------
    >>> import numpy as np
    >>> Pad(((1, 0), (0, 2)))({}, np.ones((2, 4, 4, 3))).shape
    (2, 5, 6, 3)
    """

    padding: int | tuple[tuple[int, int], ...]
    _: KW_ONLY
    value: float = 0.0
    channels: str = "last"

    def __post_init__(self) -> None:
        name, given = type(self).__name__, self.padding
        channels_last(name, self.channels)
        require(self, "value", lambda value: value == value + 0.0, "a number")
        around(name, given, len(given) if isinstance(given, tuple | list) else 1)

    def forward(self, scope: Scope, x: Array) -> Array:
        require_array(self, x)
        x = scope.as_float(x)
        return functional.pad(x, self.padding, self.value, channels=self.channels)
