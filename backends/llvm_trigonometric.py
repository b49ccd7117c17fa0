"""The trigonometric functions and their inverses, without branches but one.

Sources: Sun's fdlibm for the forms near 0, S. L. Moshier's Cephes for how the inverses are reduced.
The polynomials are minimax approximations for this arithmetic, found with Sollya's fpminimax; each
is a pair, for float64 and for float32.
"""

import math

from backends.llvm_arithmetic import (
    Number,
    fma,
    integer,
    near_fma,
    ordered_sum,
    poly,
    product_of,
    rarely,
    where,
)

# pi / 2 in three parts, and beyond what their multiples are no longer precise enough.
_HALF_PI = (
    (1.5707963267948966, 6.123233995736766e-17, -1.4973849048591833e-33),
    (1.5707963705062866, -4.371138828673793e-08, -1.7151245100058819e-15),
)
_FAR = 2.0**49, 2.0**17
# (sin(r) / r - 1) / r**2 and (cos(r) - 1) / r**2, in r**2, for |r| <= pi / 4.
_SIN = (
    (1.591911045544132e-10, -2.505114888344665e-08, 2.7557316210531966e-06, -0.0001984126983705946,
     0.008333333333331293, -0.16666666666666666),
    (2.9166658e-06, -0.0001986084, 0.008333396, -0.16666667),
)  # fmt: skip
_COS = (
    (-1.136883262524684e-11, 2.0875903931083277e-09, -2.7557315703266814e-07, 2.480158729422006e-05,
     -0.0013888888888881768, 0.041666666666666644, -0.5),
    (2.4467496e-05, -0.0013887642, 0.041666653, -0.5),
)  # fmt: skip
# (tan(r) / r - 1) / r**2, in r**2, for |r| <= pi / 8, in float32 for |r| <= pi / 4.
_TAN = (
    (0.00031899107572214424, 0.0005656654225766937, 0.0014597303143233454, 0.0035917692791723813,
     0.008863254793801898, 0.021869487958905157, 0.053968253976837764, 0.13333333333328534,
     0.33333333333333337),
    (0.004380369, 8.385919e-05, 0.010837704, 0.02128277, 0.054059446, 0.13332672, 0.3333335),
)  # fmt: skip
# (atan(q) / q - 1) / q**2, in q**2, for |q| <= 1/2.
_ATAN = (
    (0.011165853076202506, -0.028971565373502185, 0.04284663162419167, -0.05157883788363598,
     0.05866573883639478, -0.0666506321059392, 0.07692199337719048, -0.09090904417063506,
     0.11111110991543899, -0.14285714284126663, 0.1999999999999169, -0.33333333333333326),
    (0.043580957, -0.08326852, 0.110298075, -0.1428232, 0.19999988, -0.33333334),
)  # fmt: skip
# (asin(s) / s - 1) / s**2, in s**2, for |s| <= 1/2.
_ASIN = (
    (0.02895526599412778, -0.01515168178557629, 0.0176005268792511, 0.005380898146972242,
     0.010341531198859215, 0.011476140458759408, 0.013971544247760754, 0.017352368660149088,
     0.022372174069959706, 0.030381944106381384, 0.04464285714685709, 0.07499999999998082,
     0.16666666666666669),
    (0.034441732, 0.016642561, 0.031224389, 0.044586275, 0.07500151, 0.16666666),
)  # fmt: skip
_PI = (math.pi, 1.2246467991473532e-16), (3.14159274101257324219, -8.74227765734758577e-08)


def _quarter(x: Number, exact: bool = False) -> tuple[Number, Number, Number | None]:
    """q, an integer by its last bits, and r: x = q pi/2 + r.

    r is in two parts in float64, and in float32 if it is to be exact.
    """
    n, bits = integer(x, 2.0 / math.pi)
    first, second, third = _HALF_PI[x.short]
    high = fma(-n, first, x)  # exactly
    if x.short and not exact:
        return bits, near_fma(-n, third, fma(-n, second, high)), None
    product, lost = product_of(n, second)
    # Exact though the second may be larger: the first is a multiple of its last bit.
    r, rest = ordered_sum(high, -product)
    return bits, r, rest - near_fma(n, third, lost)


def _sin(r: Number, rest: Number | None, z: Number) -> Number:
    cube = r * z
    if rest is None:
        return near_fma(cube, poly(z, *_SIN[1]), r)
    return r + near_fma(cube, poly(z, *_SIN[0]), near_fma(-0.5 * z, rest, rest))


def _cos(r: Number, rest: Number | None, z: Number) -> Number:
    if rest is None:
        return near_fma(z, poly(z, *_COS[1]), 1.0)
    return near_fma(-r, rest, z * poly(z, *_COS[0])) + 1.0


def _sine(x: Number, turn: int) -> Number:
    """The sine of x + turn * pi/2."""
    q, r, rest = _quarter(x)
    q = q + turn
    z = r * r
    value = where((q & 1) == 0, _sin(r, rest, z), _cos(r, rest, z))
    sign = (q & 2) << (30 if x.short else 62)
    return (value.bits ^ sign).from_bits


