"""Sequential."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from backends import random
from tinynn.config import label
from tinynn.functional import InputError
from tinynn.trace.scopes import scopes

from .base import Array, Layer, Params, as_key

Step: TypeAlias = Layer | Callable[[Array], Array]


@dataclass(frozen=True, init=False)
class Sequential(Layer):
    """Layers one after another; a plain function of one array is a layer too.

    params: {"0": params of the first layer, ...}, only those of layers that have any. Layer i is
    given fold_in(key, i). Errors name the layer by its path: "layer 2, Linear(32): ...".

    >>> import numpy as np
    >>> from tinynn.functional import relu
    >>> from tinynn.layers import Linear
    >>> net, x = Sequential(Linear(4), relu, Linear(2)), np.ones((3, 5))
    >>> params = net.init(0, x)
    >>> list(params), params["2"]["weight"].shape, net(params, x).shape
    (['0', '2'], (4, 2), (3, 2))
    """

    layers: tuple[Step, ...]

    def __init__(self, *layers: Step) -> None:
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

    @property
    def uses_key(self) -> bool:
        return any(isinstance(layer, Layer) and layer.uses_key for layer in self.layers)

    def init(self, key: Array | int, x: Array) -> Params:
        key, params = as_key(key, x), {}
        x = x[:1, ...] if x.ndim else x  # one row shows the widths
        for index, layer in enumerate(self.layers):
            if isinstance(layer, Layer):
                own = _at(index, layer, layer.init, random.fold_in(key, index), x)
                if own:
                    params[str(index)] = own
                x = _at(index, layer, layer, own, x)
            else:
                x = _at(index, layer, layer, x)
        return params

    def __call__(self, params: Params, x: Array) -> Array:
        for index, layer in enumerate(self.layers):
            own = (params.get(str(index), {}),) if isinstance(layer, Layer) else ()
            x = _at(index, layer, layer, *own, x)
        return x

    def train(self, params: Params, x: Array, key: Array | int) -> tuple[Array, Params]:
        key, trained = as_key(key, x), params
        for index, layer in enumerate(self.layers):
            if not isinstance(layer, Layer):
                x = _at(index, layer, layer, x)
                continue
            own = params.get(str(index), {})
            # Making a key costs a hundred operations.
            child_key = random.fold_in(key, index) if layer.uses_key else None
            x, new = _at(index, layer, layer.train, own, x, child_key)
            if new is not own:
                trained = {**trained, str(index): new}
        return x, trained


def _at(index: int, layer: Step, call: Callable[..., Any], *arguments: Any) -> Any:
    """The call, with the layer's place put into whatever it raises."""
    scopes.stack.append((index, layer))
    try:
        return call(*arguments)
    except InputError as error:
        error.path = f"{index}.{error.path}" if error.path else str(index)
        raise
    except Exception as error:
        error.add_note(f"in layer {index}, {label(layer)}")
        raise
    finally:
        scopes.stack.pop()
