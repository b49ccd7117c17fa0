"""Special functions from + - * / alone: what a library without its own falls back on."""

import math
from typing import Any, NamedTuple

Array = Any
Namespace = Any
Ratio = tuple[tuple[float, ...], tuple[float, ...]]  # coefficients above and below, highest first


def polynomial(x: Array, coefficients: tuple[float, ...]) -> Array:
    """Horner's rule, highest power first."""
    total = x * coefficients[0] + coefficients[1]
    for coefficient in coefficients[2:]:
        total = total * x + coefficient
    return total


def _ratio(x: Array, ratio: Ratio) -> Array:
    above, below = ratio
    return polynomial(x, above) / polynomial(x, below)


def erf(x: Array, xp: Namespace) -> Array:
    """The error function of real floating `x`, of any shape, to a few units in the last place.

    Source: W. J. Cody, "Rational Chebyshev approximations for the error function", Mathematics of
    Computation 23 (1969), 631-637; in float32 the one ratio of Eigen's `generic_fast_erf_float`,
    which needs neither an exponential nor a case: its relative error is below 4e-7.

    >>> import numpy as np
    >>> erf(np.asarray([0.0, 1.0]), np).round(6)
    array([0.      , 0.842701])
    """
    if x.dtype not in (xp.float32, xp.float64):  # of 16 bits, too few for the coefficients
        return xp.astype(erf(xp.astype(x, xp.float32), xp), x.dtype)
    if x.dtype == xp.float32:
        x = xp.minimum(xp.maximum(x, _full(xp, x, -ERF32_END)), _full(xp, x, ERF32_END))
        y = x * _ratio(x * x, ERF32)
        return xp.minimum(xp.maximum(y, _full(xp, x, -1.0)), _full(xp, x, 1.0))
    size = xp.abs(x)
    near = xp.where(size <= 0.46875, x, xp.zeros_like(x))
    far = xp.clip(size, 0.46875, 6.0)  # erf(6) rounds to 1
    erfc = xp.exp(-far * far) * _ratio(far, _ERFC)
    return xp.where(size <= 0.46875, near * _ratio(near * near, _ERF), xp.sign(x) * (1.0 - erfc))


def _full(xp: Namespace, x: Array, value: float) -> Array:
    """A 0-d array of that value, of the dtype and device of `x`."""
    return xp.asarray(value, dtype=x.dtype, device=x.device)


#: erf(x) / x in x^2, highest power first, for |x| up to the end, where erf rounds to 1.
ERF32_END = 3.832506856900711
ERF32 = (
    (
        0.00022905065861350646,
        0.0034082910107109506,
        0.050955695062380861,
        0.18520832239976145,
        1.128379143519084,
    ),
    (
        -1.1791602954361697e-7,
        0.000023547966471313185,
        0.0010179625278914885,
        0.014070470171167667,
        0.11098505178285362,
        0.49746925110067538,
        1.0,
    ),
)

# Cody's coefficients, highest power first: erf for |x| <= 0.46875, in x^2 (times x), and erfc
# above, in |x| (times exp(-x^2)).
_ERF = (
    (
        1.85777706184603153e-1,
        3.16112374387056560e0,
        1.13864154151050156e2,
        3.77485237685302021e2,
        3.20937758913846947e3,
    ),
    (
        1.0,
        2.36012909523441209e1,
        2.44024637934444173e2,
        1.28261652607737228e3,
        2.84423683343917062e3,
    ),
)
_ERFC = (
    (
        2.15311535474403846e-8,
        5.64188496988670089e-1,
        8.88314979438837594e0,
        6.61191906371416295e1,
        2.98635138197400131e2,
        8.81952221241769090e2,
        1.71204761263407058e3,
        2.05107837782607147e3,
        1.23033935479799725e3,
    ),
    (
        1.0,
        1.57449261107098347e1,
        1.17693950891312499e2,
        5.37181101862009858e2,
        1.62138957456669019e3,
        3.29079923573345963e3,
        4.36261909014324716e3,
        3.43936767414372164e3,
        1.23033935480374942e3,
    ),
)


class _Method(NamedTuple):
    centre: Ratio  # for |q| <= 0.425, in 0.180625 - q^2
    shoulder: Ratio  # for r <= 5, in r - 1.6, where r = sqrt(-log(tail))
    tail: Ratio  # beyond, in r - 5
    octaves: tuple[int, ...]  # powers of two that bring the smallest tail into [0.5, 1)
    log_terms: int
    sqrt_turns: int


