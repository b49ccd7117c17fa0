"""Layers that move elements and compute nothing: Flatten, Reshape, Permute."""

import math
from dataclasses import dataclass

from tinynn.config import require
from tinynn.functional.errors import ShapeError
from tinynn.trace import namespace

from .base import Layer, require_array
from .scope import Array, Scope


@dataclass(frozen=True)
class Flatten(Layer):
    """Reshape each sample to one row, (batch, ...) -> (batch, features). No parameters.

    >>> import numpy as np
    >>> Flatten()({}, np.ones((2, 3, 4))).shape
    (2, 12)
    """

    def forward(self, scope: Scope, x: Array) -> Array:
        require_array(self, x)
        if x.ndim < 1:
            raise ShapeError(
                f"{self}: expected input of shape (batch, ...), got (). To fix it: give it an axis"
            )
        # -1 is ambiguous for empty batches.
        return namespace(x).reshape(x, (x.shape[0], math.prod(x.shape[1:])))


@dataclass(frozen=True)
class Reshape(Layer):
    """Give each sample another shape; the axis of the batch stays. No parameters.

    Parameters
    ----------
    shape
        Of a sample; one of the lengths may be -1, which is what is left.

    Examples
    --------
    >>> import numpy as np
    >>> Reshape((4, -1))({}, np.ones((2, 24))).shape
    (2, 4, 6)
    """

    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        require(
            self,
            "shape",
            lambda shape: (
                isinstance(shape, tuple | list)
                and all(type(n) is int and (n > 0 or n == -1) for n in shape)
                and shape.count(-1) <= 1
            ),
            "a tuple of whole numbers of 1 or more, one of which may be -1",
        )

    def forward(self, scope: Scope, x: Array) -> Array:
        require_array(self, x)
        size, known = math.prod(x.shape[1:]), math.prod(n for n in self.shape if n != -1)
        if x.ndim < 1 or (size % known if -1 in self.shape else size != known):
            raise ShapeError(
                f"{self}: expected samples of {'a multiple of ' * (-1 in self.shape)}{known} "
                f"elements, got shape {tuple(x.shape)}. To fix it: choose a shape that holds {size}"
            )
        # Not -1 itself, which is ambiguous for empty batches.
        shape = (size // known if n == -1 else n for n in self.shape)
        return namespace(x).reshape(x, (x.shape[0], *shape))


@dataclass(frozen=True)
class Permute(Layer):
    """Put the axes of each sample in another order. No parameters.

    Parameters
    ----------
    axes
        The axes of the input from 1 on, in the order that they get; axis 0, of the batch, stays.

    Examples
    --------
    >>> import numpy as np
    >>> Permute((3, 1, 2))({}, np.ones((2, 28, 30, 3))).shape
    (2, 3, 28, 30)
    """

    axes: tuple[int, ...]

    def __post_init__(self) -> None:
        require(
            self,
            "axes",
            lambda axes: (
                isinstance(axes, tuple | list) and sorted(axes) == list(range(1, len(axes) + 1))
            ),
            "a tuple of 1, 2, ... in some order",
        )

    def forward(self, scope: Scope, x: Array) -> Array:
        require_array(self, x)
        if x.ndim != len(self.axes) + 1:
            raise ShapeError(
                f"{self}: expected input of {len(self.axes) + 1} axes, the batch among them, got "
                f"shape {tuple(x.shape)}. To fix it: name each axis from 1 on once"
            )
        return namespace(x).permute_dims(x, (0, *self.axes))
