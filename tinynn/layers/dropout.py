"""Dropout."""

from dataclasses import dataclass

from tinynn import functional
from tinynn.config import is_off, require

from .base import Layer, require_array
from .scope import Array, Scope


def require_rate(owner: Layer, name: str) -> None:
    """ValueError unless the setting of this name is a rate that drops not all."""
    require(owner, name, lambda rate: 0.0 <= rate < 1.0, "a number in [0, 1)")


@dataclass(frozen=True)
class Dropout(Layer):
    """In training, set entries to 0 with probability `rate`, and scale the rest up to match.

    Parameters
    ----------
    rate
        The probability, from 0 on and below 1.

    Notes
    -----
    The input may have any shape, which is kept. There are no parameters. This is the "inverted"
    form: in inference nothing is done.

    References
    ----------
    Srivastava et al. 2014, JMLR 15.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.ones((2, 3))
    >>> Dropout(0.5)({}, x).tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    >>> y, state = Dropout(0.5).apply({}, {}, x, key=0, training=True)
    >>> set(y.ravel().tolist()) <= {0.0, 2.0}
    True
    """

    rate: float = 0.5

    def __post_init__(self) -> None:
        require_rate(self, "rate")

    def forward(self, scope: Scope, x: Array) -> Array:
        require_array(self, x)
        if not scope.dropping or is_off(self.rate):
            return x
        return functional.dropout(scope.as_float(x), self.rate, scope.random.key(), scope.first_row)
