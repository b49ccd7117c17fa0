"""Monte Carlo dropout: the same rows again and again, each time with other entries dropped."""

import copy
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeAlias

from backends import random
from tinynn import functional, layers, tree
from tinynn.config import is_off, label
from tinynn.layers import run
from tinynn.layers.scope import Scope
from tinynn.trace import backend_of
from tinynn.transforms import vmap

Array: TypeAlias = Any


@dataclass(frozen=True)
class _AlwaysDropout(layers.Dropout):
    """Dropout in inference as well."""

    def forward(self, scope: Scope, x: Array) -> Array:
        if is_off(self.rate):
            return x
        return functional.dropout(x, self.rate, scope.random.key(), scope.first_row)


def monte_carlo(
    net: Any, params: Any, state: Any, *inputs: Any, draws: int = 50, seed: int = 0
) -> Array:
    """The outputs of a network whose `Dropout` layers go on dropping: (draws, samples, ...).

    All other layers act as in inference. The spread over the draws is what the network does not
    know, if dropout is taken for a variational approximation: `moments` and `class_information`
    measure it.

    Parameters
    ----------
    net, params, state
        As `tinynn.layers.run` takes them.
    inputs
        Arrays (samples, ...).
    draws
        How many, 1 or more.
    seed
        The same seed gives the same draws, on every library.

    Raises
    ------
    ValueError
        The network has no `Dropout` layer of a rate above 0.

    References
    ----------
    Gal and Ghahramani 2016, "Dropout as a Bayesian Approximation", ICML.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.layers import Dropout, Linear, Sequential
    >>> net, x = Sequential(Dropout(0.5), Linear(1)), np.ones((3, 2))
    >>> params, state = net.init(0, x)
    >>> monte_carlo(net, params, state, x, draws=10).shape
    (10, 3, 1)
    """
    if isinstance(draws, bool) or not hasattr(draws, "__index__") or draws < 1:
        raise ValueError(
            f"monte_carlo: draws: expected a whole number of 1 or more, got {draws!r}. To fix it: "
            "give draws=50"
        )
    found: list[Any] = []
    noisy = _dropping(net, found)
    if not found:
        raise ValueError(
            f"monte_carlo: expected a network with Dropout layers, got {label(net)}. To fix it: "
            "put layers.Dropout(0.1) into it and train it; or take an ensemble (tinynn.fit_many), "
            "or Model.laplace"
        )
    backend = backend_of(tree.leaves(inputs)[0])
    keys = random.bits(random.key(seed, backend), (draws, 2), 0)

    def once(key: Array) -> Any:
        return run(noisy, params, state, *inputs, key=key).output

    return vmap(once)(keys)


def _dropping(value: Any, found: list[Any]) -> Any:
    """The layer with each Dropout within it replaced; those are put to `found`."""
    if isinstance(value, layers.Dropout):
        found += [] if is_off(value.rate) else [value]
        return _AlwaysDropout(value.rate)
    if isinstance(value, tuple | list):
        return type(value)(_dropping(each, found) for each in value)
    if isinstance(value, dict):
        return {name: _dropping(each, found) for name, each in value.items()}
    if not is_dataclass(value) or isinstance(value, type):
        return value
    changed = copy.copy(value)  # not made anew, since a layer may not be made of its fields
    for field in fields(value):
        object.__setattr__(changed, field.name, _dropping(getattr(value, field.name), found))
    return changed
