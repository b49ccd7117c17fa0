"""Activations with parameters."""

import math
from dataclasses import KW_ONLY, dataclass

from tinynn import functional
from tinynn.config import require
from tinynn.functional.windows import channels_last
from tinynn.initializers import Constant
from tinynn.trace import namespace

from .base import Layer, features, require_array
from .scope import Array, Scope


@dataclass(frozen=True)
class PReLU(Layer):
    """x where positive, weight * x elsewhere; the weight is trained.

    Parameters
    ----------
    start
        What the weight begins as.
    shared
        One weight for all features; otherwise each has its own.
    channels
        "last" or "first": the axis of the features.

    Notes
    -----
    The input is (batch, ..., features), and the shape is kept. Parameter: weight (features,), or
    (1,).

    References
    ----------
    He et al. 2015, arXiv:1502.01852.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.asarray([[-4.0, 4.0]])
    >>> layer = PReLU()
    >>> layer(layer.init(0, x)[0], x).tolist()
    [[-1.0, 4.0]]
    """

    _: KW_ONLY
    start: float = 0.25
    shared: bool = False
    channels: str = "last"

    def __post_init__(self) -> None:
        channels_last(type(self).__name__, self.channels)
        require(self, "start", lambda start: start - start == 0.0, "a finite number")

    def forward(self, scope: Scope, x: Array) -> Array:
        width, first = features(self, x), self.channels == "first"
        width = 1 if self.shared else int(x.shape[1]) if first else width
        weight = scope.param("weight", Constant(self.start), (width,))
        if first:
            weight = namespace(weight).reshape(weight, (width, *(1,) * (x.ndim - 2)))
        return functional.leaky_relu(scope.as_float(x), weight)


@dataclass(frozen=True)
class Temperature(Layer):
    """Divide the input by a number, such as `Model.with_temperature` finds. No parameters.

    Parameters
    ----------
    value
        The number, above 0: above 1 makes the probabilities of logits less sure.

    References
    ----------
    Guo et al. 2017, "On Calibration of Modern Neural Networks", ICML.

    Examples
    --------
    >>> import numpy as np
    >>> Temperature(2.0)({}, np.ones((1, 2))).tolist()
    [[0.5, 0.5]]
    """

    value: float

    def __post_init__(self) -> None:
        require(self, "value", lambda value: 0.0 < value < math.inf, "a finite number above 0")

    def forward(self, scope: Scope, x: Array) -> Array:
        require_array(self, x)
        return scope.as_float(x) * (1.0 / self.value)
