"""BatchNorm and LayerNorm."""

import math
from dataclasses import KW_ONLY, dataclass

from tinynn.config import require
from tinynn.functional.errors import ShapeError
from tinynn.initializers import ones, zeros
from tinynn.rules.special import stop_gradient
from tinynn.trace import namespace

from .base import Layer, features
from .scope import Array, Scope


def _scale_and_shift(scope: Scope, x: Array) -> Array:
    weight = scope.param("weight", ones, (x.shape[-1],), scope.dtype)
    bias = scope.param("bias", zeros, (x.shape[-1],), scope.dtype)
    xp = namespace(x, weight, bias)
    return scope.narrowed(xp.add(xp.multiply(x, weight), bias))


@dataclass(frozen=True)
class BatchNorm(Layer):
    """Normalise each feature to mean 0 and variance 1 over the batch, then scale and shift it.

    Parameters
    ----------
    momentum
        The share of the old running statistics that is kept in each step; PyTorch's is one minus
        this.
    epsilon
        Added to the variance.

    Notes
    -----
    The input is (batch, ..., features), and the shape is kept; all axes but the last count as the
    batch.

    Parameters: weight and bias; state: mean and var; each (features,). Inference uses the state.
    Training uses the batch's own mean and variance, and keeps `momentum * state + (1 - momentum) *
    batch`, outside any gradient. The variance is the biased one to normalise with and the unbiased
    one to keep, as in PyTorch. Training needs two samples or more (`ShapeError`).

    References
    ----------
    Ioffe and Szegedy 2015, arXiv:1502.03167.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.asarray([[0.0], [2.0]])
    >>> layer = BatchNorm(epsilon=0.0)
    >>> y, state = layer.apply(*layer.init(0, x), x, training=True)
    >>> y.tolist(), state["mean"].round(3).tolist()
    ([[-1.0], [1.0]], [0.1])
    """

    _: KW_ONLY
    momentum: float = 0.9
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        require(self, "momentum", lambda momentum: 0.0 <= momentum <= 1.0, "a number in [0, 1]")
        require(self, "epsilon", lambda epsilon: epsilon >= 0.0, "a number of 0 or more")

    def forward(self, scope: Scope, x: Array) -> Array:
        shape, x = (features(self, x),), scope.widened(x)
        mean, variance = scope.state("mean", zeros, shape), scope.state("var", ones, shape)
        if not scope.training:
            xp = namespace(x, mean.value)
            normal = xp.divide(xp.subtract(x, mean.value), xp.sqrt(variance.value + self.epsilon))
            return _scale_and_shift(scope, normal)
        count = math.prod(x.shape[:-1])
        if count < 2:
            raise ShapeError(
                f"{self}: expected 2 samples or more in a training batch, got {count}, which "
                "have no variance; use a batch size that leaves no single sample over"
            )
        xp, axes = namespace(x), tuple(range(x.ndim - 1))
        batch_mean = xp.mean(x, axis=axes)
        centred = x - batch_mean
        batch_variance = xp.mean(centred * centred, axis=axes)
        y = _scale_and_shift(scope, centred / xp.sqrt(batch_variance + self.epsilon))
        mean.value = self._blend(mean.value, batch_mean)
        variance.value = self._blend(variance.value, batch_variance * (count / (count - 1)))
        return y

    def _blend(self, old: Array, batch: Array) -> Array:
        batch = stop_gradient(batch)  # sooner than the state does, so less is differentiated
        xp = namespace(old, batch)
        return xp.add(self.momentum * old, (1.0 - self.momentum) * batch)


@dataclass(frozen=True)
class LayerNorm(Layer):
    """Normalise each sample to mean 0 and variance 1 over its features, then scale and shift it.

    Parameters
    ----------
    epsilon
        Added to the variance.

    Notes
    -----
    The input is (batch, ..., features), and the shape is kept. Parameters: weight and bias, each
    (features,).

    References
    ----------
    Ba, Kiros and Hinton 2016, arXiv:1607.06450.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.asarray([[0.0, 2.0]])
    >>> layer = LayerNorm(epsilon=0.0)
    >>> layer(layer.init(0, x)[0], x).tolist()
    [[-1.0, 1.0]]
    """

    _: KW_ONLY
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        require(self, "epsilon", lambda epsilon: epsilon >= 0.0, "a number of 0 or more")

    def forward(self, scope: Scope, x: Array) -> Array:
        features(self, x)
        x = scope.widened(x)
        xp = namespace(x)
        centred = x - xp.mean(x, axis=-1, keepdims=True)
        variance = xp.mean(centred * centred, axis=-1, keepdims=True)
        return _scale_and_shift(scope, centred / xp.sqrt(variance + self.epsilon))
