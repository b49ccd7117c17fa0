"""Pooling over windows, over all of each axis, and to a given size."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from tinynn import functional
from tinynn.functional.errors import ShapeError
from tinynn.functional.windows import Padding, channels_last, per_axis, resolved
from tinynn.layers.base import Layer, require_array
from tinynn.layers.scope import Array, Scope
from tinynn.layers.spatial.convolution import checked_input
from tinynn.trace import namespace


@dataclass(frozen=True)
class _Pool(Layer):
    spatial: ClassVar[int]

    window: int | tuple[int, ...] = 2
    _: KW_ONLY
    stride: int | tuple[int, ...] | None = None
    padding: Padding = "valid"
    channels: str = "last"

    def __post_init__(self) -> None:
        name = type(self).__name__
        channels_last(name, self.channels)
        window = per_axis(name, "window", self.window, self.spatial)
        stride = window if self.stride is None else per_axis(
            name, "stride", self.stride, self.spatial
        )  # fmt: skip
        if self.padding != "same":
            resolved(name, self.padding, None, window, stride, (1,) * self.spatial)


@dataclass(frozen=True)
class _MaxPool(_Pool):
    dilation: int | tuple[int, ...] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        per_axis(type(self).__name__, "dilation", self.dilation, self.spatial)

    def forward(self, scope: Scope, x: Array) -> Array:
        checked_input(self, x, self.spatial)
        return functional.max_pool(
            scope.as_float(x), self.window, stride=self.stride, padding=self.padding,
            dilation=self.dilation, channels=self.channels,
        )  # fmt: skip


@dataclass(frozen=True)
class _AvgPool(_Pool):
    def forward(self, scope: Scope, x: Array) -> Array:
        checked_input(self, x, self.spatial)
        return functional.avg_pool(
            scope.as_float(x), self.window, stride=self.stride, padding=self.padding,
            channels=self.channels,
        )  # fmt: skip


@dataclass(frozen=True)
class MaxPool1d(_MaxPool):
    """The largest of each window along one axis: `MaxPool2d` has the parameters.

    >>> import numpy as np
    >>> MaxPool1d(3)({}, np.ones((2, 9, 4))).shape
    (2, 3, 4)
    """

    spatial: ClassVar[int] = 1


@dataclass(frozen=True)
class MaxPool2d(_MaxPool):
    """The largest of each window of an image, channel by channel.

    Parameters
    ----------
    window, stride, dilation
        The lengths of the window, its step (None is the window itself), and the step between its
        elements: one number for all axes, or one for each.
    padding
        As in `Conv2d`; what is added is -infinity.
    channels
        "last" or "first".

    Notes
    -----
    No parameters. The gradient goes to the first of equal elements of a window, as in JAX.

    Examples
    --------
    >>> import numpy as np
    >>> MaxPool2d()({}, np.ones((2, 8, 8, 4))).shape
    (2, 4, 4, 4)
    """

    spatial: ClassVar[int] = 2


@dataclass(frozen=True)
class MaxPool3d(_MaxPool):
    """The largest of each window of a volume: `MaxPool2d` has the parameters.

    >>> import numpy as np
    >>> MaxPool3d()({}, np.ones((1, 4, 4, 4, 2))).shape
    (1, 2, 2, 2, 2)
    """

    spatial: ClassVar[int] = 3


@dataclass(frozen=True)
class AvgPool1d(_AvgPool):
    """The mean of each window along one axis: `AvgPool2d` has the parameters.

    >>> import numpy as np
    >>> AvgPool1d(3)({}, np.ones((2, 9, 4))).shape
    (2, 3, 4)
    """

    spatial: ClassVar[int] = 1


@dataclass(frozen=True)
class AvgPool2d(_AvgPool):
    """The mean of each window of an image, channel by channel.

    Parameters
    ----------
    window, stride
        The lengths of the window and its step (None is the window itself).
    padding
        As in `Conv2d`. What is added is not counted, as PyTorch's `count_include_pad=False`.
    channels
        "last" or "first".

    Examples
    --------
    >>> import numpy as np
    >>> AvgPool2d()({}, np.ones((2, 8, 8, 4))).shape
    (2, 4, 4, 4)
    """

    spatial: ClassVar[int] = 2


@dataclass(frozen=True)
class AvgPool3d(_AvgPool):
    """The mean of each window of a volume: `AvgPool2d` has the parameters.

    >>> import numpy as np
    >>> AvgPool3d()({}, np.ones((1, 4, 4, 4, 2))).shape
    (1, 2, 2, 2, 2)
    """

    spatial: ClassVar[int] = 3


@dataclass(frozen=True)
class _GlobalPool(Layer):
    reduction: ClassVar[str]

    _: KW_ONLY
    channels: str = "last"

    def __post_init__(self) -> None:
        channels_last(type(self).__name__, self.channels)

    def forward(self, scope: Scope, x: Array) -> Array:
        require_array(self, x)
        last = self.channels == "last"
        if x.ndim < 3 or 0 in x.shape[1:]:
            order = "(batch, *spatial, channels)" if last else "(batch, channels, *spatial)"
            raise ShapeError(
                f"{self}: expected input of shape {order}, no axis empty, got {tuple(x.shape)}. To "
                "fix it: put the layer before Flatten"
            )
        x = scope.as_float(x)
        axes = tuple(range(1, x.ndim - 1) if last else range(2, x.ndim))
        return getattr(namespace(x), self.reduction)(x, axis=axes)


@dataclass(frozen=True)
class GlobalAvgPool(_GlobalPool):
    """The mean of each channel over all spatial axes: the output is (batch, channels).

    Parameters
    ----------
    channels
        "last" or "first": where the axis of the channels is.

    Examples
    --------
    >>> import numpy as np
    >>> GlobalAvgPool()({}, np.ones((2, 8, 8, 4))).shape
    (2, 4)
    """

    reduction: ClassVar[str] = "mean"


@dataclass(frozen=True)
class GlobalMaxPool(_GlobalPool):
    """The largest of each channel over all spatial axes: the output is (batch, channels).

    Equal elements share the gradient, as in a maximum over an axis.

    Parameters
    ----------
    channels
        "last" or "first": where the axis of the channels is.

    Examples
    --------
    >>> import numpy as np
    >>> GlobalMaxPool()({}, np.ones((2, 8, 8, 4))).shape
    (2, 4)
    """

    reduction: ClassVar[str] = "max"


@dataclass(frozen=True)
class _AdaptivePool(Layer):
    function: ClassVar[str]

    size: int | tuple[int, ...]
    _: KW_ONLY
    channels: str = "last"

    def __post_init__(self) -> None:
        name = type(self).__name__
        channels_last(name, self.channels)
        per_axis(name, "size", self.size, len(self.size) if isinstance(self.size, tuple) else 1)

    def forward(self, scope: Scope, x: Array) -> Array:
        require_array(self, x)
        pool = getattr(functional, self.function)
        return pool(scope.as_float(x), self.size, channels=self.channels)


@dataclass(frozen=True)
class AdaptiveAvgPool(_AdaptivePool):
    """The means of `size` windows along each spatial axis, which cover all of it, as in PyTorch.

    Parameters
    ----------
    size
        The lengths of the output: one number for all spatial axes, or one for each.
    channels
        "last" or "first".

    Examples
    --------
    >>> import numpy as np
    >>> AdaptiveAvgPool(3)({}, np.ones((2, 8, 7, 4))).shape
    (2, 3, 3, 4)
    """

    function: ClassVar[str] = "adaptive_avg_pool"


@dataclass(frozen=True)
class AdaptiveMaxPool(_AdaptivePool):
    """The largest of the windows of `AdaptiveAvgPool`.

    Parameters
    ----------
    size
        Windows along each axis; a number for all axes.
    channels
        "last" or "first": where the axis of the channels is.

    Examples
    --------
    >>> import numpy as np
    >>> AdaptiveMaxPool((2, 1))({}, np.ones((2, 8, 7, 4))).shape
    (2, 2, 1, 4)
    """

    function: ClassVar[str] = "adaptive_max_pool"
