"""BatchNorm and LayerNorm."""

import math
from dataclasses import dataclass

from tinynn.config import require
from tinynn.functional import ShapeError
from tinynn.initializers import ones, zeros
from tinynn.rules.special import stop_gradient
from tinynn.trace import namespace

from .base import Array, Layer, Params, as_key, require_features, require_fit


def _scale_and_shift(params: Params, x: Array) -> Array:
    xp = namespace(x, params["weight"], params["bias"])
    return xp.add(xp.multiply(x, params["weight"]), params["bias"])


@dataclass(frozen=True)
class BatchNorm(Layer):
    """Each feature with mean 0 and variance 1 over the batch, then scaled and shifted.

    x: (batch, ..., features), the shape is kept; all axes but the last count as the batch.
    params: weight, bias, running_mean, running_var, each (features,). Inference uses the running
    statistics; training uses the batch's, and keeps
    running = momentum * running + (1 - momentum) * batch, outside any gradient.
    The variance is the biased one to normalise with and the unbiased one to keep, as PyTorch does
    (whose `momentum` is one minus this one). Training needs two samples or more (ShapeError).
    Source: Ioffe and Szegedy 2015, arXiv:1502.03167.

    >>> import numpy as np
    >>> x = np.asarray([[0.0], [2.0]])
    >>> layer = BatchNorm(epsilon=0.0)
    >>> y, params = layer.train(layer.init(0, x), x, key=0)
    >>> y.tolist(), params["running_mean"].round(3).tolist()
    ([[-1.0], [1.0]], [0.1])
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    uses_key = False

    def __post_init__(self) -> None:
        require(self, "momentum", lambda momentum: 0.0 <= momentum <= 1.0, "a number in [0, 1]")
        require(self, "epsilon", lambda epsilon: epsilon >= 0.0, "a number of 0 or more")

    def init(self, key: Array | int, x: Array) -> Params:
        starts = {"weight": ones, "bias": zeros, "running_mean": zeros, "running_var": ones}
        key, shape = as_key(key, x), (require_features(self, x),)
        return {name: start(key, shape, x.dtype) for name, start in starts.items()}

    def __call__(self, params: Params, x: Array) -> Array:
        mean, variance = params["running_mean"], params["running_var"]
        require_fit(self, x, mean.shape[0], mean.dtype)
        xp = namespace(x, mean, variance)
        normal = xp.divide(xp.subtract(x, mean), xp.sqrt(variance + self.epsilon))
        return _scale_and_shift(params, normal)

    def train(self, params: Params, x: Array, key: Array | int) -> tuple[Array, Params]:
        require_fit(self, x, params["weight"].shape[0], params["weight"].dtype)
        count = math.prod(x.shape[:-1])
        if count < 2:
            raise ShapeError(
                f"{self}: expected 2 samples or more in a training batch, got {count}, which "
                "have no variance; use a batch size that leaves no single sample over"
            )
        xp = namespace(x)
        axes = tuple(range(x.ndim - 1))
        mean = xp.mean(x, axis=axes)
        centred = x - mean
        variance = xp.mean(centred * centred, axis=axes)
        y = _scale_and_shift(params, centred / xp.sqrt(variance + self.epsilon))
        batch = {"running_mean": mean, "running_var": variance * (count / (count - 1))}
        kept = {name: self._blend(params[name], value) for name, value in batch.items()}
        return y, {**params, **kept}

    def _blend(self, running: Array, batch: Array) -> Array:
        running, batch = stop_gradient(running), stop_gradient(batch)
        xp = namespace(running, batch)
        return xp.add(self.momentum * running, (1.0 - self.momentum) * batch)


@dataclass(frozen=True)
class LayerNorm(Layer):
    """Each sample with mean 0 and variance 1 over its features, then scaled and shifted.

    x: (batch, ..., features), the shape is kept. params: weight, bias, each (features,).
    Source: Ba, Kiros and Hinton 2016, arXiv:1607.06450.

    >>> import numpy as np
    >>> x = np.asarray([[0.0, 2.0]])
    >>> layer = LayerNorm(epsilon=0.0)
    >>> layer(layer.init(0, x), x).tolist()
    [[-1.0, 1.0]]
    """

    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        require(self, "epsilon", lambda epsilon: epsilon >= 0.0, "a number of 0 or more")

    def init(self, key: Array | int, x: Array) -> Params:
        key, shape = as_key(key, x), (require_features(self, x),)
        return {"weight": ones(key, shape, x.dtype), "bias": zeros(key, shape, x.dtype)}

    def __call__(self, params: Params, x: Array) -> Array:
        require_fit(self, x, params["weight"].shape[0], params["weight"].dtype)
        xp = namespace(x)
        centred = x - xp.mean(x, axis=-1, keepdims=True)
        variance = xp.mean(centred * centred, axis=-1, keepdims=True)
        return _scale_and_shift(params, centred / xp.sqrt(variance + self.epsilon))
