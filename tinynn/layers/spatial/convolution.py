"""Convolutions, and transposed ones, over one to three spatial axes."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from tinynn import functional
from tinynn.config import require, require_count
from tinynn.functional.errors import ShapeError
from tinynn.functional.windows import Padding, channels_last, per_axis, resolved
from tinynn.initializers import Initializer, glorot_uniform, zeros
from tinynn.layers.base import Layer
from tinynn.layers.scope import Array, Scope


def checked_input(layer: Any, x: Array, axes: int) -> int:
    """The number of channels of x, which has so many spatial axes. Raises ShapeError."""
    last = layer.channels == "last"
    if not hasattr(x, "ndim") or x.ndim != axes + 2:
        letters = ", ".join(("depth", "height", "width")[3 - axes :] if axes > 1 else ("length",))
        order = f"(batch, {letters}, channels)" if last else f"(batch, channels, {letters})"
        got = tuple(x.shape) if hasattr(x, "shape") else type(x).__name__
        raise ShapeError(
            f"{layer}: expected input of shape {order}, got {got}. To fix it: reshape the data; "
            "one channel needs an axis, too"
        )
    return int(x.shape[-1 if last else 1])


@dataclass(frozen=True)
class _Conv(Layer):
    spatial: ClassVar[int]

    features: int
    _: KW_ONLY
    kernel_size: int | tuple[int, ...] = 3
    stride: int | tuple[int, ...] = 1
    dilation: int | tuple[int, ...] = 1
    groups: int = 1
    padding: Padding = "valid"
    bias: bool = True
    weight_init: Initializer = glorot_uniform
    bias_init: Initializer = zeros
    channels: str = "last"

    def __post_init__(self) -> None:
        require_count(self, "features")
        require_count(self, "groups")
        require(self, "groups", lambda n: self.features % n == 0, f"a divisor of {self.features}")
        name, axes = type(self).__name__, self.spatial
        channels_last(name, self.channels)
        sizes, steps, gaps = (
            per_axis(name, what, getattr(self, what), axes)
            for what in ("kernel_size", "stride", "dilation")
        )
        if self.padding != "same":
            resolved(name, self.padding, None, sizes, steps, gaps)

    def _parameters(self, scope: Scope, x: Array) -> tuple[Array, Array | None]:
        inputs = checked_input(self, x, self.spatial)
        if inputs % self.groups:
            raise ShapeError(
                f"{self}: expected input whose channels {self.groups} groups divide, got {inputs} "
                f"channels. To fix it: choose groups that divide {inputs} and {self.features}"
            )
        kernel = per_axis(type(self).__name__, "kernel_size", self.kernel_size, self.spatial)
        shape = (*kernel, inputs // self.groups, self.features)
        weight = scope.param("weight", self.weight_init, shape)
        return weight, scope.param("bias", self.bias_init, shape[-1:]) if self.bias else None

    def forward(self, scope: Scope, x: Array) -> Array:
        weight, bias = self._parameters(scope, x)
        return functional.conv(
            scope.as_float(x), weight, bias, stride=self.stride, padding=self.padding,
            dilation=self.dilation, groups=self.groups, channels=self.channels,
        )  # fmt: skip


@dataclass(frozen=True)
class _ConvTranspose(_Conv):
    output_padding: int | tuple[int, ...] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        per_axis(name, "output_padding", self.output_padding, self.spatial, least=0)

    def forward(self, scope: Scope, x: Array) -> Array:
        weight, bias = self._parameters(scope, x)
        return functional.conv_transpose(
            scope.as_float(x), weight, bias, stride=self.stride, padding=self.padding,
            output_padding=self.output_padding, dilation=self.dilation, groups=self.groups,
            channels=self.channels,
        )  # fmt: skip


@dataclass(frozen=True)
class Conv1d(_Conv):
    """The convolution over one axis, of a signal or sequence: `Conv2d` has the parameters.

    Notes
    -----
    The input is (batch, length, channels). padding="causal" puts all zeros in front, so that no
    output sees what comes after it.

    Examples
    --------
    >>> import numpy as np
    >>> layer, x = Conv1d(4, padding="causal"), np.ones((2, 10, 3))
    >>> layer(layer.init(0, x)[0], x).shape
    (2, 10, 4)
    """

    spatial: ClassVar[int] = 1


@dataclass(frozen=True)
class Conv2d(_Conv):
    """The convolution over two axes, of images.

    Parameters
    ----------
    features
        The number of channels of the output.
    kernel_size, stride, dilation
        The lengths of the kernel, its step, and the step between its elements: one number for all
        axes, or one for each.
    groups
        Each group of input channels makes its own group of outputs; as many groups as input
        channels is the depthwise convolution.
    padding
        "valid" for none; "same" for an output of ceil(length / stride), with an odd zero behind, as
        in JAX and Keras (PyTorch has no "same" with strides); a number for all ends; or a pair
        (before, after) for each axis.
    bias
        Add a bias to each channel.
    weight_init, bias_init
        Functions of (key, shape, dtype): see `tinynn.initializers`.
    channels
        "last" or "first": the axis of the channels, in the input and in the output.

    Notes
    -----
    The input is (batch, height, width, channels), of any real dtype; integers are converted to that
    of the parameters. The number of channels comes from the data. The kernel is not turned round,
    as in all libraries for networks.

    Parameters: weight (kernel_size, inputs / groups, features) and bias (features,), wherever the
    channels are. `ShapeError` where a kernel is larger than the padded input.

    Examples
    --------
    >>> import numpy as np
    >>> layer, x = Conv2d(8, stride=2, padding="same"), np.ones((2, 28, 28, 1))
    >>> params, state = layer.init(0, x)
    >>> params["weight"].shape, layer(params, x).shape
    ((3, 3, 1, 8), (2, 14, 14, 8))
    """

    spatial: ClassVar[int] = 2


@dataclass(frozen=True)
class Conv3d(_Conv):
    """The convolution over three axes, of volumes or films: `Conv2d` has the parameters.

    Notes
    -----
    The input is (batch, depth, height, width, channels).

    Examples
    --------
    >>> import numpy as np
    >>> layer, x = Conv3d(4, kernel_size=2), np.ones((2, 5, 5, 5, 1))
    >>> layer(layer.init(0, x)[0], x).shape
    (2, 4, 4, 4, 4)
    """

    spatial: ClassVar[int] = 3


@dataclass(frozen=True)
class ConvTranspose1d(_ConvTranspose):
    """The transposed convolution over one axis: `ConvTranspose2d` has the parameters.

    Examples
    --------
    >>> import numpy as np
    >>> layer, x = ConvTranspose1d(4, stride=2, padding="same"), np.ones((2, 5, 3))
    >>> layer(layer.init(0, x)[0], x).shape
    (2, 10, 4)
    """

    spatial: ClassVar[int] = 1


@dataclass(frozen=True)
class ConvTranspose2d(_ConvTranspose):
    """The transposed convolution over two axes: each element puts a copy of the kernel down.

    Parameters
    ----------
    features, kernel_size, stride, dilation, groups, bias, weight_init, bias_init, channels
        As in `Conv2d`; stride is the step between the copies.
    padding
        What is cut from the output, as the convolution whose transpose it is pads its input.
        "same" gives an output of length * stride.
    output_padding
        Elements more at the end of each axis, to choose among lengths that a convolution of this
        stride makes equal.

    Notes
    -----
    The output has (length - 1) * stride + (kernel_size - 1) * dilation + 1 elements along each
    axis, less the padding, as in PyTorch.

    Parameters: weight (kernel_size, inputs / groups, features) and bias (features,).

    Examples
    --------
    >>> import numpy as np
    >>> layer, x = ConvTranspose2d(4, kernel_size=2, stride=2), np.ones((2, 5, 5, 3))
    >>> layer(layer.init(0, x)[0], x).shape
    (2, 10, 10, 4)
    """

    spatial: ClassVar[int] = 2


@dataclass(frozen=True)
class ConvTranspose3d(_ConvTranspose):
    """The transposed convolution over three axes: `ConvTranspose2d` has the parameters.

    Examples
    --------
    >>> import numpy as np
    >>> layer, x = ConvTranspose3d(1, kernel_size=2, stride=2), np.ones((1, 2, 2, 2, 3))
    >>> layer(layer.init(0, x)[0], x).shape
    (1, 4, 4, 4, 1)
    """

    spatial: ClassVar[int] = 3
