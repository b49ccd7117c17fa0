"""A preparation of a table in parts, fitted in passes over it: see `tinynn.tabular.parts`."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tinynn.data import host
from tinynn.tabular import cells
from tinynn.tabular.cells import writable
from tinynn.tabular.columns import Column, Date, Note, Number, read_dates, read_numbers
from tinynn.tabular.inference import (
    NEVER,
    Options,
    category,
    check_few,
    constant,
    date_order,
    fit_target,
    index_names,
    number_style,
)
from tinynn.tabular.parts import DISTINCT, Distinct, Parts, check_parts
from tinynn.tabular.preparation import TablePreparation, assembled
from tinynn.tabular.statistics import Cycles, Median, Moments
from tinynn.tabular.table import Table, TableError
from tinynn.tabular.targets import Classes, Quantity, Target


@dataclass
class Survey:
    """The first pass over a table: what kinds its columns are of.

    Attributes
    ----------
    first
        The first part.
    distinct
        The different cells of columns whose kind they tell.
    rows
        The rows of each part that have a target: host arrays of integers.
    total
        The rows of the table.
    """

    first: Table
    distinct: dict[str, Distinct] = field(default_factory=dict)
    rows: list[Any] = field(default_factory=list)
    total: int = 0


def survey(parts: Parts, target: str, options: Options) -> Survey:
    """Go through all parts, to find of which kind each column is.

    Raises
    ------
    TableError
        No such column, a part unlike the first, no row that has a target.
    """
    found: Survey | None = None
    for table in check_parts(parts):
        if found is None:
            options.check(table, target)
            found = Survey(table)
            told = {target, *options.categories}
            told |= {n for n in table.names if cells.kind_of(table, n) in ("text", "boolean")}
            found.distinct = {name: Distinct() for name in told - {*options.drop}}
        for name, distinct in found.distinct.items():
            distinct.add(table, name)
        xp = host().xp
        found.rows.append(xp.astype(xp.nonzero(~_absent(table, target))[0], xp.int32))
        found.total += len(table)
        table.memo.clear()
    if found is None or sum(rows.size for rows in found.rows) < 2:
        raise TableError(
            f"{parts.source}: column {target!r}: expected two rows or more with a target, got "
            "fewer. To fix it: give rows that have one."
        )
    return found


def _absent(table: Table, name: str) -> Any:
    """The rows whose cell is missing: a host array of booleans."""
    kind = cells.kind_of(table, name)
    if kind == "number":
        return host().xp.isnan(cells.floats(table, name))
    series = cells.texts(table, name) if kind == "text" else table.column(name)
    return series.is_null().to_numpy()


def target_of(
    found: Survey, parts: Parts, name: str, classes: bool | None, options: Options, note: Note
) -> Target:
    """The target that a survey shows, a number's scale still to be fitted."""
    distinct = found.distinct[name]
    # Twice, for of different texts each is met once, and among all rows more often.
    answer = fit_target(distinct.sample(parts.source, name, 2), name, classes, options, note)
    if isinstance(answer, Classes) and distinct.full:
        raise TableError(
            f"{parts.source}: column {name!r}: expected classes, got more than {DISTINCT:,} "
            "different ones. To fix it: take another target, or a loss of numbers."
        )
    if isinstance(answer, Classes):
        check_few(parts.source, name, len(answer.classes), sum(rows.size for rows in found.rows))
    return answer


def strata_of(parts: Parts, rows: Sequence[Any], answer: Target) -> list[Any]:
    """What rows are held out by shares of: small integers, (rows,), for each part.

    These are classes; of a target of numbers the smallest and the largest are strata of their own,
    as `hold_out` keeps one row of each.

    Parameters
    ----------
    parts, answer
        The table and its target.
    rows
        The rows of each part that count, host arrays of integers.
    """
    xp = host().xp
    strata: list[Any] = []
    ends: dict[int, tuple[float, int, int]] = {}  # (the value, or its opposite, part, row)
    for number, chosen in enumerate(rows):
        table = parts.read(number, [answer.name])
        if isinstance(answer, Classes):
            codes = answer.encode(table)[chosen]
            small = answer.width <= xp.iinfo(xp.int8).max  # so that little is kept
            strata.append(xp.astype(codes, xp.int8) if small else codes)
            continue
        values = answer.values(table)[chosen]
        strata.append(writable(values.size, xp.int8))
        for stratum, signed in ((1, values), (2, -values)) if values.size else ():
            place = int(xp.argmin(signed))
            least = (float(signed[place]), number, place)
            ends[stratum] = min(ends.get(stratum, least), least)
    for stratum, (_, number, place) in ends.items():
        strata[number][place] = stratum
    return strata


