"""CuPy, on CUDA. Its arrays have no `__array_namespace__`: array_api_compat speaks the standard."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import array_api_compat.cupy as xp
import cupy
import cupyx
import cupyx.scipy.special
import numpy as np

from backends import cuda_driver
from backends.base import Array, Backend, BackendUnavailable, Device


class CuPy(Backend):
    """CuPy on one CUDA device."""

    name = "cupy"
    minimum = "14.0"
    xp = xp

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

    def to_host(self, array: Array) -> np.ndarray:
        with self.scope():
            return cupy.asnumpy(array)

    def synchronize(self) -> None:
        self.device.synchronize()

    def scope(self) -> AbstractContextManager[Any]:
        return cupy.cuda.Device(self.device.id)  # a new one: entering keeps state in the object

    def memory_in_use(self) -> int | None:
        with self.scope():
            return int(cupy.get_default_memory_pool().used_bytes())

    def _scatter_add(self, x: Array, indices: Array, updates: Array, axis: int) -> Array:
        with self.scope():
            if x.dtype.name not in ("float32", "float64", "int32"):  # what CUDA adds atomically
                return super()._scatter_add(x, indices, updates, axis)
            result = x.copy()
            cupyx.scatter_add(result, (slice(None),) * axis + (indices,), updates)
            return result

    def erf(self, x: Array) -> Array:
        with self.scope():
            return cupyx.scipy.special.erf(x)

    def sigmoid(self, x: Array) -> Array:
        with self.scope():
            return cupyx.scipy.special.expit(x)

    def logsumexp(self, x: Array, *, axis: Any = None, keepdims: bool = False) -> Array:
        with self.scope():
            return cupyx.scipy.special.logsumexp(x, axis=axis, keepdims=keepdims)


@cache
def _compile_one() -> None:
    """A first kernel: one that was kept on disk needs no headers, but NVRTC's version even so."""
    try:
        cupy.zeros(1) + 1
    except (cupy.cuda.compiler.CompileException, ImportError, RuntimeError) as error:
        if isinstance(error, cupy.cuda.runtime.CUDARuntimeError):  # out of memory, for one
            raise
        raise BackendUnavailable("cupy", *cuda_driver.why_cupy_compiles_nothing(error)) from error
