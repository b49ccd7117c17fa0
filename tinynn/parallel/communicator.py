"""The protocol of communicators, and how one is found by name."""

from typing import Any, Protocol, runtime_checkable

from backends import communicators
from backends.communicators import ParallelError

Array = Any


@runtime_checkable
class Communicator(Protocol):
    """The interface of what processes that train together sum and send arrays through.

    All processes call the same methods in the same order, with arrays of the same shapes and
    dtypes. Each result is on the device of the array that was given, which is left as it is, and
    its bits are the same in every process.

    Attributes
    ----------
    rank
        The number of this process, counted from 0.
    size
        The number of processes.
    """

    rank: int
    size: int

    def all_reduce(self, array: Array) -> Array:
        """The sum over all processes, entry by entry."""

    def broadcast(self, array: Array) -> Array:
        """The array that rank 0 has; the others give one of the same shape and dtype."""

    def barrier(self) -> None:
        """Wait until all processes are here."""

    def abort(self, message: str) -> None:
        """End the others, which may be waiting for this process, because of an error in it."""


def communicator(name: "str | Communicator | None") -> Communicator | None:
    """The communicator of that name; one that is given passes through.

    Parameters
    ----------
    name
        "mpi", through mpi4py; "gloo" or "nccl", through `torch.distributed`; "cupy-nccl", through
        CuPy; "auto", the one that mpiexec or torchrun started this process for, and None where
        neither did; None for a process alone.

    Raises
    ------
    ValueError
        There is no communicator of that name.
    ImportError
        What it needs is not installed; the message has the command.

    Examples
    --------
    >>> communicator("auto") is None  # nothing has launched this process as one of several
    True
    """
    if name is None or not isinstance(name, str):
        if name is not None and not isinstance(name, Communicator):
            raise TypeError(
                "communicator: expected a name, or an object with rank, size, all_reduce, "
                f"broadcast, barrier and abort, got {name!r}"
            )
        return name
    chosen = communicators.launched() if name == "auto" else name
    if chosen is None:
        return None
    if chosen == "mpi":
        from tinynn.parallel.mpi import MPI  # mpi4py starts MPI where it is imported

        return MPI()
    if chosen in communicators.names():
        found: Communicator = communicators.get(chosen)
        return found
    known = ", ".join(map(repr, ("auto", "mpi", *communicators.names())))
    raise ValueError(f"communicator: expected one of {known}, got {name!r}")


__all__ = ["Communicator", "ParallelError", "communicator"]
