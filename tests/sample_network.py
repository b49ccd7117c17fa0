"""Networks that several test modules train and describe."""

import functools
from dataclasses import dataclass
from typing import Any

from tinynn import functional, initializers
from tinynn.layers import (
    BatchNorm,
    Dropout,
    Flatten,
    Layer,
    LayerNorm,
    Linear,
    Scope,
    Sequential,
)
from tinynn.trace import namespace


@dataclass(frozen=True)
class Scale(Layer):
    """A layer from outside, with a parameter and with random numbers in training."""

    start: float = 2.0

    def forward(self, scope: Scope, x: Any) -> Any:
        factor = scope.param("factor", initializers.Constant(self.start), (x.shape[-1],))
        if scope.training:
            x = x * namespace(x).astype(scope.random.bernoulli(0.5, tuple(x.shape)), x.dtype)
        return x * factor


NETWORK = Sequential(
    Flatten(),
    Linear(7),
    functional.silu,
    BatchNorm(),
    Dropout(0.3),
    Sequential(Linear(4, bias=False), LayerNorm()),
    functools.partial(functional.elu, alpha=0.5),
    Scale(),
    Linear(2, weight_init=initializers.orthogonal, bias_init=initializers.Constant(0.1)),
)
