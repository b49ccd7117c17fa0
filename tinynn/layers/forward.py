"""One pass through a network, from outside: pure functions of parameters, state and inputs."""

from typing import Any, NamedTuple

import backends
from backends import random, scoped
from tinynn import tree
from tinynn.config import label
from tinynn.layers.scope import Array, Pass, Scope, Tree
from tinynn.trace import Namespace, bottom, plain


class Forward(NamedTuple):
    """What one pass through a network gives.

    Attributes:
        output: the network's output.
        state: the state after the pass, a tree like the one before.
        losses: path -> the 0-d array that a layer added with `scope.add_loss`.
        taps: path -> the array that a layer showed with `scope.tap`.
        draws: whether a layer drew random numbers.
    """

    output: Tree
    state: dict[str, Any]
    losses: dict[str, Array]
    taps: dict[str, Array]
    draws: bool


@scoped
def run(
    net: Any,
    params: dict[str, Any],
    state: dict[str, Any],
    *inputs: Tree,
    key: Array | int | None = None,
    training: bool = False,
    first_row: int = 0,
    perturbations: dict[str, Array] | None = None,
) -> Forward:
    """One pass through a network: everything that `net.apply` gives, and more.

    Args:
        net: a layer or a plain function.
        params, state: as `net.init` makes them.
        inputs: arrays or trees of them.
        key: (2,) int32 of backends.random, or an int seed; None if no layer draws.
        training: whether layers act as in training.
        first_row: the number of the inputs' first row in the whole batch.
        perturbations: path -> an array to add to what is tapped there.
    """
    if not isinstance(params, dict):
        raise TypeError(
            f"{label(net)}: expected parameters in a dict, as params, state = net.init(0, x) makes "
            f"them, got {type(params).__name__}. To fix it: take the params apart from the state"
        )
    this = Pass(
        [*tree.leaves(inputs), _first(params)],
        training=training,
        first_row=first_row,
        perturbations=perturbations,
    )
    this.key = _as_key(key, this)
    return _finish(this, state, _enter(this, net, params, state, inputs))


@scoped
def create(
    net: Any, key: Array | int, *inputs: Tree, dtype: Any = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """New parameters and state of a network for inputs like these; see `Layer.init`."""
    this = Pass([*tree.leaves(inputs), key], creating=True)
    if this.backend is None:
        raise ValueError("init: expected an array among the inputs, or a key that is one")
    if dtype is not None:
        this.dtype = this.backend.dtypes()[this.backend.dtype_name(dtype)]
        inputs = tree.map(lambda a: _floating_as(a, this.dtype, this.backend), inputs)
    elif this.dtype is None:
        this.dtype = this.backend.default_float
    this.key = _as_key(key, this)
    params: dict[str, Any] = {}
    state: dict[str, Any] = {}
    with this.backend.scope():
        _enter(this, net, params, state, inputs)
    return _pruned(params), _pruned(state)


def _first(params: Any) -> Any:
    """One of the parameters, by which to tell what they are like; None if there are none."""
    while isinstance(params, dict):
        params = next(iter(params.values()), None)
    return params


def _as_key(key: Array | int | None, this: Pass) -> Array | None:
    if key is None or hasattr(key, "dtype"):
        return key
    return random.key(int(key), this.backend or backends.get(backends.names()[0]))


def _floating_as(array: Array, dtype: Any, backend: Any) -> Array:
    xp = backend.xp
    floating = hasattr(array, "dtype") and xp.isdtype(bottom(array).dtype, "real floating")
    return Namespace(xp).astype(array, dtype) if floating and array.dtype != dtype else array


def _enter(
    this: Pass,
    net: Any,
    params: dict[str, Any],
    state: dict[str, Any],
    inputs: tuple[Tree, ...],
) -> Tree:
    if not hasattr(net, "forward"):
        return net(*inputs)
    return net.forward(Scope(this, net, params, state, (), inputs), *inputs)


def _finish(this: Pass, state: dict[str, Any], output: Tree) -> Forward:
    updated = _updated(state, (), this.new_state) if this.new_state else state
    return Forward(
        tree.map(plain, output),
        updated,
        {path: plain(value) for path, value in this.losses.items()},
        {path: plain(value) for path, value in this.taps.items()},
        bool(this.draws),
    )


def _updated(
    state: dict[str, Any], path: tuple[str, ...], new: dict[tuple[str, ...], Array]
) -> dict[str, Any]:
    """The state with the new values in it; the dict that came is not changed."""
    out = {}
    for name, value in state.items():
        at = (*path, name)
        out[name] = (
            _updated(value, at, new) if isinstance(value, dict) else plain(new.get(at, value))
        )
    return out


def _pruned(params: dict[str, Any]) -> dict[str, Any]:
    """Without the dicts of layers that have nothing to keep."""
    kept = ((k, _pruned(v) if isinstance(v, dict) else plain(v)) for k, v in params.items())
    return {name: value for name, value in kept if not isinstance(value, dict) or value}
