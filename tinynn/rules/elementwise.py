"""The table of the element-wise functions: a row is all that transformations and compilers ask.

A row gives, for each array argument, `g` times the partial derivative, from the result `y` and
the arguments; without any, no derivative flows. Where a derivative does not exist, the value is the
one that JAX gives. Where an argument or the result is real beside complex ones, the transformation
takes the real part. It says which function of C it is, or what it is made of: see `Elementwise`.
A row with neither is an operation that every machine has: of that name, in
`compiler/codegen/operations.py`. Functions that the standard lacks have their rows in `special`.
"""

from math import inf
from typing import Any

from tinynn.rules.complex import conj, is_complex
from tinynn.rules.kinds import RULES, Composed, Elementwise
from tinynn.rules.special import stop_gradient

LN2, LN10 = 0.6931471805599453, 2.302585092994046


def row(name: str, *partials: Any, c: str = "", scalar: Any = None) -> None:
    """One row of the table."""
    RULES[name] = Elementwise(*partials, c=c, scalar=scalar)


def _as(xp: Any, mask: Any, g: Any) -> Any:
    return xp.astype(mask, g.dtype)


def _share(xp: Any, g: Any, y: Any, mine: Any, other: Any) -> Any:
    # At a tie each side gets half, so that the two cotangents still add up to g.
    return g * (_as(xp, xp.equal(mine, y), g) / (1 + _as(xp, xp.equal(mine, other), g)))


def _power_base(xp: Any, g: Any, y: Any, x: Any, p: Any) -> Any:
    # x**0 is constant: without the guard, 0 * 0**-1 would be nan.
    if type(p) in (int, float):
        return g * (p * xp.pow(x, p - 1)) if p else g * 0
    flat = xp.equal(p, 0)
    return g * xp.where(flat, 0.0, p * xp.pow(x, xp.where(flat, 1.0, p - 1)))


def _power_exponent(xp: Any, g: Any, y: Any, x: Any, p: Any) -> Any:
    # 0**p has no slope in p; log 0 would make it nan.
    base = xp.multiply(x, xp.ones_like(y))
    return g * (xp.log(xp.where(xp.equal(base, 0), 1.0, base)) * y)


def _nonzero(xp: Any, x: Any) -> Any:
    return xp.where(xp.equal(x, 0), 1.0, x)


def _abs(xp: Any, g: Any, y: Any, x: Any) -> Any:
    if is_complex(xp, x):
        return g * (xp.conj(x) / _nonzero(xp, y))
    return xp.where(xp.greater_equal(x, 0), g, -g)


def _sign(xp: Any, x: Any) -> Any:
    # On the real line it is constant; in the plane it turns.
    return x / _nonzero(xp, xp.abs(x)) if is_complex(xp, x) else xp.sign(stop_gradient(x))


def _imag(xp: Any, g: Any, y: Any, x: Any) -> Any:
    return xp.astype(g, x.dtype) * -1j if is_complex(xp, x) else g * 0


def _softmax(xp: Any, g: Any, y: Any, x: Any) -> Any:
    top = xp.equal(x, inf)  # where exp(x - y) would be exp(inf - inf)
    return g * xp.where(top, 1.0, xp.exp(xp.where(top, 0.0, x) - y))


def _hypot(xp: Any, g: Any, y: Any, x: Any) -> Any:
    corner = xp.equal(y, 0)  # both are 0: JAX lets them share, as `maximum` does
    return g * xp.where(corner, 0.5, x / xp.where(corner, 1.0, y))


def _copysign(xp: Any, g: Any, y: Any, x: Any, sign: Any) -> Any:
    return xp.where(xp.greater_equal(x, 0), g, -g) * xp.copysign(xp.ones_like(y), sign)


def _clip(xp: Any, x: Any, low: Any = None, high: Any = None) -> Any:
    x = x if low is None else xp.maximum(x, low)
    return x if high is None else xp.minimum(x, high)


# Of single numbers.


def _first_where(test: str) -> Any:
    """The first number where the test holds or it is NaN, else the second."""

    def scalar(xp: Any, a: Any, b: Any) -> Any:
        return xp.where(xp.logical_or(getattr(xp, test)(a, b), xp.not_equal(a, a)), a, b)

    return scalar


def _logaddexp(xp: Any, a: Any, b: Any) -> Any:
    beyond = xp.log1p(xp.exp(-xp.abs(a - b)))
    # Equal infinities: their difference is NaN.
    return xp.where(xp.equal(a, b), a + LN2, xp.where(xp.greater(a, b), a, b) + beyond)


def _limited(xp: Any, x: Any, low: Any = None, high: Any = None) -> Any:
    x = x if low is None else xp.where(xp.greater(low, x), low, x)
    return x if high is None else xp.where(xp.less(high, x), high, x)


def _sign_of_number(xp: Any, x: Any) -> Any:
    above, below = (xp.astype(test(x, 0), x.dtype) for test in (xp.greater, xp.less))
    return xp.where(xp.equal(x, x), above - below, x)


def _signbit(xp: Any, x: Any) -> Any:
    return xp.less(xp.copysign(xp.ones_like(x), x), 0)


