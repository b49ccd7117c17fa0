"""A communicator that sums CuPy's arrays through NCCL, by `cupy.cuda.nccl`."""

from collections.abc import Callable
from typing import Any

import cupy
import numpy as np
from cupy.cuda import nccl

from backends.base import Array
from backends.communicators import ParallelError, get, launched

# The standard's dtypes by the names of NCCL's constants.
_DTYPES = {
    "float32": "NCCL_FLOAT32", "float64": "NCCL_FLOAT64", "float16": "NCCL_FLOAT16",
    "int8": "NCCL_INT8", "uint8": "NCCL_UINT8", "int32": "NCCL_INT32",
    "uint32": "NCCL_UINT32", "int64": "NCCL_INT64", "uint64": "NCCL_UINT64",
}  # fmt: skip


class NCCL:
    """Processes with a CUDA device each, whose CuPy arrays NCCL sums where they are.

    Parameters
    ----------
    exchange
        Another communicator of the same processes: NCCL's identifier, and arrays of the host, go
        through it. None: the one of what launched the process.

    Notes
    -----
    Each process uses the device that is current in it: set `CUDA_VISIBLE_DEVICES`, or call
    `cupy.cuda.Device(n).use()` before.
    """

    def __init__(self, exchange: Any = None) -> None:
        if not getattr(nccl, "available", False):
            raise ImportError("CuPy finds no NCCL")
        self.exchange = _exchange() if exchange is None else exchange
        self.rank, self.size = int(self.exchange.rank), int(self.exchange.size)
        # 128 bytes, which CuPy shows as signed numbers: those of rank 0 are everybody's.
        mine = nccl.get_unique_id() if self.rank == 0 else (0,) * 128
        shared = self.exchange.broadcast(np.asarray(mine, dtype="int64"))
        self._nccl = nccl.NcclCommunicator(self.size, tuple(map(int, shared)), self.rank)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(rank={self.rank}, size={self.size})"

    def all_reduce(self, array: Array) -> Array:
        """The sum over all processes, of every entry."""
        if not _is_summed(array):
            return self.exchange.all_reduce(array)
        source, out = cupy.ascontiguousarray(array), cupy.empty(array.shape, array.dtype)
        self._guarded(
            "all_reduce",
            lambda: self._nccl.allReduce(
                source.data.ptr, out.data.ptr, source.size, _kind(source), nccl.NCCL_SUM, _stream()
            ),
        )
        return out

    def broadcast(self, array: Array) -> Array:
        """The array that rank 0 has; the others give one of the same shape and dtype."""
        if not _is_summed(array):
            return self.exchange.broadcast(array)
        out = cupy.array(array, copy=True, order="C")
        self._guarded(
            "broadcast",
            lambda: self._nccl.bcast(out.data.ptr, out.size, _kind(out), 0, _stream()),
        )
        return out

    def barrier(self) -> None:
        """Wait for all processes."""
        self.exchange.barrier()

    def abort(self, message: str) -> None:
        """End all processes."""
        self._nccl.abort()
        self.exchange.abort(message)

    def _guarded(self, name: str, call: Callable[[], Any]) -> None:
        try:
            call()
        except nccl.NcclError as error:
            raise ParallelError(
                f"rank {self.rank} of {self.size}: {name}: expected NCCL to sum, got {error}. To "
                "fix it: set NCCL_DEBUG=INFO and see what NCCL says"
            ) from error


def _exchange() -> Any:
    name = launched()
    if name in (None, "mpi"):
        raise ParallelError(
            "communicator 'cupy-nccl': expected another communicator to exchange NCCL's identifier "
            "through, got none. To fix it: start with torchrun, or give "
            "backends.cupy_nccl.NCCL(tinynn.parallel.MPI())"
        )
    return get(name)


def _is_summed(array: Any) -> bool:
    """True if NCCL has the dtype, and the array is where NCCL can reach it."""
    return isinstance(array, cupy.ndarray) and array.dtype.name in _DTYPES


def _kind(array: Any) -> Any:
    return getattr(nccl, _DTYPES[array.dtype.name])


def _stream() -> Any:
    return cupy.cuda.get_current_stream().ptr
