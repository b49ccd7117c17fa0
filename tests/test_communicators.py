"""Communicators through MPI and NCCL, whose own part is played by threads."""

import sys
import warnings
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from backends import Backend
from tests.checks import assert_equal
from tests.ranks import fitted, samples
from tests.threads import Threads, succeeded, together
from tinynn import tree
from tinynn.parallel import MPI

pytestmark = pytest.mark.reads_scalars
THREADS = ("numpy", "torch", "array_api_strict", "cupy")  # the others compile each operation


@dataclass
class Comm:
    """The part of mpi4py's communicators that is used; buffers are contiguous, as MPI has them."""

    threads: Threads
    kinds: str = ""

    def __post_init__(self) -> None:
        self.seen: list[Any] = []

    def Get_rank(self) -> int:
        return self.threads.rank

    def Get_size(self) -> int:
        return self.threads.size

    def Get_info(self) -> Any:
        return SimpleNamespace(Get={"mpi_memory_alloc_kinds": self.kinds}.get)

    def Allreduce(self, source: Any, out: Any) -> None:
        assert source.flags.c_contiguous
        assert out.flags.c_contiguous
        assert (source.shape, source.dtype) == (out.shape, out.dtype)
        self.seen.append(type(source).__module__.partition(".")[0])
        out[...] = self.threads.all_reduce(source)

    def Bcast(self, out: Any, root: int) -> None:
        assert out.flags.c_contiguous
        assert root == 0
        out[...] = self.threads.broadcast(out.copy())

    def Barrier(self) -> None:
        self.threads.barrier()

    def Abort(self, code: int) -> None:
        self.threads.abort(str(code))


@pytest.fixture(autouse=True)
def mpi4py(monkeypatch: pytest.MonkeyPatch) -> None:
    """mpi4py, whether or not it is installed: the test's own communicators are given to it."""
    stub: Any = ModuleType("mpi4py")
    stub.MPI = SimpleNamespace(COMM_WORLD=None)
    monkeypatch.setitem(sys.modules, "mpi4py", stub)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # MPI's is taken away again


def check_sums(backend: Backend, made: Any, dtypes: tuple[str, ...]) -> None:
    """Sums and broadcasts of arrays by the communicator that is made of a thread's."""
    xp, host = backend.xp, np.arange(6).reshape(2, 3)

    def run(threads: Threads) -> Any:
        communicator, found = made(threads), []
        for dtype in dtypes:
            own = backend.asarray((host + threads.rank).astype(dtype))
            turned = backend.asarray((host + threads.rank).astype(dtype).T.copy())
            own = xp.permute_dims(turned, (1, 0)) if threads.rank else own
            scalar = xp.sum(own, dtype=own.dtype)
            for array in (own, own[:, ::2], scalar):
                before = backend.to_host(array).copy()
                found.append(communicator.all_reduce(array))
                found.append(communicator.broadcast(array))
                np.testing.assert_array_equal(backend.to_host(array), before)
        return found

    for found in succeeded(together(2, run)):
        given = iter(found)
        for dtype in dtypes:
            first, second = host.astype(dtype), (host + 1).astype(dtype)
            pairs = ((first, second), (first[:, ::2], second[:, ::2]), (first.sum(), second.sum()))
            for left, right in pairs:
                assert_equal(next(given), np.asarray(left + right), backend, dtype=dtype)
                assert_equal(next(given), np.asarray(left), backend, dtype=dtype)


@pytest.mark.only(*THREADS)
def test_mpi_takes_arrays_of_every_library_through_the_host(backend: Backend) -> None:
    check_sums(backend, lambda threads: MPI(Comm(threads)), ("float32", "int64", "uint8"))


@pytest.mark.only("cupy")
def test_mpi_that_takes_cuda_is_given_the_device(backend: Backend) -> None:
    check_sums(backend, lambda threads: MPI(Comm(threads, "mpi,cuda")), ("float32", "int64"))
    comms: list[Comm] = []

    def run(threads: Threads) -> Any:
        comms.append(Comm(threads, "mpi,cuda"))
        return MPI(comms[-1]).all_reduce(backend.asarray([1.0]))

    succeeded(together(1, run))
    assert comms[0].seen == ["cupy"]


@pytest.fixture
def data(backend: Backend) -> tuple[Any, Any]:
    return samples(backend)


