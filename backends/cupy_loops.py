"""Explicit loops on CUDA: one kernel of one thread block, or of one for each of many networks.

CuPy keeps compiled kernels on disk, by a hash of their source and of what compiles them.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import cupy
import numpy as np

from backends.lowering import KernelError, LoopCompiler, Taken

_THREADS = 256
# What every kernel may have without asking; the threads' sums take a part of it.
_SHARED, _SUMS = 48 * 1024, 8 * _THREADS
_OPTIONS = ("--std=c++14",)


def build(
    source: str, dtypes: Sequence[str], threads: int, shared_bytes: int
) -> Callable[..., None]:
    """The function `run` of a kernel's source; see `LoopCompiler`."""
    try:
        return _Kernel(source, dtypes, threads, shared_bytes)
    except cupy.cuda.compiler.CompileException as error:
        lines = str(error).splitlines()
        first = next((line for line in lines if "error" in line), str(error))
        raise KernelError(f"CUDA's compiler refuses the kernel: {first.strip()}") from error


class _Kernel:
    """A kernel: `kernel(steps, times, *arrays)` is one launch, and so is `each`."""

    def __init__(self, source: str, dtypes: Sequence[str], threads: int, shared: int) -> None:
        self._source = source
        self._functions: dict[int, Any] = {}  # by device
        self._dtypes = [np.dtype(each) for each in dtypes]
        self._threads, self._shared = threads, shared
        self._sent: dict[Any, tuple[Any, Any]] = {}
        self._function()

    def _function(self) -> Any:
        """The kernel on the current device."""
        device = cupy.cuda.runtime.getDevice()
        if device not in self._functions:
            self._functions[device] = _loaded(self._source, self._shared)
        return self._functions[device]

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
        self._function()((blocks,), (self._threads,), arguments, shared_mem=self._shared)


def _loaded(source: str, shared: int) -> Any:
    """The function `run` of a source, whose module lives as long as it.

    CuPy's public `RawModule` keeps every one that it was ever asked for, until `clear_memo` drops
    those of all the process, with the constants that others have set in theirs.
    """
    compiled = getattr(cupy.cuda.compiler, "_compile_module_with_cache", None)
    module = compiled(source, _OPTIONS) if compiled else cupy.RawModule(code=source)
    function = module.get_function("run")
    if shared > _SHARED:
        driver = cupy.cuda.driver
        attribute = driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        driver.funcSetAttribute(getattr(function, "kernel", function).ptr, attribute, shared)
    return function


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