def sin(x: Number) -> Number:
    """The sine."""
    near = _sine(x, 0)
    near = where(x == 0.0, x, near)
    return rarely(abs(x) > _FAR[x.short], "sin", near, x)


def cos(x: Number) -> Number:
    """The cosine."""
    return rarely(abs(x) > _FAR[x.short], "cos", _sine(x, 1), x)


def tan(x: Number) -> Number:
    """The tangent, in float64 from that of half the angle."""
    q, r, rest = _quarter(x, exact=True)
    assert rest is not None
    if x.short:
        z = r * r
        # The derivative at r is nearly this; it matters near pi / 4.
        near = r + near_fma(r * z, poly(z, *_TAN[1]), near_fma(1.6 * z, rest, rest))
        near = where((q & 1) == 0, near, -1.0 / near)
        return rarely(abs(x) > _FAR[1], "tan", where(x == 0.0, x, near), x)
    z = 0.25 * (r * r)
    double, lost = ordered_sum(r, near_fma(r * z, poly(z, *_TAN[0]), rest))
    half = 0.5 * double
    rest_of = fma(-half, half, 1.0)
    even = (q & 1) == 0
    above, below = where(even, double, -rest_of), where(even, rest_of, double)
    near = above / below
    below_lost = near_fma(-half, lost, fma(-half, half, 1.0 - rest_of))
    above_low, below_low = where(even, lost, -below_lost), where(even, below_lost, lost)
    left = near_fma(-near, below_low, above_low)
    inverse = near_fma(half, half, 1.0)
    near = near_fma(left, where(even, inverse, -near * inverse), near)
    return rarely(abs(x) > _FAR[0], "tan", where(x == 0.0, x, near), x)


def asin(x: Number) -> Number:
    """The inverse sine."""
    size = abs(x)
    large = size > 0.5
    z = where(large, 0.5 - 0.5 * size, size * size)
    s = where(large, z.sqrt(), size)
    part = s * (z * poly(z, *_ASIN[x.short]))
    half, low = (0.5 * each for each in _PI[x.short])
    total, lost = ordered_sum(x.like(half), -2.0 * s)
    return where(large, total + (lost + low - 2.0 * part), s + part).sign_of(x)


def acos(x: Number) -> Number:
    """The inverse cosine."""
    large = abs(x) > 0.5
    z = where(large, 0.5 - 0.5 * abs(x), x * x)
    s = where(large, -(2.0 * z.sqrt()).sign_of(x), x)
    part = s * (z * poly(z, *_ASIN[x.short]))
    high, low = _PI[x.short]
    left = x < 0.0
    base = where(large, where(left, high, x.like(0.0)), 0.5 * high)
    rest = where(large, where(left, low, x.like(0.0)), 0.5 * low)
    total, lost = ordered_sum(base, -s)
    return total + (lost + rest - part)


def atan(x: Number) -> Number:
    """The inverse tangent."""
    size = abs(x)
    beyond, middle = size > 2.0, size > 0.5
    above = where(beyond, -1.0, where(middle, size - 1.0, size))
    q = above / where(beyond, size, where(middle, size + 1.0, 1.0))
    z = q * q
    high, low = _PI[x.short]
    base = where(beyond, 0.5 * high, where(middle, x.like(0.25 * high), 0.0))
    rest = where(beyond, 0.5 * low, where(middle, x.like(0.25 * low), 0.0))
    return (base + (q + near_fma(q * z, poly(z, *_ATAN[x.short]), rest))).sign_of(x)


# pi / 4 in two parts, of which the first has so few bits that small multiples of it are exact.
_EIGHTH = (0.7853981633974483, 3.061616997868383e-17), (0.78515625, 2.4191339744830963e-4)


def atan2(y: Number, x: Number) -> Number:
    """The angle of the point (x, y)."""
    a, b = abs(y), abs(x)
    steep = a > b
    near, far = where(steep, b, a), where(steep, a, b)
    large = far > (2.0**100 if x.short else 2.0**1000)
    near, far = where(large, 0.25 * near, near), where(large, 0.25 * far, far)
    alike = (near == far) & (near == math.inf)
    near, far = where(alike, 1.0, near), where(alike | (far == 0.0), 1.0, far)
    middle = near > 0.5 * far
    q = where(middle, near - far, near) / where(middle, near + far, far)
    z = q * q
    angle = near_fma(q * z, poly(z, *_ATAN[x.short]), q)
    eighths = where(middle, x.like(1.0), 0.0)
    eighths = where(steep, 2.0 - eighths, eighths)
    left = x.like(1.0).sign_of(x) < 0.0
    eighths = where(left, 4.0 - eighths, eighths)
    angle = where(steep ^ left, -angle, angle)
    high, low = _EIGHTH[x.short]
    return (near_fma(eighths, high, near_fma(eighths, low, angle))).sign_of(y)
