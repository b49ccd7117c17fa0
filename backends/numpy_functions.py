"""The functions of compiled programs on NumPy: its own names, and what it lacks."""

from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy

from backends import numpy_convolution, special
from backends.convolution import Settings
from backends.slicing import first_of

__all__ = ["concat", "conv", "dynamic_slice", "dynamic_update_slice", "erf", "scattered"]


def __getattr__(name: str) -> Any:
    return getattr(numpy, name)


def __dir__() -> list[str]:
    return [*__all__, *dir(numpy)]


def knows(x: Any, weight: Any, settings: Settings) -> bool:
    """True for what `conv` takes."""
    return _direct(x, weight, settings) or numpy_convolution.pays(x, weight, settings)


def conv(x: Any, weight: Any, out: Any, **settings: Any) -> Any:
    """`Backend.conv` into an array, by machine code where llvmlite is installed."""
    given = Settings(**settings)
    if weight.dtype == x.dtype == out.dtype and _direct(x, weight, given):
        from backends import direct_convolution  # which few programs need

        return direct_convolution.conv(x, weight, given, out)
    return numpy_convolution.conv(x, weight, given, out)


def _direct(x: Any, weight: Any, settings: Settings) -> bool:
    # A dtype of the other byte order has the same name.
    if not (x.dtype.name in ("float32", "float64") and x.dtype.isnative and has_llvm()):
        return False
    return numpy_convolution.runs_pay(x, weight, settings)


@cache
def has_llvm() -> bool:
    return find_spec("llvmlite") is not None


def concat(*arrays: Any, axis: int = 0, out: Any = None) -> Any:
    """The arrays one after the other along an axis, new or into an array."""
    return numpy.concatenate(arrays, axis, out)


def scattered(indices: Any, updates: Any, axis: int, out: Any) -> Any:
    """`Backend.scatter_add` of zeros, into an array."""
    out[...] = 0
    numpy.add.at(numpy.moveaxis(out, axis, 0), indices, numpy.moveaxis(updates, axis, 0))
    return out


def dynamic_slice(x: Any, start: Any, size: int, axis: int = 0, out: Any = None) -> Any:
    """`Backend.dynamic_slice`, new or into an array."""
    first = first_of(start, size, x.shape[axis])
    part = x[(*(slice(None),) * (axis % x.ndim), slice(first, first + size))]
    if out is None:
        return part.copy()
    out[...] = part
    return out


def dynamic_update_slice(x: Any, update: Any, start: Any, axis: int = 0, out: Any = None) -> Any:
    """`Backend.dynamic_update_slice`, new or into an array, which may be `x` itself."""
    if out is None:
        out = x.copy()
    elif out is not x:
        out[...] = x
    size = update.shape[axis]
    first = first_of(start, size, x.shape[axis])
    out[(*(slice(None),) * (axis % x.ndim), slice(first, first + size))] = update
    return out


#: So many elements at a time stay in the cache through a formula of many steps.
_BLOCK = 16384
_RATIO = [[numpy.asarray(c, dtype="float32") for c in part] for part in special.ERF32]
_END, _ONE = (numpy.asarray(value, dtype="float32") for value in (special.ERF32_END, 1.0))


def erf(x: Any, out: Any = None) -> Any:
    """`Backend.erf`, new or into an array."""
    whole = numpy.empty_like(x, order="C") if out is None else out
    if x.size <= _BLOCK:
        return _erf(x, whole)
    y = whole if whole.flags.c_contiguous else numpy.empty(x.shape, x.dtype)
    flat, into = numpy.ascontiguousarray(x).reshape(-1), y.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        part = slice(start, start + _BLOCK)
        _erf(flat[part], into[part])
    if y is not whole:
        whole[...] = y
    return whole


def _erf(x: Any, out: Any) -> Any:
    """`special.erf` in the same steps, but in float32 without an array for each."""
    if x.dtype != numpy.float32:
        out[...] = special.erf(x, numpy)
        return out
    x = numpy.minimum(numpy.maximum(x, -_END), _END)
    squares = x * x
    above = _horner(squares, _RATIO[0], numpy.empty_like(squares))
    numpy.divide(above, _horner(squares, _RATIO[1], numpy.empty_like(squares)), above)
    numpy.multiply(x, above, out)
    numpy.maximum(out, -_ONE, out=out)
    return numpy.minimum(out, _ONE, out=out)


def _horner(x: Any, coefficients: Any, out: Any) -> Any:
    numpy.multiply(x, coefficients[0], out)
    for coefficient in coefficients[1:-1]:
        numpy.add(out, coefficient, out)
        numpy.multiply(out, x, out)
    return numpy.add(out, coefficients[-1], out)
