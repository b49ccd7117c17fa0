"""Schedules: frozen dataclasses that give a hyperparameter's value at a step.

Any hyperparameter of an optimizer takes one: `Adam(CosineDecay(0.001, steps=10_000))`. The first
step is step 0, and the count is the optimizer's own, in its state. Called with a 0-d array of a
real floating-point dtype it gives one like it, with a number a number. To write one, derive from
`Schedule`.
"""

import math
import numbers
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import accumulate
from types import SimpleNamespace
from typing import Any, ClassVar, TypeAlias

from tinynn.config import Configured, require
from tinynn.trace import namespace

Array: TypeAlias = Any

# The functions of the standard that schedules are written in, for plain numbers.
_NUMBERS = SimpleNamespace(
    cos=math.cos,
    floor=math.floor,
    maximum=max,
    minimum=min,
    zeros_like=lambda x: 0.0,
    where=lambda condition, a, b: a if condition else b,
)


def functions_for(step: Any) -> Any:
    """The functions that compute with this step, an array or a number."""
    return namespace(step) if hasattr(step, "dtype") else _NUMBERS


def is_number(value: Any) -> bool:
    """True for a finite number; a boolean is none."""
    return type(value) is not bool and isinstance(value, numbers.Real) and math.isfinite(value)


def is_count(value: Any) -> bool:
    """True for a whole number of 1 or more."""
    return is_number(value) and value == int(value) and value >= 1


COUNT = (is_count, "a whole number of 1 or more")
NUMBER = (is_number, "a finite number")
NOT_NEGATIVE = (lambda value: is_number(value) and value >= 0, "a number of 0 or more")
FACTOR = (lambda value: is_number(value) and 0 < value <= 1, "a number above 0 and at most 1")


