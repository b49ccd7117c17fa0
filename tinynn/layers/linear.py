"""Linear and Bilinear."""

from dataclasses import KW_ONLY, dataclass

from tinynn import functional
from tinynn.config import require_count
from tinynn.functional.errors import ShapeError
from tinynn.initializers import Initializer, glorot_uniform, zeros
from tinynn.trace import namespace

from .base import Layer, features
from .scope import Array, Scope, Tree


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
        x = scope.as_float(x)
        if not scope.tapping:
            return functional.linear(x, weight, bias)
        return scope.tap("output", functional.linear(scope.tap("input", x), weight, bias))


@dataclass(frozen=True)
class Bilinear(Layer):
    """A form that is linear in each of two inputs: y[k] = a @ weight[:, :, k] @ b + bias[k].

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
    The inputs are a, (batch, ..., n), and b, (batch, ..., m), two or a pair; the output is
    (batch, ..., features). Parameters: weight (n, m, features) and bias (features,).

    Examples
    --------
    >>> import numpy as np
    >>> layer, a, b = Bilinear(3), np.ones((5, 2)), np.ones((5, 4))
    >>> layer(layer.init(0, a, b)[0], a, b).shape
    (5, 3)
    """

    features: int
    _: KW_ONLY
    bias: bool = True
    weight_init: Initializer = glorot_uniform
    bias_init: Initializer = zeros

    def __post_init__(self) -> None:
        require_count(self, "features")

    def forward(self, scope: Scope, *inputs: Tree) -> Array:
        pair = inputs[0] if len(inputs) == 1 else inputs
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ShapeError(
                f"{self}: expected two inputs, got "
                f"{len(pair) if isinstance(pair, tuple | list) else 1}. To fix it: give a pair of "
                "arrays"
            )
        shape = (*(features(self, x) for x in pair), self.features)
        a, b = (scope.as_float(x) for x in pair)
        if tuple(a.shape[:-1]) != tuple(b.shape[:-1]):
            raise ShapeError(
                f"{self}: expected two inputs that are alike but in their features, got shapes "
                f"{tuple(a.shape)} and {tuple(b.shape)}. To fix it: repeat or reshape one"
            )
        weight = scope.param("weight", self.weight_init, shape)
        bias = scope.param("bias", self.bias_init, shape[2:]) if self.bias else None
        xp = namespace(a, b, weight)
        products = xp.multiply(xp.expand_dims(a, axis=-1), xp.expand_dims(b, axis=-2))
        flat = xp.reshape(products, (*a.shape[:-1], shape[0] * shape[1]))
        return functional.linear(flat, xp.reshape(weight, (-1, self.features)), bias)
