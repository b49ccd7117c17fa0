"""Line search: a step along a direction at which the strong Wolfe conditions hold."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite, sqrt
from typing import Any, NamedTuple

from tinynn.config import Configured


class Point(NamedTuple):
    """The value and slope at a distance along the direction.

    Attributes:
        step: how far.
        value: of the function there.
        slope: its derivative along the direction.
        found: whatever else the evaluation gave.
    """

    step: float
    value: float
    slope: float
    found: Any = None

    def tilted(self, slope: float) -> "Point":
        """The point of the function less a line of this slope."""
        return self._replace(value=self.value - self.step * slope, slope=self.slope - slope)


class Search(NamedTuple):
    """The result of a line search: the best point, the number of evaluations of the function, and
    whether the point is better than the start.
    """

    point: Point
    evaluations: int
    improved: bool


@dataclass(frozen=True)
class StrongWolfe(Configured):
    """Looks for a step t with f(t) <= f(0) + decrease * t * f'(0) and
    |f'(t)| <= curvature * |f'(0)|.

    width: of the interval around t, relative to its end, below which it gives up.
    evaluations: how many it may take; three times as many as long as the value only falls, by
        which a function without a bottom is found out.

    Source: Moré and Thuente 1994, ACM TOMS 20, as MINPACK-2's `dcsrch` has it; the constants are
    those of L-BFGS-B.
    """

    decrease: float = 1e-3
    curvature: float = 0.9
    width: float = 0.1
    evaluations: int = 20

    def __call__(self, evaluate: Callable[[float], Point], start: Point, first: float) -> Search:
        """The search from `start`, whose step is 0 and whose slope is below 0.

        first: the step to try first. A value that is not finite halves the step.
        """
        line = self.decrease * start.slope
        low = high = start
        stage, bracketed, widths = 1, False, (inf, inf)
        least, most, step, best = 0.0, 5.0 * first, first, start
        ceiling = inf  # from where on it is not finite
        for count in range(1, 3 * self.evaluations + 1):
            if bracketed and count > self.evaluations:
                return Search(best, count - 1, best is not start)
            here = evaluate(step)
            if not (isfinite(here.value) and isfinite(here.slope)):
                ceiling, step = step, low.step + 0.5 * (step - low.step)
                most = 0.5 * (step + ceiling)
                continue
            enough = here.value <= start.value + step * line
            if enough and here.value < best.value:
                best = here
            if enough and abs(here.slope) <= -self.curvature * start.slope:
                return Search(here, count, True)
            narrow = most - least <= self.width * most or not least < step < most
            if (bracketed and narrow) or _is_rounding(low, here):
                break
            if stage == 1 and enough and here.slope >= 0.0:
                stage = 2
            # In the first stage what has to fall is the function less the line of enough decrease.
            slope = line if stage == 1 and not enough and here.value <= low.value else 0.0
            tilted = tuple(p.tilted(slope) for p in (low, high, here))
            before, after, step, bracketed = _next(tilted, bracketed, least, most)
            given = {p.step: p for p in (low, high, here)}
            low, high = given[before.step], given[after.step]
            if bracketed:
                if abs(high.step - low.step) >= 0.66 * widths[1]:
                    step = low.step + 0.5 * (high.step - low.step)
                widths = abs(high.step - low.step), widths[0]
                least, most = sorted((low.step, high.step))
                if not least < step < most or most - least <= self.width * most:
                    step = low.step
            else:
                least = step + 1.1 * (step - low.step)
                most = min(step + 4.0 * (step - low.step), 0.5 * (step + ceiling))
        return Search(best, count, best is not start)


def _is_rounding(low: Point, here: Point) -> bool:
    """Whether the value does not fall where its slope, the same at both points, says that it does.

    By so little that it is rounding, as what is summed up may have far more of it than the value.
    """
    foretold = low.slope * (here.step - low.step)
    alike = abs(here.slope - low.slope) <= 0.01 * abs(low.slope)
    return alike and here.value >= low.value and 0.0 < -foretold <= 1e-8 * abs(low.value)


def _next(
    points: tuple[Point, ...], bracketed: bool, least: float, most: float
) -> tuple[Point, Point, float, bool]:
    """(low, high, step to try next, whether a minimum lies between the two): MINPACK-2's `dcstep`.

    points: the best so far, the other end of the interval, and the newest.
    """
    low, high, here = points
    opposite = here.slope * low.slope < 0.0
    if here.value > low.value:
        cubic, secant = _cubic(low, here), _quadratic(low, here)
        nearer = abs(cubic - low.step) <= abs(secant - low.step)
        step = cubic if nearer else cubic + 0.5 * (secant - cubic)
        return low, here, step, True
    secant = here.step + _ratio(here.slope, here.slope - low.slope) * (low.step - here.step)
    if opposite:
        cubic = _cubic(here, low)
        step = cubic if abs(cubic - here.step) > abs(secant - here.step) else secant
        return here, low, step, True
    if abs(here.slope) < abs(low.slope):
        cubic = _beyond(low, here, least, most)
        nearer = abs(cubic - here.step) < abs(secant - here.step)
        if bracketed:
            step = cubic if nearer else secant
            bound = here.step + 0.66 * (high.step - here.step)
            step = min(bound, step) if here.step > low.step else max(bound, step)
        else:
            step = min(max(secant if nearer else cubic, least), most)
    elif bracketed:
        step = _cubic(here, high)
    else:
        step = most if here.step > low.step else least
    return here, high, step, bracketed


def _ratio(a: float, b: float) -> float:
    return a / b if b else 0.0


def _terms(a: Point, b: Point) -> tuple[float, float]:
    """theta and gamma of the cubic through two points with their slopes."""
    theta = 3.0 * (a.value - b.value) / (b.step - a.step) + a.slope + b.slope
    scale = max(abs(theta), abs(a.slope), abs(b.slope)) or 1.0
    inside = (theta / scale) ** 2 - (a.slope / scale) * (b.slope / scale)
    return theta, scale * sqrt(max(0.0, inside))


def _cubic(a: Point, b: Point) -> float:
    """The minimum of the cubic through two points, reckoned from the first."""
    theta, gamma = _terms(a, b)
    if b.step < a.step:
        gamma = -gamma
    ratio = _ratio((gamma - a.slope) + theta, ((gamma - a.slope) + gamma) + b.slope)
    return a.step + ratio * (b.step - a.step)


def _beyond(low: Point, here: Point, least: float, most: float) -> float:
    """The same where it may lie beyond the newest point; a bound where it lies at infinity."""
    theta, gamma = _terms(low, here)
    if here.step > low.step:
        gamma = -gamma
    ratio = _ratio((gamma - here.slope) + theta, (gamma + (low.slope - here.slope)) + gamma)
    if ratio < 0.0 and gamma != 0.0:
        return here.step + ratio * (low.step - here.step)
    return most if here.step > low.step else least


def _quadratic(low: Point, here: Point) -> float:
    """The minimum of the parabola through two values and the first's slope."""
    length = here.step - low.step
    return (
        low.step + 0.5 * _ratio(low.slope, (low.value - here.value) / length + low.slope) * length
    )