def _isinf(xp: Any, x: Any) -> Any:
    real = xp.isdtype(x.dtype, "real floating")
    return xp.equal(xp.abs(x), inf) if real else xp.not_equal(x, x)


def _isfinite(xp: Any, x: Any) -> Any:
    real = xp.isdtype(x.dtype, "real floating")
    return xp.less(xp.abs(x), inf) if real else xp.equal(x, x)


row("positive", lambda xp, g, y, x: g, scalar=lambda xp, x: x)
row("negative", lambda xp, g, y, x: -g)
row("add", lambda xp, g, y, a, b: g, lambda xp, g, y, a, b: g)
row("subtract", lambda xp, g, y, a, b: g, lambda xp, g, y, a, b: -g)
row("multiply", lambda xp, g, y, a, b: g * b, lambda xp, g, y, a, b: g * a)
row("divide", lambda xp, g, y, a, b: g / b, lambda xp, g, y, a, b: -(g * y) / b)
row("pow", _power_base, _power_exponent)
row("remainder", lambda xp, g, y, a, b: g, lambda xp, g, y, a, b: -(g * xp.floor_divide(a, b)))
row("square", lambda xp, g, y, x: g * (2 * x), scalar=lambda xp, x: x * x)
row("sqrt", lambda xp, g, y, x: g * (0.5 / y))
row("reciprocal", lambda xp, g, y, x: -(g * (y * y)), scalar=lambda xp, x: 1 / x)
row("abs", _abs)
row("real", lambda xp, g, y, x: g)
row("imag", _imag)
row("conj", lambda xp, g, y, x: conj(xp, g))
row("exp", lambda xp, g, y, x: g * y, c="exp")
row("expm1", lambda xp, g, y, x: g * (y + 1), c="expm1")
row("log", lambda xp, g, y, x: g / x, c="log")
row("log1p", lambda xp, g, y, x: g / (1 + x), c="log1p")
row("log2", lambda xp, g, y, x: g / (x * LN2), c="log2")
row("log10", lambda xp, g, y, x: g / (x * LN10), c="log10")
row(
    "logaddexp",
    lambda xp, g, y, a, b: _softmax(xp, g, y, a),
    lambda xp, g, y, a, b: _softmax(xp, g, y, b),
    scalar=_logaddexp,
)
row("sin", lambda xp, g, y, x: g * xp.cos(x), c="sin")
row("cos", lambda xp, g, y, x: -(g * xp.sin(x)), c="cos")
row("tan", lambda xp, g, y, x: g * (1 + y * y), c="tan")
row("asin", lambda xp, g, y, x: g / xp.sqrt(1 - x * x), c="asin")
row("acos", lambda xp, g, y, x: -(g / xp.sqrt(1 - x * x)), c="acos")
row("atan", lambda xp, g, y, x: g / (1 + x * x), c="atan")
row("sinh", lambda xp, g, y, x: g * xp.cosh(x), c="sinh")
row("cosh", lambda xp, g, y, x: g * xp.sinh(x), c="cosh")
row("tanh", lambda xp, g, y, x: g * (1 - y * y), c="tanh")
row("asinh", lambda xp, g, y, x: g / xp.sqrt(x * x + 1), c="asinh")
# In the whole plane.
row("acosh", lambda xp, g, y, x: g / (xp.sqrt(x - 1) * xp.sqrt(x + 1)), c="acosh")
row("atanh", lambda xp, g, y, x: g / (1 - x * x), c="atanh")
row(
    "atan2",
    lambda xp, g, y, a, b: g * (b / (a * a + b * b)),
    lambda xp, g, y, a, b: -(g * (a / (a * a + b * b))),
    c="atan2",
)
row(
    "hypot",
    lambda xp, g, y, a, b: _hypot(xp, g, y, a),
    lambda xp, g, y, a, b: _hypot(xp, g, y, b),
    c="hypot",
)
row("copysign", _copysign, lambda xp, g, y, x, sign: g * 0)
row(
    "maximum",
    lambda xp, g, y, a, b: _share(xp, g, y, a, b),
    lambda xp, g, y, a, b: _share(xp, g, y, b, a),
    scalar=_first_where("greater"),
)
row(
    "minimum",
    lambda xp, g, y, a, b: _share(xp, g, y, a, b),
    lambda xp, g, y, a, b: _share(xp, g, y, b, a),
    scalar=_first_where("less"),
)
row(
    "where",
    None,
    lambda xp, g, y, c, a, b: xp.where(c, g, 0.0),
    lambda xp, g, y, c, a, b: xp.where(c, 0.0, g),
)
RULES["clip"] = Composed(_clip, _limited)
RULES["sign"] = Composed(_sign, _sign_of_number)
for name in """ceil floor round trunc floor_divide nextafter equal not_equal less less_equal greater
    greater_equal logical_and logical_or logical_xor logical_not bitwise_and bitwise_or bitwise_xor
    bitwise_invert bitwise_left_shift bitwise_right_shift""".split():
    row(name)
row("isnan", scalar=lambda xp, x: xp.not_equal(x, x))
row("isinf", scalar=_isinf)
row("isfinite", scalar=_isfinite)
row("signbit", scalar=_signbit)
