"""Layers: frozen dataclasses of settings. Parameters are made from the data and kept beside them.

A layer has `init(key_or_seed, x) -> params`, `layer(params, x) -> y` for inference and
`train(params, x, key) -> (y, params)` for training. To write one, derive from `Layer`.
"""

from collections.abc import Mapping
from typing import Any

from tinynn import config, functional, initializers
from tinynn.functional import DtypeError, InputError, ShapeError

from .base import Layer, merge, split
from .dropout import Dropout
from .flatten import Flatten
from .linear import Linear
from .normalization import BatchNorm, LayerNorm
from .sequential import Sequential

__all__ = [
    "BatchNorm",
    "Dropout",
    "DtypeError",
    "Flatten",
    "InputError",
    "Layer",
    "LayerNorm",
    "Linear",
    "Sequential",
    "ShapeError",
    "from_config",
    "merge",
    "split",
    "to_config",
]

_LAYERS = (BatchNorm, Dropout, Flatten, LayerNorm, Linear, Sequential)
_KNOWN: dict[str, Any] = {
    **{layer.__name__: layer for layer in _LAYERS},
    **{name: getattr(functional, name) for name in functional.__all__},
    **{name: getattr(initializers, name) for name in initializers.__all__},
}


def to_config(net: Any) -> Any:
    """The network's settings as dicts, lists, numbers and strings, such as JSON holds.

    Raises ValueError for what `from_config` could not find again, such as a lambda.

    >>> to_config(Sequential(Flatten(), functional.relu))
    {'class': 'Sequential', 'layers': [{'class': 'Flatten'}, {'function': 'relu'}]}
    """
    return config.to_config(net, _KNOWN)


def from_config(description: Any, custom: Mapping[str, Any] | None = None) -> Any:
    """The network that `to_config` wrote down.

    custom: name -> class or function, for layers and functions of your own. Nothing is imported
    by name; a name that is neither of tinynn nor in `custom` raises ValueError.

    >>> from_config({"class": "Linear", "features": 3}) == Linear(3)
    True
    """
    return config.from_config(description, {**_KNOWN, **(custom or {})})
