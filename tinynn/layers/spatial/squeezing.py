"""Squeeze and excite: a weight for each channel, made of all channels' means."""

from dataclasses import KW_ONLY, dataclass

from tinynn import functional
from tinynn.config import require_count
from tinynn.functional.errors import ShapeError
from tinynn.functional.windows import channels_last
from tinynn.layers.base import Layer, features
from tinynn.layers.linear import Linear
from tinynn.layers.scope import Array, Scope
from tinynn.trace import namespace


@dataclass(frozen=True)
class SqueezeExcite(Layer):
    """Channels scaled by weights between 0 and 1 that are made of the means of all channels.

    Parameters
    ----------
    ratio
        How many times fewer features the hidden layer has than there are channels; one at least.
    channels
        "last" or "first".

    Notes
    -----
    The input is (batch, ..., channels), and the shape is kept. Children: "squeeze" and "excite",
    each a `Linear`, with relu between them and a sigmoid behind.

    References
    ----------
    Hu, Shen and Sun 2017, arXiv:1709.01507.

    Examples
    --------
    >>> import numpy as np
    >>> layer, x = SqueezeExcite(4), np.ones((2, 5, 5, 8))
    >>> params, state = layer.init(0, x)
    >>> params["squeeze"]["weight"].shape, layer(params, x).shape
    ((8, 2), (2, 5, 5, 8))
    """

    ratio: int = 16
    _: KW_ONLY
    channels: str = "last"

    def __post_init__(self) -> None:
        require_count(self, "ratio")
        channels_last(type(self).__name__, self.channels)

    def forward(self, scope: Scope, x: Array) -> Array:
        features(self, x)
        if x.ndim < 3 or 0 in x.shape[1:]:
            raise ShapeError(
                f"{self}: expected input with spatial axes, no axis empty, got shape "
                f"{tuple(x.shape)}. To fix it: put it before the layer that flattens"
            )
        axis = -1 if self.channels == "last" else 1
        spatial = tuple(i for i in range(1, x.ndim) if i != axis % x.ndim)
        x, count = scope.as_float(x), int(x.shape[axis])
        xp = namespace(x)
        means = scope.narrowed(xp.mean(scope.widened(x), axis=spatial))
        hidden = functional.relu(scope("squeeze", Linear(max(count // self.ratio, 1)), means))
        weights = functional.sigmoid(scope("excite", Linear(count), hidden))
        xp = namespace(x, weights)  # of which x may be the data, and the weights be traced
        for i in spatial:
            weights = xp.expand_dims(weights, axis=i)
        return xp.multiply(x, weights)
