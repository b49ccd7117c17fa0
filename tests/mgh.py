"""Functions of Moré, Garbow and Hillstrom 1981, "Testing Unconstrained Optimization Software"."""

from typing import Any

import numpy as np

from tinynn.trace import namespace


def stacked(*parts: Any) -> Any:
    return namespace(*parts).stack(parts)


def powell_singular(x: Any) -> Any:
    first, second = (x[1] - 2 * x[2]) ** 2, (x[0] - x[3]) ** 2
    return stacked(x[0] + 10 * x[1], 5**0.5 * (x[2] - x[3]), first, 10**0.5 * second)


def helical_valley(x: Any) -> Any:
    xp = namespace(x)
    turn = xp.atan2(x[1], x[0]) / (2 * np.pi)
    radius = xp.sqrt(x[0] ** 2 + x[1] ** 2)
    return stacked(10 * (x[2] - 10 * turn), 10 * (radius - 1), x[2])


def wood(x: Any) -> Any:
    a, b, root = x[1] - x[0] ** 2, x[3] - x[2] ** 2, 10**0.5
    last = (x[1] - x[3]) / root
    return stacked(10 * a, 1 - x[0], 90**0.5 * b, 1 - x[2], root * (x[1] + x[3] - 2), last)


def freudenstein_roth(x: Any) -> Any:
    return stacked(
        -13 + x[0] + ((5 - x[1]) * x[1] - 2) * x[1], -29 + x[0] + ((x[1] + 1) * x[1] - 14) * x[1]
    )


def beale(x: Any) -> Any:
    return stacked(*[y - x[0] * (1 - x[1] ** i) for i, y in ((1, 1.5), (2, 2.25), (3, 2.625))])


def jennrich_sampson(x: Any) -> Any:
    xp = namespace(x)
    return stacked(*[2 + 2 * i - (xp.exp(i * x[0]) + xp.exp(i * x[1])) for i in range(1, 11)])


def bard(x: Any) -> Any:
    y = [14, 18, 22, 25, 29, 32, 35, 39, 37, 58, 73, 96, 134, 210, 439]
    rows = [(0.01 * y[i - 1], i, 16 - i, min(i, 16 - i)) for i in range(1, 16)]
    return stacked(*[y - (x[0] + u / (v * x[1] + w * x[2])) for y, u, v, w in rows])


def gaussian(x: Any) -> Any:
    y = [0.0009, 0.0044, 0.0175, 0.0540, 0.1295, 0.2420, 0.3521, 0.3989]
    rows = [((8 - i) / 2, each) for i, each in enumerate([*y, *y[-2::-1]], 1)]
    xp = namespace(x)
    return stacked(*[x[0] * xp.exp(-x[1] * (t - x[2]) ** 2 / 2) - y for t, y in rows])


def kowalik_osborne(x: Any) -> Any:
    y = [0.1957, 0.1947, 0.1735, 0.16, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246]
    u = [4, 2, 1, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625]
    fitted = [x[0] * (a * a + a * x[1]) / (a * a + a * x[2] + x[3]) for a in u]
    return stacked(*[b - each for b, each in zip(y, fitted, strict=True)])


def brown_dennis(x: Any) -> Any:
    t = np.arange(1, 21) / 5
    xp = namespace(x)
    first = x[0] + t * x[1] - np.exp(t)
    second = x[2] + np.sin(t) * x[3] - np.cos(t)
    return xp.add(first**2, second**2)


def box(x: Any) -> Any:
    xp, rows = namespace(x), []
    for t in (0.1 * i for i in range(1, 11)):
        constant = float(np.exp(-t) - np.exp(-10 * t))
        rows.append(xp.exp(-t * x[0]) - xp.exp(-t * x[1]) - x[2] * constant)
    return stacked(*rows)


def biggs(x: Any) -> Any:
    xp, rows = namespace(x), []
    for t in (0.1 * i for i in range(1, 14)):
        y = float(np.exp(-t) - 5 * np.exp(-10 * t) + 3 * np.exp(-4 * t))
        first = x[2] * xp.exp(-t * x[0]) - x[3] * xp.exp(-t * x[1])
        rows.append(first + x[5] * xp.exp(-t * x[4]) - y)
    return stacked(*rows)


def watson(x: Any) -> Any:
    rows = [x[0], x[1] - x[0] ** 2 - 1]
    for t in (i / 29 for i in range(1, 30)):
        slope = sum(j * t ** (j - 1) * x[j] for j in range(1, 6))
        whole = sum(t**j * x[j] for j in range(6))
        rows.append(slope - whole**2 - 1)
    return stacked(*rows)


def variably_dimensioned(x: Any) -> Any:
    xp = namespace(x)
    total = sum((i + 1) * (x[i] - 1) for i in range(10))
    return xp.concat([x - 1.0, stacked(total, total**2)])


def trigonometric(x: Any) -> Any:
    xp = namespace(x)
    cosines = xp.sum(xp.cos(x))
    rows = [5 - cosines + (i + 1) * (1 - xp.cos(x[i])) - xp.sin(x[i]) for i in range(5)]
    return stacked(*rows)


def brown_almost_linear(x: Any) -> Any:
    xp = namespace(x)
    return xp.concat([x[:-1] + xp.sum(x) - 11.0, stacked(xp.prod(x) - 1.0)])


def broyden_tridiagonal(x: Any) -> Any:
    xp = namespace(x)
    none = xp.zeros_like(x[:1])
    left, right = xp.concat([none, x[:-1]]), xp.concat([x[1:], none])
    return (3 - 2 * x) * x - left - 2 * right + 1


def rosenbrock(x: Any) -> Any:
    return stacked(10 * (x[1] - x[0] ** 2), 1 - x[0])
