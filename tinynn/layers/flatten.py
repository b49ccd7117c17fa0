"""Flatten."""

import math
from dataclasses import dataclass

from tinynn.functional.errors import ShapeError
from tinynn.trace import namespace

from .base import Layer
from .scope import Array, Scope


@dataclass(frozen=True)
class Flatten(Layer):
    """Reshape each sample to one row, (batch, ...) -> (batch, features). No parameters.

    >>> import numpy as np
    >>> Flatten()({}, np.ones((2, 3, 4))).shape
    (2, 12)
    """

    def forward(self, scope: Scope, x: Array) -> Array:
        if x.ndim < 1:
            raise ShapeError(f"{self}: expected input of shape (batch, ...), got ()")
        # -1 is ambiguous for empty batches.
        return namespace(x).reshape(x, (x.shape[0], math.prod(x.shape[1:])))
