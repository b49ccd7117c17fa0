"""Convergence of training, as scikit-learn's multi-layer perceptrons understand it."""

from dataclasses import dataclass, field
from math import inf
from typing import Any

import backends
from tinynn.sklearn.networks import ADAPTIVE_FACTOR
from tinynn.training import Run

_LEAST_RATE = 1e-6  # an adaptive learning rate below it ends training, as in scikit-learn


@dataclass
class Convergence:
    """Stop when a number has not become better by `tol` for more than `patience` epochs.

    Parameters
    ----------
    monitor : a name in the history
    larger : whether larger is better
    tol : a change counts when it is more than this
    patience : how many epochs without one are put up with
    restore_best : whether the run gets the parameters of its best epoch in the end
    adaptive : the learning rate that is divided by five each time instead of stopping, until it is
        small; None stops at once

    """

    monitor: str
    larger: bool
    tol: float
    patience: float
    restore_best: bool = False
    adaptive: float | None = None
    converged: bool = field(default=False, init=False)
    best: float = field(default=inf, init=False)
    _without: int = field(default=0, init=False)
    _carry: Any = field(default=None, init=False, repr=False)

    def __call__(self, run: Run) -> None:
        """Compare this epoch with the best one so far."""
        number = run.history.last[self.monitor]
        cost = -number if self.larger else number
        self._without = self._without + 1 if not cost <= self.best - self.tol else 0
        if cost < self.best:
            self.best, self._carry = cost, run.state.carry if self.restore_best else None
        if self._without > self.patience:
            self._without = 0
            self.converged = self.adaptive is None or not self._reduced(run)
            if self.converged:
                run.stop()

    def finish(self, run: Run) -> None:
        """Give the run the parameters and state of its best epoch."""
        if self._carry is not None:
            run.state.carry, self._carry = self._carry, None

    def _reduced(self, run: Run) -> bool:
        """Divide the learning rate by five, unless it is small already."""
        carry = run.state.carry
        schedules = carry.optimizer_state["schedules"]
        plateau = schedules["learning_rate"]
        assert self.adaptive is not None
        if self.adaptive * _number(plateau["scale"]) <= _LEAST_RATE:
            return False
        plateau = {**plateau, "scale": plateau["scale"] * ADAPTIVE_FACTOR}
        kept = {**carry.optimizer_state, "schedules": {**schedules, "learning_rate": plateau}}
        run.state.carry = carry._replace(optimizer_state=kept)
        return True


@dataclass
class Searched:
    """Stop when L-BFGS has converged, or has evaluated the loss often enough."""

    evaluations: int
    converged: bool = field(default=False, init=False)

    def __call__(self, run: Run) -> None:
        """Look at the optimizer's state."""
        state = run.state.carry.optimizer_state
        self.converged = bool(_number(state["converged"]))
        if self.converged or _number(state["evaluations"]) >= self.evaluations:
            run.stop()


def _number(scalar: Any) -> Any:
    """A 0-d array as a Python number."""
    return backends.of(scalar).to_host(scalar).item()
