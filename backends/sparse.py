"""Sparse matrices as NumPy's functions take them: products are sparse, all else is dense."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np

_PRODUCTS = (np.dot, np.matmul)


class SparseMatrix(np.lib.mixins.NDArrayOperatorsMixin):
    """A matrix (rows, columns) of SciPy's, of floats, that stands for a dense array of NumPy's.

    Its product with a dense matrix costs as much as it has entries that are stored. For anything
    else it becomes the dense array, once: whatever takes that takes this too.

    Parameters
    ----------
    matrix
        A SciPy sparse matrix or array in CSR or CSC form, in the dtype wanted.

    Examples
    --------
    >>> from scipy.sparse import csr_array
    >>> x = SparseMatrix(csr_array([[0.0, 2.0], [1.0, 0.0]]))
    >>> np.matmul(x, np.ones((2, 1))).tolist(), (x + 1).tolist()
    ([[2.0], [1.0]], [[1.0, 3.0], [2.0, 1.0]])
    """

    _stands_for_arrays_of = "numpy"
    ndim, device = 2, "cpu"

    def __init__(self, matrix: Any) -> None:
        self.matrix = matrix
        self.shape, self.dtype = tuple(map(int, matrix.shape)), matrix.dtype

    @cached_property
    def dense(self) -> np.ndarray:
        """The array that it stands for."""
        return np.asarray(self.matrix.toarray())

    @property
    def mT(self) -> "SparseMatrix":
        """The transpose, in the same memory."""
        return SparseMatrix(self.matrix.T)

    T = mT

    def dot(self, other: Any, out: np.ndarray | None = None) -> np.ndarray:
        """The product with a dense matrix, in `out` if that is given."""
        product = self.matrix @ np.asarray(other)
        if out is None:
            return product
        np.copyto(out, product)
        return out

    def __getitem__(self, key: Any) -> Any:
        rows = key[0] if isinstance(key, tuple) and key[1:] == (Ellipsis,) else key
        return SparseMatrix(self.matrix[rows]) if isinstance(rows, slice) else self.dense[key]

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.dense, dtype, copy=copy)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        out = kwargs.get("out", (None,))[0]
        if method == "__call__" and _is_product(ufunc, inputs):
            return inputs[0].dot(inputs[1], out)
        return getattr(ufunc, method)(*map(_dense, inputs), **kwargs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if _is_product(function, args):
            return args[0].dot(*args[1:], **kwargs)
        if function is np.reshape and _cuts(self, *args[1:], **kwargs):
            return SparseBatches(self, *args[1:])
        args, kwargs = _dense(args), {name: _dense(value) for name, value in kwargs.items()}
        return function(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__array_namespace__":
            raise AttributeError(name)  # what Python and other libraries probe for
        return getattr(self.dense, name)


class SparseBatches:
    """The rows of a sparse matrix in batches of one size: (batches, size, columns)."""

    ndim = 3

    def __init__(self, rows: SparseMatrix, shape: tuple[int, int, int]) -> None:
        self.rows, self.shape, self.dtype = rows, shape, rows.dtype

    def __iter__(self) -> Iterator[SparseMatrix]:
        size = self.shape[1]
        return (self.rows[place : place + size] for place in range(0, len(self.rows), size))


def _is_product(function: Any, args: Any) -> bool:
    """Whether it is the product of a sparse matrix and a dense one."""
    if function not in _PRODUCTS or type(args[0]) is not SparseMatrix:
        return False
    return type(args[1]) is not SparseMatrix and args[1].ndim == 2


def _cuts(x: SparseMatrix, shape: Any, **kwargs: Any) -> bool:
    """Whether the shape is that of the rows in batches."""
    return not kwargs and len(shape) == 3 and shape[2] == x.shape[1] and -1 not in shape


def _dense(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(map(_dense, value))
    return value.dense if type(value) is SparseMatrix else value
