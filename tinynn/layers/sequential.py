"""Sequential."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from tinynn.config import label

from .base import Layer
from .scope import Array, Scope, Tree

LayerLike: TypeAlias = Layer | Callable[[Array], Array]


@dataclass(frozen=True, init=False)
class Sequential(Layer):
    """Layers one after another; a plain function of one array is a layer too.

    Parameters
    ----------
    *layers
        Layers, and functions of one array.

    Notes
    -----
    The children are named "0", "1", ... by their place, so one layer that stands in two places is
    two children. Errors name the layer by its path: "layer 2, Linear(32): ...".

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.functional import relu
    >>> from tinynn.layers import Linear
    >>> net, x = Sequential(Linear(4), relu, Linear(2)), np.ones((3, 5))
    >>> params, state = net.init(0, x)
    >>> list(params), params["2"]["weight"].shape, net(params, x).shape
    (['0', '2'], (4, 2), (3, 2))
    """

    layers: tuple[LayerLike, ...]

    def __init__(self, *layers: LayerLike) -> None:
        for index, layer in enumerate(layers):
            if isinstance(layer, type) or not callable(layer):
                several = isinstance(layer, list | tuple)
                hint = "Flatten() for a layer, relu for a function"
                raise TypeError(
                    f"Sequential: expected layer {index} to be a layer or a function, "
                    f"got {label(layer)} ({type(layer).__name__}); "
                    f"write {'Sequential(*layers)' if several else hint}"
                )
        object.__setattr__(self, "layers", layers)

    def forward(self, scope: Scope, *inputs: Tree) -> Any:
        for index, layer in enumerate(self.layers):
            inputs = (scope(str(index), layer, *inputs),)
        return inputs[0] if len(inputs) == 1 else inputs
