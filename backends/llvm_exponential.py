"""exp, log, pow, the hyperbolic functions and their like, without branches.

Ranges are reduced as W. J. Cody and W. Waite do it (Software Manual for the Elementary Functions,
1980); what is lost in a sum is carried along where it matters, as in Sun's fdlibm and N. Shibata's
SLEEF. The polynomials are minimax approximations for this arithmetic, found with Sollya's
fpminimax, or by linear programming with the coefficients rounded one after the other; each is a
pair, for float64 and for float32.
"""

import math

from backends.llvm_arithmetic import (
    Number,
    bounded,
    fma,
    integer,
    near_fma,
    ordered_sum,
    poly,
    product_of,
    rarely,
    sum_of,
    where,
)

# log(2) in two parts, of which the first has so few bits that small multiples of it are exact.
_LN2 = (6.93147180369123816490e-01, 1.90821492927058770002e-10), (0.693359375, -2.12194440e-4)
# (exp(r) - 1 - r) / r**2 for |r| <= log(2) / 2.
_EXP = (
    (2.0896499774739555e-09, 2.5105424083558085e-08, 2.755732686428654e-07, 2.755725479972292e-06,
     2.4801587271890597e-05, 0.00019841269875423603, 0.0013888888888905046, 0.008333333333325895,
     0.041666666666666644, 0.1666666666666667, 0.5),
    (0.00019950175, 0.0013930508, 0.008333201, 0.04166651, 0.16666667, 0.5),
)  # fmt: skip
# (log((1 + s) / (1 - s)) / s - 2) / s**2, in s**2, for |s| <= 0.1716, in float64.
_LOG = (
    0.14617065490997458, 0.1533167449208131, 0.18182890401367427, 0.2222221112086998,
    0.2857142862601479, 0.3999999999989969, 0.666666666666667,
)  # fmt: skip
# In float32, for sqrt(1/2) <= 1 + f <= sqrt(2): (log(1 + f) - f) / f**2, and log(1 + f) / f to the
# other bases.
_SHORT_LOG = {
    "e": (-0.076190576, 0.12912987, -0.13248087, 0.14180851, -0.1660841, 0.20002005, -0.2500161,
          0.33333325, -0.49999988),
    "2": (-0.079654194, 0.163332, -0.19332618, 0.20888484, -0.23978905, 0.2883037, -0.3606826,
          0.48090377, -0.7213475, 1.442695),
    "10": (-0.05125476, 0.06403657, -0.05340184, 0.059778873, -0.072437055, 0.08699583,
           -0.10857233, 0.14476189, -0.21714725, 0.4342945),
}  # fmt: skip
# (sinh(x) / x - 1) / x**2, in x**2, for |x| <= 1.
_SINH = (
    (7.746178593018927e-13, 1.6057679623801635e-10, 2.5052117695907823e-08,
     2.7557319191381816e-06, 0.00019841269841324198, 0.008333333333333299, 0.16666666666666666),
    (2.7822132e-06, 0.00019842896, 0.0083333105, 0.16666667),
)  # fmt: skip
# In float32 (tanh(x) / x - 1) / x**2, in x**2, for |x| <= 0.55; exp(2 r) for |r| <= log(2) / 4; and
# (atanh(x) / x - 1) / x**2, in x**2, for |x| <= 1/2; and the same of asinh, for |x| <= 0.53.
_TANH = -0.0062428494, 0.021050714, -0.053847548, 0.13332544, -0.33333316
_EXP_OF_TWICE = 0.08845266, 0.26781592, 0.6666925, 1.3333213, 1.9999998, 2.0, 1.0
_ATANH = 0.1763806, 0.05160312, 0.1181641, 0.14223784, 0.20002453, 0.33333302
_ASINH = 0.008539863, -0.01953306, 0.02989574, -0.044599477, 0.0749982, -0.16666664
_LOG10_2 = (3.01029995663611771306e-01, 3.69423907715893078616e-13), (
    0.301025390625, 4.6050390665e-06,
)  # fmt: skip
_LOG2_E, _LOG10_E = 1.4426950408889634, 0.4342944819032518


def _reduced(x: Number, offset: int) -> tuple[Number, Number, Number]:
    """Bits whose last ones are n + offset, and r in two parts: x = n log(2) + r."""
    n, bits = integer(x, math.log2(math.e), offset)
    high, low = _LN2[x.short]
    first = near_fma(-n, high, x)
    r = near_fma(-n, low, first)
    return bits, r, near_fma(-n, low, first - r)