class Schedule(Configured):
    """Base class of schedules; derive from it with a frozen dataclass and write `__call__`.

    Attributes
    ----------
    needs
        What `Optimizer.update` must be given for it, by keyword.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, step: Any) -> Any:
        """The value at this step, counted from 0: 0-d array to 0-d array, number to number."""
        raise NotImplementedError(f"{type(self).__name__} has no __call__(self, step)")


class StatefulSchedule(Schedule):
    """Base class of schedules with a state, which is kept in the optimizer's; for learning rates.

    `init(like)` makes the state, a dict of 0-d arrays; `observe(state, value)` gives that after a
    step, where `value` is the loss if `needs` names it; and the value is `schedule(step, state)`.
    """

    def init(self, like: Array) -> dict[str, Array]:
        """The state to start from; 0-d arrays of the dtype and on the device of `like`."""
        raise NotImplementedError(f"{type(self).__name__} has no init(self, like)")

    def observe(self, state: dict[str, Array], value: Array) -> dict[str, Array]:
        """The state after a step."""
        return state

    def __call__(self, step: Any, state: dict[str, Array] | None = None) -> Any:
        """The value at this step in this state."""
        raise NotImplementedError(f"{type(self).__name__} has no __call__(self, step, state)")


@dataclass(frozen=True)
class Constant(Schedule):
    """The same value at every step.

    Parameters
    ----------
    value
        At every step.

    Examples
    --------
    >>> Constant(0.1)(7)
    0.1
    """

    value: float

    def __post_init__(self) -> None:
        require(self, "value", *NUMBER)

    def __call__(self, step: Any) -> Any:
        return functions_for(step).zeros_like(step) + self.value


@dataclass(frozen=True)
class PiecewiseConstant(Schedule):
    """One value for each stretch of steps between boundaries.

    values[0] before step boundaries[0], values[1] from there on and before boundaries[1], ...

    Parameters
    ----------
    values
        One more than there are boundaries.
    boundaries
        Steps, increasing, at each of which the next value begins.

    Examples
    --------
    >>> [PiecewiseConstant((0.1, 0.01), boundaries=(100,))(step) for step in (0, 99, 100)]
    [0.1, 0.1, 0.01]
    """

    values: Sequence[float]
    _: KW_ONLY
    boundaries: Sequence[int]

    def __post_init__(self) -> None:
        for name in ("values", "boundaries"):
            require(self, name, lambda row: all(map(is_number, row)), "numbers")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        count = len(self.boundaries) + 1
        expected = f"{count} numbers, one more than there are boundaries"
        require(self, "values", lambda values: len(values) == count, expected)
        rising = list(zip((0, *self.boundaries), self.boundaries, strict=False))
        require(self, "boundaries", lambda _: all(a < b for a, b in rising), "rising, from above 0")

    def __call__(self, step: Any) -> Any:
        return _piecewise(step, self.boundaries, self.values)


def _piecewise(step: Any, boundaries: Sequence[float], values: Sequence[float]) -> Any:
    """values[i], i being how many boundaries the step has reached."""
    xp = functions_for(step)
    zero = xp.zeros_like(step)  # compilers know it, and what is added to it
    value = zero + values[0]
    for boundary, after in zip(boundaries, values[1:], strict=True):
        value = xp.where(step >= boundary, zero + after, value)
    return value


@dataclass(frozen=True)
class ExponentialDecay(Schedule):
    """Exponential decay, initial * rate ** (step / steps), and no less than `minimum`.

    Parameters
    ----------
    initial
        The value at step 0.
    rate
        What it is multiplied by in `steps` steps.
    steps
        How many.
    staircase
        The exponent in whole numbers, so that the value falls every `steps` steps.
    minimum
        No value is below it.

    Examples
    --------
    >>> ExponentialDecay(0.8, rate=0.5, steps=10)(20)
    0.2
    """

    initial: float
    _: KW_ONLY
    rate: float
    steps: int = 1
    staircase: bool = False
    minimum: float = 0.0

    def __post_init__(self) -> None:
        require(self, "initial", *NUMBER)
        require(self, "rate", *FACTOR)
        require(self, "steps", *COUNT)
        require(self, "minimum", *NOT_NEGATIVE)

    def __call__(self, step: Any) -> Any:
        xp = functions_for(step)
        exponent = step / self.steps
        if self.staircase:
            exponent = xp.floor(exponent)
        value = self.initial * self.rate**exponent
        return xp.maximum(value, self.minimum) if self.minimum else value


@dataclass(frozen=True)
class PolynomialDecay(Schedule):
    """From `initial` to `end` in `steps` steps, as (1 - step / steps) ** power; `end` after them.

    Parameters
    ----------
    initial
        The value at step 0.
    steps
        From `initial` to `end`.
    end
        The value after them.
    power
        The exponent; 1 is a straight line.

    Examples
    --------
    >>> PolynomialDecay(0.5, steps=10)(5)
    0.25
    """

    initial: float
    _: KW_ONLY
    steps: int
    end: float = 0.0
    power: float = 1.0

    def __post_init__(self) -> None:
        require(self, "initial", *NUMBER)
        require(self, "end", *NUMBER)
        require(self, "steps", *COUNT)
        require(self, "power", lambda p: is_number(p) and p > 0, "a number above 0")

    def __call__(self, step: Any) -> Any:
        xp = functions_for(step)
        left = 1.0 - _part(xp, step, self.steps)
        if self.power != 1.0:
            left = left**self.power
        return self.end + (self.initial - self.end) * left


def _part(xp: Any, step: Any, steps: Any) -> Any:
    """The fraction of these steps that is done, from 0 to 1."""
    return xp.minimum(step / steps, 1.0)


def _cosine(xp: Any, part: Any, start: Any, end: Any) -> Any:
    """From start to end along half a wave."""
    return end + (start - end) * (0.5 * (1.0 + xp.cos(math.pi * part)))


@dataclass(frozen=True)
class CosineDecay(Schedule):
    """From `initial` to `end` along half a cosine in `steps` steps; `end` after them.

    `Warmup` puts a warm-up before it.

    Source: Loshchilov and Hutter 2016, arXiv:1608.03983.

    Parameters
    ----------
    initial
        The value at step 0.
    steps
        From `initial` to `end`; of the first cycle, if there are several.
    end
        The value after them.
    restarts
        How often it begins anew.
    growth
        Each cycle has so many times the steps of the one before, rounded.

    Examples
    --------
    >>> [round(CosineDecay(0.4, steps=10, restarts=1)(step), 3) for step in (0, 5, 9, 10, 15, 20)]
    [0.4, 0.2, 0.01, 0.4, 0.2, 0.0]
    """

    initial: float
    _: KW_ONLY
    steps: int
    end: float = 0.0
    restarts: int = 0
    growth: float = 1.0

    def __post_init__(self) -> None:
        require(self, "initial", *NUMBER)
        require(self, "end", *NUMBER)
        require(self, "steps", *COUNT)
        require(self, "restarts", lambda n: n == 0 or is_count(n), "a whole number of 0 or more")
        require(self, "growth", lambda g: is_number(g) and g >= 1, "a number of 1 or more")

    def __call__(self, step: Any) -> Any:
        xp = functions_for(step)
        lengths = [round(self.steps * self.growth**turn) for turn in range(self.restarts + 1)]
        starts = [0, *accumulate(lengths[:-1])]
        if self.restarts:  # sums of whole numbers, since a logarithm may miss a boundary
            since = step - _piecewise(step, starts[1:], starts)
            part = _part(xp, since, _piecewise(step, starts[1:], lengths))
        else:
            part = _part(xp, step, self.steps)
        return _cosine(xp, part, self.initial, self.end)


@dataclass(frozen=True)
class OneCycle(Schedule):
    """From peak / start_divisor up to `peak`, and down to peak / end_divisor, along cosines.

    As PyTorch's OneCycleLR, whose final_div_factor is end_divisor / start_divisor.

    Source: Smith and Topin 2017, arXiv:1708.07120.

    Parameters
    ----------
    peak
        The largest value.
    steps
        Of both parts together.
    rising
        The share of the steps that goes up, between 0 and 1.
    start_divisor
        It starts at `peak` divided by this.
    end_divisor
        It ends at `peak` divided by this.

    Examples
    --------
    >>> [round(OneCycle(0.1, steps=11, rising=0.5)(step), 5) for step in (0, 10)]
    [0.004, 0.0]
    """

    peak: float
    _: KW_ONLY
    steps: int
    rising: float = 0.3
    start_divisor: float = 25.0
    end_divisor: float = 250_000.0

    def __post_init__(self) -> None:
        require(self, "peak", *NUMBER)
        require(self, "steps", *COUNT)
        require(self, "rising", lambda r: is_number(r) and 0 <= r <= 1, "a number in [0, 1]")
        for name in ("start_divisor", "end_divisor"):
            require(self, name, lambda d: is_number(d) and d >= 1, "a number of 1 or more")

    def __call__(self, step: Any) -> Any:
        xp = functions_for(step)
        top, last = self.rising * self.steps - 1.0, self.steps - 1.0
        low, end = self.peak / self.start_divisor, self.peak / self.end_divisor
        if last <= top:
            return _cosine(xp, _part(xp, step, max(top, 1.0)), low, self.peak)
        down = _cosine(xp, _part(xp, step - top, last - top), self.peak, end)
        if top <= 0.0:
            return down
        return xp.where(step < top, _cosine(xp, _part(xp, step, top), low, self.peak), down)


@dataclass(frozen=True)
class InverseScaling(Schedule):
    """Decay as initial / (step + 1) ** power, scikit-learn's "invscaling".

    Parameters
    ----------
    initial
        The value at step 0.
    power
        The exponent, 0 or more.

    Examples
    --------
    >>> InverseScaling(0.1)(3)
    0.05
    """

    initial: float
    _: KW_ONLY
    power: float = 0.5

    def __post_init__(self) -> None:
        require(self, "initial", *NUMBER)
        require(self, "power", *NOT_NEGATIVE)

    def __call__(self, step: Any) -> Any:
        return self.initial / (step + 1.0) ** self.power


@dataclass(frozen=True)
class Warmup(Schedule):
    """A linear rise from `start` to the first value of another schedule, then that schedule.

    The rise takes `steps` steps; the other schedule counts its own from 0.

    Parameters
    ----------
    after
        A schedule, or a number that it stays at.
    steps
        Of the rise.
    start
        The value at step 0.

    Examples
    --------
    >>> [round(Warmup(CosineDecay(0.4, steps=10), steps=4)(step), 3) for step in (0, 2, 4, 9)]
    [0.0, 0.2, 0.4, 0.2]
    """

    after: "float | Schedule"
    _: KW_ONLY
    steps: int
    start: float = 0.0

    def __post_init__(self) -> None:
        expected = "a number, or a schedule without a state"
        require(self, "after", lambda a: is_plain_schedule(a) or is_number(a), expected)
        require(self, "steps", *COUNT)
        require(self, "start", *NUMBER)

    def __call__(self, step: Any) -> Any:
        xp = functions_for(step)
        after: Any = self.after if isinstance(self.after, Schedule) else Constant(self.after)
        first, later = after(0), after(xp.maximum(step - float(self.steps), 0.0))
        rising = self.start + (first - self.start) * (step / self.steps)
        return xp.where(step < self.steps, rising, later)


def is_plain_schedule(value: Any) -> bool:
    """True for a schedule without a state, or a function of the step."""
    if isinstance(value, Schedule):
        return not isinstance(value, StatefulSchedule)
    return callable(value) and not isinstance(value, type)
