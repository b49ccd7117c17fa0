"""NumPy, on the CPU. Its own main namespace speaks the standard: array_api_compat is not needed."""

from typing import Any, Self

import numpy as np

from backends.base import Array, Backend


class NumPy(Backend):
    """NumPy on the CPU."""

    name = "numpy"
    minimum = "2.1"
    xp = np

    @classmethod
    def holding(cls, array: Array) -> Self:
        return _ONLY

    @classmethod
    def unfit(cls, kind: type) -> str:
        if kind is np.ndarray or issubclass(kind, np.generic):
            return ""
        if issubclass(kind, np.matrix):
            return "its products are not those of arrays; give np.asarray(x)"
        if issubclass(kind, np.ma.MaskedArray):
            return (
                "what it masks would be lost, or taken for numbers; fill it, x.filled(0.0), or "
                "give np.asarray(x) without the rows that are masked"
            )
        return ""

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
