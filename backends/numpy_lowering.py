"""The lowering of compiled programs to NumPy: results into buffers, products through BLAS."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from backends.decompositions import first_maximum, logsumexp, mean, relu, sigmoid
from backends.lowering import Lowering, OutTemplate, entries

_ONE = """abs acos acosh asin asinh atan atanh bitwise_invert ceil conj cos cosh exp expm1 floor
isfinite isinf isnan log log1p log2 log10 logical_not negative positive reciprocal sign signbit sin
sinh sqrt square tan tanh trunc"""
_TWO = """add atan2 bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor
copysign divide equal floor_divide greater greater_equal hypot less less_equal logaddexp logical_and
logical_or logical_xor multiply nextafter not_equal pow remainder subtract"""


def _matmul(args: Any, kwargs: Any) -> str:
    stacked = any(len(a.shape) > 2 for a in args)
    return "matmul({0}, {1}, out={out})" if stacked else "{0}.dot({1}, {out})"


def _vecdot(text: str) -> Any:
    def form(args: Any, kwargs: Any) -> str | None:
        """For two real vectors; a complex one is conjugated, of which `dot` knows nothing."""
        vectors = all(len(a.shape) == 1 for a in args) and args[0].dtype == args[1].dtype
        return text if vectors and args[0].dtype.kind != "c" else None

    return form


def _sum(args: Any, kwargs: Any) -> str | None:
    if kwargs.get("dtype") is not None:
        return None
    axis, keepdims = kwargs.get("axis"), kwargs.get("keepdims", False)
    # A product with ones takes a third of the time of a sum over rows. It keeps the dtype.
    inexact = args[0].dtype.kind in "fc"
    matrix = inexact and len(args[0].shape) == 2
    if inexact and len(args[0].shape) == 1 and not keepdims:
        return "{0}.dot({rows}, {out})"
    if matrix and axis in (0, (0,)) and not keepdims:
        return "{rows}.dot({0}, {out})"
    if matrix and axis in (-1, 1, (-1,), (1,)):
        return "{0}.dot({column}, {out})" if keepdims else "{0}.dot({columns}, {out})"
    return "add.reduce({0}, {axis}, None, {out}, {keepdims})"


def _reduced(name: str) -> OutTemplate:
    return OutTemplate(
        f"{name}.reduce({{0}}, {{axis}}, None, {{out}}, {{keepdims}})", may_alias=False
    )


def _entries(array: Any) -> Sequence[Any]:
    # Those of a vector would be numbers, and not in its memory.
    return list(array) if array.ndim > 1 else entries(array)


INTO = {
    **{name: OutTemplate(f"{name}({{0}}, {{out}})") for name in _ONE.split()},
    **{name: OutTemplate(f"{name}({{0}}, {{1}}, {{out}})") for name in _TWO.split()},
    # A number would cost four times as much as a buffer of it.
    "maximum": OutTemplate("maximum({0}, {1}, out={out})", broadcast_scalars=True),
    "minimum": OutTemplate("minimum({0}, {1}, out={out})", broadcast_scalars=True),
    "matmul": OutTemplate(_matmul, may_alias=False),
    "vecdot": OutTemplate(_vecdot("{0}.dot({1}, {out})"), may_alias=False),
    "sum": OutTemplate(_sum, may_alias=False),
    "max": _reduced("maximum"),
    "min": _reduced("minimum"),
    "astype": OutTemplate("copyto({out}, {0}, 'unsafe')", may_alias=False),
    "copy": OutTemplate("copyto({out}, {0})", may_alias=False),
}


LOWERING = Lowering(
    np,
    np.empty,
    INTO,
    {
        "matrix_transpose": "{0}.mT",
        "reshape": "{0}.reshape({shape})",
        "vecdot": _vecdot("{0}.dot({1})"),
    },
    {
        "sigmoid": sigmoid,
        "relu": relu,
        "first_maximum": first_maximum,
        "logsumexp": logsumexp,
        "mean": mean,
    },
    lambda: np.errstate(all="ignore"),
    frozenset({"sigmoid", "logsumexp"}),
    entries=_entries,
    few_axes=True,
    piece=16384,  # of half a dozen vectors, stays in the cache
)
