"""Layers around a layer whose weight is made of other parameters."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any

from backends import random
from tinynn.config import require, require_count
from tinynn.functional.errors import ShapeError
from tinynn.initializers import Initializer
from tinynn.rules.special import stop_gradient
from tinynn.trace import namespace

from .base import Layer
from .scope import Array, Scope, Tree


@dataclass(frozen=True)
class _Reparametrized(Layer):
    layer: Layer
    _: KW_ONLY
    parameter: str = "weight"

    def __post_init__(self) -> None:
        require(self, "layer", lambda layer: isinstance(layer, Layer), "a layer")
        require(self, "parameter", lambda name: isinstance(name, str), "the name of a parameter")

    def forward(self, scope: Scope, *inputs: Tree) -> Tree:
        met: dict[str, bool] = {}  # the parameters, and which are made of others

        def get(
            scope: Scope, name: str, init: Initializer, shape: tuple[int, ...], dtype: Any
        ) -> Array:
            meant = name == self.parameter and len(shape) > 1
            met[f"{name} {shape}"] = meant
            if not meant:
                return scope.param(name, init, shape, dtype)
            return scope.narrowed(self.made(scope, name, init, shape))

        y = scope("layer", self.layer, *inputs, getter=get)
        if not any(met.values()):
            raise ShapeError(
                f"{self}: expected a layer with a parameter {self.parameter!r} of two axes or "
                f"more, got {', '.join(met) or 'none at all'}. To fix it: name another, parameter="
            )
        return y

    def made(self, scope: Scope, name: str, init: Initializer, shape: tuple[int, ...]) -> Array:
        """The weight, of parameters that the scope gives."""
        raise NotImplementedError


@dataclass(frozen=True)
class WeightNorm(_Reparametrized):
    """A layer whose weight has its length and its direction as two parameters.

    Parameters
    ----------
    layer
        The layer; those inside it are meant, too.
    parameter
        The name of the weight; it counts where it has two axes or more.

    Notes
    -----
    The weight is scale * direction / norm(direction), the norm over all axes but the last, that of
    the outputs. Parameters of the layer, in place of "weight": weight_direction, which begins as
    the weight would, and weight_scale (outputs,), which begins as its norm; a
    norm of 0 counts as 1.

    References
    ----------
    Salimans and Kingma 2016, arXiv:1602.07868.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.layers import Linear
    >>> layer, x = WeightNorm(Linear(3)), np.ones((5, 2))
    >>> params, state = layer.init(0, x)
    >>> {name: entry.shape for name, entry in params["layer"].items()}
    {'weight_direction': (2, 3), 'weight_scale': (3,), 'bias': (3,)}
    """

    def made(self, scope: Scope, name: str, init: Initializer, shape: tuple[int, ...]) -> Array:
        direction = scope.param(f"{name}_direction", init, shape, scope.dtype)
        xp = namespace(direction)
        axes = tuple(range(len(shape) - 1))
        squares = xp.sum(direction * direction, axis=axes)
        norm = xp.sqrt(xp.where(squares == 0, xp.ones_like(squares), squares))
        scale = scope.param(f"{name}_scale", lambda *_: norm, shape[-1:], scope.dtype)
        return namespace(direction, scale).multiply(direction, scale / norm)


@dataclass(frozen=True)
class SpectralNorm(_Reparametrized):
    """A layer whose weight is divided by its largest singular value.

    Parameters
    ----------
    layer
        The layer; those inside it are meant, too.
    parameter
        The name of the weight; it counts where it has two axes or more.
    iterations
        Of the power method, in each pass of training.
    epsilon
        The least length that a vector is divided by.

    Notes
    -----
    All axes of the weight but the last, that of the outputs, count as one. The singular value is
    found by the power method, which goes on from where the pass before left it: state weight_left
    (inputs,) and weight_right (outputs,), which no gradient sees. `init` makes 15 iterations;
    inference makes none.

    References
    ----------
    Miyato et al. 2018, arXiv:1802.05957.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.layers import Linear
    >>> layer, x = SpectralNorm(Linear(3)), np.ones((5, 2))
    >>> params, state = layer.init(0, x)
    >>> {name: entry.shape for name, entry in state["layer"].items()}
    {'weight_left': (2,), 'weight_right': (3,)}
    """

    _: KW_ONLY
    iterations: int = 1
    epsilon: float = 1e-12

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count(self, "iterations")
        require(self, "epsilon", lambda n: 0.0 < n < math.inf, "a finite number above 0")

    def made(self, scope: Scope, name: str, init: Initializer, shape: tuple[int, ...]) -> Array:
        weight = scope.param(name, init, shape, scope.dtype)
        matrix = namespace(weight).reshape(weight, (-1, shape[-1]))
        fixed = stop_gradient(matrix)

        def start(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
            return self._iterated(fixed, random.normal(key, shape, dtype), 15)[0]

        left = scope.state(f"{name}_left", start, (int(matrix.shape[0]),))
        right = scope.state(f"{name}_right", lambda *_: self._unit(left.value @ fixed), shape[-1:])
        if scope.training:
            left.value, right.value = self._iterated(fixed, left.value, self.iterations)
        xp = namespace(matrix, left.value)
        largest = xp.sum(xp.matmul(left.value, matrix) * right.value)
        xp = namespace(weight, largest)
        return xp.divide(weight, xp.where(largest == 0, xp.ones_like(largest), largest))

    def _iterated(self, matrix: Array, left: Array, times: int) -> tuple[Array, Array]:
        xp = namespace(matrix, left)
        for _ in range(times):
            right = self._unit(xp.matmul(left, matrix))
            left = self._unit(xp.matmul(matrix, right))
        return left, right

    def _unit(self, vector: Array) -> Array:
        xp = namespace(vector)
        norm = xp.sqrt(xp.sum(vector * vector))
        return vector / xp.where(norm > self.epsilon, norm, self.epsilon)
