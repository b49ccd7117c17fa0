"""Layers that normalise: by the batch, by the sample, by groups and channels of it."""

import math
from dataclasses import KW_ONLY, dataclass

from tinynn.config import require, require_count
from tinynn.functional.errors import ShapeError
from tinynn.functional.windows import channels_last
from tinynn.initializers import ones, zeros
from tinynn.rules.special import stop_gradient
from tinynn.trace import namespace

from .base import Layer, features
from .scope import Array, Scope


def _scale(scope: Scope, x: Array) -> Array:
    weight = scope.param("weight", ones, (x.shape[-1],), scope.dtype)
    return namespace(x, weight).multiply(x, weight)


def _scale_and_shift(scope: Scope, x: Array) -> Array:
    x = _scale(scope, x)
    bias = scope.param("bias", zeros, (x.shape[-1],), scope.dtype)
    return scope.narrowed(namespace(x, bias).add(x, bias))


def _normal(x: Array, axis: int | tuple[int, ...], epsilon: float) -> Array:
    """x with mean 0 and variance 1 along the axes."""
    xp = namespace(x)
    centred = x - xp.mean(x, axis=axis, keepdims=True)
    variance = xp.mean(centred * centred, axis=axis, keepdims=True)
    return centred / xp.sqrt(variance + epsilon)


@dataclass(frozen=True)
class _Norm(Layer):
    _: KW_ONLY
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        require(self, "epsilon", lambda n: 0.0 <= n < math.inf, "a finite number of 0 or more")


@dataclass(frozen=True)
class _ChannelNorm(_Norm):
    """A norm that knows channels, which its `normalised` finds in the last axis."""

    _: KW_ONLY
    channels: str = "last"

    def __post_init__(self) -> None:
        super().__post_init__()
        channels_last(type(self).__name__, self.channels)

    def forward(self, scope: Scope, x: Array) -> Array:
        features(self, x)
        if self.channels == "last":
            return self.normalised(scope, scope.widened(x))
        xp = namespace(x)
        y = self.normalised(scope, scope.widened(xp.moveaxis(x, 1, -1)))
        return namespace(y).moveaxis(y, -1, 1)

    def normalised(self, scope: Scope, x: Array) -> Array:
        """The output for x: (batch, ..., channels)."""
        raise NotImplementedError


