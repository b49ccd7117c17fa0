"""A communicator through MPI, by mpi4py."""

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

import backends
from backends.communicators import staged

Array = Any

# Bytes that are summed at once, so that the buffers that MPI takes for a sum stay in the cache.
# Messages of this size leave no network waiting.
_PIECE = 2**22


class MPI:
    """The processes that mpiexec started, through mpi4py; arrays of any library.

    An error that nobody catches ends all processes, once it is printed.

    Parameters
    ----------
    comm
        A communicator of mpi4py's; None is `MPI.COMM_WORLD`.

    Notes
    -----
    Arrays are staged through the host, but for those on CUDA where MPI says that it takes them:
    "cuda" in the communicator's info `mpi_memory_alloc_kinds`, which MPI 4.1 defines.

    Raises
    ------
    ImportError
        mpi4py or an MPI library is not installed.
    """

    def __init__(self, comm: Any = None) -> None:
        try:
            from mpi4py import MPI as mpi  # it starts MPI
        except (ImportError, RuntimeError) as error:
            raise ImportError(
                f"communicator 'mpi' cannot be used: {error}. To fix it: pip install "
                "'tinynn-xp[mpi]', or pip install mpi4py beside the MPI of the machine"
            ) from error
        self._comm = mpi.COMM_WORLD if comm is None else comm
        self.rank, self.size = int(self._comm.Get_rank()), int(self._comm.Get_size())
        kinds = self._comm.Get_info().Get("mpi_memory_alloc_kinds") or ""
        self.takes_cuda = "cuda" in kinds
        _abort_on_uncaught(self._comm)

    def __repr__(self) -> str:
        return f"MPI(rank={self.rank}, size={self.size})"

    def all_reduce(self, array: Array) -> Array:
        """The sum over all processes, entry by entry."""
        if self.takes_cuda and hasattr(array, "__cuda_array_interface__"):
            backend = backends.of(array)
            # Contiguous and in the same order in every process, however the arrays lie in memory.
            source = backend.xp.asarray(backend.xp.reshape(array, (-1,)), copy=True)
            out = backend.xp.empty_like(source)
            backend.synchronize()  # MPI does not know of the work that is queued
            self._comm.Allreduce(source, out)
            return backend.xp.reshape(out, tuple(array.shape))
        return staged(array, self._sum)

    def _sum(self, host: Any) -> Any:
        out = backends.of(host).xp.empty_like(host)
        source, target = host.reshape(-1), out.reshape(-1)
        step = _PIECE // host.itemsize
        for start in range(0, host.size, step):
            self._comm.Allreduce(source[start : start + step], target[start : start + step])
        return out

    def broadcast(self, array: Array) -> Array:
        """The array that rank 0 has; the others give one of the same shape and dtype."""

        def of_first(host: Any) -> Any:
            out = host.copy()
            self._comm.Bcast(out, 0)
            return out

        return staged(array, of_first)

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self._comm.Barrier()

    def abort(self, message: str) -> None:
        """End all processes, this one too."""
        sys.stderr.write(f"rank {self.rank} of {self.size}: {message}\n")
        sys.stderr.flush()
        self._comm.Abort(1)


def _abort_on_uncaught(comm: Any) -> None:
    """Let an error that ends this process end the others, which may wait for it forever."""
    before: Callable[..., Any] = sys.excepthook
    if getattr(before, "_aborts", False) or comm.Get_size() == 1:
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        before(kind, error, trace)
        sys.stderr.flush()
        comm.Abort(1)

    hook._aborts = True  # type: ignore[attr-defined]
    sys.excepthook = hook
