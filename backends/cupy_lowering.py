"""The lowering of compiled programs to CuPy: one kernel or product of cuBLAS a call, into buffers.

Numbers stay Python's, which CuPy hands to its kernels as arguments: an array of a number would be
one more to read. Nothing here reads the device, and, but for operands of two dtypes and stacks of
transposed matrices, nothing takes memory: a step is a row of launches without an end to wait for.
With CUB, CuPy's sums take room for their partial results from its pool, which keeps it.
"""

from collections.abc import Callable
from typing import Any

from backends import cupy_functions
from backends.decompositions import first_maximum, mean, relu
from backends.lowering import Lowering, OutTemplate

_ONE = """abs acos acosh asin asinh atan atanh bitwise_invert conj cos cosh exp expm1 isfinite isinf
isnan log log1p log2 log10 logical_not negative positive reciprocal sign signbit sin sinh sqrt
square tan tanh"""
_TWO = """add atan2 bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor
copysign divide equal floor_divide greater greater_equal hypot less less_equal logaddexp logical_and
logical_or logical_xor maximum minimum multiply nextafter not_equal pow remainder subtract"""
# The standard keeps whole numbers whole, CuPy makes floats of them.
_FLOATING = "ceil floor trunc"

Form = Callable[[Any, Any], str | None]


def _real(text: str) -> Form:
    """For arrays of float32 or float64 alone, all of one dtype."""

    def form(args: Any, kwargs: Any) -> str | None:
        dtypes = {a.dtype for a in args}
        return text if len(dtypes) == 1 and dtypes.pop().name in ("float32", "float64") else None

    return form


def _vecdot(text: str) -> Form:
    real = _real(text)
    return lambda args, kwargs: real(args, kwargs) if all(len(a.shape) == 1 for a in args) else None


def _matmul(args: Any, kwargs: Any) -> str | None:
    stacked = any(len(a.shape) > 2 for a in args)
    dot = "matmul({0}, {1}, {out})" if stacked else "{0}.dot({1}, {out})"
    return _vecdot("vecdot({0}, {1}, {out})")(args, kwargs) or dot


def _where(args: Any, kwargs: Any) -> str | None:
    """For arrays of one dtype, and numbers of its kind."""
    arrays = [a for a in args[1:] if getattr(a, "dtype", None) is not None]
    dtypes = {a.dtype for a in arrays}
    kinds = (int, float) if dtypes and next(iter(dtypes)).kind in "fc" else (int,)
    numbers = all(a in arrays or type(a) in kinds for a in args[1:])
    return "where({0}, {1}, {2}, {out})" if len(dtypes) == 1 and numbers else None


def _sum(args: Any, kwargs: Any) -> str | None:
    return None if kwargs.get("dtype") is not None else "{0}.sum({axis}, None, {out}, {keepdims})"


INTO = {
    **{name: OutTemplate(f"{name}({{0}}, {{out}})", keep_scalars=True) for name in _ONE.split()},
    **{name: OutTemplate(_real(f"{name}({{0}}, {{out}})")) for name in _FLOATING.split()},
    **{
        name: OutTemplate(f"{name}({{0}}, {{1}}, {{out}})", keep_scalars=True)
        for name in _TWO.split()
    },
    "sigmoid": OutTemplate(_real("expit({0}, {out})")),
    "erf": OutTemplate(_real("erf({0}, {out})")),
    "where": OutTemplate(_where, keep_scalars=True),
    "matmul": OutTemplate(_matmul, may_alias=False),
    "vecdot": OutTemplate(_vecdot("vecdot({0}, {1}, {out})"), may_alias=False),
    "sum": OutTemplate(_sum, may_alias=False),
    "max": OutTemplate("{0}.max({axis}, {out}, {keepdims})", may_alias=False),
    "min": OutTemplate("{0}.min({axis}, {out}, {keepdims})", may_alias=False),
    "logsumexp": OutTemplate(_real("logsumexp({0}, {axis}, {keepdims}, {out})"), may_alias=False),
    "take": OutTemplate("{0}.take({1}, {axis}, {out})", may_alias=False),
    "astype": OutTemplate("{out}[...] = {0}", may_alias=False),
    "copy": OutTemplate("{out}[...] = {0}", may_alias=False),
}


LOWERING = Lowering(
    cupy_functions,
    cupy_functions.empty,
    INTO,
    {"matrix_transpose": "{0}.mT", "reshape": "{0}.reshape({shape})"},
    {"relu": relu, "first_maximum": first_maximum, "mean": mean},
)
