"""The lowering of compiled programs to PyTorch: its own functions into buffers, no autograd.

Its functions do what the standard's do where the arrays are of one dtype. Where they are not, an
array without axes counts for less than it should, and the standard's own call is made.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.autograd import forward_ad

from backends import torch_functions
from backends.decompositions import mean
from backends.expressions import OUT, Attribute, Call, Expression, Kwarg, Ones, X, Y, Z
from backends.lowering import Lowering, OutTemplate, Template, concat

# The standard's name, and PyTorch's where it is another.
_ONE = """abs acos acosh asin asinh atan atanh bitwise_invert:bitwise_not ceil conj:conj_physical
cos cosh erf exp expm1 floor log log1p log2 log10 logical_not negative reciprocal sigmoid sign
signbit sin sinh sqrt square tan tanh trunc"""
_TWO = """atan2 bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor copysign
equal:eq greater greater_equal hypot less less_equal logaddexp logical_and logical_or logical_xor
maximum minimum nextafter not_equal remainder"""
# These take Python's numbers on either side.
_ARITHMETIC = "add divide floor_divide multiply pow subtract"

_INEXACT = {torch.float32, torch.float64, torch.complex64, torch.complex128}


def _names(table: str) -> list[tuple[str, str]]:
    pairs = [name.partition(":") for name in table.split()]
    return [(name, theirs or name) for name, _, theirs in pairs]


def _own(name: str, *args: Expression) -> Expression | None:
    """The method that changes its array, if there is one."""
    return X.method(f"{name}_", *args) if hasattr(torch.Tensor, f"{name}_") else None


def _alike(args: Any, numbers: bool = False) -> bool:
    """True if the arrays are of one dtype, and the numbers, unless all will do, of its kind."""
    arrays = [a for a in args if getattr(a, "dtype", None) is not None]
    dtypes = {a.dtype for a in arrays}
    if len(dtypes) != 1:
        return False
    kinds = (int, float) if dtypes <= _INEXACT else (int,)
    return numbers or all(a in arrays or type(a) in kinds for a in args)


def _two(call: Expression, numbers: bool = False) -> Template:
    return lambda args, kwargs: call if _alike(args, numbers) else None


def _where(args: Any, kwargs: Any) -> Expression | None:
    return Call("where", X, Y, Z, out=OUT) if _alike(args[1:]) else None


def _matmul(args: Any, kwargs: Any) -> Expression | None:
    left, right = (len(a.shape) for a in args)
    if not _alike(args):
        return None
    if right == 2 and left == 2:
        return Call("mm", X, Y, out=OUT)
    if right == 2 and left == 1:  # of a row, matmul would resize the result on its way
        return Call("mv", Attribute(Y, "mT"), X, out=OUT)
    return Call("matmul", X, Y, out=OUT)


def _vecdot(call: Expression) -> Template:
    def form(args: Any, kwargs: Any) -> Expression | None:
        """For two real vectors; a complex one is conjugated, of which `dot` knows nothing."""
        vectors = all(len(a.shape) == 1 for a in args) and _alike(args)
        return call if vectors and not args[0].dtype.is_complex else None

    return form


def _reduced(name: str) -> Template:
    def form(args: Any, kwargs: Any) -> Expression | None:
        axis, rank = kwargs.get("axis"), len(args[0].shape)
        if axis == () or kwargs.get("dtype") is not None:  # () would be all of them
            return None
        one = axis[0] if isinstance(axis, tuple) and len(axis) == 1 else axis
        wide = args[0].dtype in _INEXACT and rank == 2 and not kwargs.get("keepdims")
        if name == "sum" and wide and one in (1, -1):
            return Call("mv", X, Ones(1), out=OUT)  # half the time of a sum
        axes = tuple(range(rank)) if axis is None else one
        return Call(name, X, axes, Kwarg("keepdims", False), out=OUT)

    return form


def _is_transforming() -> bool:
    """True while a transformation of torch.func, forward derivatives or autocast are at work.

    PyTorch has no public word for it. Without its private ones the answer is yes, which is slower.
    """
    try:
        stack = torch._C._functorch.peek_interpreter_stack()
        level = forward_ad._current_level
        return stack is not None or level >= 0 or torch._C._is_any_autocast_enabled()
    except AttributeError:
        return True


def _followed(values: Iterable[Any]) -> bool:
    """By autograd, torch.func, torch.compile or autocast, or by its own class of tensors."""
    if torch.compiler.is_compiling() or _is_transforming():
        return True
    recording = torch.is_grad_enabled()
    for x in values:
        kind = type(x)
        if kind is torch.Tensor or kind is torch.nn.Parameter:
            if recording and x.requires_grad:
                return True
        elif isinstance(x, torch.Tensor):
            return True
    return False


INTO = {
    **{n: OutTemplate(Call(f, X, out=OUT), _own(f)) for n, f in _names(_ONE)},
    **{n: OutTemplate(_two(Call(f, X, Y, out=OUT)), _own(f, Y)) for n, f in _names(_TWO)},
    **{
        n: OutTemplate(_two(Call(f, X, Y, out=OUT), numbers=True), _own(f, Y))
        for n, f in _names(_ARITHMETIC)
    },
    # A power that is known is multiplied out.
    "pow": OutTemplate(
        _two(Call("pow", X, Y, out=OUT), numbers=True), _own("pow", Y), keep_scalars=True
    ),
    "gated": OutTemplate(_two(Call("gated", X, Y, OUT))),
    "sigmoid_pullback": OutTemplate(_two(Call("sigmoid_pullback", X, Y, OUT))),
    "tanh_pullback": OutTemplate(_two(Call("tanh_pullback", X, Y, OUT))),
    "addmm": OutTemplate(Call("addmm", X, Y, Z, out=OUT), may_alias=False),
    "addcmul": OutTemplate(Call("addcmul", X, Y, Z, out=OUT), X.method("addcmul_", Y, Z)),
    "add_scaled": OutTemplate(
        Call("add", X, Y, alpha=Kwarg("scale"), out=OUT), X.method("add_", Y, alpha=Kwarg("scale"))
    ),
    "scattered": OutTemplate(Call("scattered", X, Y, Kwarg("axis"), OUT), may_alias=False),
    "where": OutTemplate(_where),
    "matmul": OutTemplate(_matmul, may_alias=False),
    "vecdot": OutTemplate(_vecdot(Call("dot", X, Y, out=OUT)), may_alias=False),
    "sum": OutTemplate(_reduced("sum"), may_alias=False),
    "max": OutTemplate(_reduced("amax"), may_alias=False),
    "min": OutTemplate(_reduced("amin"), may_alias=False),
    "logsumexp": OutTemplate(_reduced("logsumexp"), may_alias=False),
    "astype": OutTemplate(OUT.method("copy_", X), may_alias=False),
    "dynamic_slice": OutTemplate(
        Call("dynamic_slice", X, Y, Kwarg("size"), Kwarg("axis", 0), OUT), may_alias=False
    ),
    "dynamic_update_slice": OutTemplate(
        Call("dynamic_update_slice", X, Y, Z, Kwarg("axis", 0), OUT)
    ),
    "concat": OutTemplate(concat, may_alias=False),
    "copy": OutTemplate(OUT.method("copy_", X), may_alias=False),
}


_ALIGNED = 64  # bytes: where MKL's products begin otherwise, they may add up in another order


def _batches(array: Any) -> Sequence[Any]:
    """The entries of an array along its first axis, all of which begin alike in memory.

    Else a step would round otherwise where it is another one of those carried out together, as it
    is in a run that is resumed.
    """
    row = array[0].nbytes if array.ndim > 1 and len(array) else 0
    if row % _ALIGNED == 0 or array.device.type != "cpu":
        return torch.unbind(array)
    size = row // array.itemsize
    step = -(-row // _ALIGNED) * _ALIGNED // array.itemsize
    apart = torch.empty((len(array), step), dtype=array.dtype)[:, :size]
    apart = apart.unflatten(1, array.shape[1:])
    return torch.unbind(apart.copy_(array))


LOWERING = Lowering(
    torch_functions,
    torch.empty,
    INTO,
    {
        **{n: _two(Call(n, X, Y), numbers=True) for n, _ in _names(_ARITHMETIC)},
        "matrix_transpose": Attribute(X, "mT"),
        "reshape": X.method("reshape", Kwarg("shape")),
        "vecdot": _vecdot(Call("dot", X, Y)),
        "dynamic_slice": Call("dynamic_slice", X, Y, Kwarg("size"), Kwarg("axis", 0)),
        "dynamic_update_slice": Call("dynamic_update_slice", X, Y, Z, Kwarg("axis", 0)),
    },
    {"mean": mean},
    torch.inference_mode,
    followed=_followed,
    entries=torch.unbind,
    batches=_batches,
    slow_where=True,
    keeps=frozenset({"max_pool"}),
    together=lambda array: array.device.type != "cpu",  # a sum of one row may differ
)
