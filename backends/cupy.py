"""CuPy, on CUDA. Its arrays have no `__array_namespace__`: cupy_namespace speaks the standard."""

from collections import deque
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache, wraps
from typing import Any, ClassVar

import cupy
import cupyx
import cupyx.scipy.special
import numpy as np

from backends import cuda_driver, cupy_convolution, cupy_functions, memory, windows
from backends.base import Array, Backend, BackendUnavailable, Device, F
from backends.convolution import Settings
from backends.cupy_functions import threefry
from backends.cupy_lowering import LOWERING
from backends.cupy_namespace import SEVERAL, near, xp
from backends.cupy_pooling import CuPyPooling
from backends.lowering import LoopCompiler


class CuPy(CuPyPooling, Backend):
    """CuPy on one CUDA device."""

    name = "cupy"
    minimum = "14.0"
    xp = xp
    lowering = LOWERING
    needs_scope = SEVERAL
    _copying: ClassVar[deque[Any]] = deque()  # host memory that a device may still read

    @classmethod
    def devices(cls) -> Mapping[str, Device]:
        try:
            count = cupy.cuda.runtime.getDeviceCount()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            built_for = cupy.cuda.runtime.runtimeGetVersion()
            reason = cuda_driver.why_cupy_fails(error, built_for)
            raise BackendUnavailable("cupy", *reason) from error
        if count:
            _compile_one()
        return {str(i): cupy.cuda.Device(i) for i in range(count)}

    @classmethod
    def default_device(cls) -> Device:
        cls.devices()
        return cupy.cuda.Device()

    @classmethod
    def device_name(cls, device: Device) -> str:
        return str(device.id)

    def _place(self, data: np.ndarray, dtype: Any) -> Array:
        with self.scope():
            return cupy.array(data, dtype=dtype)

    def host_buffer(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        with self.scope():
            return cupyx.empty_pinned(shape, dtype)

    def adopt(self, buffer: np.ndarray) -> Array:
        with self.scope():
            array, stream = cupy.empty(buffer.shape, buffer.dtype), cupy.cuda.get_current_stream()
            array.data.copy_from_host_async(buffer.ctypes.data, buffer.nbytes, stream)
            copied = stream.record()
        self._copying.append((copied, buffer))  # which would be used again while it is read
        while self._copying[0][0].done and len(self._copying) > 1:
            self._copying.popleft()
        return array

    def to_host(self, array: Array) -> np.ndarray:
        with self.scope():
            return cupy.asnumpy(array)

    def synchronize(self) -> None:
        self.device.synchronize()

    def scope(self) -> AbstractContextManager[Any]:
        # A new one: entering keeps state in the object.
        return cupy.cuda.Device(self.device.id) if SEVERAL else nullcontext()

    def scoped(self, function: F) -> F:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.scope():
                return function(*args, **kwargs)

        return call  # type: ignore[return-value]

    def native(self) -> LoopCompiler:
        from backends.cupy_loops import native  # seldom needed

        with self.scope():
            return native(self.device.id)

    def memory_in_use(self) -> int | None:
        with self.scope():
            return int(cupy.get_default_memory_pool().used_bytes())

    def scatter_add(self, x: Array, indices: Array, updates: Array, *, axis: int = 0) -> Array:
        with self.scope():
            return super().scatter_add(x, indices, updates, axis=axis)

    def _scatter_add(self, x: Array, indices: Array, updates: Array, axis: int) -> Array:
        index = (slice(None),) * axis + (indices,)
        wide = x.astype(_ADDED_AS.get(x.dtype.name, x.dtype))  # always a copy
        parts = ((wide.real, updates.real), (wide.imag, updates.imag))
        for into, part in parts if x.dtype.kind == "c" else ((wide, updates),):
            cupy.add.at(into, index, part)
        return wide.astype(x.dtype, copy=False)

    def memory_of(self, x: Array) -> int:
        return int(x.data.mem.ptr)

    def shares_memory(self, x: Array, y: Array) -> bool:
        spans = (memory.span(a.data.ptr, a.shape, a.strides, a.itemsize) for a in (x, y))
        return memory.overlap(*spans)

    def writable(self, x: Array) -> Array:
        with self.scope():
            return x.copy() if memory.repeats(x.shape, x.strides) else x

    def dynamic_update_slice(
        self, x: Array, update: Array, start: Array, *, axis: int = 0
    ) -> Array:
        with self.scope():
            return cupy_functions.dynamic_update_slice(x, update, start, axis)

    def conv(self, x: Array, weight: Array, **settings: Any) -> Array:
        if not windows.pay(weight, settings["groups"]):
            return super().conv(x, weight, **settings)
        given, matrices = Settings(**settings), cupy_convolution.matrices
        with self.scope():  # few launches: a copy holds the windows of many images
            return windows.conv(cupy, matrices, x, weight, given, block=1 << 26)

    def threefry(self, key: Array, x0: Array, x1: Array) -> tuple[Array, Array] | None:
        if not all(isinstance(a, cupy.ndarray) for a in (key, x0, x1)):  # they are being recorded
            return None
        with self.scope():
            return threefry(key, x0, x1)

    def erf(self, x: Array) -> Array:
        y = _erf(x)
        if y.dtype == x.dtype:
            return y
        with self.scope():  # of float16 CuPy makes float64
            return y.astype(x.dtype)

    def sigmoid(self, x: Array) -> Array:
        return _expit(x)

    def logsumexp(self, x: Array, *, axis: Any = None, keepdims: bool = False) -> Array:
        with self.scope():
            peak = cupy.max(x, axis=axis, keepdims=True)
            shift = cupy.where(cupy.isfinite(peak), peak, peak.dtype.type(0))
            total = cupy.sum(cupy.exp(x - shift), axis=axis, keepdims=True)
            total = cupy.log(total) + shift  # CuPy's log(0) warns of nothing
            return (
                total
                if keepdims
                else cupy.squeeze(total, axis=tuple(range(x.ndim)) if axis is None else axis)
            )


_erf, _expit = near(cupyx.scipy.special.erf), near(cupyx.scipy.special.expit)

# What CUDA adds atomically has 32 or 64 bits, or is float16; the sums of the others, so far as
# they fit, are the same in wider integers.
_ADDED_AS = {
    "bool": "int32",
    "int8": "int32",
    "int16": "int32",
    "uint8": "int32",
    "uint16": "int32",
}


@cache
def _compile_one() -> None:
    """A first kernel: one that was kept on disk needs no headers, but NVRTC's version even so."""
    try:
        cupy.zeros(1) + 1
    except (cupy.cuda.compiler.CompileException, ImportError, RuntimeError) as error:
        if isinstance(error, cupy.cuda.runtime.CUDARuntimeError):  # out of memory, for one
            raise
        raise BackendUnavailable("cupy", *cuda_driver.why_cupy_compiles_nothing(error)) from error
