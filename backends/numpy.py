"""NumPy, on the CPU. Its own main namespace speaks the standard: array_api_compat is not needed."""

from importlib.util import find_spec
from typing import Any, Self

import numpy as np

from backends.base import Array, Backend, BackendUnavailable
from backends.dialect import Native
from backends.numpy_dialect import DIALECT


class NumPy(Backend):
    """NumPy on the CPU."""

    name = "numpy"
    minimum = "2.1"
    xp = np
    dialect = DIALECT

    @classmethod
    def holding(cls, array: Array) -> Self:
        return _ONLY

    def native(self) -> Native:
        if find_spec("numba") is None:  # itself half a second, and not always needed
            reason = "compiling loops needs numba, which is not installed"
            raise BackendUnavailable("numpy", reason, "pip install tinynn-xp[numba]")
        from backends.numba import NATIVE

        return NATIVE

    def _place(self, data: np.ndarray, dtype: Any) -> Array:
        return data

    def to_host(self, array: Array) -> np.ndarray:
        return np.asarray(array)

    def _scatter_add(self, x: Array, indices: Array, updates: Array, axis: int) -> Array:
        result = x.copy()
        np.add.at(np.moveaxis(result, axis, 0), indices, np.moveaxis(updates, axis, 0))
        return result

    def sigmoid(self, x: Array) -> Array:
        with np.errstate(over="ignore"):  # exp(-x) = inf gives the right answer, 0
            return 1.0 / (1.0 + np.exp(-x))


_ONLY: Any = NumPy("cpu")
