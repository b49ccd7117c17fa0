"""Checkpoints: a training run's state in one file, from which it continues bit for bit."""

import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from math import inf, isfinite
from pathlib import Path
from time import monotonic
from typing import Any

from backends.user_code import warn
from tinynn import tree
from tinynn.config import label
from tinynn.data import columns_of
from tinynn.training import files
from tinynn.training.batches import BucketedBatches, StreamedBatches
from tinynn.training.history import History
from tinynn.training.model import described
from tinynn.training.problem import Problem, check_whole
from tinynn.training.state import Run, TrainingState
from tinynn.training.step import Carry


class Checkpointer:
    """The schedule by which the state of a run is written to a file.

    Attributes
    ----------
    path
        The file; each checkpoint takes the place of the one before.
    every
        Epochs between checkpoints, or a timedelta, after which one is written within an epoch too.
    keep
        How many checkpoints are kept: the newest, and earlier ones beside it.
    best
        The file of the best epoch beside them, if one is kept.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        every: int | timedelta,
        keep: int = 1,
        keep_best: bool | str = False,
    ) -> None:
        check_whole(keep=keep)
        whole = isinstance(every, int) and not isinstance(every, bool) and every > 0
        if not whole and not (isinstance(every, timedelta) and every > timedelta(0)):
            raise ValueError(
                f"fit: every: expected a number of epochs of 1 or more, or a timedelta, got "
                f"{every!r}. To fix it: give every=1, or every=timedelta(minutes=10)"
            )
        if not isinstance(keep_best, bool | str):
            raise ValueError(
                "fit: keep_best: expected True, False or the name of a measure, got "
                f'{keep_best!r}. To fix it: give keep_best=True, which is "validation_loss"'
            )
        self.path, self.every, self.keep = Path(path), every, keep
        self._written, self._place = monotonic(), (0, 0)
        self._sound = True  # the file at `path`, if there is one
        files.check_target(self.path, "fit: checkpoint")
        measure = "validation_loss" if keep_best is True else keep_best
        self.best = BestCheckpoint(self.path, measure) if measure is not False else None

    def start(self, run: Run, source: Any) -> None:
        """Note where the run begins, and the file that it goes on from, if there is one."""
        if source is not None and os.path.realpath(source) == os.path.realpath(self.path):
            self._place = (run.epoch, run.state.step)
            self._sound = files.is_sound(self.path)
        if self.best is not None:
            self.best.start(run)

    def is_due(self, run: Run) -> bool:
        """True if a checkpoint is to be written now."""
        if isinstance(self.every, timedelta):
            return monotonic() - self._written >= self.every.total_seconds()
        return run.state.step == 0 and run.epoch % self.every == 0

    def write(self, state: TrainingState, problem: Problem, *, newest: bool = True) -> None:
        """Write the state where it belongs, unless the loss is no longer finite.

        It goes to the file of the best epoch if it is the best, and then to the newest, if that is
        asked for and not as far already.
        """
        best, place = self.best, (state.epoch, state.step)
        better, newest = best is not None and best.is_better(state), newest and place > self._place
        if not (better or newest) or not _is_finite(state, problem):
            return
        # The best comes first: a run that is killed between the two finds that epoch again.
        if best is not None and better and _written(best.path, state, problem, 1):
            best.note(state)
        if newest:
            self._written = monotonic()  # after a failure too: it is tried again when it is due
            # A broken file takes the place of none that is whole.
            if _written(self.path, state, problem, self.keep if self._sound else 1):
                self._place, self._sound = place, True


class BestCheckpoint:
    """The file, beside the newest checkpoint, that keeps the one of the best epoch by a measure.

    Attributes
    ----------
    path
        That of the newest, with ".best" behind its name.
    measure
        A name in the history.
    """

    def __init__(self, newest: Path, measure: str) -> None:
        newest = Path(os.path.realpath(newest))
        self.path, self.measure = newest.with_name(f"{newest.name}.best"), measure
        self._sign, self._lowest = 1.0, inf
        files.check_target(self.path, "fit: keep_best")

    def start(self, run: Run) -> None:
        """Check that there is such a measure, and go on from the file if it is of this run."""
        if self.measure not in run.measures:
            known = ", ".join(map(repr, run.measures))
            hint = ", or give validation=0.1" * self.measure.startswith("validation_")
            raise ValueError(
                f"fit: keep_best: expected a measure of the run, got {self.measure!r}. To fix it: "
                f"name one of {known}{hint}"
            )
        larger = run.directions.get(self.measure)
        if larger is None:
            raise ValueError(
                f"fit: keep_best: expected to know whether a higher {self.measure} is better, got "
                "a metric that does not say. To fix it: give the metric an attribute "
                "greater_is_better, or name another measure"
            )
        self._sign = -1.0 if larger else 1.0
        with suppress(files.ModelFileError, OSError, KeyError, TypeError):
            row = History(files.read(self.path, kind="checkpoint")[1]["history"]).last
            known_row = {name: shown[row["epoch"] - 1 :][:1] for name, shown in run.history.items()}
            if known_row == {name: [number] for name, number in row.items()}:
                self._lowest = self._sign * row[self.measure]

    def is_better(self, state: TrainingState) -> bool:
        """True after an epoch that is better than the one in the file."""
        return state.step == 0 and self._cost(state) < self._lowest

    def note(self, state: TrainingState) -> None:
        """Note that the file is of this state's last epoch."""
        self._lowest = self._cost(state)

    def _cost(self, state: TrainingState) -> float:
        number = state.history.last.get(self.measure, inf * self._sign)
        if isinstance(number, list):
            raise ValueError(
                f"fit: keep_best: expected a measure of one number, got {self.measure!r}, which "
                "is several. To fix it: name another measure"
            )
        return float(self._sign * number)


