"""The functions of compiled programs on CuPy: its own names, and kernels in place of several.

A kernel's launch costs more than the work of a small one, and a temporary array is another launch
beside an allocation. So what CuPy composes of several calls, or cannot write into an array that is
there, is one kernel here. None of these functions reads a value from the device.
"""

from functools import lru_cache
from typing import Any

import cupy
from cupy import ElementwiseKernel, ReductionKernel, cublas
from cupyx.scipy.special import erf, expit

__all__ = [
    "concat",
    "dynamic_update_slice",
    "empty",
    "erf",
    "expit",
    "logsumexp",
    "matmul",
    "vecdot",
    "where",
]


def __getattr__(name: str) -> Any:
    return getattr(cupy, name)


def __dir__() -> list[str]:
    return [*__all__, *dir(cupy)]


@lru_cache(512)
def kernel(inputs: str, outputs: str, text: str, helpers: str) -> Any:
    """The kernel that carries out the text for each element; see `Lowering.kernel`."""
    # A product and a sum are two operations, as they are in calls: the same bits.
    options = ("--fmad=false",)
    return ElementwiseKernel(
        inputs, outputs, text, "tinynn_chain", preamble=helpers, options=options
    )


def empty(shape: tuple[int, ...], *, dtype: Any, device: Any) -> Any:
    """A new array on this device, with whatever values."""
    with cupy.cuda.Device(device.id):
        return cupy.empty(shape, dtype)


def concat(*arrays: Any, axis: int = 0, out: Any = None) -> Any:
    """The arrays one after the other along an axis, new or into an array."""
    return cupy.concatenate(arrays, axis, out)


def dynamic_update_slice(x: Any, update: Any, start: Any, axis: int = 0, out: Any = None) -> Any:
    """`Backend.dynamic_update_slice`, new or into an array, which may be `x` itself."""
    if out is None:
        out = x.copy()
    elif out is not x:
        out[...] = x
    size = update.shape[axis]
    first = cupy.minimum(cupy.maximum(start, 0), x.shape[axis] - size)
    places = first.reshape(1) if size == 1 else cupy.arange(size) + first
    out[(*(slice(None),) * (axis % x.ndim), places)] = update
    return out


#: where(condition, x, y, out), of x and y of one dtype.
where = ElementwiseKernel("bool c, T x, T y", "T z", "z = c ? x : y", "tinynn_where")

# A sum of exponentials as exp(peak) * rest: two of them can be added whatever their peaks, so that
# one pass is enough (arXiv:1805.02867). Equal peaks go first: the difference of infinite ones is
# NaN. The second parameter is never read. With two, CuPy leaves the reduction to its own kernel;
# CUB's, for which the temporary type has no constructor, takes one.
_SCALED = """
#include <cupy/math_constants.h>
template <typename T> struct Scaled { T peak, rest; };
template <typename T> __device__ Scaled<T> added(Scaled<T> a, Scaled<T> b) {
  if (a.peak == b.peak) return {a.peak, a.rest + b.rest};
  if (a.peak > b.peak) return {a.peak, a.rest + b.rest * exp(b.peak - a.peak)};
  if (a.peak < b.peak) return {b.peak, b.rest + a.rest * exp(a.peak - b.peak)};
  return {a.peak + b.peak, a.peak + b.peak};
}
template <typename T> __device__ Scaled<T> single(T x) { return {x, T(1)}; }
template <typename T> __device__ Scaled<T> nothing() { return {T(-CUDART_INF), T(0)}; }
"""
_logsumexp = ReductionKernel(
    "T x, int32 unread",
    "T y",
    "single<T>(x)",
    "added<T>(a, b)",
    "y = a.peak + log(a.rest)",
    "nothing<T>()",
    "tinynn_logsumexp",
    reduce_type="Scaled<T>",
    preamble=_SCALED,
)

#: The block cipher of `backends.random`: threefry(key, x0, x1), all int32, gives two arrays.
threefry = ElementwiseKernel(
    "raw int32 key, int32 x0, int32 x1",
    "int32 y0, int32 y1",
    """
    const unsigned rotations[8] = {13, 15, 26, 6, 17, 29, 16, 24};
    const unsigned k0 = key[0], k1 = key[1], schedule[3] = {k0, k1, k0 ^ k1 ^ 0x1BD11BDAu};
    unsigned a = x0 + k0, b = x1 + k1;
    for (int turn = 0; turn < 5; ++turn) {
      for (int i = 0; i < 4; ++i) {
        const unsigned rotation = rotations[turn % 2 * 4 + i];
        a += b;
        b = (b << rotation | b >> (32 - rotation)) ^ a;
      }
      a += schedule[(turn + 1) % 3];
      b += schedule[(turn + 2) % 3] + turn + 1;
    }
    y0 = a;
    y1 = b;
    """,
    "tinynn_threefry",
)


def logsumexp(x: Any, axis: Any, keepdims: bool, out: Any) -> Any:
    """log(sum(exp(x))) without overflow, in one kernel."""
    return _logsumexp(x, 0, out, axis=axis, keepdims=keepdims)


def matmul(x: Any, y: Any, out: Any) -> Any:
    """The matrix product; CuPy's own would copy matrices into one memory order.

    A stack of matrices times one matrix is a product of two matrices.
    """
    if y.ndim == 2 and x.ndim > 2 and x.flags.c_contiguous:
        x.reshape(-1, x.shape[-1]).dot(y, out.reshape(-1, out.shape[-1]))
        return out
    return cupy.matmul(x, y, out=out)


def vecdot(x: Any, y: Any, out: Any) -> Any:
    """The product of two real vectors by cuBLAS. CuPy's `dot` makes an array of the products."""
    if x.flags.c_contiguous and y.flags.c_contiguous:
        return cublas.dot(x, y, out)
    return x.dot(y, out)
