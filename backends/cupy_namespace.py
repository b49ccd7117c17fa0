"""CuPy's namespace: array-api-compat's, at the arrays' own device and without reading from it.

CuPy computes on the current device, wherever its arguments are. Here the device of the arguments
(or `device=`) is the current one while a function runs. Where array-api-compat or CuPy would read
values from the device to go on, which makes the host wait for it, there are functions without.
What still reads has a result whose shape depends on the values: `nonzero`, `unique_*`, `repeat` by
an array, and an index that is a mask.
"""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, TypeVar

import array_api_compat.cupy as compat
import cupy
from cupy.cuda import Device
from cupy.cuda.device import get_device_id

from backends.namespace import Namespace

Array = Any
F = TypeVar("F", bound=Callable[..., Any])


def _devices() -> int:
    try:
        return int(cupy.cuda.runtime.getDeviceCount())
    except cupy.cuda.runtime.CUDARuntimeError:  # no driver, or no device
        return 0


SEVERAL = _devices() > 1  # one alone is the current one, and there is nothing to look after


def near(function: F) -> F:
    """`function` with the device of the first array among its arguments as the current one."""
    if not SEVERAL:
        return function

    @wraps(function, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        there = _device_of(args)
        if there is None:
            there = _device_of(kwargs.values())
        if there is None or there == get_device_id():
            return function(*args, **kwargs)
        with Device(there):
            return function(*args, **kwargs)

    return call  # type: ignore[return-value]


def _device_of(values: Any) -> int | None:
    for value in values:
        if isinstance(value, cupy.ndarray):
            return int(value.data.device_id)
        if isinstance(value, list | tuple):
            found = _device_of(value)
            if found is not None:
                return found
    return None


def _making(function: F) -> F:
    """`function` with the parameter `device`, which array-api-compat accepts and ignores."""

    @wraps(function)
    def call(*args: Any, device: Device | None = None, **kwargs: Any) -> Any:
        if device is None:
            return beside(*args, **kwargs)
        with Device(device.id):  # a new one: entering keeps state in the object
            return function(*args, **kwargs)

    beside = near(function)
    return call  # type: ignore[return-value]


@_making
def asarray(obj: Any, /, *, dtype: Any = None, copy: bool | None = None) -> Array:
    """Host data, or an array; of another device where `device` says so."""
    return compat.asarray(obj, dtype=dtype, copy=copy)


@_making
def from_dlpack(x: Any, /, *, copy: bool | None = None) -> Array:
    """CuPy's own names devices by pairs of numbers."""
    if isinstance(x, cupy.ndarray):
        return compat.asarray(x, copy=copy)
    return cupy.from_dlpack(x, copy=copy)


@_making
def astype(x: Array, dtype: Any, /, *, copy: bool = True) -> Array:
    """In another dtype, on another device, or both."""
    here = cupy.asarray(x)  # where `device` is another one, a copy there
    return here.astype(dtype, copy=copy and here is x)


@near
def sign(x: Array, /) -> Array:
    """-1, 0 or 1; NaN of NaN, of which CuPy's own gives 0; x / abs(x) of complex numbers."""
    kind = x.dtype.kind
    return (_complex_sign if kind == "c" else _float_sign if kind == "f" else cupy.sign)(x)


# One kernel each.
_float_sign = cupy.ElementwiseKernel(
    "T x", "T y", "y = x > T(0) ? T(1) : x < T(0) ? T(-1) : x == T(0) ? T(0) : x", "sign_float"
)
_complex_sign = cupy.ElementwiseKernel(
    "T x", "T y", "y = x == T(0) ? T(0) : x / abs(x)", "sign_complex"
)


@near
def clip(x: Array, /, min: Any = None, max: Any = None) -> Array:
    """`x` between bounds that take its dtype, as array-api-compat has it."""
    low, high = (_bound(x, bound, end) for bound, end in ((min, "min"), (max, "max")))
    result = x if low is None else cupy.maximum(x, low)
    result = result if high is None else cupy.minimum(result, high)
    return x.copy() if result is x else result


def _bound(x: Array, bound: Any, end: str) -> Any:
    """A bound in the dtype of x; None for an integer that no x is beyond."""
    if bound is None or isinstance(bound, cupy.ndarray):
        return None if bound is None else bound.astype(x.dtype, copy=False)
    if x.dtype.kind in "iu":
        limit = getattr(cupy.iinfo(x.dtype), end)
        if bound <= limit if end == "min" else bound >= limit:
            return None
    return x.dtype.type(bound)


@near
def solve(x1: Array, x2: Array, /) -> Array:
    """CuPy's own broadcasts no batches."""
    if x2.ndim == 1:
        return cupy.linalg.solve(x1, x2)
    batch = cupy.broadcast_shapes(x1.shape[:-2], x2.shape[:-2])
    x1 = cupy.broadcast_to(x1, batch + x1.shape[-2:])
    x2 = cupy.broadcast_to(x2, batch + x2.shape[-2:])
    return cupy.linalg.solve(x1, x2)


@near
def pinv(x: Array, /, *, rtol: Any = None) -> Array:
    """From the singular values above `rtol` times the largest, as CuPy has it."""
    u, s, vh = cupy.linalg.svd(x, full_matrices=False)
    if rtol is None:
        rtol = max(x.shape[-2:]) * float(cupy.finfo(x.dtype).eps)
    cutoff = cupy.asarray(rtol, dtype=s.dtype)[..., None] * cupy.max(s, axis=-1, keepdims=True)
    inverse = cupy.where(s > cutoff, cupy.reciprocal(s), s.dtype.type(0))
    v = cupy.conj(cupy.swapaxes(vh, -1, -2))
    return cupy.matmul(v * inverse[..., None, :], cupy.conj(cupy.swapaxes(u, -1, -2)))


_MAKING = (
    "arange empty empty_like eye full full_like linspace ones ones_like zeros zeros_like"
).split()

_namespace = partial(Namespace, wrap=near)

xp = _namespace(
    "cupy",
    compat,
    {name: _making(getattr(compat, name)) for name in _MAKING}
    | {
        "asarray": asarray,
        "astype": astype,
        "clip": clip,
        "from_dlpack": from_dlpack,
        "sign": sign,
        "fft": _namespace(
            "cupy.fft",
            compat.fft,
            {name: _making(getattr(compat.fft, name)) for name in ("fftfreq", "rfftfreq")},
        ),
        "linalg": _namespace("cupy.linalg", compat.linalg, {"pinv": pinv, "solve": solve}),
    },
)
