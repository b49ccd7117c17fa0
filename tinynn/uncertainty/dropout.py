"""Monte Carlo dropout: the same rows again and again, each time with other entries dropped."""

from math import prod
from typing import Any, TypeAlias

from backends import random
from tinynn import tree
from tinynn.config import label
from tinynn.layers import run
from tinynn.trace import backend_of, namespace
from tinynn.transforms import vmap

Array: TypeAlias = Any

_NUMBERS = 2**23  # of the widest value, in the passes that are made at once


def monte_carlo(
    net: Any, params: Any, state: Any, *inputs: Any, draws: int = 50, seed: int = 0
) -> Array:
    """The outputs of a network whose dropout goes on: (draws, samples, ...).

    `Dropout` layers go on dropping, and what has a `dropout=`, such as attention; all else acts as
    in inference. The spread over the draws is what the network does not know, if dropout is taken
    for a variational approximation: `moments` and `class_information` measure it.

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
        The network has no dropout of a rate above 0.

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
    backend = backend_of(tree.leaves(inputs)[0])
    keys = random.bits(random.key(seed, backend), (draws, 2), 0)
    drawn = False

    def once(key: Array) -> Any:
        nonlocal drawn
        found = run(net, params, state, *inputs, key=key, dropping=True)
        drawn = drawn or found.draws
        return found.output

    most = max(1, _NUMBERS // _widest(params, inputs))
    parts = [vmap(once)(keys[k : min(k + most, draws), ...]) for k in range(0, draws, most)]
    if not drawn:
        raise ValueError(
            f"monte_carlo: expected a network with dropout, got {label(net)}, which draws "
            "nothing. To fix it: put layers.Dropout(0.1) into it and train it; or take an ensemble "
            "(tinynn.fit_many), or Model.laplace"
        )
    return tree.map(lambda *each: namespace(each[0]).concat(each, axis=0), *parts)


def _widest(params: Any, inputs: Any) -> int:
    """About how many numbers the widest value of a pass has."""
    first = tree.leaves(inputs)[0].shape
    last = [int(leaf.shape[-1]) for leaf in tree.leaves(params) if leaf.ndim]
    return max(1, prod(first[:-1]) * max([int(first[-1]), *last]))
