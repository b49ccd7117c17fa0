"""Functions of numbers for kernels, as the instructions that they are.

Sums may be put in another order where they are written with `plus`, and nowhere else; NaN and
infinities are honoured everywhere. The elementary functions are arithmetic of `numba_arithmetic`,
unlike the C library's, so loops over them are vectorized; they stay within two units in the last
place.
"""

import operator
from inspect import signature
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from backends import numba_arithmetic, numba_exponential, numba_trigonometric, openblas

_SUM = ("contract", "nsz", "reassoc")


@intrinsic  # type: ignore[untyped-decorator]
def plus(typing: Any, x: Any, y: Any) -> Any:
    """x + y, as a part of a sum in any order."""

    def instructions(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fadd(*args, flags=_SUM)

    return x(x, x), instructions


@intrinsic  # type: ignore[untyped-decorator]
def plus_product(typing: Any, x: Any, y: Any, z: Any) -> Any:
    """x + y * z, as a part of a sum in any order, rounded once or twice."""

    def instructions(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fadd(args[0], builder.fmul(*args[1:], flags=_SUM), flags=_SUM)

    return x(x, x, x), instructions


def _elementary(name: str, body: Any, dtype: str) -> Any:
    """A function of numbers that compiles to what `body` makes of Numbers."""
    kind = getattr(types, dtype)
    real = ir.FloatType() if dtype == "float32" else ir.DoubleType()
    count = len(signature(body).parameters)

    def instructions(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function = numba_arithmetic.define(builder.module, name, body, real, count)
        return builder.call(function, args)

    def one(typing: Any, x: Any) -> Any:
        return kind(kind), instructions

    def two(typing: Any, x: Any, y: Any) -> Any:
        return kind(kind, kind), instructions

    typed = two if count == 2 else one
    typed.__name__, typed.__doc__ = name, body.__doc__
    return intrinsic(typed)


def _whole_power(name: str) -> Any:
    """Powers of integers, as Numba has them."""

    def instructions(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_function(operator.pow, signature)(builder, args)

    def typed(typing: Any, x: Any, y: Any) -> Any:
        return typing.resolve_function_type(operator.pow, (x, y), {}), instructions

    typed.__name__ = name
    return intrinsic(typed)


def elementary(name: str) -> Any:
    """The function of that name: exp_float32, pow_int64 and so on; see `LoopCompiler`."""
    plain, dtype = name.split("_")
    if "int" in dtype:
        return _whole_power(name)
    return _elementary(name, BODIES[plain], dtype)


BODIES = {
    name: getattr(module, name)
    for module, names in (
        (numba_exponential,
         "acosh asinh atanh cosh erf exp expm1 hypot log log10 log1p log2 logaddexp pow sinh tanh"),
        (numba_trigonometric, "acos asin atan atan2 cos sin tan"),
    )
    for name in names.split()
}  # fmt: skip


_ROWS_FIRST, _AS_IT_LIES, _TRANSPOSED = 101, 111, 112  # CBLAS's constants


def _product(dtype: str) -> Any:
    """A function of kernels that has BLAS multiply matrices: see `LoopCompiler.products`."""
    blas = openblas.product(dtype)
    flag, real = ir.IntType(32), ir.FloatType() if dtype == "float32" else ir.DoubleType()

    def instructions(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        assert blas is not None
        whole = ir.IntType(blas.bits)
        m, n, k, a, a_first, a_turned, a_step, b, b_first, b_turned, b_step, *out = args

        def size(value: Any) -> Any:
            return builder.trunc(value, whole) if blas.bits < 64 else value

        def matrix(array: Any, first: Any, step: Any) -> list[Any]:
            return [builder.gep(array, [first]), size(step)]

        def order(turned: Any) -> Any:
            yes = builder.icmp_signed("!=", turned, turned.type(0))
            return builder.select(yes, flag(_TRANSPOSED), flag(_AS_IT_LIES))

        given = [flag(_ROWS_FIRST), order(a_turned), order(b_turned), *map(size, (m, n, k))]
        given += [real(1), *matrix(a, a_first, a_step), *matrix(b, b_first, b_step)]
        given += [real(0), *matrix(*out)]
        kind = ir.FunctionType(ir.VoidType(), [each.type for each in given])
        known = builder.module.globals.get(blas.name)
        builder.call(known or ir.Function(builder.module, kind, blas.name), given)
        return context.get_dummy_value()

    def product(
        typing: Any, m: Any, n: Any, k: Any, a: Any, a_first: Any, a_turned: Any, a_step: Any,
        b: Any, b_first: Any, b_turned: Any, b_step: Any, out: Any, out_first: Any, out_step: Any,
    ) -> Any:  # fmt: skip
        array, sizes = types.CPointer(getattr(types, dtype)), [types.intp] * 3
        arrays = array, *sizes, array, *sizes, array, types.intp, types.intp
        return types.void(*sizes, *arrays), instructions

    product.__name__ = f"product_{dtype}"
    return intrinsic(product)


product_float32, product_float64 = map(_product, ("float32", "float64"))
