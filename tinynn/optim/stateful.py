"""Schedules with a state, which is kept in the optimizer's; for learning rates."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from tinynn.config import require
from tinynn.trace import namespace

from .schedules import (
    COUNT,
    NOT_NEGATIVE,
    Array,
    Schedule,
    StatefulSchedule,
    functions_for,
    is_count,
    is_number,
    is_plain_schedule,
)


@dataclass(frozen=True)
class Adjustable(StatefulSchedule):
    """A learning rate that can be set while training goes on, from a callback for one.

    The optimizer's state holds it: `set_learning_rate` and `Run.learning_rate` set it there.

    Parameters
    ----------
    initial
        The value until it is set.

    Examples
    --------
    >>> import numpy as np
    >>> rate = Adjustable(0.1)
    >>> state = rate.init(np.asarray(0.0))
    >>> float(rate(7, state)), float(rate(7, rate.at(0.05, state)))
    (0.1, 0.05)
    """

    initial: float

    def __post_init__(self) -> None:
        require(self, "initial", *NOT_NEGATIVE)

    def init(self, like: Array) -> dict[str, Array]:
        """The state to start from; a 0-d array of the dtype and on the device of `like`."""
        return self.at(self.initial, {"value": like})

    def at(self, value: float, state: dict[str, Array]) -> dict[str, Array]:
        """The state in which it has this value."""
        if not NOT_NEGATIVE[0](value):
            raise ValueError(f"Adjustable: expected a number of 0 or more, got {value!r}")
        like = state["value"]
        xp = namespace(like)
        return {"value": xp.full((), float(value), dtype=like.dtype, device=like.device)}

    def __call__(self, step: Any, state: dict[str, Array] | None = None) -> Any:
        """The value in this state; `initial` without one."""
        return self.initial if state is None else state["value"]


@dataclass(frozen=True)
class ReduceOnPlateau(StatefulSchedule):
    """A value that starts at `initial` and is multiplied by `factor` when the loss stops falling.

    It looks at the mean of the losses of every `every` steps: with as many as an epoch has, at the
    epoch's. It has fallen if it is below the least one so far by more than `threshold`, relative to
    that. After more than `patience` looks without, and again after `cooldown` further ones, the
    value is reduced, not below `minimum`. PyTorch's ReduceLROnPlateau, in its relative mode.

    For learning rates alone. Unlike other schedules it has a state, which is kept in the
    optimizer's, and `Optimizer.update` has to be given `value=`, the loss.

    Parameters
    ----------
    initial
        A number or a schedule.
    factor
        What the value is multiplied by, above 0 and below 1.
    patience
        Looks without improvement that are put up with.
    threshold
        The relative improvement that counts as one.
    cooldown
        Looks after a reduction that are not counted.
    every
        Steps from one look to the next.
    minimum
        The value is not reduced below it.

    Examples
    --------
    >>> import numpy as np
    >>> plateau, loss = ReduceOnPlateau(0.1, factor=0.5, patience=1), np.asarray(3.0)
    >>> state = plateau.init(loss)
    >>> for _ in range(3):
    ...     state = plateau.observe(state, loss)
    >>> float(plateau(np.asarray(3.0), state))
    0.05
    """

    needs: ClassVar[frozenset[str]] = frozenset({"value"})

    initial: "float | Schedule"
    _: KW_ONLY
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    cooldown: int = 0
    every: int = 1
    minimum: float = 0.0

    def __post_init__(self) -> None:
        expected = "a number of 0 or more, or a schedule without a state"
        require(self, "initial", lambda a: is_plain_schedule(a) or NOT_NEGATIVE[0](a), expected)
        require(self, "factor", lambda f: is_number(f) and 0 < f < 1, "a number above 0, below 1")
        for name in ("patience", "cooldown"):
            require(self, name, lambda n: n == 0 or is_count(n), "a whole number of 0 or more")
        require(self, "every", *COUNT)
        for name in ("threshold", "minimum"):
            require(self, name, *NOT_NEGATIVE)

    def init(self, like: Array) -> dict[str, Array]:
        """The state to start from; 0-d arrays of the dtype and on the device of `like`."""
        xp = namespace(like)

        def number(value: float) -> Array:
            return xp.full((), value, dtype=like.dtype, device=like.device)

        return {
            "scale": number(1.0),
            "best": number(math.inf),
            "bad": number(0.0),
            "cooldown": number(0.0),
            "sum": number(0.0),
            "count": number(0.0),
        }

    def observe(self, state: dict[str, Array], value: Array) -> dict[str, Array]:
        """The state after one more loss."""
        xp = namespace(value, *state.values())
        if value.dtype != state["sum"].dtype:
            value = xp.astype(value, state["sum"].dtype)
        total, count = xp.add(state["sum"], value), state["count"] + 1.0
        zero = xp.zeros_like(total)
        fell = total / self.every < state["best"] * (1.0 - self.threshold)
        bad = xp.where(fell, zero, state["bad"] + 1.0)
        cooling = state["cooldown"] > 0.0
        bad = xp.where(cooling, zero, bad)
        cooldown = xp.where(cooling, state["cooldown"] - 1.0, state["cooldown"])
        reduced = bad > float(self.patience)
        seen = {
            "scale": xp.where(reduced, state["scale"] * self.factor, state["scale"]),
            "best": xp.where(fell, total / self.every, state["best"]),
            "bad": xp.where(reduced, zero, bad),
            "cooldown": xp.where(reduced, zero + float(self.cooldown), cooldown),
            "sum": zero,
            "count": zero,
        }
        if self.every == 1:
            return seen
        waiting = state | {"sum": total, "count": count}
        looked = count >= float(self.every)
        return {name: xp.where(looked, seen[name], waiting[name]) for name in state}

    def __call__(self, step: Any, state: dict[str, Array] | None = None) -> Any:
        """The value at this step in this state; `initial`'s without one."""
        xp = functions_for(step)
        first = self.initial(step) if isinstance(self.initial, Schedule) else self.initial
        if state is None:
            return first
        value = first * state["scale"]
        if not self.minimum:
            return value
        # PyTorch's: what is below the minimum from the start is left there.
        return xp.where(state["scale"] < 1.0, xp.maximum(value, self.minimum), value)
