"""Checkpoints: a training run's state in one file, from which it goes on bit for bit."""

import os
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

from tinynn import tree
from tinynn.config import label
from tinynn.training import files
from tinynn.training.callbacks import Callback
from tinynn.training.history import History
from tinynn.training.problem import Problem
from tinynn.training.state import Run, TrainingState
from tinynn.training.step import Carry

_SEPARATOR = "/"


class Checkpointer:
    """When the state of a run is written, and where.

    Attributes:
        path: the file; each checkpoint takes the place of the one before.
        every: epochs between checkpoints, or a timedelta, after which one is written within an
            epoch too.
    """

    def __init__(self, path: str | os.PathLike[str], every: int | timedelta) -> None:
        whole = isinstance(every, int) and not isinstance(every, bool) and every > 0
        if not whole and not (isinstance(every, timedelta) and every > timedelta(0)):
            raise ValueError(
                f"fit: every: expected a number of epochs of 1 or more, or a timedelta, got "
                f"{every!r}. To fix it: give every=1, or every=timedelta(minutes=10)"
            )
        self.path, self.every = Path(path), every
        self._written = monotonic()
        files.check_target(self.path)

    def is_due(self, run: Run) -> bool:
        """Whether a checkpoint is to be written now."""
        if isinstance(self.every, timedelta):
            return monotonic() - self._written >= self.every.total_seconds()
        return run.state.step == 0 and run.epoch % self.every == 0

    def write(
        self, state: TrainingState, problem: Problem, engine: str, callbacks: list[Callback]
    ) -> None:
        """Write the state, whole or not at all."""
        save(self.path, state, problem, engine, callbacks)
        self._written = monotonic()


def save(
    path: str | os.PathLike[str],
    state: TrainingState,
    problem: Problem,
    engine: str,
    callbacks: list[Callback],
) -> None:
    """Write a training state to one file, whole or not at all."""
    backend = problem.backend
    kept = {name: c.get_state() for name, c in _named(callbacks) if hasattr(c, "get_state")}
    trees = {"carry": state.carry, "losses": list(state.losses), "callbacks": kept}
    arrays, others = [], {}
    for path_, leaf in tree.paths(trees):
        if hasattr(leaf, "dtype"):
            arrays.append((path_, backend.to_host(leaf)))
        else:
            others[path_] = leaf
    description = {
        "problem": _identity(problem),
        "engine": engine,
        "epoch": state.epoch,
        "step": state.step,
        "history": state.history,
        "values": others,
    }
    files.write(path, files.pack(arrays, description, kind="checkpoint"))


def restore(
    path: str | os.PathLike[str], problem: Problem, run: Run, callbacks: list[Callback]
) -> str:
    """Put the state that `save` wrote into the run; the name of the engine it was made with.

    Raises
    ------
    ModelFileError : the file is cut short, was edited, or is no checkpoint
    ValueError : it is of another network, optimizer, loss, seed or data

    """
    tensors, description = files.read(path, kind="checkpoint")
    for name, now in _identity(problem).items():
        before = description["problem"].get(name)
        if before != now:
            raise ValueError(
                f"fit: resume: {path}: {name}: expected {before}, as the run was started with, got "
                f"{now}. To fix it: give fit the same arguments, or start a new run."
            )
    backend = problem.backend
    arrays = {
        name: backend.asarray(files.values_of(tensor, backend), tensor.dtype)
        for name, tensor in tensors.items()
    }
    values = {**description["values"], **arrays}
    leaves = [values[f"carry.{name}"] for name, _ in tree.paths(problem.start)]
    carry: Carry = tree.flatten(problem.start)[1].unflatten(leaves)
    losses = [a for name, a in arrays.items() if name.startswith("losses.")]
    run.state = TrainingState(
        carry, description["epoch"], description["step"], losses, History(description["history"])
    )
    for name, callback in _named(callbacks):
        kept = _nested({p: v for p, v in values.items() if p.startswith(f"callbacks.{name}.")})
        if kept and hasattr(callback, "set_state"):
            callback.set_state(kept["callbacks"][name], run)
    return str(description["engine"])


def _identity(problem: Problem) -> dict[str, Any]:
    """What must be the same for a run to go on."""
    batches, first = problem.batches, problem.batches.dataset.between(0, 1)
    return {
        "network": label(problem.step.net),
        "optimizer": label(problem.step.optimizer),
        "loss": label(problem.step.loss),
        "batch size": batches.size,
        "samples": batches.dataset.size,
        "arrays": [
            [name, list(a.shape[1:]), problem.backend.dtype_name(a.dtype)]
            for name, a in tree.paths(first)
        ],
        "seed": problem.backend.to_host(batches.key).tolist(),
        "shuffle": batches.shuffle,
    }


def _named(callbacks: list[Callback]) -> list[tuple[str, Any]]:
    """Each callback with a name: its class's and its place."""
    return [(f"{type(c).__name__}{_SEPARATOR}{i}", c) for i, c in enumerate(callbacks)]


def _nested(values: dict[str, Any]) -> dict[str, Any]:
    """Nested dicts from dotted names."""
    out: dict[str, Any] = {}
    for name, value in values.items():
        *folders, last = name.split(".")
        place = out
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = value
    return out
