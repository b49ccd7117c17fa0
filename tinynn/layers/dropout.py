"""Dropout."""

from dataclasses import dataclass

from tinynn import functional
from tinynn.config import require

from .base import Array, Layer, Params, as_key


@dataclass(frozen=True)
class Dropout(Layer):
    """In training, zeroes entries with probability `rate` and scales the rest up to match.

    x: any shape, kept. Source: Srivastava et al. 2014. No parameters.

    >>> import numpy as np
    >>> x = np.ones((2, 3))
    >>> Dropout(0.5)({}, x).tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    >>> y, params = Dropout(0.5).train({}, x, 0)
    >>> set(y.ravel().tolist()) <= {0.0, 2.0}
    True
    """

    rate: float = 0.5

    def __post_init__(self) -> None:
        require(self, "rate", lambda rate: 0.0 <= rate < 1.0, "a number in [0, 1)")

    @property
    def uses_key(self) -> bool:
        return self.rate > 0.0

    def __call__(self, params: Params, x: Array) -> Array:
        return x

    def train(self, params: Params, x: Array, key: Array | int) -> tuple[Array, Params]:
        if self.rate == 0.0:
            return x, params
        return functional.dropout(x, self.rate, as_key(key, x)), params
