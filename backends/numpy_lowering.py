"""The lowering of compiled programs to NumPy: results into buffers, products through BLAS."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from backends import numpy_convolution, numpy_functions
from backends.convolution import Settings
from backends.decompositions import logsumexp, mean
from backends.expressions import OUT, Attribute, Call, Expression, Kwarg, Ones, Overwrite, X, Y, Z
from backends.lowering import Lowering, OutTemplate, Template, concat, entries

# The elementwise functions of the standard are ufuncs, under its names.
_UFUNCS = {
    name: f
    for name, f in vars(np).items()
    if isinstance(f, np.ufunc) and f.nout == 1 and f.signature is None
}
_AXIS, _KEEPDIMS = Kwarg("axis"), Kwarg("keepdims", False)
_DOT = X.method("dot", Y, OUT)


def _matmul(args: Any, kwargs: Any) -> Expression:
    stacked = any(len(a.shape) > 2 for a in args)
    return Call("matmul", X, Y, out=OUT) if stacked else _DOT


def _vecdot(call: Expression) -> Template:
    def form(args: Any, kwargs: Any) -> Expression | None:
        """For two real vectors; a complex one is conjugated, of which `dot` knows nothing."""
        vectors = all(len(a.shape) == 1 for a in args) and args[0].dtype == args[1].dtype
        return call if vectors and args[0].dtype.kind != "c" else None

    return form


def _sum(args: Any, kwargs: Any) -> Expression | None:
    if kwargs.get("dtype") is not None:
        return None
    axis, keepdims = kwargs.get("axis"), kwargs.get("keepdims", False)
    # A product with ones takes a third of the time of a sum over rows. It keeps the dtype.
    inexact = args[0].dtype.kind in "fc"
    matrix = inexact and len(args[0].shape) == 2
    if inexact and len(args[0].shape) == 1 and not keepdims:
        return X.method("dot", Ones(0), OUT)
    if matrix and axis in (0, (0,)) and not keepdims:
        return Ones(0).method("dot", X, OUT)
    if matrix and axis in (-1, 1, (-1,), (1,)):
        return X.method("dot", Ones(1, column=keepdims), OUT)
    return _reduced("add")


def _reduced(name: str) -> Expression:
    return Call(f"{name}.reduce", X, _AXIS, None, OUT, _KEEPDIMS)


def _extreme(name: str, place: str) -> Template:
    """Of a vector, whose extreme number is sooner found by its place."""

    def form(args: Any, kwargs: Any) -> Expression:
        alone = len(args[0].shape) == 1 and not kwargs.get("keepdims", False)
        if not alone or args[0].dtype.kind not in "fiu":
            return _reduced(name)
        return Overwrite(OUT, X.method("item", X.method(place)))

    return form


def _reshape(args: Any, kwargs: Any) -> Expression:
    flat = len(kwargs["shape"]) == 1
    return X.method("ravel") if flat else X.method("reshape", Kwarg("shape"))


def _conv(args: Any, kwargs: Any) -> Expression | None:
    if not numpy_functions.knows(args[0], args[1], Settings(**kwargs)):
        return None
    return Call("conv", X, Y, OUT, **{name: Kwarg(name) for name in Settings._fields})


def _lies(args: Any, kwargs: Any) -> Any:
    given = args[0], args[1], Settings(**kwargs)
    return numpy_convolution.order_of(*given) if numpy_functions.knows(*given) else None


def _entries(array: Any) -> Sequence[Any]:
    # Those of a vector would be numbers, and not in its memory.
    return list(array) if array.ndim > 1 else entries(array)


INTO = {
    **{name: OutTemplate(Call(name, *(X, Y)[: f.nin], OUT)) for name, f in _UFUNCS.items()},
    # A number would cost four times as much as a buffer of it.
    "maximum": OutTemplate(Call("maximum", X, Y, out=OUT), broadcast_scalars=True),
    "minimum": OutTemplate(Call("minimum", X, Y, out=OUT), broadcast_scalars=True),
    "matmul": OutTemplate(_matmul, may_alias=False),
    "vecdot": OutTemplate(_vecdot(_DOT), may_alias=False),
    "sum": OutTemplate(_sum, may_alias=False),
    "sum_where": OutTemplate(Call("add.reduce", Y, None, None, OUT, False, 0, X), may_alias=False),
    "max": OutTemplate(_extreme("maximum", "argmax"), may_alias=False),
    "min": OutTemplate(_extreme("minimum", "argmin"), may_alias=False),
    "astype": OutTemplate(Call("copyto", OUT, X, "unsafe"), may_alias=False),
    "erf": OutTemplate(Call("erf", X, OUT)),
    "dynamic_slice": OutTemplate(
        Call("dynamic_slice", X, Y, Kwarg("size"), Kwarg("axis", 0), OUT), may_alias=False
    ),
    "dynamic_update_slice": OutTemplate(
        Call("dynamic_update_slice", X, Y, Z, Kwarg("axis", 0), OUT)
    ),
    "scattered": OutTemplate(Call("scattered", X, Y, Kwarg("axis"), OUT), may_alias=False),
    "conv": OutTemplate(_conv, may_alias=False, order=_lies),
    "concat": OutTemplate(concat, may_alias=False),
    "copy": OutTemplate(Call("copyto", OUT, X), may_alias=False),
}


LOWERING = Lowering(
    numpy_functions,
    np.empty,
    INTO,
    {
        "matrix_transpose": Attribute(X, "mT"),
        "reshape": _reshape,
        "vecdot": _vecdot(X.method("dot", Y)),
        "erf": Call("erf", X),
        "dynamic_slice": Call("dynamic_slice", X, Y, Kwarg("size"), Kwarg("axis", 0)),
        "dynamic_update_slice": Call("dynamic_update_slice", X, Y, Z, Kwarg("axis", 0)),
    },
    {
        "logsumexp": logsumexp,
        "mean": mean,
    },
    lambda: np.errstate(all="ignore"),
    frozenset({"sigmoid", "logsumexp"}),
    entries=_entries,
    few_axes=True,
    slow_where=True,
    gives_numbers=True,
    piece=16384,  # of half a dozen vectors, stays in the cache
)
