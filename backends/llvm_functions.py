"""The functions that kernels call, as a module in LLVM's own language.

The elementary functions are arithmetic of `llvm_arithmetic`, unlike the C library's, so loops over
them are vectorized; they stay within two units in the last place.
"""

from collections.abc import Callable, Mapping
from typing import Any

from llvmlite import ir

from backends import llvm_exponential, llvm_trigonometric, llvm_whole, openblas
from backends.llvm_arithmetic import Number, define, where

_REAL = {"float32": ir.FloatType(), "float64": ir.DoubleType()}


def remainder(x: Number, y: Number) -> Number:
    """x - floor(x / y) * y, with the sign of y."""
    rest = _rest(x, y)
    return where(rest == 0.0, rest.like(0.0).sign_of(y), where(_turned(rest, y), rest + y, rest))


def floor_divide(x: Number, y: Number) -> Number:
    """floor(x / y), of which `remainder` is what is left."""
    rest = _rest(x, y)
    quotient = (x - rest) / y
    quotient = where(_turned(rest, y), quotient - 1.0, quotient)
    below = quotient.call("floor")
    whole = where(quotient - below > 0.5, below + 1.0, below)
    whole = where(quotient == 0.0, quotient.like(0.0).sign_of(x / y), whole)
    return where(y == 0.0, x / y, whole)


def _rest(x: Number, y: Number) -> Number:
    """The remainder with the sign of x."""
    return Number(x.builder, x.builder.frem(x.value, y.value))


def _turned(rest: Number, y: Number) -> Number:
    """True where the remainder has not the sign that y has."""
    return (rest != 0.0) & ((rest < 0.0) ^ (y < 0.0))


#: The functions of floats, by the first part of their names.
BODIES: dict[str, Callable[..., Number]] = {
    name: getattr(module, name)
    for module, names in (
        (llvm_exponential,
         "acosh asinh atanh cosh erf exp expm1 hypot log log10 log1p log2 pow sinh tanh"),
        (llvm_trigonometric, "acos asin atan atan2 cos sin tan"),
    )
    for name in names.split()
} | {"remainder": remainder, "floor_divide": floor_divide}  # fmt: skip


def library(declared: Mapping[str, int]) -> str:
    """A module with the functions that are named by their dtype: exp_float32, pow_int64 and so on.

    Those of floats that are not ours are C's; see `LoopCompiler`.

    Parameters
    ----------
    declared
        The numbers of arguments, by the names of the functions that a kernel calls.
    """
    module = ir.Module()
    for name, count in declared.items():
        plain, _, dtype = name.rpartition("_")
        if plain == "product" and dtype in _REAL:
            _product(module, name, dtype)
        elif dtype in _REAL and plain in BODIES:
            define(module, name, _REAL[dtype], BODIES[plain])
        elif dtype in _REAL:
            _of_c(module, name, count)
        elif plain in llvm_whole.BODIES:
            llvm_whole.define(module, name, plain, dtype)
    return str(module)


def _of_c(module: Any, name: str, count: int) -> None:
    """The function that calls C's, whose name has an f at its end for float32."""
    plain, _, dtype = name.rpartition("_")
    kind = ir.FunctionType(_REAL[dtype], [_REAL[dtype]] * count)
    function = ir.Function(module, kind, name)
    function.attributes.add("alwaysinline")
    theirs = ir.Function(module, kind, plain if dtype == "float64" else f"{plain}f")
    builder = ir.IRBuilder(function.append_basic_block())
    builder.ret(builder.call(theirs, function.args))


_ROWS_FIRST, _AS_IT_LIES, _TRANSPOSED = 101, 111, 112  # CBLAS's constants


def _product(module: Any, name: str, dtype: str) -> None:
    """The function that has BLAS multiply matrices: see `LoopCompiler.products`."""
    blas = openblas.product(dtype)
    assert blas is not None
    pointer, size, flag, real = ir.PointerType(), ir.IntType(64), ir.IntType(32), _REAL[dtype]
    matrix = [pointer, *[size] * 3]
    kind = ir.FunctionType(ir.VoidType(), [*[size] * 3, *matrix, *matrix, *matrix])
    function = ir.Function(module, kind, name)
    function.attributes.add("alwaysinline")
    builder = ir.IRBuilder(function.append_basic_block())
    whole = ir.IntType(blas.bits)

    def fitting(value: Any) -> Any:
        return builder.trunc(value, whole) if blas.bits < 64 else value

    def parts(array: Any, first: Any, turned: Any, step: Any) -> tuple[Any, list[Any]]:
        order = builder.select(
            builder.icmp_signed("!=", turned, size(0)), flag(_TRANSPOSED), flag(_AS_IT_LIES)
        )
        start = builder.gep(array, [first], source_etype=real)
        return order, [start, fitting(step)]

    sizes, left, right, out = (function.args[i:j] for i, j in ((0, 3), (3, 7), (7, 11), (11, 15)))
    (a_order, a), (b_order, b), (_, c) = parts(*left), parts(*right), parts(*out)
    given = [flag(_ROWS_FIRST), a_order, b_order, *map(fitting, sizes)]
    given += [real(1), *a, *b, real(0), *c]
    theirs = ir.FunctionType(ir.VoidType(), [each.type for each in given])
    builder.call(ir.Function(module, theirs, blas.name), given)
    builder.ret_void()
