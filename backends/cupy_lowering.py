"""The lowering of compiled programs to CuPy: one kernel or product of cuBLAS a call, into buffers.

Numbers stay Python's, which CuPy hands to its kernels as arguments: an array of a number would be
one more to read. Nothing here reads the device, and, but for operands of two dtypes and stacks of
transposed matrices, nothing takes memory: a step is a row of launches without an end to wait for.
With CUB, CuPy's sums take room for their partial results from its pool, which keeps it.
"""

from typing import Any

from backends import cupy_functions
from backends.decompositions import mean
from backends.expressions import OUT, Attribute, Call, Expression, Kwarg, Overwrite, X, Y, Z
from backends.lowering import Lowering, OutTemplate, Template, concat, form_of

_ONE = """abs acos acosh asin asinh atan atanh bitwise_invert conj cos cosh exp expm1 isfinite isinf
isnan log log1p log2 log10 logical_not negative positive reciprocal sign signbit sin sinh sqrt
square tan tanh"""
_TWO = """add atan2 bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor
copysign divide equal floor_divide greater greater_equal hypot less less_equal logaddexp logical_and
logical_or logical_xor maximum minimum multiply nextafter not_equal pow remainder subtract"""
# The standard keeps whole numbers whole, CuPy makes floats of them.
_FLOATING = "ceil floor trunc"

_AXIS, _KEEPDIMS = Kwarg("axis"), Kwarg("keepdims", False)


def _real(call: Expression) -> Template:
    """For arrays of float32 or float64 alone, all of one dtype."""

    def form(args: Any, kwargs: Any) -> Expression | None:
        dtypes = {a.dtype for a in args}
        return call if len(dtypes) == 1 and dtypes.pop().name in ("float32", "float64") else None

    return form


def _vecdot(args: Any, kwargs: Any) -> Expression | None:
    if any(len(a.shape) != 1 for a in args):
        return None
    return form_of(_real(Call("vecdot", X, Y, OUT)), args, kwargs)


def _matmul(args: Any, kwargs: Any) -> Expression:
    stacked = any(len(a.shape) > 2 for a in args)
    dot = Call("matmul", X, Y, OUT) if stacked else X.method("dot", Y, OUT)
    return _vecdot(args, kwargs) or dot


def _where(args: Any, kwargs: Any) -> Expression | None:
    """For arrays of one dtype, and numbers of its kind."""
    arrays = [a for a in args[1:] if getattr(a, "dtype", None) is not None]
    dtypes = {a.dtype for a in arrays}
    kinds = (int, float) if dtypes and next(iter(dtypes)).kind in "fc" else (int,)
    numbers = all(a in arrays or type(a) in kinds for a in args[1:])
    return Call("where", X, Y, Z, OUT) if len(dtypes) == 1 and numbers else None


def _sum(args: Any, kwargs: Any) -> Expression | None:
    own = kwargs.get("dtype") is None
    return X.method("sum", _AXIS, None, OUT, _KEEPDIMS) if own else None


INTO = {
    **{name: OutTemplate(Call(name, X, OUT), keep_scalars=True) for name in _ONE.split()},
    **{name: OutTemplate(_real(Call(name, X, OUT))) for name in _FLOATING.split()},
    **{name: OutTemplate(Call(name, X, Y, OUT), keep_scalars=True) for name in _TWO.split()},
    "sigmoid": OutTemplate(_real(Call("expit", X, OUT))),
    "erf": OutTemplate(_real(Call("erf", X, OUT))),
    "where": OutTemplate(_where, keep_scalars=True),
    "matmul": OutTemplate(_matmul, may_alias=False),
    "vecdot": OutTemplate(_vecdot, may_alias=False),
    "sum": OutTemplate(_sum, may_alias=False),
    "max": OutTemplate(X.method("max", _AXIS, OUT, _KEEPDIMS), may_alias=False),
    "min": OutTemplate(X.method("min", _AXIS, OUT, _KEEPDIMS), may_alias=False),
    "logsumexp": OutTemplate(_real(Call("logsumexp", X, _AXIS, _KEEPDIMS, OUT)), may_alias=False),
    "take": OutTemplate(X.method("take", Y, _AXIS, OUT), may_alias=False),
    "astype": OutTemplate(Overwrite(OUT, X), may_alias=False),
    "dynamic_update_slice": OutTemplate(
        Call("dynamic_update_slice", X, Y, Z, Kwarg("axis", 0), OUT)
    ),
    "concat": OutTemplate(concat, may_alias=False),
    "copy": OutTemplate(Overwrite(OUT, X), may_alias=False),
}


LOWERING = Lowering(
    cupy_functions,
    cupy_functions.empty,
    INTO,
    {"matrix_transpose": Attribute(X, "mT"), "reshape": X.method("reshape", Kwarg("shape"))},
    {"mean": mean},
    kernel=cupy_functions.kernel,
)