def normal_quantile(q: Array, bits: int, xp: Namespace) -> Array:
    """The z with P(Z < z) = 0.5 + q, for a standard normal Z: the same bits on every library.

    It uses only what IEEE 754 rounds exactly and libraries do not approximate: + - * / and
    comparisons. No log and no sqrt: PyTorch and dpnp, for two, take both from vector libraries
    that may be a unit in the last place off. (So may a compiler that fuses + with *.)
    Source: M. J. Wichura, "Algorithm AS 241: the percentage points of the normal distribution",
    Applied Statistics 37 (1988), 477-484: PPND16 for float64, PPND7 for float32.

    q: -0.5 < q < 0.5, of any shape and of `bits` bits, 32 or 64. The relative error is below 5e-7
    in float32 and 2e-15 in float64.

    >>> import numpy as np
    >>> normal_quantile(np.asarray([0.0, 0.475]), 64, np).round(6)
    array([0.      , 1.959964])
    """
    method = _METHODS[bits]
    size = xp.abs(q)
    centre = q * _ratio(0.180625 - q * q, method.centre)
    r = _sqrt(_minus_log(0.5 - size, method, xp), method.sqrt_turns)
    beyond = xp.where(r <= 5.0, _ratio(r - 1.6, method.shoulder), _ratio(r - 5.0, method.tail))
    return xp.where(size <= 0.425, centre, xp.where(q < 0.0, -beyond, beyond))


def _minus_log(p: Array, method: _Method, xp: Namespace) -> Array:
    """-log(p) for 0 < p <= 0.5: p = m / 2^k, and log(m) from its series in (m - c) / (m + c)."""
    result = xp.zeros_like(p)
    for octave in method.octaves:
        small = p < 2.0**-octave
        p = xp.where(small, p * 2.0**octave, p)
        result = xp.where(small, result + octave * math.log(2.0), result)
    centre = math.sqrt(0.5)
    s = (p - centre) / (p + centre)
    series = polynomial(s * s, tuple(2.0 / (2 * i + 1) for i in reversed(range(method.log_terms))))
    return result - (s * series - 0.5 * math.log(2.0))


def _sqrt(y: Array, turns: int) -> Array:
    """Heron's method, from a straight line that is near the root for 2.5 < y < 38."""
    root = 1.3 + 0.14 * y
    for _ in range(turns):
        root = 0.5 * (root + y / root)
    return root


_METHODS = {
    32: _Method(
        centre=(
            (5.9109374720e1, 1.5929113202e2, 5.0434271938e1, 3.3871327179e0),
            (6.7187563600e1, 7.8757757664e1, 1.7895169469e1, 1.0),
        ),
        shoulder=(
            (1.7023821103e-1, 1.3067284816e0, 2.7568153900e0, 1.4234372777e0),
            (1.2021132975e-1, 7.3700164250e-1, 1.0),
        ),
        tail=(
            (1.7337203997e-2, 4.2868294337e-1, 3.0812263860e0, 6.6579051150e0),
            (1.2258202635e-2, 2.4197894225e-1, 1.0),
        ),
        octaves=(16, 8, 4, 2, 1),
        log_terms=5,
        sqrt_turns=3,
    ),
    64: _Method(
        centre=(
            (
                2.5090809287301226727e3,
                3.3430575583588128105e4,
                6.7265770927008700853e4,
                4.5921953931549871457e4,
                1.3731693765509461125e4,
                1.9715909503065514427e3,
                1.3314166789178437745e2,
                3.3871328727963666080e0,
            ),
            (
                5.2264952788528545610e3,
                2.8729085735721942674e4,
                3.9307895800092710610e4,
                2.1213794301586595867e4,
                5.3941960214247511077e3,
                6.8718700749205790830e2,
                4.2313330701600911252e1,
                1.0,
            ),
        ),
        shoulder=(
            (
                7.74545014278341407640e-4,
                2.27238449892691845833e-2,
                2.41780725177450611770e-1,
                1.27045825245236838258e0,
                3.64784832476320460504e0,
                5.76949722146069140550e0,
                4.63033784615654529590e0,
                1.42343711074968357734e0,
            ),
            (
                1.05075007164441684324e-9,
                5.47593808499534494600e-4,
                1.51986665636164571966e-2,
                1.48103976427480074590e-1,
                6.89767334985100004550e-1,
                1.67638483018380384940e0,
                2.05319162663775882187e0,
                1.0,
            ),
        ),
        tail=(
            (
                2.01033439929228813265e-7,
                2.71155556874348757815e-5,
                1.24266094738807843860e-3,
                2.65321895265761230930e-2,
                2.96560571828504891230e-1,
                1.78482653991729133580e0,
                5.46378491116411436990e0,
                6.65790464350110377720e0,
            ),
            (
                2.04426310338993978564e-15,
                1.42151175831644588870e-7,
                1.84631831751005468180e-5,
                7.86869131145613259100e-4,
                1.48753612908506148525e-2,
                1.36929880922735805310e-1,
                5.99832206555887937690e-1,
                1.0,
            ),
        ),
        octaves=(32, 16, 8, 4, 2, 1),
        log_terms=10,
        sqrt_turns=4,
    ),
}
