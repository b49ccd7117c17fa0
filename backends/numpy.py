"""NumPy, on the CPU. Its own main namespace speaks the standard: array_api_compat is not needed."""

from importlib.util import find_spec
from typing import Any, Self

import numpy as np

from backends import numpy_convolution, numpy_functions, windows
from backends.base import Advice, Array, Backend, BackendUnavailable
from backends.convolution import Settings
from backends.lowering import LoopCompiler
from backends.numpy_lowering import LOWERING
from backends.numpy_random import threefry
from backends.sparse import SparseMatrix


class Standard:
    """NumPy's main namespace, with direct access to functions that NumPy wraps in Python.

    On small arrays the detour (written in Python, open to subclasses) costs more than the work.
    """

    __name__ = "numpy"

    linalg, fft = np.linalg, np.fft  # NumPy loads them when they are first asked for

    def __init__(self) -> None:
        # Plain attributes: a `__getattr__` would slow down every look at one.
        names = vars(np).keys() - vars(type(self)).keys()
        self.__dict__.update({name: getattr(np, name) for name in names})

    def __dir__(self) -> list[str]:
        return dir(np)

    def __repr__(self) -> str:
        return repr(np)

    @staticmethod
    def matmul(x1: Array, x2: Array, /) -> Array:
        return np.dot(x1, x2) if x1.ndim == x2.ndim == 2 else np.matmul(x1, x2)

    @staticmethod
    def matrix_transpose(x: Array, /) -> Array:
        return x.mT

    @staticmethod
    def sum(x: Array, /, *, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Array:
        add_up: Any = np.add.reduce
        return add_up(x, axis=axis, dtype=dtype, keepdims=keepdims)

    @staticmethod
    def argsort(
        x: Array, /, *, axis: int = -1, descending: bool = False, stable: bool = True
    ) -> Array:
        if not descending:
            return np.argsort(x, axis=axis, stable=stable)
        places = np.argsort(np.flip(x, axis), axis=axis, stable=stable)
        return x.shape[axis] - 1 - np.flip(places, axis)

    @staticmethod
    def sort(
        x: Array, /, *, axis: int = -1, descending: bool = False, stable: bool = True
    ) -> Array:
        y = np.sort(x, axis=axis, stable=stable)
        return np.flip(y, axis) if descending else y

    @staticmethod
    def take_along_axis(x: Array, indices: Array, /, *, axis: int = -1) -> Array:
        return np.take_along_axis(x, indices, axis)  # before NumPy 2.3 the axis had to be given

    @staticmethod
    def zeros_like(x: Array, /, *, dtype: Any = None, device: Any = None) -> Array:
        if not x.flags.c_contiguous:  # the order in memory is kept
            return np.zeros_like(x, dtype=dtype, device=device, subok=False)
        # The system gives large arrays of zeros without memory, until they are written to.
        return np.zeros(x.shape, x.dtype if dtype is None else dtype, device=device)

    @staticmethod
    def ones_like(x: Array, /, *, dtype: Any = None, device: Any = None) -> Array:
        ones = np.empty_like(x, dtype=dtype, device=device, subok=False)
        ones.fill(1)
        return ones

    @staticmethod
    def broadcast_to(x: Array, /, shape: tuple[int, ...]) -> Array:
        if x.ndim:
            return np.broadcast_to(x, shape)
        same = np.ndarray(shape, x.dtype, x, 0, (0,) * len(shape))
        same.flags.writeable = False
        return same


class NumPy(Backend):
    """NumPy on the CPU."""

    name = "numpy"
    minimum = "2.1.2"  # in threads, older ones promote as NumPy 1 did
    xp = Standard()
    lowering = LOWERING

    @classmethod
    def of_array(cls, array: Array) -> Self:
        return _ONLY

    @classmethod
    def rejection(cls, kind: type) -> str:
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

    @classmethod
    def advice(cls) -> Advice | None:
        from backends.openblas import advice  # asked for once, by `tinynn backends`

        return advice()

    def threefry(self, key: Array, x0: Array, x1: Array) -> tuple[Array, Array] | None:
        if {type(key), type(x0), type(x1)} != {np.ndarray}:
            return None  # inside a transformation
        return threefry(key, x0, x1) if x0.size == 1 else None

    def native(self) -> LoopCompiler:
        if find_spec("llvmlite") is None:
            reason = "compiling loops needs llvmlite, which is not installed"
            raise BackendUnavailable("numpy", reason, "pip install tinynn-xp[loops]")
        from backends.llvm_random import NATIVE

        return NATIVE

    def _place(self, data: np.ndarray, dtype: Any) -> Array:
        return data

    def adopt(self, buffer: np.ndarray) -> Array:
        return buffer

    def from_sparse(self, matrix: Any, dtype: Any) -> Array:
        return SparseMatrix(matrix.astype(dtype, copy=False))

    def to_host(self, array: Array) -> np.ndarray:
        return np.asarray(array)

    def quiet(self) -> Any:
        return np.errstate(all="ignore")

    def _scatter_add(self, x: Array, indices: Array, updates: Array, axis: int) -> Array:
        result = x.copy()
        np.add.at(np.moveaxis(result, axis, 0), indices, np.moveaxis(updates, axis, 0))
        return result

    def kind_of(self, kind: type) -> type:
        return np.ndarray if issubclass(kind, np.generic) else kind

    def memory_of(self, x: Array) -> int:
        while isinstance(x, np.ndarray) and x.base is not None:
            x = x.base
        return id(x)

    def shares_memory(self, x: Array, y: Array) -> bool:
        return np.shares_memory(x, y)

    def writable(self, x: Array) -> Array:
        return x if isinstance(x, np.ndarray) and x.flags.writeable else np.array(x)

    def dynamic_slice(self, x: Array, start: Array, *, size: int, axis: int = 0) -> Array:
        return numpy_functions.dynamic_slice(x, start, size, axis)

    def dynamic_update_slice(
        self, x: Array, update: Array, start: Array, *, axis: int = 0
    ) -> Array:
        return numpy_functions.dynamic_update_slice(x, update, start, axis)

    def conv(self, x: Array, weight: Array, **settings: Any) -> Array:
        given = Settings(**settings)
        if numpy_convolution.pays(x, weight, given):
            return numpy_convolution.conv(x, weight, given)
        if not windows.pay(weight, given.groups):
            return super().conv(x, weight, **settings)
        # Half of a processor core's second cache, as most have it.
        matrices = windows.strided(np, np.lib.stride_tricks.as_strided)
        return windows.conv(np, matrices, x, weight, given, block=1 << 19)

    def erf(self, x: Array) -> Array:
        return numpy_functions.erf(x)

    @np.errstate(over="ignore")  # exp(-x) = inf gives the right answer, 0
    def sigmoid(self, x: Array) -> Array:
        return 1.0 / (1.0 + np.exp(-x))


_ONLY: Any = NumPy("cpu")
