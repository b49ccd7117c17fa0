"""The functions of compiled programs on NumPy: its own names, and what it lacks."""

from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy

from backends import numpy_convolution
from backends.convolution import Settings

__all__ = ["conv"]


def __getattr__(name: str) -> Any:
    return getattr(numpy, name)


def __dir__() -> list[str]:
    return [*__all__, *dir(numpy)]


#: Products of fewer columns fill no vectors of a processor.
_COLUMNS = 16


def knows(x: Any, weight: Any, settings: Settings) -> bool:
    """True for what `conv` takes: in machine code also of rows that are too short for BLAS."""
    return numpy_convolution.pays(x, weight, settings, 2 * _COLUMNS if _compiles(x) else 0)


def conv(x: Any, weight: Any, out: Any, **settings: Any) -> Any:
    """`Backend.conv` into an array; its products are machine code where llvmlite is installed."""
    compiles = _compiles(x) and weight.dtype == x.dtype
    product = _product if compiles else numpy_convolution.multiplied
    return numpy_convolution.conv(x, weight, Settings(**settings), out, product)


def _compiles(x: Any) -> bool:
    # A dtype of the other byte order has the same name.
    return x.dtype.name in ("float32", "float64") and x.dtype.isnative and has_llvm()


@cache
def has_llvm() -> bool:
    return find_spec("llvmlite") is not None


def _product(a: Any, b: Any, out: Any) -> None:
    if b.shape[-1] < _COLUMNS:
        numpy_convolution.multiplied(a, b, out)
        return
    from backends import llvm_products  # which few programs need

    b = b if b.strides[-1] == b.itemsize else numpy_convolution.in_order("columns", b)
    llvm_products.product(a, b, out)
