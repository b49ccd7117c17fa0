"""The processes of a run, where there are several: they agree before they go on.

All decisions that change what a process does next (a signal, an error, the end) are made together
at the same places of the run; so no process waits for one that has gone another way.
"""

import inspect
import sys
import traceback
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from math import prod
from types import CodeType
from typing import Any

from tinynn import tree
from tinynn.data import host
from tinynn.parallel import Communicator, ParallelError
from tinynn.training.checkpoints import identity
from tinynn.training.problem import Problem
from tinynn.training.state import Run

_TEXT = 300  # characters of a value that an error shows
_COMPARED = 2**26  # numbers of data in memory that are compared one and all
_PLACES = 64  # samples of larger data that are compared


class Ranks:
    """The processes that train together; one alone without a communicator.

    Parameters
    ----------
    communicator
        Of all of them, or None.

    Attributes
    ----------
    rank
        The number of this one.
    several
        True if there are others.
    """

    def __init__(self, communicator: Communicator | None) -> None:
        self.communicator = communicator
        self.several = communicator is not None
        self.rank = 0 if communicator is None else communicator.rank
        self._agreed = False  # the error that is under way ends all processes in the same way

    @property
    def writes(self) -> bool:
        """True in the one process that writes files and shows progress."""
        return self.rank == 0

    def gathered(self, row: list[float]) -> list[list[float]]:
        """The rows of all processes, by rank."""
        if self.communicator is None:
            return [row]
        zeros = [0.0] * len(row)
        table = [row if rank == self.rank else zeros for rank in range(self.communicator.size)]
        found = self.communicator.all_reduce(host().asarray(table, "float64"))
        rows: list[list[float]] = host().to_host(found).tolist()
        return rows

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.communicator is not None:
            self.communicator.barrier()

    @contextmanager
    def together(self, what: str) -> Iterator[None]:
        """A context in which nobody waits for others, and whose errors are those of all.

        A process in which nothing went wrong raises ParallelError when another one has an error.
        """
        error: BaseException | None = None
        try:
            yield
        except Exception as raised:
            error = raised
        if self.communicator is not None:
            failed = [rank for rank, (bad,) in enumerate(self.gathered([error is not None])) if bad]
            self._agreed = bool(failed)
            said = self._texts("" if error is None else f"{type(error).__name__}: {error}", failed)
            if failed and error is None:
                raise ParallelError(
                    f"fit: {what}: expected all {self.communicator.size} processes to succeed, got "
                    f"an error in rank {failed[0]}: {said[failed[0]]}"
                )
        if error is not None:
            raise error

    @contextmanager
    def training(self) -> Iterator[None]:
        """A context in which processes wait for each other: an error in one ends all."""
        try:
            yield
        except BaseException as error:
            if self.communicator is not None and not self._agreed:
                said = "".join(traceback.format_exception(error))
                self.communicator.abort(f"{said}fit: training ends in all processes")
            raise

    def leaving(self) -> None:
        """Note that all processes raise now, at the same place."""
        self._agreed = True

    def check_same(self, what: Mapping[str, Any]) -> None:
        """ParallelError in all processes unless these values are the same in all.

        Parameters
        ----------
        what
            Name -> a value; what its `repr` shows is compared.
        """
        if self.communicator is None:
            return
        shown = {name: repr(value) for name, value in what.items()}
        sums = [float(zlib.crc32(text.encode())) for text in shown.values()]
        rows = self.gathered([float(zlib.crc32(repr([*shown]).encode())), *sums])
        for place, name in enumerate(("the arguments", *shown)):
            others = [rank for rank, row in enumerate(rows) if row[place] != rows[0][place]]
            if others:
                self._refuse(name, shown.get(name, repr([*shown])), others[0])

    def _refuse(self, name: str, text: str, other: int) -> None:
        said = self._texts(text, [0, other])
        self._agreed = True
        raise ParallelError(
            f"fit: {name}: expected the same in all processes, got {said[0]} in rank 0 and "
            f"{said[other]} in rank {other}. To fix it: start all with the same program, "
            "arguments, seed and data; each takes its own rows by itself"
        )

    def _texts(self, text: str, ranks: list[int]) -> dict[int, str]:
        """What these ranks say, cut to a few words."""
        if not ranks:
            return {}
        rows = self.gathered([*map(float, text[:_TEXT].ljust(_TEXT).encode("latin-1", "replace"))])
        return {rank: bytes(map(int, rows[rank])).decode("latin-1").strip() for rank in ranks}


