"""Linear."""

import operator
from dataclasses import dataclass

from backends import random
from tinynn import functional
from tinynn.config import require
from tinynn.initializers import Initializer, glorot_uniform, zeros

from .base import Array, Layer, Params, as_key, require_features, require_fit


@dataclass(frozen=True)
class Linear(Layer):
    """x @ weight + bias.

    x: (batch, ..., inputs) -> (batch, ..., features). The number of inputs comes from the data.
    params: weight (inputs, features), bias (features,), of the dtype of the data.

    >>> import numpy as np
    >>> layer, x = Linear(3), np.ones((5, 2), dtype=np.float32)
    >>> params = layer.init(0, x)
    >>> {name: entry.shape for name, entry in params.items()}, layer(params, x).shape
    ({'weight': (2, 3), 'bias': (3,)}, (5, 3))
    """

    features: int
    bias: bool = True
    weight_init: Initializer = glorot_uniform
    bias_init: Initializer = zeros

    def __post_init__(self) -> None:
        require_count(self, "features")

    def init(self, key: Array | int, x: Array) -> Params:
        key = as_key(key, x)
        shape = (require_features(self, x), self.features)
        params = {"weight": self.weight_init(random.fold_in(key, 0), shape, x.dtype)}
        if self.bias:
            params["bias"] = self.bias_init(random.fold_in(key, 1), (self.features,), x.dtype)
        return params

    def __call__(self, params: Params, x: Array) -> Array:
        weight = params["weight"]
        require_fit(self, x, weight.shape[0], weight.dtype)
        return functional.linear(x, weight, params.get("bias"))


def require_count(layer: Layer, name: str) -> None:
    """ValueError unless the setting is a whole number of one or more."""
    require(
        layer,
        name,
        lambda value: not isinstance(value, bool) and operator.index(value) > 0,
        "a whole number of 1 or more",
    )