def _is_finite(state: TrainingState, problem: Problem) -> bool:
    """True if the losses of the last epoch, and of the steps after it, are finite."""
    losses = [problem.backend.to_host(loss) for loss in state.losses]
    totals = [state.history.last.get("loss", 0.0), *(float(loss.sum()) for loss in losses)]
    return all(map(isfinite, totals))


def _written(path: Path, state: TrainingState, problem: Problem, keep: int) -> bool:
    """True if the state was written; if it cannot be, a warning says so."""
    try:
        save(path, state, problem, keep=keep)
    except OSError as error:
        warn(
            f"fit: epoch {state.epoch}: the checkpoint {path} cannot be written "
            f"({error}): training goes on, and the file is as it was."
        )
        return False
    return True


def checkpointer_of(
    path: str | os.PathLike[str] | None,
    every: int | timedelta,
    keep: int,
    keep_best: bool | str = False,
) -> Checkpointer | None:
    """The schedule that the arguments of `fit` ask for; ValueError for one without a file."""
    if path is not None:
        return Checkpointer(path, every, keep, keep_best)
    check_beside("fit", every=(every, 1), keep=(keep, 1), keep_best=(keep_best, False))
    return None


def check_beside(where: str, **given: tuple[Any, Any]) -> None:
    """ValueError unless these are as they usually are: (what is given, the usual)."""
    for name, (value, usual) in given.items():
        if value != usual:
            raise ValueError(
                f"{where}: {name}: expected checkpoint= beside it, got {name}={value!r} alone, and "
                "no checkpoint would be written. To fix it: give checkpoint=path"
            )