def _power_of_two(bits: Number) -> Number:
    """The real number of an exponent in the last bits."""
    return (bits << (23 if bits.short else 52)).from_bits


def exp(x: Number) -> Number:
    """exp(x)."""
    short = x.short
    c = bounded(x, *((-104.0, 89.0) if short else (-746.0, 710.0)))
    bits, r, _ = _reduced(c, 254 if short else 2046)
    p = near_fma(r * r, poly(r, *_EXP[short]), r)
    # In two halves, so that neither is out of range where their product is not.
    half = bits >> 1
    first = _power_of_two(half)
    return near_fma(p, first, first) * _power_of_two(bits - half)


def _quarter_expm1(x: Number) -> Number:
    """expm1(x) / 4 for a number that is bounded, so that half of it may be out of range."""
    short = x.short
    bits, r, lost = _reduced(x, 125 if short else 1021)
    scale = _power_of_two(bits)
    rest = near_fma(r * r, poly(r, *_EXP[short]), lost)
    total, part = ordered_sum(scale - 0.25, scale * r)
    return total + near_fma(scale, rest, part)


def _odd(x: Number, result: Number) -> Number:
    """The result with the sign of x; x itself where it is so small that nothing else is left."""
    return where(abs(x) < (2.0**-26 if x.short else 2.0**-56), x, result.sign_of(x))


def expm1(x: Number) -> Number:
    """exp(x) - 1."""
    c = bounded(x, *((-18.0, 89.0) if x.short else (-39.0, 710.0)))
    return _odd(x, 4.0 * _quarter_expm1(c))


def tanh(x: Number) -> Number:
    """The hyperbolic tangent."""
    if x.short:
        return _short_tanh(x)
    half = 2.0 * _quarter_expm1(_below(2.0 * abs(x), 40.0))
    ratio = half / (half + 1.0)
    return _odd(x, where(half < 0.25, near_fma(-half, ratio, half), ratio))


def _short_tanh(x: Number) -> Number:
    """The same: 1 - 2 u / (1 + u), where u = exp(-2 |x|); and a polynomial near 0."""
    size = abs(x)
    c = _below(size, 10.0)
    n, bits = integer(c, -2.0 * _LOG2_E)
    r = near_fma(-n, 0.5 * math.log(2), -c)
    u = (poly(r, *_EXP_OF_TWICE).bits + (bits << 23)).from_bits
    large = near_fma(u / (u + 1.0), -2.0, 1.0)
    square = x * x
    small = near_fma(size * square, poly(square, *_TANH), size)
    return where(size > 0.55, large, small).sign_of(x)


def sinh(x: Number) -> Number:
    """The hyperbolic sine."""
    size, half = abs(x), _half_exp(x)
    square = size * size
    small = near_fma(size * square, poly(square, *_SINH[x.short]), size)
    return where(size > 1.0, half - 0.25 / half, small).sign_of(x)


def cosh(x: Number) -> Number:
    """The hyperbolic cosine."""
    half = _half_exp(x)
    return half + 0.25 / half


def _half_exp(x: Number) -> Number:
    """exp(|x|) / 2."""
    short = x.short
    c = _below(abs(x), 89.5 if short else 710.5)
    bits, r, _ = _reduced(c, 125 if short else 1021)
    p = near_fma(r * r, poly(r, *_EXP[short]), r) + 1.0
    return p * _power_of_two(bits) * 2.0


def _below(x: Number, bound: float) -> Number:
    return where(x > bound, bound, x)


# erf(x) / x - 1 for |x| <= 1, in x**2, and exp(x**2) erfc(x) above, in (x - c) / (x + c).
_ERF = (
    (-7.846880669465246e-10, 1.3744465362750568e-08, -1.6213309924703708e-07,
     1.6447925510598288e-06, -1.4924764693123574e-05, 0.00012055295532747356,
     -0.0008548325962534915, 0.005223977605966426, -0.02686617064296138, 0.1128379167094216,
     -0.3761263890318343, 0.12837916709551256),
    (7.9811216e-05, -0.00080432167, 0.0051913396, -0.026854929, 0.11283599, -0.37612626,
     0.12837917),
)  # fmt: skip
_ERFC = (
    (6.631215134757668e-06, 7.4598371256842595e-06, -5.184016521113236e-05, -9.690582438242977e-05,
     0.00030845900627949415, 0.0006372881344781615, -0.0028942226791922048, -0.0018745183866883523,
     0.03544287210870131, -0.12056867168566511, 0.2516313624646161, -0.37810905226341684,
     0.21555247915117773),
    (0.007128402, 0.0026259967, -0.07714982, 0.24089679, -0.42907822, 0.25707462),
)  # fmt: skip
_CENTRE = 2.4375, 1.984375