def compared(
    ranks: Ranks, run: Run, problem: Problem, callbacks: list[Any], checkpointer: Any
) -> dict[str, Any]:
    """All that has to be the same in every process, by name; nothing for one alone."""
    if not ranks.several:
        return {}
    step, batches, held = problem.step, problem.batches, problem.validation
    return {
        **identity(problem),
        "library": problem.backend.name,
        "validation": None if held is None else (held.size, digest(problem.backend, few(held))),
        "epochs": (run.epochs, run.epoch, run.state.step),
        "code": code_of(step.net, step.loss, step.optimizer),
        "data": (problem.fingerprint, digest(problem.backend, few(batches.dataset))),
        "start": digest(problem.backend, run.state.carry),
        # They decide where processes meet.
        "callbacks": len(callbacks),
        "checkpoint": checkpointer is not None,
    }


def digest(backend: Any, value: Any) -> str:
    """A checksum of all arrays of a tree, with their names.

    Parameters
    ----------
    backend
        Where the arrays are.
    value
        A tree of arrays.
    """
    sums = []
    for path, leaf in tree.paths(value):
        if hasattr(leaf, "dtype"):
            sums.append((path, tuple(leaf.shape), zlib.crc32(backend.to_host(leaf).tobytes())))
        else:
            sums.append((path, (), zlib.crc32(repr(leaf).encode())))
    return f"{len(sums)} arrays of checksum {zlib.crc32(repr(sums).encode()):08x}"


def few(dataset: Any) -> Any:
    """Samples that show whether two datasets in memory are the same; of others the first.

    Parameters
    ----------
    dataset
        With its own `between`.
    """
    if not getattr(dataset, "in_memory", False):  # their fingerprint tells
        return dataset.between(0, 1)
    size = dataset.size
    row = sum(prod(a.shape[1:]) for a in tree.leaves(dataset.between(0, 1)))
    if size * row <= _COMPARED:
        return dataset.between(0, size)
    starts = sorted({place * (size - 1) // (_PLACES - 1) for place in range(_PLACES)})
    return [dataset.between(start, start + 1) for start in starts]


def code_of(*values: Any) -> str:
    """A checksum of the functions and methods that objects are made of, and of the versions.

    Parameters
    ----------
    *values
        Layers, losses, optimizers and functions.
    """
    parts: list[Any] = [sys.version]
    _add_code(values, parts, [])
    return f"a program of checksum {zlib.crc32(repr(parts).encode()):08x}"


def _add_code(value: Any, parts: list[Any], seen: list[Any]) -> None:
    if any(value is known for known in seen):
        return
    seen.append(value)  # the value itself, so that no other takes its id
    if code := getattr(value, "__code__", None):
        parts.append(_instructions(code))
    elif isinstance(value, Mapping):
        _add_code(tuple(value.values()), parts, seen)
    elif isinstance(value, tuple | list):
        for each in value:
            _add_code(each, parts, seen)
    elif is_dataclass(value) and not isinstance(value, type):
        for kind in type(value).__mro__:
            _add_code(tuple(map(_function, vars(kind).values())), parts, seen)
        _add_code(tuple(getattr(value, field.name) for field in fields(value)), parts, seen)


def _function(value: Any) -> Any:
    return inspect.unwrap(value) if inspect.isfunction(value) else None


def _instructions(code: CodeType) -> tuple[Any, ...]:
    constants = [_instructions(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return code.co_code, code.co_names, constants