@dataclass(frozen=True)
class BatchNorm(_ChannelNorm):
    """Normalise each feature to mean 0 and variance 1 over the batch, then scale and shift it.

    Parameters
    ----------
    momentum
        The share of the old running statistics that is kept in each step; PyTorch's is one minus
        this.
    epsilon
        Added to the variance.
    channels
        "last" or "first": the axis of the features.
    synchronized
        Whether training on several processes takes the statistics of the whole batch; else each
        process normalises its rows by their own.

    Notes
    -----
    The input is (batch, ..., features), and the shape is kept; all axes but that of the features
    count as the batch. On one process `synchronized` changes nothing. Without it the state of
    several is the mean of theirs.

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
    synchronized: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "momentum", lambda momentum: 0.0 <= momentum <= 1.0, "a number in [0, 1]")

    def normalised(self, scope: Scope, x: Array) -> Array:
        shape = (int(x.shape[-1]),)
        mean, variance = scope.state("mean", zeros, shape), scope.state("var", ones, shape)
        if not scope.training:
            xp = namespace(x, mean.value)
            normal = xp.divide(xp.subtract(x, mean.value), xp.sqrt(variance.value + self.epsilon))
            return _scale_and_shift(scope, normal)
        count = math.prod(x.shape[:-1])
        if self.synchronized and scope.whole_rows is not None:
            count = count // int(x.shape[0]) * scope.whole_rows
        if count < 2:
            raise ShapeError(
                f"{self}: expected 2 samples or more in a training batch, got {count}, which "
                "have no variance. To fix it: use a batch size that leaves no single sample over"
            )
        xp = namespace(x)
        batch_mean = self._mean(scope, x)
        centred = x - batch_mean
        batch_variance = self._mean(scope, centred * centred)
        y = _scale_and_shift(scope, centred / xp.sqrt(batch_variance + self.epsilon))
        mean.value = self._blend(mean.value, batch_mean)
        variance.value = self._blend(variance.value, batch_variance * (count / (count - 1)))
        return y

    def _mean(self, scope: Scope, x: Array) -> Array:
        if self.synchronized:
            return scope.mean_of_batch(x)
        return namespace(x).mean(x, axis=tuple(range(x.ndim - 1)))

    def _blend(self, old: Array, batch: Array) -> Array:
        batch = stop_gradient(batch)  # sooner than the state does, so less is differentiated
        xp = namespace(old, batch)
        return xp.add(self.momentum * old, (1.0 - self.momentum) * batch)


@dataclass(frozen=True)
class LayerNorm(_Norm):
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

    def forward(self, scope: Scope, x: Array) -> Array:
        features(self, x)
        return _scale_and_shift(scope, _normal(scope.widened(x), -1, self.epsilon))


@dataclass(frozen=True)
class RMSNorm(_Norm):
    """Divide each sample by the root of the mean of its squares over its features, and scale it.

    Parameters
    ----------
    epsilon
        Added to the mean of the squares.

    Notes
    -----
    The input is (batch, ..., features), and the shape is kept. Parameter: weight (features,).

    References
    ----------
    Zhang and Sennrich 2019, arXiv:1910.07467.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.asarray([[3.0, 3.0]])
    >>> layer = RMSNorm(epsilon=0.0)
    >>> layer(layer.init(0, x)[0], x).tolist()
    [[1.0, 1.0]]
    """

    def forward(self, scope: Scope, x: Array) -> Array:
        features(self, x)
        x = scope.widened(x)
        xp = namespace(x)
        scale = xp.sqrt(xp.mean(x * x, axis=-1, keepdims=True) + self.epsilon)
        return scope.narrowed(_scale(scope, x / scale))


@dataclass(frozen=True)
class GroupNorm(_ChannelNorm):
    """Normalise each group of channels of a sample to mean 0 and variance 1; scale and shift it.

    Parameters
    ----------
    groups
        The number of groups, which divides that of the channels; 1 normalises whole samples.
    epsilon
        Added to the variance.
    channels
        "last" or "first": the axis of the channels.

    Notes
    -----
    The input is (batch, ..., channels), and the shape is kept; a group is channels that stand side
    by side, at all positions. Parameters: weight and bias, each (channels,).

    References
    ----------
    Wu and He 2018, arXiv:1803.08494.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.asarray([[0.0, 2.0, 10.0, 20.0]])
    >>> layer = GroupNorm(2, epsilon=0.0)
    >>> layer(layer.init(0, x)[0], x).tolist()
    [[-1.0, 1.0, -1.0, 1.0]]
    """

    groups: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count(self, "groups")

    def normalised(self, scope: Scope, x: Array) -> Array:
        channels = int(x.shape[-1])
        if channels % self.groups:
            raise ShapeError(
                f"{self}: expected input whose channels {self.groups} groups divide, got "
                f"{channels} channels. To fix it: choose groups that divide {channels}"
            )
        parts = (x.shape[0], math.prod(x.shape[1:-1]), self.groups, channels // self.groups)
        normal = _normal(namespace(x).reshape(x, parts), (1, 3), self.epsilon)
        return _scale_and_shift(scope, namespace(x).reshape(normal, x.shape))


@dataclass(frozen=True)
class InstanceNorm(_ChannelNorm):
    """Normalise each channel of a sample to mean 0 and variance 1; scale and shift it.

    Parameters
    ----------
    epsilon
        Added to the variance.
    channels
        "last" or "first": the axis of the channels.

    Notes
    -----
    The input is (batch, ..., channels), of two positions or more (`ShapeError`), and the shape is
    kept. Parameters: weight and bias, each (channels,).

    References
    ----------
    Ulyanov, Vedaldi and Lempitsky 2016, arXiv:1607.08022.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.asarray([[[0.0, 10.0], [2.0, 30.0]]])
    >>> layer = InstanceNorm(epsilon=0.0)
    >>> layer(layer.init(0, x)[0], x).tolist()
    [[[-1.0, -1.0], [1.0, 1.0]]]
    """

    def normalised(self, scope: Scope, x: Array) -> Array:
        if math.prod(x.shape[1:-1]) < 2:
            raise ShapeError(
                f"{self}: expected 2 positions or more in a sample, got shape {tuple(x.shape)} "
                "with channels last, which leaves no variance. To fix it: use LayerNorm or "
                "GroupNorm"
            )
        return _scale_and_shift(scope, _normal(x, tuple(range(1, x.ndim - 1)), self.epsilon))
