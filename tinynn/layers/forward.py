"""One pass through a network, from outside: pure functions of parameters, state and inputs."""

from typing import Any, NamedTuple

from backends import scoped
from tinynn import tree
from tinynn.config import found, label
from tinynn.layers.inputs import wrong_number
from tinynn.layers.scope import Array, Pass, Scope, Tree
from tinynn.trace import Namespace, bottom

_NONE: dict[str, Array] = {}


class Forward(NamedTuple):
    """The results of one pass through a network.

    Attributes
    ----------
    output
        The network's output.
    state
        The state after the pass, a tree like the one before.
    losses
        Path -> the 0-d array that a layer added with `scope.add_loss`.
    taps
        Path -> the array that a layer showed with `scope.tap`.
    draws
        Whether a layer drew random numbers.
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
    dropping: bool = False,
    first_row: int = 0,
    perturbations: dict[str, Array] | None = None,
    tapping: bool = False,
    compute_dtype: Any = None,
    shard: Any = None,
) -> Forward:
    """Run one pass through a network: all that `net.apply` gives, and added losses and taps.

    Parameters
    ----------
    net
        A layer or a plain function.
    params, state
        As `net.init` makes them.
    inputs
        Arrays or trees of them.
    key
        (2,) int32 of backends.random, or an int seed; None if no layer draws.
    training
        Whether layers act as in training.
    dropping
        Whether dropout drops outside of training too, as `tinynn.uncertainty.monte_carlo` has it.
    first_row
        The number of the inputs' first row in the whole batch.
    perturbations
        Path -> an array to add to what is tapped there.
    tapping
        Whether `Linear` taps its "input" and "output".
    compute_dtype
        What layers compute in, "bfloat16" for one. Inputs and parameters are cast to it,
        and the output back to the dtype of the parameters. None computes in that.
    shard
        The `tinynn.parallel.Shard` that the inputs are of a batch, in training on several
        processes; None: all of it.
    """
    for name, given in (("params", params), ("state", state)):
        if not isinstance(given, dict):
            raise TypeError(
                f"{label(net)}: expected {name} as net.init makes them, a dict, got "
                f"{type(given).__name__}. To fix it: call net(params, x), or net.apply(params, "
                "state, x); in a layer's forward, call a child by scope(name, layer, x)"
            )
    this = Pass(
        inputs,
        (params, state),
        key,
        compute_dtype=compute_dtype,
        training=training,
        dropping=dropping,
        first_row=first_row,
        perturbations=perturbations,
        tapping=tapping,
        shard=shard,
    )
    output = _enter(this, net, params, state, inputs)
    unknown = this.perturbations.keys() - this.taps.keys()
    if unknown:
        raise ValueError(
            f"{label(net)}: expected perturbations of what is tapped, "
            f"{', '.join(this.taps) or 'nothing'}, got {', '.join(sorted(unknown))}. To fix it: "
            "name them as Forward.taps does"
        )
    return _finish(this, state, output)


@scoped
def create(
    net: Any, key: Array | int, *inputs: Tree, dtype: Any = None, there: dict[str, Array] = _NONE
) -> tuple[dict[str, Any], dict[str, Any]]:
    """New parameters and state of a network for inputs like these; see `Layer.init`.

    there: by their path, arrays to take for those that would have their shape and dtype.
    """
    this = Pass(inputs, (), key, dtype=dtype, creating=there)
    if this.backend is None:
        got = ", ".join(type(given).__name__ for given in inputs) or "none"
        raise ValueError(
            f"init: expected an array among the inputs, or a key that is one, got {got}. To fix "
            "it: make one of it, backends.get(...).asarray(x)"
        )
    if dtype is not None:
        inputs = tree.map(lambda a: _floating_as(a, this.dtype, this.backend), inputs)
    for path, each in found(net, ""):
        raise ValueError(
            f"{label(net)}: expected one number as {path}, got {len(each)}. To fix it: give one, "
            "or train a network with each of them: tinynn.fit_many"
        )
    params: dict[str, Any] = {}
    state: dict[str, Any] = {}
    with this.backend.scope():
        _enter(this, net, params, state, inputs)
    return _pruned(params), _pruned(state)


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
    if this.space is not None:
        inputs = tree.map(this.lift, inputs)
    inputs = this.cast(inputs)
    scope = (Scope(this, net, params, state, (), inputs),) if hasattr(net, "forward") else ()
    try:
        return net.forward(*scope, *inputs) if scope else net(*inputs)
    except TypeError as error:
        wrong = wrong_number(net, inputs)
        if wrong is not None:
            raise wrong from error
        raise


def _finish(this: Pass, state: dict[str, Any], output: Tree) -> Forward:
    updated = _updated(state, (), this.new_state) if this.new_state else state
    output, losses = this.uncast(output), this.uncast(this.losses)
    return Forward(output, updated, losses, this.taps, bool(this.draws))


def _updated(
    state: dict[str, Any], path: tuple[str, ...], new: dict[tuple[str, ...], Array]
) -> dict[str, Any]:
    """The state with the new values in it; the dict that came is not changed."""
    out = {}
    for name, value in state.items():
        at = (*path, name)
        out[name] = _updated(value, at, new) if isinstance(value, dict) else new.get(at, value)
    return out


def _pruned(params: dict[str, Any]) -> dict[str, Any]:
    """Without the dicts of layers that have nothing to keep."""
    kept = ((k, _pruned(v) if isinstance(v, dict) else v) for k, v in params.items())
    return {name: value for name, value in kept if not isinstance(value, dict) or value}
