"""Staging: host memory that is filled, given away, and becomes an array on a device."""

from typing import Any

import numpy as np


class Staging:
    """The part of a `Backend` that brings much data to a device, again and again."""

    def asarray(self, host: Any, dtype: Any = None) -> Any:
        """Host data as an array on the device: see `Backend`."""
        raise NotImplementedError

    def host_buffer(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Host memory to be filled and given to `adopt`: page-locked where that makes it faster.

        >>> import backends
        >>> backends.get("numpy").host_buffer((2, 3), "float32").shape
        (2, 3)
        """
        return np.empty(shape, dtype)

    def adopt(self, buffer: np.ndarray) -> Any:
        """A `host_buffer` that nobody will write to any more, as an array on the device.

        It is not copied where the library can do without, and no copy to a device is waited for.

        >>> import backends
        >>> backend = backends.get("numpy")
        >>> backend.adopt(backend.host_buffer((2, 3), "float32")).shape
        (2, 3)
        """
        return self.asarray(buffer)

    def from_sparse(self, matrix: Any, dtype: str) -> Any:
        """A SciPy sparse matrix as an array (rows, columns); dense but where products need not."""
        return self.asarray(matrix.toarray(), dtype=dtype)
