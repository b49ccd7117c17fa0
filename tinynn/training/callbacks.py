"""What may be called after each epoch: any callable that takes the `Run`.

A callback may also have `start(run)`, called once before training (the place for its checks), and
`finish(run)`, called once after it, however it ended.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Any

from tinynn.metrics import direction
from tinynn.training.history import History

Callback = Callable[["Run"], Any]


@dataclass
class Run:
    """A training run, as callbacks see it.

    `epoch` is the number of epochs done; `params` are the parameters after it, which a callback
    may keep (they are never changed in place) or replace. `measures` names what `history` holds.
    """

    epochs: int
    params: Any = field(repr=False)
    measures: tuple[str, ...] = ("loss",)
    epoch: int = 0
    history: History = field(default_factory=History)
    stopped: bool = False

    def stop(self) -> None:
        """Ask for training to end after this epoch."""
        self.stopped = True


@dataclass
class EarlyStopping:
    """Stop when `monitor` has not become better for `patience` epochs.

    `monitor` is a name in the history. Lower is better, except for accuracies and R2. A change
    counts when it is more than `min_delta`. With `restore_best`, the model gets the parameters of
    its best epoch in the end, whether or not it was stopped.

    Raises
    ------
    ValueError : before training, if nothing of the name `monitor` will be measured

    """

    monitor: str = "validation_loss"
    patience: int = 10
    min_delta: float = 0.0
    restore_best: bool = True
    _best: float = field(default=inf, init=False, repr=False)
    _best_epoch: int = field(default=0, init=False, repr=False)
    _best_params: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.patience < 1 or self.min_delta < 0:
            raise ValueError(
                "EarlyStopping: expected patience of 1 or more and min_delta of 0 or more, "
                f"got patience={self.patience}, min_delta={self.min_delta}"
            )

    def start(self, run: Run) -> None:
        """Forget any earlier run, and check that there will be something to monitor."""
        self._best, self._best_epoch, self._best_params = inf, 0, None
        if self.monitor not in run.measures:
            raise ValueError(
                f"EarlyStopping: expected monitor to be one of {', '.join(run.measures)}, "
                f"got {self.monitor!r}. Name one of these"
                + (
                    ", or give fit a validation=0.1."
                    if self.monitor.startswith("validation_")
                    else "."
                )
            )

    def __call__(self, run: Run) -> None:
        """Compare this epoch with the best one so far."""
        cost = run.history.last[self.monitor]
        if direction(self.monitor.removeprefix("validation_")):
            cost = -cost
        if cost < self._best - self.min_delta:
            self._best, self._best_epoch = cost, run.epoch
            if self.restore_best:
                self._best_params = run.params
        elif run.epoch - self._best_epoch >= self.patience:
            run.stop()

    def finish(self, run: Run) -> None:
        """Give the run the parameters of its best epoch."""
        if self._best_params is not None:
            run.params, self._best_params = self._best_params, None
