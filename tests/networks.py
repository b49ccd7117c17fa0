"""Networks that several test modules train and describe."""

import functools
from dataclasses import dataclass
from typing import Any

from tinynn import functional, initializers
from tinynn.layers import BatchNorm, Dropout, Flatten, Layer, LayerNorm, Linear, Sequential
from tinynn.trace import namespace


@dataclass(frozen=True)
class Scale(Layer):
    """A layer from outside, with a parameter and with random numbers in training."""

    start: float = 2.0

    def init(self, key: Any, x: Any) -> dict[str, Any]:
        return {"factor": initializers.Constant(self.start)(key, (x.shape[-1],), x.dtype)}

    def __call__(self, params: dict[str, Any], x: Any) -> Any:
        return namespace(x, params["factor"]).multiply(x, params["factor"])

    def train(self, params: dict[str, Any], x: Any, key: Any) -> Any:
        return self(params, functional.dropout(x, 0.5, key)), params


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
