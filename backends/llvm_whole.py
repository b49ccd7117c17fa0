"""Functions of integers for kernels, where the machine's own instructions are undefined somewhere.

They give what NumPy gives: quotients are rounded down, those by 0 are 0, results wrap around.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir


def _divided(builder: Any, signed: bool, x: Any, y: Any) -> tuple[Any, Any, Any]:
    """The quotient towards 0, the remainder, and whether the quotient is to be one less."""
    zero, one = x.type(0), x.type(1)
    none = builder.icmp_unsigned("==", y, zero)
    if not signed:
        y = builder.select(none, one, y)
        return none, builder.udiv(x, y), builder.urem(x, y)
    # The least number by -1 is beyond the greatest.
    minus = builder.icmp_signed("==", y, x.type(-1))
    safe = builder.select(builder.or_(none, minus), one, y)
    quotient = builder.select(minus, builder.sub(zero, x), builder.sdiv(x, safe))
    return none, quotient, builder.srem(x, safe)


def _down(builder: Any, rest: Any, y: Any) -> Any:
    """True where the quotient towards 0 is above the true one."""
    zero = rest.type(0)
    apart = builder.icmp_signed("<", builder.xor(rest, y), zero)
    return builder.and_(builder.icmp_signed("!=", rest, zero), apart)


def floor_divide(builder: Any, signed: bool, x: Any, y: Any) -> Any:
    """x / y, rounded down."""
    none, quotient, rest = _divided(builder, signed, x, y)
    if signed:
        less = builder.sub(quotient, x.type(1))
        quotient = builder.select(_down(builder, rest, y), less, quotient)
    return builder.select(none, x.type(0), quotient)


def remainder(builder: Any, signed: bool, x: Any, y: Any) -> Any:
    """x - floor(x / y) * y."""
    none, _, rest = _divided(builder, signed, x, y)
    if signed:
        rest = builder.select(_down(builder, rest, y), builder.add(rest, y), rest)
    return builder.select(none, x.type(0), rest)


def left_shift(builder: Any, signed: bool, x: Any, y: Any) -> Any:
    """x * 2**y; 0 where all bits are gone."""
    known = builder.icmp_unsigned("<", y, y.type(y.type.width))
    return builder.select(known, builder.shl(x, builder.select(known, y, y.type(0))), x.type(0))


def right_shift(builder: Any, signed: bool, x: Any, y: Any) -> Any:
    """x / 2**y, rounded down."""
    last = y.type(y.type.width - 1)
    known = builder.icmp_unsigned("<", y, y.type(y.type.width))
    if signed:
        return builder.ashr(x, builder.select(known, y, last))
    return builder.select(known, builder.lshr(x, builder.select(known, y, last)), x.type(0))


def pow(builder: Any, signed: bool, x: Any, y: Any) -> Any:
    """x**y by squares; 0 where y is negative, as in C."""
    one, start = x.type(1), builder.block
    head, body, end = (builder.append_basic_block() for _ in range(3))
    builder.branch(head)
    builder.position_at_end(head)
    result, factor, left = builder.phi(x.type), builder.phi(x.type), builder.phi(y.type)
    builder.cbranch(builder.icmp_unsigned("!=", left, y.type(0)), body, end)
    builder.position_at_end(body)
    odd = builder.icmp_unsigned("!=", builder.and_(left, one), y.type(0))
    more = builder.select(odd, builder.mul(result, factor), result)
    for phi, first, following in (
        (result, one, more),
        (factor, x, builder.mul(factor, factor)),
        (left, y, builder.lshr(left, one)),
    ):
        phi.add_incoming(first, start)
        phi.add_incoming(following, body)
    builder.branch(head)
    builder.position_at_end(end)
    if not signed:
        return result
    return builder.select(builder.icmp_signed("<", y, y.type(0)), x.type(0), result)


#: The functions, by the first part of their names.
BODIES: dict[str, Callable[..., Any]] = {
    f.__name__: f for f in (floor_divide, remainder, left_shift, right_shift, pow)
}


def define(module: Any, name: str, plain: str, dtype: str) -> None:
    """The function for a dtype, to be put in wherever it is called."""
    kind = ir.IntType(64 if dtype == "index" else int(dtype.split("int")[1]))
    function = ir.Function(module, ir.FunctionType(kind, [kind, kind]), name)
    function.attributes.add("alwaysinline")
    builder = ir.IRBuilder(function.append_basic_block())
    builder.ret(BODIES[plain](builder, not dtype.startswith("u"), *function.args))
