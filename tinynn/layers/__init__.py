"""Layers: frozen dataclasses of hyperparameters with one method, `forward(scope, x)`.

Parameters and state are made from the data and live beside them: `params, state = net.init(0, x)`,
`y = net(params, x)` for a network without state, `y, state = net.apply(params, state, x)` for any.
"""

from collections.abc import Mapping
from typing import Any

from tinynn import config, functional, initializers
from tinynn.functional.errors import DtypeError, InputError, ShapeError

from .activations import PReLU, Temperature
from .augmentation import Cutout, GaussianNoise, RandomCrop, RandomFlip, RandomShift
from .base import Layer
from .containers import Concatenate, Lambda, Parallel, Residual, Sequential
from .dropout import Dropout
from .experts import MixtureOfExperts
from .forward import Forward, run
from .linear import Bilinear, Linear
from .normalization import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from .reparametrization import SpectralNorm, WeightNorm
from .reshaping import Flatten, Permute, Reshape
from .scope import Scope, Variable
from .sequences import (
    GRU,
    LSTM,
    RNN,
    Bidirectional,
    Embedding,
    EmbeddingBag,
    MultiHeadAttention,
    PositionEmbedding,
    SinusoidalEncoding,
    Stacked,
    TransformerDecoderBlock,
    TransformerEncoderBlock,
)
from .spatial import (
    AdaptiveAvgPool,
    AdaptiveMaxPool,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    GlobalAvgPool,
    GlobalMaxPool,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    Pad,
    SqueezeExcite,
    Upsample,
)

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "AdaptiveAvgPool",
    "AdaptiveMaxPool",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "BatchNorm",
    "Bidirectional",
    "Bilinear",
    "Concatenate",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Cutout",
    "Dropout",
    "DtypeError",
    "Embedding",
    "EmbeddingBag",
    "Flatten",
    "Forward",
    "GaussianNoise",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "GroupNorm",
    "InputError",
    "InstanceNorm",
    "Lambda",
    "Layer",
    "LayerNorm",
    "Linear",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MixtureOfExperts",
    "MultiHeadAttention",
    "PReLU",
    "Pad",
    "Parallel",
    "Permute",
    "PositionEmbedding",
    "RMSNorm",
    "RandomCrop",
    "RandomFlip",
    "RandomShift",
    "Reshape",
    "Residual",
    "Scope",
    "Sequential",
    "ShapeError",
    "SinusoidalEncoding",
    "SpectralNorm",
    "SqueezeExcite",
    "Stacked",
    "Temperature",
    "TransformerDecoderBlock",
    "TransformerEncoderBlock",
    "Upsample",
    "Variable",
    "WeightNorm",
    "from_config",
    "run",
    "to_config",
]

_LAYERS = tuple(
    value
    for value in list(globals().values())
    if isinstance(value, type) and issubclass(value, Layer) and value is not Layer
)
_KNOWN: dict[str, Any] = {
    **{layer.__name__: layer for layer in _LAYERS},
    **{name: getattr(functional, name) for name in functional.__all__},
    **{name: getattr(initializers, name) for name in initializers.__all__},
}


def to_config(net: Any) -> Any:
    """The network's settings as dicts, lists, numbers and strings, such as JSON holds.

    Raises ValueError for what `from_config` could not find again, such as a lambda.

    Parameters
    ----------
    net
        A layer, or a plain function of `tinynn.functional`.

    Examples
    --------
    >>> to_config(Sequential(Flatten(), functional.relu))
    {'class': 'Sequential', 'layers': [{'class': 'Flatten'}, {'function': 'relu'}]}
    """
    return config.to_config(net, _KNOWN)


def from_config(description: Any, custom: Mapping[str, Any] | None = None) -> Any:
    """Build the network that `to_config` described.

    Parameters
    ----------
    description
        As `to_config` gives it.
    custom
        Name -> class or function, for layers and functions of your own.

    Examples
    --------
    >>> from_config({"class": "Linear", "features": 3}) == Linear(3)
    True
    """
    return config.from_config(description, {**_KNOWN, **(custom or {})})