def erf(x: Number) -> Number:
    """The error function."""
    short = x.short
    size = _below(abs(x), 4.0 if short else 6.0)
    square = size * size
    near = near_fma(size, poly(square, *_ERF[short]), size)
    centre = _CENTRE[short]
    bits, r, _ = _reduced(-square, 127 if short else 1023)
    power = (near_fma(r * r, poly(r, *_EXP[short]), r) + 1.0) * _power_of_two(bits)
    part = poly((size - centre) / (size + centre), *_ERFC[short])
    return where(size < 1.0, near, near_fma(-power, part, 1.0)).sign_of(x)


# Logarithms.


def _parts(x: Number) -> tuple[Number, Number, Number]:
    """The exponent e, as a real number, 2**-e, and m from sqrt(1/2) to sqrt(2): x = 2**e * m."""
    above = x.bits - (0x3F3504F3 if x.short else 0x3FE6A09E667F3BCD)  # the root of 1/2
    if x.short:
        exponent = above.down(23).as_real
    else:  # many processors turn no integers of 64 bits into real numbers
        exponent = ((above + (1023 << 52)) >> 52 | 0x4330000000000000).from_bits - (2.0**52 + 1023)
    shift = above & (-1 << (23 if x.short else 52))
    return exponent, (x.like(1.0).bits - shift).from_bits, (x.bits - shift).from_bits


def _log_rest(f: Number) -> Number:
    """log(1 + f) - f, in float64."""
    s = f / (f + 2.0)
    z = s * s
    half = 0.5 * f * f
    return near_fma(s, half + z * poly(z, *_LOG), -half)


def _log_of_parts(e: Number, f: Number) -> Number:
    """log(2**e (1 + f))."""
    high, low = _LN2[f.short]
    if f.short:
        return near_fma(e, high, f + near_fma(f * f, poly(f, *_SHORT_LOG["e"]), e * low))
    return near_fma(e, high, f + near_fma(e, low, _log_rest(f)))


def _logarithm(x: Number, base: str) -> Number:
    """A logarithm, special values included."""
    e, _, m = _parts(x)
    f = m - 1.0
    high, low = _LOG10_2[x.short]
    if base == "e":
        result = _log_of_parts(e, f)
    elif base == "2" and x.short:
        result = near_fma(f, poly(f, *_SHORT_LOG["2"]), e)
    elif base == "2":
        result = e + (f + near_fma(_log_rest(f), _LOG2_E, f * (_LOG2_E - 1.0)))
    elif x.short:
        result = near_fma(e, high, near_fma(f, poly(f, *_SHORT_LOG["10"]), e * low))
    else:
        part = near_fma(_log_rest(f), _LOG10_E, f * (_LOG10_E - 0.5))
        result = near_fma(e, high, near_fma(f, 0.5, near_fma(e, low, part)))
    zero = x == 0.0
    seldom = (_is_normal(x) == False) & (zero == False)  # noqa: E712
    name = {"e": "log", "2": "log2", "10": "log10"}[base]
    return where(zero, -math.inf, rarely(seldom, name, result, x))


def _is_normal(x: Number) -> Number:
    """True for a positive number that is neither subnormal nor infinite."""
    least, infinity = (1 << 23, 0xFF << 23) if x.short else (1 << 52, 0x7FF << 52)
    return (x.bits - least).below(infinity - least)


def log(x: Number) -> Number:
    """The natural logarithm."""
    return _logarithm(x, "e")


def log2(x: Number) -> Number:
    """The logarithm to base 2."""
    return _logarithm(x, "2")


def log10(x: Number) -> Number:
    """The logarithm to base 10."""
    return _logarithm(x, "10")


