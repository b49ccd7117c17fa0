"""Checkpoints of many networks: the state of all in one file, from which training goes on."""

import os
from pathlib import Path
from typing import Any

from backends.user_code import warn
from tinynn import tree
from tinynn.config import label
from tinynn.data import host
from tinynn.training import files
from tinynn.training.checkpoints import check_beside, check_data, check_same, identity

KIND = "stack checkpoint"


class Checkpoint:
    """The file that the state of many networks is written to, and when."""

    def __init__(self, path: str | os.PathLike[str], every: int) -> None:
        if isinstance(every, bool) or not hasattr(every, "__index__") or every < 1:
            raise ValueError(
                f"fit_many: every: expected a whole number of epochs of 1 or more, got {every!r}. "
                "To fix it: give every=1"
            )
        self.path, self.every = Path(path), int(every)
        self._written = 0  # the epoch that the file is of
        files.check_target(self.path, "fit_many: checkpoint")

    def left(self, epoch: int) -> int:
        """The epochs until the next one."""
        return self.every - epoch % self.every

    def is_due(self, epoch: int) -> bool:
        """Whether a file is to be written after this epoch."""
        return epoch % self.every == 0

    def write(self, training: Any) -> None:
        """Write the state, unless the file is of this epoch; a warning where it cannot be."""
        epoch = training.epoch
        if epoch == self._written:
            return
        self._written = epoch
        try:
            files.write(self.path, files.pack(*_packed(training), kind=KIND))
        except OSError as error:
            warn(
                f"fit_many: epoch {epoch}: the checkpoint {self.path} cannot be written ({error}): "
                "training goes on, and the file is as it was."
            )


def checkpoint_of(path: str | os.PathLike[str] | None, every: int) -> Checkpoint | None:
    """The schedule that the arguments of `fit_many` ask for; ValueError for one without a file."""
    if path is None:
        check_beside("fit_many", every=(every, 1))
        return None
    return Checkpoint(path, every)


def _packed(training: Any) -> tuple[list[tuple[str, Any]], dict[str, Any]]:
    """The arrays of a file, and its description."""
    home, library, stopping = training.backend, host(), training.stopping
    arrays = [(f"carry.{i}", home.to_host(a)) for i, a in enumerate(tree.leaves(training.carry))]
    if stopping.best_carry is not None:
        best = tree.leaves(stopping.best_carry)
        arrays += [(f"best.{i}", home.to_host(a)) for i, a in enumerate(best)]
    arrays += [(f"history.{name}", values) for name, values in training.history().items()]
    arrays += [
        (f"stopping.{name}", library.asarray(values, dtype="float64"))
        for name, values in stopping.numbers().items()
    ]
    description = {
        "problem": _identity(training) | {"data": training.problem.fingerprint},
        "engine": training.engine.name,
        "epoch": training.epoch,
        "lengths": training.lengths,
        "alive": training.alive,
        "ended": sorted(training.ended),
    }
    return arrays, description


def _identity(training: Any) -> dict[str, Any]:
    """The properties that must be the same for training to go on."""
    networks, stopping = training.networks, training.stopping
    varied = {path: list(each) for path, each in networks.numbers.items()}
    ends = [label(stopping.early), label(stopping.halving)]
    folds = None if training.folds is None else training.backend.to_host(training.folds).tolist()
    own: dict[str, Any] = {
        "seeds": list(networks.seeds),
        "numbers that vary": varied,
        "stopping": ends,
    }
    own |= {"folds": folds, "epochs of halving": training.epochs if stopping.halving else None}
    return identity(training.problem) | own


def restore(path: str | os.PathLike[str], training: Any) -> None:
    """Let a training go on from what `Checkpoint` wrote.

    Raises FileNotFoundError, ModelFileError for a broken file or one of another kind, and
    ValueError for one of other networks or data, another engine, or more epochs than there are to
    be.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"fit_many: resume: expected a checkpoint, got {path}, which is no file. To fix it: "
            "give its path, or resume=True to begin where there is none"
        )
    tensors, known = files.read(path, kind=KIND)
    check_same(path, known["problem"], _identity(training))
    check_data(path, known["problem"], training.problem)
    if known["engine"] != training.engine.name or known["epoch"] > training.epochs:
        raise ValueError(
            f"fit_many: resume: {path}: expected a checkpoint by engine={training.engine.name!r} "
            f"within {training.epochs} epochs, got one by engine={known['engine']!r} after "
            f"{known['epoch']}. To fix it: name that engine, and give epochs= as many as there are "
            "to be in all"
        )
    home, library = training.backend, host()
    structure = tree.flatten(training.carry)[1]

    def tree_of(prefix: str) -> Any:
        found = [tensors[f"{prefix}.{i}"] for i in range(len(tree.leaves(training.carry)))]
        return structure.unflatten([home.asarray(files.values_of(t, home), t.dtype) for t in found])

    def numbers(prefix: str) -> dict[str, Any]:
        return {
            name.removeprefix(prefix): library.asarray(files.values_of(tensor, library)).tolist()
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }

    training.carry = tree_of("carry")
    training.engine.load(training.carry)
    training.carry = training.engine.carry()
    training.stopping.set_numbers(numbers("stopping."))
    if "best.0" in tensors:
        training.stopping.best_carry = tree_of("best")
    training.columns = {name: [values] for name, values in numbers("history.").items()}
    training.epoch, training.lengths = known["epoch"], known["lengths"]
    training.alive, training.ended = known["alive"], set(known["ended"])
