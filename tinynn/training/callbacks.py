"""Callbacks: any callable that takes the `Run`, called after each epoch.

A callback may also have

- `start(run)`, called once before training: the place for its checks;
- `finish(run)`, called once after training, however it ended;
- `get_state()` and `set_state(state, run)`, so that checkpoints keep what it goes on from: nested
  dicts of arrays and of what JSON holds. `set_state` is called after `start`;
- `keeps_data = True`, if it never changes the arrays that are trained on: engines then keep what
  they have computed from them;
- `only_looks = True`, if it changes neither these nor the state before training ends: an engine may
  then carry out epochs together, and call it after each of them. ValueError if it does.
"""

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from math import inf
from pathlib import Path
from typing import Any, ClassVar, Protocol

from tinynn import tree
from tinynn.config import Configured, require, require_count
from tinynn.optim.schedules import is_number
from tinynn.training.history import single
from tinynn.training.problem import several
from tinynn.training.state import Run

Callback = Callable[[Run], Any]


def checked(given: Any) -> list[Callback]:
    """The callbacks as a list, each checked to be callable."""
    callbacks = list(several(given))
    for callback in callbacks:
        if not callable(callback) or isinstance(callback, type):
            raise TypeError(
                "fit: callbacks: expected functions of the run, or callbacks such as "
                f"EarlyStopping(), got {callback!r}"
            )
    return callbacks


def tell(callbacks: Iterable[Callback], moment: str, run: Any) -> None:
    """Call `start` or `finish` of the callbacks that have it."""
    for callback in callbacks:
        getattr(callback, moment, lambda run: None)(run)


def keep_data(callbacks: Iterable[Callback]) -> bool:
    """Whether none of them changes the arrays that are trained on."""
    return all(getattr(callback, "keeps_data", False) for callback in callbacks)


def only_look(callbacks: Iterable[Callback]) -> bool:
    """Whether none of them changes the data or the state; it may stop the run."""
    return all(getattr(callback, "only_looks", False) for callback in callbacks)


def states(callbacks: Iterable[Callback]) -> dict[str, Any]:
    """The states of the callbacks that have one, by name."""
    found = {name: c.get_state() for name, c in _named(callbacks) if hasattr(c, "get_state")}
    return {name: state for name, state in found.items() if state}


def restore_states(callbacks: Iterable[Callback], run: Run) -> None:
    """Give each callback the state that a checkpoint kept for it."""
    for name, callback in _named(callbacks):
        if name in run.state.callbacks and hasattr(callback, "set_state"):
            callback.set_state(run.state.callbacks[name], run)


def _named(callbacks: Iterable[Callback]) -> list[tuple[str, Any]]:
    """Each callback with its name: the class's, and its place among those of the class."""
    count: Counter[str] = Counter()
    named = []
    for callback in callbacks:
        kind = type(callback).__name__
        named.append((f"{kind}/{count[kind]}", callback))
        count[kind] += 1
    return named


class Measured(Protocol):
    """The interface of what says which measures there are, and of which larger is better."""

    @property
    def measures(self) -> tuple[str, ...]:
        """Their names."""

    @property
    def directions(self) -> Mapping[str, bool | None]:
        """True for those of which larger is better; None if unknown."""


def sign_of(owner: str, monitor: str, mode: str | None, measured: Measured) -> float:
    """1.0 if lower is better, -1.0 if higher is; ValueError if that cannot be known."""
    if monitor not in measured.measures:
        hint = ", or give fit a validation=0.1" * monitor.startswith("validation_")
        raise ValueError(
            f"{owner}: expected monitor to be one of {', '.join(measured.measures)}, "
            f"got {monitor!r}. To fix it: name one of these{hint}."
        )
    larger = measured.directions.get(monitor) if mode is None else mode == "max"
    if larger is None:
        raise ValueError(
            f"{owner}: expected to know whether a higher {monitor} is better, got "
            'a metric that does not say. To fix it: give mode="max" or mode="min".'
        )
    return -1.0 if larger else 1.0


