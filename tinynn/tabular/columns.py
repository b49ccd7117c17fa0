"""The features of a table: what is fitted to a column, and the inputs that it becomes.

Each kind is a frozen dataclass of numbers and texts, so that JSON can hold it. `fill` writes the
columns of X that a column of a table becomes, `width` of them, into zeros, for the `rows`. What it
has to tell, how many cells are missing or unknown, goes to `note`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from math import pi
from typing import Any, ClassVar

from tinynn.data import host
from tinynn.tabular import cells
from tinynn.tabular.table import Table, TableError, listed

Note = Callable[[str], object]

DAY = 86400.0
YEAR = 365.2425 * DAY  # the mean year of the calendar
_LARGEST = 1e300  # whose deviations float64 still holds
_FAR = 1e30  # deviations: what every floating dtype can hold


@dataclass(frozen=True)
class Scale:
    """Standardisation of numbers: (value - mean) / deviation; missing ones become the median.

    >>> import numpy as np
    >>> Scale.fit(np.asarray([1.0, 3.0, np.nan]), "here")
    Scale(mean=2.0, deviation=1.0, median=2.0)
    """

    mean: float
    deviation: float
    median: float

    @classmethod
    def fit(cls, values: Any, where: str) -> "Scale | None":
        """Of the numbers that are there; None if they are all equal, or none is there.

        The deviation is the population's. TableError if float64 cannot hold it.
        """
        xp = host().xp
        there = values[~xp.isnan(values)]
        if not there.size or there.min() == there.max():
            return None
        largest = float(xp.max(xp.abs(there)))
        unit = largest if largest > 1e100 else 1.0  # so that squares stay finite
        units = there / unit
        mean, deviation = float(xp.mean(units)) * unit, float(xp.std(units)) * unit
        ends = float(there.min()), float(there.max())
        return cls.of(mean, deviation, _median(there), ends, where)

    @classmethod
    def of(
        cls, mean: float, deviation: float, median: float, ends: tuple[float, float], where: str
    ) -> "Scale":
        """Of statistics of numbers between these ends; TableError if float64 cannot hold them."""
        if not deviation > 0 or max(map(abs, ends)) > _LARGEST:
            raise TableError(
                f"{where}: expected numbers whose deviations a float can hold, up to {_LARGEST:g}, "
                f"got {ends[0]} to {ends[1]}. To fix it: give it another unit."
            )
        return cls(mean, deviation, median)

    def standardized(self, values: Any) -> Any:
        """The values, (rows,), in deviations from the mean; NaN becomes the median."""
        xp = host().xp
        return (xp.where(xp.isnan(values), self.median, values) - self.mean) / self.deviation


def _median(values: Any) -> float:
    low, high = (values.size - 1) // 2, values.size // 2
    ordered = values.copy()
    ordered.partition([low, high])
    return float(ordered[low] / 2 + ordered[high] / 2)


@dataclass(frozen=True)
class Number:
    """A column of numbers: one input, standardised; another says which cells were missing.

    `decimal` and `percent` say how the numbers are written where they come as text.
    """

    kind: ClassVar[str] = "number"
    name: str
    scale: Scale
    missing: bool = False
    decimal: str = "."
    percent: bool = False

    @property
    def width(self) -> int:
        """The number of inputs that it becomes."""
        return 1 + self.missing

    def values(self, table: Table) -> Any:
        """The column's finite numbers: float64 (rows,), NaN where missing."""
        return read_numbers(table, self.name, self.decimal, self.percent)

    def fill(self, X: Any, table: Table, note: Note, rows: Any) -> None:
        """Write (rows, width): the value, and 1 where it was missing."""
        xp = host().xp
        values = self.values(table)
        absent = xp.isnan(values)
        if not self.missing and absent.any():
            _note_missing(note, table, self.name, absent, f"the median {self.scale.median:.6g}")
        value = self.scale.standardized(values)
        if (far := xp.abs(value) > _FAR).any():
            row = int(xp.nonzero(far)[0][0])
            problem = f"expected numbers as in training, got one {value[row]:.0e} deviations away"
            table.reject(self.name, row, problem, "correct that cell, or leave its row out")
        X[:, 0] = value[rows]
        if self.missing:
            X[:, 1] = absent[rows]


def read_numbers(table: Table, name: str, decimal: str, percent: bool) -> Any:
    """A column as finite numbers, float64 (rows,), NaN where missing, typed or from text.

    Raises
    ------
    TableError : a cell that is no number, or infinite

    """
    xp = host().xp
    kind = cells.kind_of(table, name)
    fix = "correct that cell, or empty it if its value is not known"
    if kind == "number":
        values = cells.floats(table, name)
    elif kind == "text":
        found = cells.numbers(table, name, decimal, percent)
        if found is None:
            row, cell = cells.first_bad(table, name, decimal, percent)
            table.reject(name, row, f"expected a number, got {cell!r}", fix)
        values = found
    else:
        dtype = table.column(name).dtype
        table.reject(name, 0, f"expected a number, got {dtype}", "give numbers, as in training")
    infinite = xp.isinf(values)
    if infinite.any():
        row = int(xp.nonzero(infinite)[0][0])
        table.reject(name, row, f"expected a finite number, got {values[row]}", fix)
    return values


def _note_missing(note: Note, table: Table, name: str, absent: Any, instead: str) -> None:
    note(
        f"{table.source}: column {name!r}: {int(absent.sum())} of {len(table)} cells are missing, "
        f"and none was in training: they count as {instead}."
    )


