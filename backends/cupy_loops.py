"""Explicit loops on CUDA: one kernel of one thread block, or of one for each of many networks.

CuPy keeps compiled kernels on disk, by a hash of their source and of what compiles them.
"""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import count
from typing import Any

import cupy
import numpy as np

from backends.lowering import KernelError, LoopCompiler, Taken

_THREADS = 256
# What every kernel may have without asking; the threads' sums take a part of it.
_SHARED, _SUMS = 48 * 1024, 8 * _THREADS
# How many kernels CuPy may keep in memory, beside those that programs have.
_MOST, _built = 64, count(1)


def build(
    source: str, dtypes: Sequence[str], threads: int, shared_bytes: int
) -> Callable[..., None]:
    """The function `run` of a kernel's source; see `LoopCompiler`."""
    if next(_built) % _MOST == 0:  # CuPy keeps every one that it was ever asked for
        cupy.clear_memo()
    try:
        return _Kernel(cupy.RawModule(code=source), dtypes, threads, shared_bytes)
    except cupy.cuda.compiler.CompileException as error:
        lines = str(error).splitlines()
        first = next((line for line in lines if "error" in line), str(error))
        raise KernelError(f"CUDA's compiler refuses the kernel: {first.strip()}") from error


class _Kernel:
    """A kernel: `kernel(steps, times, *arrays)` is one launch, and so is `each`."""

    def __init__(self, module: Any, dtypes: Sequence[str], threads: int, shared: int) -> None:
        self._function = module.get_function("run")
        self._dtypes = [np.dtype(each) for each in dtypes]
        self._threads, self._shared = threads, shared
        self._sent: dict[Any, tuple[Any, Any]] = {}
        if shared > _SHARED:
            self._function.max_dynamic_shared_size_bytes = shared

    def __call__(self, steps: int, times: int, *arrays: Any) -> None:
        self._launch(1, (steps, times), (), arrays)

    def each(
        self, networks: Sequence[int], apart: Sequence[int], steps: int, times: int, *arrays: Any
    ) -> None:
        """The kernel for each of these networks, a block each; see `LoopCompiler`."""
        flat = [_gathered(a) if isinstance(a, Taken) else a for a in arrays]
        widths = [a[0].size if isinstance(b, Taken) else n for a, b, n in zip(
            flat, arrays, apart, strict=True)]  # fmt: skip
        known = (*networks, -1, *widths)
        if known not in self._sent:  # nearly always those of the last time
            self._sent = {known: (cupy.asarray(networks), cupy.asarray(widths))}
        self._launch(len(networks), (steps, times), self._sent[known], flat)

    def _launch(
        self, blocks: int, numbers: tuple[int, int], given: tuple[Any, ...], arrays: Any
    ) -> None:
        for array, dtype in zip(arrays, self._dtypes, strict=True):
            if array.dtype != dtype or not array.flags.c_contiguous:
                raise TypeError(f"a kernel expected a contiguous array of {dtype}")
        arguments = (*map(np.int64, numbers), *given, *arrays)
        self._function((blocks,), (self._threads,), arguments, shared_mem=self._shared)


def _gathered(taken: Taken) -> Any:
    """The samples that each network takes: (networks, count, ...)."""
    return taken.array.take(taken.rows, axis=0)


@cache
def native(device: int) -> LoopCompiler:
    """The compiler for a device, which says how much memory a block has."""
    attributes = cupy.cuda.Device(device).attributes
    most = attributes.get("MaxSharedMemoryPerBlockOptin") or _SHARED
    room = max(most, _SHARED) - _SUMS
    # One block uses one multiprocessor, and nobody has measured yet when that wins.
    return LoopCompiler(
        build,
        cupy.ravel,
        language="cuda",
        threads=_THREADS,
        shared_bytes=room,
        automatic=False,
    )
