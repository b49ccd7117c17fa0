"""TrainingState, all that a run continues from, and `Run`, which callbacks are given."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import backends
from tinynn import tree
from tinynn.config import label
from tinynn.data import to_scalar
from tinynn.training.history import History
from tinynn.training.step import Carry, is_same_tree


class LazyCarry:
    """A carry that is put together once somebody looks at it.

    Parameters
    ----------
    make
        Puts it together.
    optimizer_state
        The part of it that is known at once; None where none is.
    """

    def __init__(self, make: Callable[[], Carry], optimizer_state: Any = None) -> None:
        self.make, self.optimizer_state = make, optimizer_state
        self.carry: Carry | None = None
        self.leaves: list[Any] = []

    def __call__(self) -> Carry:
        """The carry."""
        if self.carry is None:
            self.carry = self.make()
            self.leaves = tree.leaves(self.carry)
        return self.carry


class _Lazy:
    """An attribute that may be set to what is put together once somebody looks at it."""

    def __get__(self, owner: Any, kind: Any) -> Carry:
        if owner is None:
            raise AttributeError("carry")  # so that the field has no default
        found = vars(owner)["carry"]
        if isinstance(found, LazyCarry):
            found = vars(owner)["carry"] = found()
        return found

    def __set__(self, owner: Any, value: Carry | LazyCarry) -> None:
        vars(owner)["carry"] = value


@dataclass
class TrainingState:
    """The state of a training run, which engines advance and checkpoints keep.

    Attributes
    ----------
    carry
        Parameters, the network's state and the optimizer's.
    epoch
        How many epochs are done.
    step
        How many steps of the epoch after them are done.
    losses
        Of those steps: arrays (steps,) on the device.
    history
        What the epochs have shown.
    callbacks
        The states of the callbacks in a checkpoint, by name: see `tinynn.training.callbacks`.
    engine
        The name of the engine that has advanced it; "" before the first.
    """

    carry: _Lazy = _Lazy()
    epoch: int = 0
    step: int = 0
    losses: list[Any] = field(default_factory=list)
    history: History = field(default_factory=History)
    callbacks: dict[str, Any] = field(default_factory=dict)
    engine: str = ""

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"carry": self.carry}  # a copy, or a file, is without the engine

    @property
    def _lazy(self) -> LazyCarry | None:
        """The carry that nobody has looked at; None if somebody has."""
        carry = vars(self)["carry"]
        return carry if isinstance(carry, LazyCarry) else None

    def current(self) -> Callable[[], Carry]:
        """The carry as it is now, as a function."""
        carry = self._lazy or self.carry
        return carry if isinstance(carry, LazyCarry) else lambda: carry

    @property
    def optimizer_state(self) -> Any:
        """The optimizer's part of the carry."""
        known = None if self._lazy is None else self._lazy.optimizer_state
        return self.carry.optimizer_state if known is None else known

    def watched(self) -> Callable[[], bool]:
        """A function that says whether the carry, or an array in it, was replaced since."""
        lazy = self._lazy
        if lazy is None:
            shown, leaves = self.carry, tree.leaves(self.carry)
            return lambda: self.carry is not shown or not is_same_tree(self.carry, leaves)

        def changed() -> bool:
            if self._lazy is lazy:
                return False
            return self.carry is not lazy.carry or not is_same_tree(self.carry, lazy.leaves)

        return changed


@dataclass
class Run:
    """A training run, as its callbacks see it.

    Arrays of the state are never changed in place, so a callback may keep them, and it may put
    others in their place. `measures` names what the history holds, `optimizer` is the run's.
    `rank` is the number of this process among those that train together: 0 is the one that writes.
    """

    epochs: int
    state: TrainingState = field(repr=False)
    measures: tuple[str, ...] = ("loss",)
    directions: dict[str, bool | None] = field(default_factory=dict, repr=False)
    stopped: bool = False
    optimizer: Any = field(default=None, repr=False)
    rank: int = field(default=0, repr=False)

    @property
    def epoch(self) -> int:
        """The number of epochs that are done."""
        return self.state.epoch

    @property
    def history(self) -> History:
        """The measures of the epochs that are done."""
        return self.state.history

    @property
    def params(self) -> Any:
        """The parameters after the last epoch; others may be put in their place."""
        return self.state.carry.params

    @params.setter
    def params(self, params: Any) -> None:
        self.state.carry = self.state.carry._replace(params=params)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the step to come; one of `Adjustable` may be set to another.

        An optimizer of several rates, such as `Groups`, has them in `optim.learning_rates`.
        """
        from tinynn.optim import learning_rates  # optim is imported where it is used

        rates = learning_rates(self.optimizer, self.state.carry.optimizer_state)
        numbers = {
            to_scalar(backends.of(r), r) if hasattr(r, "dtype") else r for r in rates.values()
        }
        if len(numbers) != 1:
            raise ValueError(
                f"learning_rate: expected an optimizer with one, got {label(self.optimizer)} with "
                f"{len(numbers)}. To fix it: read tinynn.optim.learning_rates(run.optimizer, "
                "run.state.carry.optimizer_state)"
            )
        return float(numbers.pop())

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        from tinynn.optim import set_learning_rate

        carry = self.state.carry
        changed = set_learning_rate(self.optimizer, carry.optimizer_state, value)
        self.state.carry = carry._replace(optimizer_state=changed)

    def stop(self) -> None:
        """Ask for training to end after this epoch."""
        self.stopped = True

    def stop_if_converged(self, backend: backends.Backend) -> None:
        """End training where the optimizer says that nothing more is to be gained."""
        if self.epoch and has_converged(self.state.optimizer_state, backend):
            self.stop()


def can_converge(optimizer_state: Any) -> bool:
    """True for an optimizer that can tell that nothing more is to be gained."""
    return isinstance(optimizer_state, dict) and optimizer_state.get("converged") is not None


def has_converged(optimizer_state: Any, backend: backends.Backend) -> bool:
    """True where an optimizer that can tell says that nothing more is to be gained."""
    return can_converge(optimizer_state) and bool(backend.to_host(optimizer_state["converged"]))


def is_lost(optimizer_state: Any, backend: backends.Backend) -> bool:
    """True where such an optimizer was at a gradient that is not finite, and left all as it was."""
    if not can_converge(optimizer_state):
        return False
    norms = (optimizer_state.get(name) for name in ("gradient_norm", "largest"))
    return not all(isfinite(backend.to_host(norm)) for norm in norms if norm is not None)