@dataclass(frozen=True)
class Category:
    """A column of categories: an input for each, 1 where it is met (one-hot).

    With `missing`, another input is 1 where the cell was missing or its category is unknown;
    without it training met no such cell, and all inputs are 0 there.
    """

    kind: ClassVar[str] = "category"
    name: str
    categories: tuple[str, ...]
    missing: bool = False

    @property
    def width(self) -> int:
        """The number of inputs that it becomes."""
        return len(self.categories) + self.missing

    def codes(self, table: Table, note: Note) -> Any:
        """The index of each row's category, (rows,); -1 where it is missing or unknown."""
        found = cells.labels(table, self.name, set(self.categories) <= cells.BOOLEANS)
        known = {name: code for code, name in enumerate(self.categories)}
        home = host()
        to = home.asarray([*(known.get(name, -1) for name in found.names), -1], home.xp.int32)
        unknown = [name for name in found.names if name not in known]
        codes = to[found.codes]
        if unknown:
            count = int(((codes < 0) & (found.codes >= 0)).sum())
            note(
                f"{table.source}: column {self.name!r}: {count} of {len(table)} cells hold "
                f"{listed(unknown, 4)}, which training did not meet: they count as missing."
            )
        absent = found.codes < 0
        if not self.missing and absent.any():
            _note_missing(note, table, self.name, absent, "none of the categories")
        return codes

    def fill(self, X: Any, table: Table, note: Note, rows: Any) -> None:
        """Write (rows, width): a column a category, then what is missing or unknown."""
        xp = host().xp
        codes = self.codes(table, note)[rows]
        if self.missing:
            codes = xp.where(codes < 0, len(self.categories), codes)
        met = xp.nonzero(codes >= 0)[0]
        X[met, codes[met]] = 1


@dataclass(frozen=True)
class Date:
    """A column of dates or times: the time since 1970, standardised, and the parts of its cycles.

    `cycles` are those of "year", "week" and "day" that training saw change: of each the sine and
    the cosine of the part of it that is over, so that its end is beside its beginning. Missing
    cells count as the median, with cycles of 0, and an input of their own says so.
    """

    kind: ClassVar[str] = "date"
    name: str
    scale: Scale
    cycles: tuple[str, ...]
    missing: bool = False
    order: str = "ymd"

    @property
    def width(self) -> int:
        """The number of inputs that it becomes."""
        return 1 + 2 * len(self.cycles) + self.missing

    def values(self, table: Table) -> Any:
        """Seconds since 1970 (UTC): float64 (rows,), NaN where missing."""
        return read_dates(table, self.name, self.order)

    def fill(self, X: Any, table: Table, note: Note, rows: Any) -> None:
        """Write (rows, width): the time, the sines and cosines, and 1 where it was missing."""
        xp = host().xp
        moments = self.values(table)
        absent = xp.isnan(moments)
        if not self.missing and absent.any():
            _note_missing(note, table, self.name, absent, "the median of the dates")
        moments, absent = moments[rows], absent[rows]
        X[:, 0] = self.scale.standardized(moments)
        for at, cycle in enumerate(self.cycles):
            angle = 2 * pi * phase(moments, cycle)
            X[:, 1 + 2 * at] = xp.where(absent, 0.0, xp.sin(angle))
            X[:, 2 + 2 * at] = xp.where(absent, 0.0, xp.cos(angle))
        if self.missing:
            X[:, -1] = absent


def phase(moments: Any, cycle: str) -> Any:
    """The part of a cycle that is over, in [0, 1), of seconds since 1970 (a Thursday), (rows,).

    >>> import numpy as np
    >>> phase(np.asarray([0.0, 43200.0, 4 * 86400.0]), "week")
    array([0.42857143, 0.42857143, 0.        ])
    """
    xp = host().xp
    if cycle == "day":
        return xp.remainder(moments, DAY) / DAY
    if cycle == "week":
        return xp.remainder(xp.floor(moments / DAY) + 3, 7.0) / 7
    return xp.remainder(moments, YEAR) / YEAR


def fit_cycles(moments: Any) -> tuple[str, ...]:
    """The cycles that change among these seconds: (rows,) without NaN."""
    changing = []
    for cycle in ("year", "week", "day"):
        parts = phase(moments, cycle)
        if parts.size and float(parts.max() - parts.min()) > 1e-9:
            changing.append(cycle)
    return tuple(changing)


def read_dates(table: Table, name: str, order: str) -> Any:
    """A column as seconds since 1970 (UTC), float64 (rows,), NaN where missing.

    Raises
    ------
    TableError : a text that is no date in that order

    """
    kind = cells.kind_of(table, name)
    if kind == "time":
        return cells.seconds(table, name)
    if kind != "text":
        table.reject(
            name, 0, f"expected a date, got {table.column(name).dtype}", "give dates or texts"
        )
    found = cells.factors(table, name)
    parsed = [cells.parse_date(text, order) for text in found.names]
    if bad := found.first([moment is None for moment in parsed]):
        expected = {"ymd": "2024-12-31", "dmy": "31.12.2024", "mdy": "12/31/2024"}[order]
        problem = f"expected a date such as {expected}, got {bad[1]!r}"
        fix = "correct that cell, or empty it if its value is not known"
        table.reject(name, bad[0], problem, fix)
    home = host()
    return home.asarray([*parsed, math.nan], home.xp.float64)[found.codes]


Column = Number | Category | Date
