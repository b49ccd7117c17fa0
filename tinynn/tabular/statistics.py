"""Statistics that are merged part by part: means, deviations, extremes and exact medians."""

import math
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from tinynn.data import host
from tinynn.tabular.columns import Scale, phase

_GATHERED = 2**18  # numbers near a median that are kept, to be sorted
_LARGEST = 1e100  # whose squares float64 still adds up


@dataclass
class Moments:
    """The number, mean, sum of squared deviations and extremes of numbers that come in parts.

    Source: T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating formulae and a pairwise algorithm for
    computing sample variances", 1979.

    >>> import numpy as np
    >>> moments = Moments()
    >>> for part in ([1.0, 2.0], [6.0, np.nan]):
    ...     moments.add(np.asarray(part))
    >>> moments.mean, round(moments.deviation, 3), moments.missing
    (3.0, 2.16, 1)
    """

    count: int = 0
    least: float = math.inf
    most: float = -math.inf
    missing: int = 0
    _mean: float = 0.0
    _squares: float = 0.0
    _unit: float = 1.0  # of these two: a power of two, so that squares of large numbers stay finite

    def add(self, values: Any) -> None:
        """Merge numbers, float64 (rows,), those that are NaN being missing."""
        xp = host().xp
        there = values[~xp.isnan(values)]
        self.missing += int(values.size - there.size)
        if not (size := int(there.size)):
            return
        self.least = min(self.least, float(there.min()))
        self.most = max(self.most, float(there.max()))
        if (largest := max(-self.least, self.most)) > _LARGEST * self._unit:
            unit = 2.0 ** math.frexp(largest)[1] if largest < 2.0**1023 else 2.0**1023
            self._mean *= self._unit / unit
            self._squares *= (self._unit / unit) ** 2
            self._unit = unit
        units = there / self._unit
        mean = float(xp.mean(units))
        squares = float(xp.sum((units - mean) ** 2))
        total, apart = self.count + size, mean - self._mean
        self._squares += squares + apart * apart * self.count * size / total
        self._mean += apart * size / total
        self.count = total

    @property
    def mean(self) -> float:
        """The mean."""
        return self._mean * self._unit

    @property
    def squares(self) -> float:
        """The sum of squared deviations from the mean; infinite if a float cannot hold it."""
        return self._squares * self._unit * self._unit

    @property
    def deviation(self) -> float:
        """The standard deviation of the population."""
        return math.sqrt(self._squares / self.count) * self._unit

    def scale(self, median: float, where: str) -> Scale | None:
        """The standardisation; None if all numbers are equal, or none is there.

        Raises
        ------
        TableError
            As `Scale.of`.
        """
        if self.count == 0 or self.least == self.most:
            return None
        return Scale.of(self.mean, self.deviation, median, (self.least, self.most), where)


class Rank:
    """The number of a rank among numbers that are gone through several times, to the bit.

    Each pass finds 16 more bits of it, from the first on, by counting; a pass in which few numbers
    still can be the one keeps these.

    >>> import numpy as np
    >>> rank = Rank(1)
    >>> while rank.value is None:
    ...     rank.add(np.asarray([5.0, -1.0, 3.0]))
    ...     rank.end()
    >>> rank.value
    3.0
    """

    def __init__(self, rank: int) -> None:
        self.value: float | None = None
        self._rank, self._bits, self._prefix, self._left = rank, 0, 0, _GATHERED + 1
        self._counts: Any = 0
        self._kept: list[Any] = []

    def add(self, values: Any) -> None:
        """Look at numbers, float64 (rows,); NaN is none."""
        xp = host().xp
        keys = _keys(values[~xp.isnan(values)])
        if self._bits:
            keys = keys[keys >> (64 - self._bits) == self._prefix]
        if self._left <= _GATHERED:
            self._kept.append(keys)
            return
        digits = xp.astype(keys >> (48 - self._bits) & 0xFFFF, xp.int64)
        self._counts = self._counts + xp.bincount(digits, minlength=2**16)

    def at(self, rank: int) -> "Rank":
        """The same after its first pass, of another rank."""
        other = copy(self)
        other._rank, other._kept = rank, []
        return other

    def end(self) -> None:
        """End a pass: `value` is known, or more of its bits are."""
        xp = host().xp
        if self._kept:
            ordered = xp.sort(xp.concat(self._kept))
            self.value = float(_number(ordered[self._rank : self._rank + 1])[0])
            return
        passed = xp.cumulative_sum(self._counts)
        digit = int(xp.searchsorted(passed, self._rank, side="right"))
        self._left = int(self._counts[digit])
        self._rank -= int(passed[digit]) - self._left
        self._prefix, self._bits = self._prefix << 16 | digit, self._bits + 16
        self._counts = 0
        if self._bits == 64:
            self.value = float(_number(host().asarray([self._prefix], xp.uint64))[0])


class Median:
    """The median of numbers that are gone through several times, exact.

    >>> import numpy as np
    >>> median, values = Median(), np.asarray([4.0, 1.0, np.nan, 2.0, 9.0])
    >>> while median.value is None:
    ...     median.add(values)
    ...     median.end(4)
    >>> median.value
    3.0
    """

    def __init__(self) -> None:
        self._ranks: list[Rank] = []
        self._first = Rank(0)  # the first pass counts, whatever the rank
        self.value: float | None = None

    def add(self, values: Any) -> None:
        """Look at numbers, float64 (rows,); NaN is none."""
        for rank in self._ranks or [self._first]:
            if rank.value is None:
                rank.add(values)

    def end(self, count: int) -> None:
        """End a pass over so many numbers."""
        if not self._ranks:
            self._ranks = [self._first.at(rank) for rank in {(count - 1) // 2, count // 2}]
        for rank in self._ranks:
            if rank.value is None:
                rank.end()
        found = [rank.value for rank in self._ranks if rank.value is not None]
        if len(found) == len(self._ranks):
            self.value = found[0] / 2 + found[-1] / 2


def _keys(values: Any) -> Any:
    """float64 as uint64 in the same order."""
    xp = host().xp
    bits = xp.asarray(values, dtype=xp.float64).view("uint64")
    top = 2**63
    return xp.where(bits >= top, ~bits, bits ^ top)


def _number(keys: Any) -> Any:
    top = 2**63
    return host().xp.where(keys >= top, keys ^ top, ~keys).view("float64")


@dataclass
class Cycles:
    """The parts of the year, the week and the day that moments lie in: the least and the most."""

    ends: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add(self, moments: Any) -> None:
        """Merge seconds since 1970, (rows,) without NaN."""
        for cycle in ("year", "week", "day"):
            parts = phase(moments, cycle)
            if parts.size:
                low, high = self.ends.get(cycle, (math.inf, -math.inf))
                self.ends[cycle] = min(low, float(parts.min())), max(high, float(parts.max()))

    @property
    def changing(self) -> tuple[str, ...]:
        """The cycles that change, as `fit_cycles` finds them."""
        return tuple(cycle for cycle, (low, high) in self.ends.items() if high - low > 1e-9)