def save(
    path: str | os.PathLike[str], state: TrainingState, problem: Problem, *, keep: int = 1
) -> None:
    """Write a training state to one file, whole or not at all.

    Parameters
    ----------
    path, state, problem
        The file, the state, and the problem that it is of.
    keep
        How many are kept: the file that was there becomes `path` with ".1" behind
        its name, that one ".2", and so on.
    """
    arrays, others = [], {}
    kept = {"carry": state.carry, "losses": list(state.losses), "callbacks": state.callbacks}
    for name, leaf in tree.paths(kept):
        if hasattr(leaf, "dtype"):
            arrays.append((name, problem.backend.to_host(leaf)))
        else:
            others[name] = leaf
    description = {
        "model": _model_of(problem),
        "problem": identity(problem) | {"data": problem.fingerprint},
        "engine": state.engine,
        "epoch": state.epoch,
        "step": state.step,
        "history": state.history,
        "values": others,
    }
    files.write(path, files.pack(arrays, description, kind="checkpoint"), keep=keep)


def _model_of(problem: Problem) -> dict[str, Any]:
    """The description by which `load` makes a model of the file, or the reason why it cannot."""
    step = problem.step
    try:
        return described(step.net, step.loss, problem.metrics, problem.columns)
    except (TypeError, ValueError) as error:  # a layer or metric of the user's own, a lambda
        return {"missing": str(error)}


