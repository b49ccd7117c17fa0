"""The learning rates of an optimizer in a state: read for any, set where they are `Adjustable`."""

from collections.abc import Iterator, Mapping
from typing import Any

from tinynn.config import label
from tinynn.trace import namespace

from .base import State
from .composed import Accumulate, Averaged, Chain, Groups
from .scaling import LossScaling
from .schedules import StatefulSchedule
from .sparse import KeepZeros
from .stateful import Adjustable


def learning_rates(optimizer: Any, state: State) -> dict[str, Any]:
    """The learning rate of the step to come, of each optimizer within an optimizer.

    The names are those of the states: "" for an optimizer by itself, the place in a `Chain`, the
    pattern in `Groups`. A rate is a number where it is fixed, else a 0-d array.

    Parameters
    ----------
    optimizer
        An optimizer, others within it or not.
    state
        Its state.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.optim import Adam, CosineDecay
    >>> optimizer = Adam(CosineDecay(0.5, steps=100))
    >>> float(learning_rates(optimizer, optimizer.init([np.ones(1)]))[""])
    0.5
    """
    return {name: _rate(each, own) for name, each, own in _within(optimizer, state)}


def set_learning_rate(optimizer: Any, state: State, value: float | Mapping[str, float]) -> State:
    """The state with another learning rate, or one by name for some that `learning_rates` names.

    Raises ValueError for a rate that is no `Adjustable`, and for a name that is not there.

    Parameters
    ----------
    optimizer
        An optimizer whose learning rate is `Adjustable`.
    state
        Its state, which stays as it is.
    value
        The rate for all, or a mapping of name -> rate.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.optim import SGD, Adjustable
    >>> optimizer, params = SGD(Adjustable(1.0)), [np.ones(1)]
    >>> state = set_learning_rate(optimizer, optimizer.init(params), 0.25)
    >>> optimizer.update([np.ones(1)], state, params)[0][0].tolist()
    [0.75]
    """
    there = {name: (each, own) for name, each, own in _within(optimizer, state)}
    wanted = value if isinstance(value, Mapping) else dict.fromkeys(there, value)
    if unknown := sorted(wanted.keys() - there.keys()):
        raise ValueError(
            f"{label(optimizer)}: expected the names of learning rates, "
            f"{', '.join(map(repr, there)) or 'of which there are none'}, got {unknown}. To "
            "fix it: name those that learning_rates gives"
        )
    for name, rate in wanted.items():
        each, own = there[name]
        if not isinstance(each.learning_rate, Adjustable):
            raise ValueError(
                f"{label(each)}: expected a learning rate that can be set, got "
                f"{each.learning_rate}. To fix it: write {type(each).__name__}(Adjustable("
                f"{each.learning_rate if isinstance(each.learning_rate, float) else 0.01}))"
            )
        kept = own["schedules"]["learning_rate"]
        own = own | {
            "schedules": own["schedules"] | {"learning_rate": each.learning_rate.at(rate, kept)}
        }
        state = _replaced(state, own, there[name][1])
    return state


def _rate(optimizer: Any, state: State) -> Any:
    given = optimizer.learning_rate
    if not callable(given):
        return given
    step = state["step"]
    xp = namespace(step)
    if not isinstance(given, StatefulSchedule):
        return given(xp.astype(step, xp.float32))
    kept = state["schedules"]["learning_rate"]
    return given(xp.astype(step, next(iter(kept.values())).dtype), kept)


def _within(optimizer: Any, state: Any, name: str = "") -> Iterator[tuple[str, Any, State]]:
    """(name, optimizer, its state) of all within that have a learning rate."""
    parts: list[tuple[str, Any]] = []
    if isinstance(optimizer, Chain):
        parts = [(str(place), part) for place, part in enumerate(optimizer.parts)]
    elif isinstance(optimizer, Groups):
        parts = [(pattern, each) for pattern, each in optimizer.groups if each is not None]
    elif isinstance(optimizer, Accumulate | Averaged | KeepZeros | LossScaling):
        yield from _within(optimizer.optimizer, state["optimizer"], name)
    elif hasattr(optimizer, "learning_rate"):
        yield name, optimizer, state
    for key, part in parts:
        yield from _within(part, state[key], f"{name}/{key}" if name else key)


def _replaced(state: Any, new: State, old: State) -> Any:
    """The nested dicts with one of them, known by identity, replaced."""
    if state is old:
        return new
    if not isinstance(state, dict):
        return state
    return {name: _replaced(value, new, old) for name, value in state.items()}
