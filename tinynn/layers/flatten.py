"""Flatten."""

import math
from dataclasses import dataclass

from tinynn.functional import ShapeError
from tinynn.trace import namespace

from .base import Array, Layer, Params


@dataclass(frozen=True)
class Flatten(Layer):
    """Each sample as one row: (batch, ...) -> (batch, features). No parameters.

    >>> import numpy as np
    >>> Flatten()({}, np.ones((2, 3, 4))).shape
    (2, 12)
    """

    def __call__(self, params: Params, x: Array) -> Array:
        if x.ndim < 1:
            raise ShapeError(f"{self}: expected input of shape (batch, ...), got ()")
        # not -1 for the width: it means nothing where the batch is empty
        return namespace(x).reshape(x, (x.shape[0], math.prod(x.shape[1:])))