def restore(
    path: str | os.PathLike[str], problem: Problem, *, other_data: bool = False
) -> TrainingState:
    """The state that `save` wrote, on the problem's backend.

    Where the file is broken and an earlier one was kept, the state is that one's, and a warning
    says so.

    Parameters
    ----------
    path, problem
        The file, and what the run goes on with.
    other_data
        True lets it go on with other samples, as many of the same shapes.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        There is no such file, or it is a folder.
    ModelFileError
        The file is cut short, was edited, or is no checkpoint.
    ValueError
        It is of another network, optimizer, loss, seed or data.
    """
    if not Path(path).exists():
        raise FileNotFoundError(
            f"fit: resume: expected a checkpoint, got {path}, which does not exist. To fix it: "
            "give its path, or resume=True to begin where there is none"
        )
    if Path(path).is_dir():
        raise IsADirectoryError(
            f"fit: resume: expected a checkpoint, got the folder {path}. To fix it: add a file name"
        )
    path, tensors, description = _newest_whole(path)
    try:
        check_same(path, description["problem"], identity(problem))
        if not other_data:
            check_data(path, description["problem"], problem)
        backend = problem.backend
        arrays = {
            name: backend.asarray(files.values_of(tensor, backend), tensor.dtype)
            for name, tensor in tensors.items()
        }
        values = {**description["values"], **arrays}
        return TrainingState(
            _carry(path, problem.start, values),
            description["epoch"],
            description["step"],
            [array for name, array in arrays.items() if name.startswith("losses.")],
            History(description["history"]),
            _nested(values, "callbacks."),
            description["engine"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise files.damaged(path, "a checkpoint", error) from error


def _newest_whole(
    path: str | os.PathLike[str], *, warns: bool = True
) -> tuple[Path, dict[str, files.Tensor], dict[str, Any]]:
    """The newest checkpoint that can be read, and what it holds."""
    newest = Path(path)
    try:
        return newest, *files.read(newest, kind="checkpoint")
    except files.ModelFileError as error:
        for earlier in files.earlier(newest):
            try:
                found = files.read(earlier, kind="checkpoint")
            except (files.ModelFileError, OSError):
                continue
            if warns:
                warn(f"fit: resume: {error} The run goes on from {earlier}, the one before.")
            return earlier, *found
        raise


def source_of(resume: Any, checkpoint: Any) -> Any:
    """The file to resume from, or None, as the arguments of `fit` say."""
    if resume is True:
        if checkpoint is None:
            raise ValueError(
                "fit: resume: expected a checkpoint= to resume from with resume=True, got none. "
                "To fix it: give checkpoint=path, or resume=path"
            )
        return checkpoint if Path(checkpoint).exists() else None
    return None if resume is False or resume is None else resume


def dtype_of(source: Any, X: Any) -> str | None:
    """The floating dtype of the run to resume, for frames and lists.

    Their floats become the default dtype, or float32, and a run that was begun with arrays may
    have had another. None where the file does not tell; what is wrong with it `restore` says.
    """
    given = list(X.values()) if isinstance(X, dict) else X if isinstance(X, tuple) else (X,)
    if source is None or not all(isinstance(x, list) or columns_of(x) for x in given):
        return None
    with suppress(files.ModelFileError, OSError, KeyError, TypeError):
        arrays = _newest_whole(source, warns=False)[2]["problem"]["arrays"]
        floats = (dtype for name, _, dtype in arrays if name[0] == "x" and "float" in dtype)
        return next(floats, None)
    return None


def check_left(run: Run, source: Any) -> None:
    """Refuse a checkpoint with more epochs than the run is asked for."""
    if (run.epoch, run.state.step) > (run.epochs, 0):
        raise ValueError(
            f"fit: resume: {source}: expected a checkpoint within {run.epochs} epochs, got one "
            f"after {run.epoch}. To fix it: give epochs= as many as there are to be in all"
        )


def identity(problem: Problem) -> dict[str, Any]:
    """The properties of a problem that must be the same for a run to go on."""
    batches, first = problem.batches, problem.batches.dataset.between(0, 1)
    return {
        "network": label(problem.step.net),
        "optimizer": label(problem.step.optimizer),
        "loss": label(problem.step.loss),
        "compute dtype": problem.step.compute_dtype,
        "batch size": batches.size,
        "samples": None if isinstance(batches, StreamedBatches) else batches.dataset.size,
        "arrays": [
            [name, list(a.shape[1:]), problem.backend.dtype_name(a.dtype)]
            for name, a in tree.paths(first)
        ],
        "seed": problem.backend.to_host(batches.key).tolist(),
        "shuffle": batches.shuffle,
        "history": ["epoch", *problem.measures],
        **(
            {"buckets": list(batches.dataset.buckets)}
            if isinstance(batches, BucketedBatches)
            else {}
        ),
    }


def check_same(
    path: str | os.PathLike[str], before: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    """Refuse a file whose properties are not those of the run that is to go on."""
    for name, value in now.items():
        if before[name] != value:
            raise ValueError(
                f"fit: resume: {path}: {name}: expected {before[name]}, as the run was started "
                f"with, got {value}. To fix it: give fit the same arguments, or start a new run"
            )


def check_data(path: str | os.PathLike[str], before: Mapping[str, Any], problem: Problem) -> None:
    """Refuse data that are not those the run was begun with, where both have a fingerprint."""
    known, now = before.get("data"), problem.fingerprint
    if known is not None and now is not None and known != now:
        raise ValueError(
            f"fit: resume: {path}: data: expected those that the run was begun with, got others of "
            "the same shape (the fingerprint in the file is of other rows, files or windows). To "
            "fix it: give fit the same X and y; or, if these are meant, go on with train(problem, "
            "epochs, state=restore(path, problem, other_data=True)), of tinynn.training and its "
            "checkpoints"
        )


def _carry(path: str | os.PathLike[str], start: Carry, values: Mapping[str, Any]) -> Carry:
    """The carry in the file, whose arrays must be as those of the problem's start."""
    leaves = []
    for name, like in tree.paths(start):
        leaf = values[f"carry.{name}"]
        if hasattr(like, "dtype"):
            expected, got = ((tuple(a.shape), a.dtype) for a in (like, leaf))
            if expected != got:
                raise ValueError(
                    f"fit: resume: {path}: {name}: expected {expected[0]} of {expected[1]}, as the "
                    f"run would start with, got {got[0]} of {got[1]}. To fix it: give fit the same "
                    "arguments, or start a new run"
                )
        leaves.append(leaf)
    carry: Carry = tree.flatten(start)[1].unflatten(leaves)
    return carry


def _nested(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Nested dicts from those dotted names that begin so."""
    out: dict[str, Any] = {}
    for name, value in values.items():
        if name.startswith(prefix):
            *folders, last = name.removeprefix(prefix).split(".")
            place = out
            for folder in folders:
                place = place.setdefault(folder, {})
            place[last] = value
    return out
