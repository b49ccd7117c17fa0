"""Functions of numbers for kernels, as the instructions that they are.

Sums may be put in another order where they are written with `plus`, and nowhere else; NaN and
infinities are honoured everywhere. `exp` is nothing but arithmetic, unlike the C library's, so
loops over it are vectorized; it has the polynomials of S. L. Moshier's Cephes library, and stays
below two units in the last place.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from backends import openblas

_SUM = ("contract", "nsz", "reassoc")
_FUSED = ("contract",)


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


class _Writer:
    """Arithmetic on values of one type."""

    def __init__(self, builder: Any, bits: int) -> None:
        self.builder, self.bits = builder, bits
        self.real: Any = ir.FloatType() if bits == 32 else ir.DoubleType()
        self.whole = ir.IntType(bits)

    def number(self, value: float) -> Any:
        return ir.Constant(self.real, value)

    def poly(self, x: Any, *coefficients: float) -> Any:
        """A polynomial, its highest coefficient first."""
        total: Any = self.number(coefficients[0])
        for each in coefficients[1:]:
            total = self.fma(total, x, self.number(each))
        return total

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        product = self.builder.fmul(a, b, flags=_FUSED)
        return self.builder.fadd(product, c, flags=_FUSED)

    def bounded(self, x: Any, low: float, high: float) -> Any:
        """x between two bounds; NaN stays."""
        for sign, bound in ((">", high), ("<", low)):
            over = self.builder.fcmp_ordered(sign, x, self.number(bound))
            x = self.builder.select(over, self.number(bound), x)
        return x

    def floor(self, x: Any) -> Any:
        return self.builder.call(
            self.builder.module.declare_intrinsic("llvm.floor", [self.real]), [x]
        )

    def power_of_two(self, n: Any) -> Any:
        """2**n, put together from its bits."""
        fraction, bias = (23, 127) if self.bits == 32 else (52, 1023)
        exponent = self.builder.add(n, ir.Constant(self.whole, bias))
        bits = self.builder.shl(exponent, ir.Constant(self.whole, fraction))
        return self.builder.bitcast(bits, self.real)

    def exp(self, x: Any) -> Any:
        b, short = self.builder, self.bits == 32
        c = self.bounded(x, *((-104, 89) if short else (-746, 710)))
        n = self.floor(self.fma(c, self.number(1.4426950408889634), self.number(0.5)))
        ln2 = (0.693359375, -2.12194440e-4) if short else (
            6.93145751953125e-1, 1.42860682030941723212e-6
        )  # fmt: skip
        r = self.fma(n, self.number(-ln2[1]), self.fma(n, self.number(-ln2[0]), c))
        square = b.fmul(r, r)
        if short:
            p = self.poly(r, 1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2,
                          1.6666665459e-1, 5.0000001201e-1)  # fmt: skip
            p = b.fadd(self.fma(p, square, r), self.number(1))
        else:
            p = b.fmul(r, self.poly(square, 1.26177193074810590878e-4, 3.02994407707441961300e-2,
                                    9.99999999999999999910e-1))  # fmt: skip
            q = self.poly(square, 3.00198505138664455042e-6, 2.52448340349684104192e-3,
                          2.27265548208155028766e-1, 2)  # fmt: skip
            p = self.fma(b.fdiv(p, b.fsub(q, p)), self.number(2), self.number(1))
        # In two halves, so that neither is out of range where their product is not.
        whole = b.fptosi(n, self.whole)
        half = b.ashr(whole, ir.Constant(self.whole, 1))
        result = b.fmul(p, self.power_of_two(half))
        result = b.fmul(result, self.power_of_two(b.sub(whole, half)))
        return b.select(b.fcmp_unordered("uno", x, x), x, result)


@intrinsic  # type: ignore[untyped-decorator]
def exp_float32(typing: Any, x: Any) -> Any:
    """exp(x)."""
    return types.float32(types.float32), lambda context, b, signature, args: _Writer(b, 32).exp(
        *args
    )


@intrinsic  # type: ignore[untyped-decorator]
def exp_float64(typing: Any, x: Any) -> Any:
    """exp(x)."""
    return types.float64(types.float64), lambda context, b, signature, args: _Writer(b, 64).exp(
        *args
    )


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
