"""Linear."""

from dataclasses import KW_ONLY, dataclass

from tinynn import functional
from tinynn.config import require_count
from tinynn.initializers import Initializer, glorot_uniform, zeros

from .base import Layer, features
from .scope import Array, Scope


@dataclass(frozen=True)
class Linear(Layer):
    """The affine map x @ weight + bias.

    Parameters
    ----------
    features
        The number of outputs.
    bias
        Add a bias.
    weight_init
        A function of (key, shape, dtype) that makes the weight: see `tinynn.initializers`.
    bias_init
        Likewise for the bias.

    Notes
    -----
    The input is (batch, ..., inputs), of any real dtype; integers are converted to that of the
    parameters. The output is (batch, ..., features). The number of inputs comes from the data.

    Parameters: weight (inputs, features) and bias (features,).

    Examples
    --------
    >>> import numpy as np
    >>> layer, x = Linear(3), np.ones((5, 2), dtype=np.float32)
    >>> params, state = layer.init(0, x)
    >>> {name: entry.shape for name, entry in params.items()}, layer(params, x).shape
    ({'weight': (2, 3), 'bias': (3,)}, (5, 3))
    """

    features: int
    _: KW_ONLY
    bias: bool = True
    weight_init: Initializer = glorot_uniform
    bias_init: Initializer = zeros

    def __post_init__(self) -> None:
        require_count(self, "features")

    def forward(self, scope: Scope, x: Array) -> Array:
        shape = (features(self, x), self.features)
        weight = scope.param("weight", self.weight_init, shape)
        bias = scope.param("bias", self.bias_init, shape[1:]) if self.bias else None
        return functional.linear(scope.as_float(x), weight, bias)
