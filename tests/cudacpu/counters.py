"""What a process has asked of its emulated CUDA device, and limits set on that device.

Everything here acts on the process that calls it, at once, and needs no CuPy:

    from tests.cudacpu import counters

    with counters.counting() as seen:
        y = model(x)
    assert seen.launches == 3 and seen.copies_to_host == 0

    with counters.copies_to_host(refuse):  # refuse(size) -> False: cudaErrorNotPermitted
        ...
    with counters.memory_limit(64 << 20):  # cupy.cuda.memory.OutOfMemoryError beyond
        ...
    with counters.driver_version(11040):   # cudaErrorInsufficientDriver
        ...
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache

PERMIT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint64)


@dataclass(frozen=True)
class Counts:
    """Calls of the CUDA interface since the last `reset`."""

    launches: int = 0  # of kernels that NVRTC compiled
    library_calls: int = 0  # of cuBLAS, cuSOLVER, cuFFT and Thrust, which launch kernels of theirs
    compilations: int = 0  # by NVRTC, of kernels that CuPy's cache did not have
    allocations: int = 0  # from the device: CuPy's memory pool asks for one where it has no block
    copies_to_device: int = 0
    copies_to_host: int = 0  # by cudaMemcpy or cudaMemcpyAsync, in one piece or in rows
    copies_on_device: int = 0
    bytes_to_device: int = 0
    bytes_to_host: int = 0
    bytes_on_device: int = 0
    synchronizations: int = 0  # of a device, a stream or an event

    def __sub__(self, before: "Counts") -> "Counts":
        return Counts(*(getattr(self, n) - getattr(before, n) for n in NAMES))


NAMES = [field.name for field in fields(Counts)]


class State(ctypes.Structure):
    """`State` of src/state.h, field by field."""

    _fields_ = (
        *((name, ctypes.c_uint64) for name in NAMES),
        ("memory_limit", ctypes.c_uint64),
        ("devices", ctypes.c_int),
        ("driver_version", ctypes.c_int),
        ("headers_missing", ctypes.c_int),
        ("permit_copy_to_host", ctypes.c_void_p),  # an address, which can be put back
    )


@cache
def state() -> State | None:
    """The state of this process's emulated device; None where there is none."""
    try:
        function = ctypes.CDLL("libcuda.so.1").cudacpu_state
    except (OSError, AttributeError):  # no driver at all, or NVIDIA's
        return None
    function.restype = ctypes.POINTER(State)
    return function().contents


def emulated() -> bool:
    """Whether the CUDA device of this process is the emulated one."""
    return state() is not None


def device() -> State:
    """The state, or an error that says how to get one."""
    found = state()
    if found is None:
        raise RuntimeError(
            "tests.cudacpu.counters: this process has no emulated CUDA device. "
            "To fix it: start it by `python -m tests.cudacpu COMMAND ...`"
        )
    return found


def read() -> Counts:
    """What was counted since the process started, or since `reset`."""
    return Counts(*(getattr(device(), name) for name in NAMES))


def reset() -> None:
    """Count from nothing again."""
    for name in NAMES:
        setattr(device(), name, 0)


class Counting:
    """The counts of a block, as attributes: those so far while it runs, final when it has ended."""

    def __init__(self) -> None:
        self._start = read()
        self._end: Counts | None = None

    def stop(self) -> None:
        """Count no further."""
        self._end = read()

    def __getattr__(self, name: str) -> int:
        return getattr((self._end or read()) - self._start, name)


@contextmanager
def counting() -> Iterator[Counting]:
    """Count what a block does; blocks may be nested."""
    counts = Counting()
    try:
        yield counts
    finally:
        counts.stop()


@contextmanager
def copies_to_host(permit: Callable[[int], bool]) -> Iterator[None]:
    """Call `permit(size in bytes)` before every copy from the device to the host in a block.

    Where it answers False, or raises, the copy isn't made and the caller of CUDA gets
    `cudaErrorNotPermitted`, which CuPy raises as CUDARuntimeError. `permit` runs in the thread
    that copies, below the caller's Python frames, so it may look at the stack.
    """
    before = device().permit_copy_to_host
    errors: list[BaseException] = []

    def ask(size: int) -> bool:
        try:
            return bool(permit(size))
        except BaseException as error:  # it cannot pass through CUDA: raised below
            errors.append(error)
            return False

    called = PERMIT(ask)  # a name, so that it lives as long as CUDA may call it
    device().permit_copy_to_host = ctypes.cast(called, ctypes.c_void_p)
    try:
        yield
    finally:
        device().permit_copy_to_host = before
        if errors:
            raise errors[0]


@contextmanager
def memory_limit(size: int) -> Iterator[None]:
    """Give every device so many bytes; what is taken already counts.

    Beyond it, allocations fail with cudaErrorMemoryAllocation (CuPy: OutOfMemoryError). CuPy's
    pool may still hold freed blocks: `cupy.get_default_memory_pool().free_all_blocks()` first.
    """
    yield from set_field("memory_limit", size)


@contextmanager
def driver_version(version: int) -> Iterator[None]:
    """Have a driver for this version of CUDA: 11040 for 11.4; 0 for none.

    Older than the runtime's major version, every call of the runtime that needs a device fails
    with cudaErrorInsufficientDriver.
    """
    yield from set_field("driver_version", version)


@contextmanager
def devices(number: int) -> Iterator[None]:
    """Have so many devices, at most 16. With none, the runtime answers cudaErrorNoDevice."""
    yield from set_field("devices", number)


@contextmanager
def headers_missing() -> Iterator[None]:
    """Have NVRTC find no header of the CUDA toolkit, as where CuPy's extra `ctk` is missing.

    Kernels that CuPy has in memory or in its cache run all the same: the variables
    `CUDACPU_HEADERS=missing` and `CUPY_CACHE_DIR=<empty folder>` give a process that has none.
    """
    yield from set_field("headers_missing", 1)


def set_field(name: str, value: int) -> Iterator[None]:
    before = getattr(device(), name)
    setattr(device(), name, value)
    try:
        yield
    finally:
        setattr(device(), name, before)