class _Numbers:
    """The fit of a column of numbers or, with an order, of dates."""

    def __init__(self, name: str, decimal: str, percent: bool, order: str | None = None) -> None:
        self.name, self.written, self.order = name, (decimal, percent), order
        self.moments, self.median, self.cycles = Moments(), Median(), Cycles()

    def values(self, table: Table, rows: Any) -> Any:
        if self.order is not None:
            return read_dates(table, self.name, self.order)[rows]
        return read_numbers(table, self.name, *self.written)[rows]

    def add(self, table: Table, rows: Any) -> None:
        values = self.values(table, rows)
        self.moments.add(values)
        self.median.add(values)
        if self.order is not None:
            self.cycles.add(values[~host().xp.isnan(values)])

    def end(self) -> None:
        if self.moments.least >= self.moments.most:  # all are equal, or none is there
            self.median.value = self.moments.most
        else:
            self.median.end(self.moments.count)

    def fitted(self, source: str) -> Column | str:
        median = self.median.value
        assert median is not None
        scale = self.moments.scale(median, f"{source}: column {self.name!r}")
        missing = self.moments.missing > 0
        if scale is None:
            return NEVER
        if self.order is not None:
            return Date(self.name, scale, self.cycles.changing, missing, self.order)
        return Number(self.name, scale, missing, *self.written)


class _Categories:
    """The fit of a column of categories."""

    def __init__(self, name: str, booleans: bool, named: bool) -> None:
        self.name, self.booleans, self.named = name, booleans, named
        self.met: set[str] = set()
        self.missing, self.rows = False, 0

    def add(self, table: Table, rows: Any) -> None:
        found = cells.labels(table, self.name, self.booleans)
        codes = found.codes[rows]
        kept = host().xp.unique_values(codes).tolist()  # in any order
        self.met |= {found.names[code] for code in kept if code >= 0}
        self.missing = self.missing or -1 in kept
        self.rows += int(codes.size)

    def fitted(self, source: str) -> Column | str:
        return category(self.name, sorted(self.met), self.missing, self.rows, self.named)


Fit = _Numbers | _Categories


def _fit_of(found: Survey, source: str, name: str, options: Options, note: Note) -> Fit | str:
    """The way to fit a column, or why it is left out."""
    distinct, kind = found.distinct.get(name), cells.kind_of(found.first, name)
    if distinct is None:
        return _Numbers(name, ".", False, "ymd" if kind == "time" else None)
    if not distinct.series:
        return NEVER
    sample = distinct.sample(source, name)
    named = name in options.categories
    if kind == "text" and not named:
        written = None
        if name not in options.dates:
            written = number_style(sample, name, options.decimal, note)
        if written is not None:
            return _Numbers(name, *written)
        order = options.dates.get(name) or date_order(sample, name)
        if order is not None:
            return _Numbers(name, ".", False, order)
        if distinct.full:
            return (
                f"it has more than {DISTINCT:,} different texts; to keep it, name it among the "
                "categories (--category)"
            )
    small = {text.lower() for text in cells.labels(sample, name).names}
    return _Categories(name, small <= cells.BOOLEANS, named)


def fit_parts(
    parts: Parts,
    found: Survey,
    answer: Target,
    rows: Sequence[Any],
    options: Options,
    activation: str,
    note: Note,
) -> TablePreparation:
    """Fit a preparation to the rows of a table in parts that training sees.

    Parameters
    ----------
    parts, found
        The table, and the survey of it.
    answer
        The target.
    rows
        Those of each part that it is fitted to, host arrays of integers.
    options, activation, note
        As `TablePreparation.fit` has them.

    Raises
    ------
    TableError
        As there.
    """
    fits: dict[str, Fit | str] = {}
    left_out = dict.fromkeys(index_names(found.first), "it is the index of a data frame")
    left_out |= dict.fromkeys(options.drop, "it is to be left out")
    left_out.pop(answer.name, None)
    names = tuple(n for n in found.first.names if n != answer.name and n not in left_out)
    for name in names:
        fits[name] = _fit_of(found, parts.source, name, options, note)
    at_work = [fit for fit in fits.values() if not isinstance(fit, str)]
    if isinstance(answer, Quantity):
        scaled = _Numbers(answer.name, answer.decimal, answer.percent)
        at_work.append(scaled)
    _go_through(parts, rows, at_work)
    if isinstance(answer, Quantity):
        own = scaled.fitted(parts.source)
        if not isinstance(own, Number):
            raise constant(found.first, answer.name)
        answer = replace(answer, scale=own.scale)
    fitted = {
        name: fit if isinstance(fit, str) else fit.fitted(parts.source)
        for name, fit in fits.items()
    }
    return assembled(parts.source, answer, names, fitted, left_out, activation)


def _go_through(parts: Parts, rows: Sequence[Any], fits: Collection[Fit]) -> None:
    """Add all parts to these fits, and again to those of numbers whose median is not found yet."""
    left = list(fits)
    first = True
    while left:
        wanted = list(dict.fromkeys(fit.name for fit in left))
        for number, chosen in enumerate(rows):
            table = parts.read(number, wanted)
            for fit in left:
                if first or isinstance(fit, _Categories):
                    fit.add(table, chosen)
                else:
                    fit.median.add(fit.values(table, chosen))
                table.forget(fit.name)
        for fit in left:
            if isinstance(fit, _Numbers):
                fit.end()
        left = [fit for fit in left if isinstance(fit, _Numbers) and fit.median.value is None]
        first = False