def _log_of_sum(u: Number, c: Number, more: Number | float = 0.0) -> Number:
    """log(u + c) + more * log(2), for positive and finite u and a small c."""
    e, scale, m = _parts(u)
    scale = where(u > (2.0**26 if u.short else 2.0**55), 0.0, scale)
    f = near_fma(c, scale, m - 1.0)
    return _log_of_parts(e + more, f)


def _log1p(x: Number) -> Number:
    return _log_of_sum(*sum_of(x.like(1.0), x))


def log1p(x: Number) -> Number:
    """log(1 + x)."""
    special = where(x == -1.0, -math.inf, where(x < -1.0, math.nan, x))
    return where((x > -1.0) & (x < math.inf), _log1p(x), special).sign_of(x)


def _inverse(size: Number, c: Number, root: Number) -> Number:
    """log(1 + c + root), or log(2 size) where size is huge."""
    total, lost = sum_of(c, root)
    u, rest = sum_of(size.like(1.0), total)
    huge = _is_huge(size)
    u, rest = where(huge, size, u), where(huge, 0.0, rest + lost)
    return where(size < math.inf, _log_of_sum(u, rest, where(huge, size.like(1.0), 0.0)), size)


def _is_huge(x: Number) -> Number:
    return x > (2.0**13 if x.short else 2.0**28)


def asinh(x: Number) -> Number:
    """The inverse hyperbolic sine."""
    size = abs(x)
    if x.short:
        square = x * x
        root = (square + 1.0).sqrt()
        u, lost = ordered_sum(root, size)
        huge = _is_huge(size)
        u, lost = where(huge, size, u), where(huge, 0.0, lost)
        large = _log_of_sum(u, lost, where(huge, x.like(1.0), 0.0))
        small = near_fma(size * square, poly(square, *_ASINH), size)
        return where(size > 0.53, where(size < math.inf, large, size), small).sign_of(x)
    c = where(_is_huge(size), 1.0, size)
    square = c * c
    return _inverse(size, c, square / ((square + 1.0).sqrt() + 1.0)).sign_of(x)


def acosh(x: Number) -> Number:
    """The inverse hyperbolic cosine."""
    c = where(_is_huge(x), 1.0, x) - 1.0
    result = _inverse(x, c, near_fma(c, c, c + c).sqrt())
    return where(x < 1.0, math.nan, result)


def atanh(x: Number) -> Number:
    """The inverse hyperbolic tangent."""
    size = abs(x)
    if x.short:
        e, _, m = _parts((1.0 + size) / (1.0 - size))
        square = size * size
        small = near_fma(size * square, poly(square, *_ATANH), size)
        result = where(size < 0.5, small, 0.5 * _log_of_parts(e, m - 1.0))
    else:
        ratio = size / (1.0 - size)
        double = size + size
        result = 0.5 * _log1p(where(size < 0.5, near_fma(double, ratio, double), ratio + ratio))
    special = where(size == 1.0, x.like(math.inf), math.nan)
    return where(size < 1.0, result, special).sign_of(x)


# Powers: log(m) = s (2 + s**2 (2/3 + s**2 q)) in float64; for float32 log2(m) / s, in s**2; and
# (2**r - 1) / r, or 2**r for float32, for |r| <= 1/2.
_POW_LOG = (
    (0.12915622415431444, 0.13285773500341788, 0.15385581261040635, 0.1818180813906355,
     0.2222222227198085, 0.2857142857133549, 0.4000000000000003),
    (0.3407370929668046, 0.41167235874675545, 0.5770835906543899, 0.9617966733138212,
     2.885390081790107),
)  # fmt: skip
_POW_EXP = (
    (4.4688671830784005e-10, 7.072534881075617e-09, 1.0177960551895713e-07, 1.3215442887315075e-06,
     1.5252734104192557e-05, 0.00015403530441138915, 0.0013333558146089305, 0.009618129107607348,
     0.05550410866482322, 0.24022650695910097, 0.6931471805599453),
    (0.0001534581199083038, 0.001339993121841709, 0.00961848895715306, 0.0555032877696784,
     0.24022646890633909, 0.6931472057372665, 1.0000000005541665),
)  # fmt: skip
_THIRDS, _LOG2_E_LOW = (0.6666666666666666, 3.700743415417188e-17), 2.0355273740931033e-17