@dataclass
class EarlyStopping(Configured):
    """Stop when `monitor` has not become better for `patience` epochs, or is good enough.

    Parameters
    ----------
    monitor
        A name in the history.
    patience
        Epochs without improvement after which training stops.
    min_delta
        A change counts when it is more than this.
    mode
        "min" or "max", whether lower or higher is better; None asks the metric itself.
    restore_best
        Whether the model gets the parameters of its best epoch in the end, whether or not it was
        stopped.
    goal
        A value of `monitor` at which training stops at once; None for none.

    Raises
    ------
    ValueError
        Before training, if nothing of the name `monitor` will be measured, or nobody knows whether
        lower or higher is better.
    """

    monitor: str = "validation_loss"
    _: KW_ONLY
    patience: int = 10
    min_delta: float = 0.0
    mode: str | None = None
    restore_best: bool = True
    goal: float | None = None
    keeps_data: ClassVar[bool] = True
    only_looks: ClassVar[bool] = True
    _best: float = field(default=inf, init=False, repr=False)
    _best_epoch: int = field(default=0, init=False, repr=False)
    _best_carry: Any = field(default=None, init=False, repr=False)
    _sign: float = field(default=1.0, init=False, repr=False)

    def __post_init__(self) -> None:
        require_count(self, "patience")
        require(self, "min_delta", lambda delta: delta >= 0, "a number of 0 or more")
        if self.goal is not None:
            require(self, "goal", is_number, "a finite number, or None")
        require(self, "mode", (None, "min", "max").__contains__, '"min", "max" or None')

    def start(self, run: Run) -> None:
        """Forget any earlier run, and check that there will be something to monitor."""
        self._best, self._best_epoch, self._best_carry = inf, 0, None
        self._sign = sign_of("EarlyStopping", self.monitor, self.mode, run)

    def __call__(self, run: Run) -> None:
        """Compare this epoch with the best one so far."""
        if self.monitor not in (last := single(run.history.last)):
            raise ValueError(
                f"EarlyStopping: expected monitor to be a single number, got {self.monitor!r}, "
                "which is several. To fix it: monitor another metric"
            )
        cost = self._sign * last[self.monitor]
        if cost < self._best - self.min_delta:
            self._best, self._best_epoch = cost, run.epoch
            if self.restore_best:
                self._best_carry = run.state.carry
        elif run.epoch - self._best_epoch >= self.patience:
            run.stop()
        if self._reaches_goal(cost):
            run.stop()

    def _reaches_goal(self, cost: float) -> bool:
        return self.goal is not None and cost <= self._sign * self.goal

    def finish(self, run: Run) -> None:
        """Give the run the parameters and state of its best epoch."""
        if self._best_carry is not None:
            run.state.carry, self._best_carry = self._best_carry, None

    def get_state(self) -> dict[str, Any]:
        """The state for a resumed run."""
        state = {"best": self._best, "best_epoch": self._best_epoch}
        if self._best_carry is not None:
            state |= {"params": self._best_carry.params, "state": self._best_carry.state}
        return state

    def set_state(self, state: dict[str, Any], run: Run) -> None:
        """Continue from this state, or stop at once if the run had been stopped."""
        self._best, self._best_epoch = state["best"], state["best_epoch"]
        if "params" in state and self.restore_best:
            carry = run.state.carry
            best = [
                tree.flatten(now)[1].unflatten(tree.leaves(state.get(name, {})))
                for name, now in (("params", carry.params), ("state", carry.state))
            ]
            self._best_carry = carry._replace(params=best[0], state=best[1])
        last = single(run.history.last).get(self.monitor, inf)
        stopped = run.epoch - self._best_epoch >= self.patience
        if stopped or self._reaches_goal(self._sign * last):
            run.stop()


@dataclass
class LearningRate(Configured):
    """Set the learning rate of each epoch by a function, as Keras's `LearningRateScheduler` does.

    The optimizer has to have a rate that can be set: `Adam(Adjustable(0.01))`. A schedule, which
    knows the step, is set once and needs no callback.

    Parameters
    ----------
    function : of the number of the epoch, counted from 0, and the rate of the one before; it
        returns the new rate

    """

    keeps_data: ClassVar[bool] = True
    function: Callable[[int, float], float]

    def __post_init__(self) -> None:
        require(self, "function", callable, "a function of (epoch, rate)")

    def start(self, run: Run) -> None:
        """Set the rate of the first epoch; a run that is resumed has that of its checkpoint."""
        if run.epoch == 0:
            self(run)

    def __call__(self, run: Run) -> None:
        """Set the rate of the epoch to come."""
        run.learning_rate = self.function(run.epoch, run.learning_rate)


@dataclass
class CSVLog(Configured):
    """Write a line for each epoch to a CSV file, as it ends; of several processes the first does.

    Parameters
    ----------
    path
        The file; it is begun anew, or gone on with in a run that is resumed.
    """

    keeps_data: ClassVar[bool] = True
    only_looks: ClassVar[bool] = True
    path: str | os.PathLike[str]

    def start(self, run: Run) -> None:
        """Begin the file; of a resumed run, with the epochs that are done."""
        if run.rank:
            return
        path = Path(self.path)
        if not path.parent.is_dir():
            raise FileNotFoundError(
                f"CSVLog: the folder {path.parent} does not exist. To fix it: make it first."
            )
        rows = zip(*(run.history.get(name, []) for name in self._names(run)), strict=False)
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([self._names(run), *rows])

    def __call__(self, run: Run) -> None:
        """Add the line of this epoch."""
        if run.rank:
            return
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow([run.history.last[name] for name in self._names(run)])

    def _names(self, run: Run) -> list[str]:
        return ["epoch", *run.measures]


@dataclass
class TensorBoard(Configured):
    """Write the history to a folder that TensorBoard reads, through the package tensorboardX.

    Parameters
    ----------
    folder
        Where the event files go.
    """

    keeps_data: ClassVar[bool] = True
    only_looks: ClassVar[bool] = True
    folder: str | os.PathLike[str]
    _writer: Any = field(default=None, init=False, repr=False)

    def start(self, run: Run) -> None:
        """Open the folder."""
        if run.rank:  # of several processes the first writes
            return
        try:
            from tensorboardX import SummaryWriter  # seldom needed
        except ImportError as error:
            raise ImportError(
                "TensorBoard: expected the package tensorboardX, which is not installed. "
                "To fix it: pip install tensorboardX"
            ) from error
        self._writer = SummaryWriter(str(self.folder))

    def __call__(self, run: Run) -> None:
        """Write the numbers of this epoch."""
        if self._writer is None:
            return
        last = single(run.history.last)
        for name in run.measures:
            if name in last:
                self._writer.add_scalar(name, last[name], run.epoch)

    def finish(self, run: Run) -> None:
        """Close the files."""
        if self._writer is not None:
            self._writer.close()