def check_training(backend: Backend, arrays: Any, made: Any) -> None:
    """One rank and two give the losses of a process without a communicator."""
    given = {"engine": "calls", "validation": 0.25, "metrics": ["accuracy"]}
    one = fitted(arrays, **given)
    for size in (1, 2):
        for model in succeeded(together(size, lambda t: fitted(arrays, made(t), **given))):
            for name, column in one.history.items():
                np.testing.assert_allclose(model.history[name], column, rtol=1e-5)
            for left, right in zip(*map(tree.leaves, (model.params, one.params)), strict=True):
                np.testing.assert_allclose(
                    backend.to_host(left), backend.to_host(right), rtol=1e-4, atol=1e-6
                )


@pytest.mark.only("numpy", "cupy")
def test_training_through_mpi(data: Any, backend: Backend) -> None:
    check_training(backend, data, lambda threads: MPI(Comm(threads)))


class Nccl:
    """NCCL as CuPy shows it: functions of pointers, of a number of elements and of constants."""

    NCCL_SUM = 0
    KINDS = ("INT8", "UINT8", "INT32", "UINT32", "INT64", "UINT64", "FLOAT16", "FLOAT32", "FLOAT64")
    identifier = tuple(range(-64, 64))
    links: dict[int, Threads]

    def __init__(self, size: int, identifier: tuple[int, ...], rank: int) -> None:
        assert identifier == self.identifier
        self.threads, self.calls = self.links[rank], []
        assert (size, rank) == (self.threads.size, self.threads.rank)

    def array(self, pointer: int, count: int, kind: int) -> Any:
        import cupy

        dtype = np.dtype(self.KINDS[kind].lower())
        memory = cupy.cuda.UnownedMemory(pointer, count * dtype.itemsize, self)
        return cupy.ndarray((count,), dtype, cupy.cuda.MemoryPointer(memory, 0))

    def allReduce(
        self, source: int, out: int, count: int, kind: int, operation: int, stream: int
    ) -> None:
        import cupy

        assert operation == self.NCCL_SUM
        assert stream == cupy.cuda.get_current_stream().ptr
        self.calls.append((self.KINDS[kind], count))
        total = self.threads.all_reduce(self.array(source, count, kind))
        self.array(out, count, kind)[...] = total
        self.threads.barrier()

    def bcast(self, out: int, count: int, kind: int, root: int, stream: int) -> None:
        assert root == 0
        first = self.threads.broadcast(self.array(out, count, kind).copy())
        self.array(out, count, kind)[...] = first
        self.threads.barrier()

    def abort(self) -> None:
        self.calls.append(("abort", 0))


@pytest.fixture
def over_nccl(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that makes the communicator "cupy-nccl" of a thread's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NCCL itself is not here
        from backends import cupy_nccl
    stub: Any = SimpleNamespace(
        available=True, NCCL_SUM=Nccl.NCCL_SUM, NcclError=RuntimeError, NcclCommunicator=Nccl,
        get_unique_id=lambda: Nccl.identifier,
    )  # fmt: skip
    for kind, name in enumerate(Nccl.KINDS):
        setattr(stub, f"NCCL_{name}", kind)
    monkeypatch.setattr(cupy_nccl, "nccl", stub)
    monkeypatch.setattr(Nccl, "links", {}, raising=False)

    def made(threads: Threads) -> Any:
        Nccl.links[threads.rank] = threads
        return cupy_nccl.NCCL(MPI(Comm(threads)))

    return made


@pytest.mark.only("cupy")
def test_nccl_is_called_with_pointers_counts_and_dtypes(backend: Backend, over_nccl: Any) -> None:
    # int16 it lacks, which goes through the host.
    check_sums(backend, over_nccl, ("float32", "float64", "int64", "uint8", "int16"))
    made: list[Any] = []

    def run(threads: Threads) -> None:
        made.append(over_nccl(threads))
        made[0].all_reduce(backend.asarray(np.zeros((2, 3), "float32")))
        made[0].all_reduce(np.zeros(4))  # of the host
        made[0].all_reduce(backend.asarray(np.zeros((2, 2), "int16")))

    succeeded(together(1, run))
    assert made[0]._nccl.calls == [("FLOAT32", 6)]


@pytest.mark.only("cupy")
def test_training_through_nccl(data: Any, backend: Backend, over_nccl: Any) -> None:
    check_training(backend, data, over_nccl)
