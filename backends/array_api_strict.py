"""array-api-strict: nothing but the standard, with devices that stand in for real ones."""

from typing import Any

import array_api_strict
import numpy as np

from backends.base import Array, Backend, Device


class Strict(Backend):
    """array-api-strict on one of its devices."""

    name = "array_api_strict"
    minimum = "2.6.1"  # older ones have regressions
    xp = array_api_strict

    @classmethod
    def device_name(cls, device: Device) -> str:
        return str(device._device)

    def quiet(self) -> Any:
        return np.errstate(all="ignore")  # its arrays are NumPy's beneath

    def to_host(self, array: Array) -> np.ndarray:
        return np.asarray(array.to_device(array_api_strict.Device("CPU_DEVICE")))
