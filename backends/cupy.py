"""CuPy, on CUDA. Its arrays have no `__array_namespace__`: array_api_compat speaks the standard."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import array_api_compat.cupy as xp
import cupy
import cupyx
import cupyx.scipy.special
import numpy as np

from backends.base import Array, Backend, BackendUnavailable, Device
from backends.cupy_lowering import LOWERING


class CuPy(Backend):
    """CuPy on one CUDA device."""

    name = "cupy"
    minimum = "14.0"
    xp = xp
    lowering = LOWERING

    @classmethod
    def devices(cls) -> Mapping[str, Device]:
        try:
            count = cupy.cuda.runtime.getDeviceCount()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise BackendUnavailable("cupy", *_why(error)) from error
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

    def compile(
        self, function: Callable[..., Any], static: tuple[int, ...] = ()
    ) -> Callable[..., Any]:
        """The function on this device. What it calls of CuPy works on the current one."""

        def scoped(*args: Any) -> Any:
            with self.scope():
                return function(*args)

        return scoped

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


def _why(error: Exception) -> tuple[str, str]:
    """The reason, and what fixes it."""
    if "InsufficientDriver" in str(error):
        driver, runtime = (
            f"{version // 1000}.{version % 1000 // 10}"
            for version in (
                cupy.cuda.runtime.driverGetVersion(),
                cupy.cuda.runtime.runtimeGetVersion(),
            )
        )
        if driver == "0.0":
            return "installed, no driver: NVIDIA's CUDA driver is not here", _DRIVER
        return f"wrong version: the driver is for CUDA {driver}, CuPy for CUDA {runtime}", _DRIVER
    if "NoDevice" in str(error):
        return "no device: CUDA finds no GPU", "nvidia-smi, and see CUDA_VISIBLE_DEVICES"
    return f"CUDA does not start: {error}", "nvidia-smi, which says what is wrong with the driver"


_DRIVER = "install NVIDIA's driver, https://www.nvidia.com/drivers, then run nvidia-smi to check it"
