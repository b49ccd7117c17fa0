"""Sparse matrices as NumPy's functions take them: products are sparse, all else is dense."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np

_PRODUCTS = (np.dot, np.matmul)


class SparseMatrix(np.lib.mixins.NDArrayOperatorsMixin):
    """A matrix (rows, columns) of SciPy's, of floats, that stands for a dense array of NumPy's.

    Its product with a matrix or a vector, from either side, costs as much as it has entries that
    are stored; its opposite, and it beside other columns, are sparse. For anything else it becomes
    the dense array, once: whatever takes that takes this too. Nothing writes to it.

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
        self.size = self.shape[0] * self.shape[1]

    @cached_property
    def dense(self) -> np.ndarray:
        """The array that it stands for, which is read-only: `matrix` would not change with it."""
        array = np.asarray(self.matrix.toarray())
        array.flags.writeable = False
        return array

    @property
    def mT(self) -> "SparseMatrix":
        """The transpose, in the same memory."""
        return SparseMatrix(self.matrix.T)

    T = mT

    def dot(self, other: Any, out: np.ndarray | None = None) -> np.ndarray:
        """The product with a matrix or a vector, in `out` if that is given."""
        if not _is_factor(other):
            return np.asarray(np.dot(self.dense, other, out))
        return _product(self, other, out)

    def __getitem__(self, key: Any) -> Any:
        whole = isinstance(key, tuple) and len(key) == 2 and key[1] is Ellipsis
        rows = key[0] if whole else key
        return SparseMatrix(self.matrix[rows]) if isinstance(rows, slice) else self.dense[key]

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.dense, dtype, copy=copy)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        out = kwargs.get("out", (None,))
        if any(type(array) is SparseMatrix for array in out):
            raise TypeError(
                f"{ufunc.__name__}: expected an array to write to, got a sparse matrix. To fix it: "
                "make a new array, x = x + 1"
            )
        if method == "__call__" and kwargs.keys() <= {"out"} and _is_product(ufunc, inputs):
            return _product(inputs[0], inputs[1], out[0])
        if ufunc is np.negative and method == "__call__" and not kwargs:
            return SparseMatrix(-self.matrix)
        return getattr(ufunc, method)(*map(_dense, inputs), **kwargs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if _is_product(function, args):
            return _product(*args, **kwargs)
        if function is np.reshape and len(args) == 2 and not kwargs and _cuts(self, args[1]):
            return SparseBatches(self, args[1])
        if function is np.concatenate and len(args) == 1 and kwargs == {"axis": 1}:
            return _beside(args[0])
        args, kwargs = _dense(args), {name: _dense(value) for name, value in kwargs.items()}
        return function(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        special = name.startswith("__") and name != "__array_namespace__"
        if special or not hasattr(np.ndarray, name):  # what Python and other libraries probe for
            raise AttributeError(f"a sparse matrix has no attribute {name!r}")
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
    """True if it is a product of matrices, one of which may be a vector."""
    return function in _PRODUCTS and len(args) > 1 and all(map(_is_factor, args[:2]))


def _is_factor(value: Any) -> bool:
    return type(value) is SparseMatrix or np.ndim(value) in (1, 2)


def _product(left: Any, right: Any, out: np.ndarray | None = None) -> np.ndarray:
    """The product of two matrices, at least one of which is sparse, in `out` if that is given."""
    product = _stored(left) @ _stored(right)
    product = np.asarray(product.toarray() if hasattr(product, "toarray") else product)
    if out is None:
        return product
    if out.shape != product.shape:
        raise ValueError(f"matmul: expected an `out` of shape {product.shape}, got {out.shape}")
    np.copyto(out, product)
    return out


def _beside(matrices: Any) -> SparseMatrix:
    """Matrices side by side, at least one of which is sparse."""
    if not all(each.ndim == 2 for each in matrices):
        raise ValueError("concat: expected as many dimensions of each, got matrices and others")
    from scipy import sparse  # which is there where its matrices are

    return SparseMatrix(sparse.hstack(list(map(_stored, matrices)), format="csr"))


def _stored(value: Any) -> Any:
    """The operands as SciPy multiplies them."""
    return value.matrix if type(value) is SparseMatrix else np.asarray(value)


def _cuts(x: SparseMatrix, shape: Any) -> bool:
    """True if the shape is that of all rows in batches of one size."""
    if not isinstance(shape, tuple) or len(shape) != 3 or min(shape) < 0:
        return False
    return shape[2] == x.shape[1] and shape[0] * shape[1] == x.shape[0]


def _dense(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(map(_dense, value))
    return value.dense if type(value) is SparseMatrix else value