def _log2_in_parts(x: Number) -> tuple[Number, Number]:
    """The logarithm to base 2 of a positive number as the sum of two numbers."""
    e, _, m = _parts(x)
    above = m - 1.0
    below, lost = sum_of(m, 1.0)
    inverse = 1.0 / below
    s = above * inverse
    s_low = near_fma(-s, lost, fma(-s, below, above)) * inverse
    z, z_low = product_of(s, s)
    z_low = near_fma(s + s, s_low, z_low)
    u, u_low = ordered_sum(x.like(_THIRDS[0]), z * poly(z, *_POW_LOG[0]))
    u_low = u_low + _THIRDS[1]
    v, v_low = product_of(z, u)
    v_low = v_low + near_fma(z, u_low, z_low * u)
    w, w_low = product_of(s, v)
    w_low = w_low + near_fma(s, v_low, s_low * v)
    log, log_low = ordered_sum(s + s, w)
    log_low = log_low + near_fma(s_low, 2.0, w_low)
    log2, low = product_of(log, _LOG2_E)
    low = low + near_fma(log, _LOG2_E_LOW, log_low * _LOG2_E)
    log2, lost = ordered_sum(e, log2)
    return log2, lost + low


def _size_of_power(x: Number, y: Number) -> Number:
    """x**y for x >= 0 that is not subnormal."""
    log2, low = _log2_in_parts(x)
    log2 = where(x == 0.0, -math.inf, log2)
    product, lost = product_of(log2, y)
    c = bounded(product, -1100.0, 1025.0)
    lost = where(product == c, near_fma(low, y, lost), 0.0)
    n, bits = integer(c, 1.0, 2046)
    r = (c - n) + lost
    p = near_fma(r, poly(r, *_POW_EXP[0]), 1.0)
    half = bits >> 1
    return p * _power_of_two(half) * _power_of_two(bits - half)


def _size_of_short_power(x: Number, y: Number) -> Number:
    """The same for float32, in float64."""
    e, _, m = _parts(x)
    m = m.double()
    s = (m - 1.0) / (m + 1.0)
    log2 = near_fma(s, poly(s * s, *_POW_LOG[1]), e.double())
    log2 = where(x == 0.0, -math.inf, log2)
    c = bounded(log2 * y.double(), -200.0, 200.0)
    n, bits = integer(c, 1.0, 1023)
    return (poly(c - n, *_POW_EXP[1]) * _power_of_two(bits)).single()


def pow(x: Number, y: Number) -> Number:
    """x**y. Powers that are known when a loop is compiled may be products and roots."""
    result = (_size_of_short_power if x.short else _size_of_power)(x, y)
    # Neither negative, nor infinite, nor NaN; in x, nor subnormal; in y, nor 0.
    infinity, sign = (0x7F800000, 2**31) if x.short else (0x7FF0000000000000, 2**63)
    usual = (_is_normal(x) | (x.bits == 0)) & ((y.bits & (sign - 1)) - 1).below(infinity - 1)
    result = rarely(usual == False, "pow", result, x, y)  # noqa: E712
    known = y.known()
    square = x * x
    root = where(x == -math.inf, math.inf, (x + 0.0).sqrt())
    simple = {-2.0: 1.0 / square, -1.0: 1.0 / x, -0.5: 1.0 / root, 0.0: x.like(1.0), 0.5: root,
              1.0: x, 2.0: square, 3.0: square * x, 4.0: square * square}  # fmt: skip
    for value, form in simple.items():
        result = where(known & (y == value), form, result)
    return result


def hypot(x: Number, y: Number) -> Number:
    """sqrt(x**2 + y**2), without overflow."""
    a, b = abs(x), abs(y)
    infinite = (a == math.inf) | (b == math.inf)
    if x.short:
        wide, tall = a.double(), b.double()
        return where(infinite, math.inf, near_fma(wide, wide, tall * tall).sqrt().single())
    a, b = where(a > b, a, b), where(a > b, b, a)
    scale = where(a > 2.0**500, 2.0**-600, where(a < 2.0**-450, x.like(2.0**600), 1.0))
    back = where(a > 2.0**500, 2.0**600, where(a < 2.0**-450, x.like(2.0**-600), 1.0))
    a, b = a * scale, b * scale
    return where(infinite, math.inf, fma(a, a, b * b).sqrt() * back)
