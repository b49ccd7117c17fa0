"""Inference of the kinds of columns, done once, when a preparation is fitted.

A column is told by its type where it has one. One of text is numbers if every cell reads as one,
dates if every cell does, and else categories. Where most cells are numbers, one that is none is a
mistake and an error. What cannot be told is asked for.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import narwhals as nw

from tinynn.data import host
from tinynn.tabular import cells
from tinynn.tabular.columns import (
    Category,
    Column,
    Date,
    Note,
    Number,
    Scale,
    fit_cycles,
    read_dates,
    read_numbers,
)
from tinynn.tabular.table import Table, TableError
from tinynn.tabular.targets import Classes, Quantity, Target, class_labels, whole_number

FEW = (
    20  # texts that are categories even where each row has its own; whole numbers that are classes
)
MOST = 100  # categories that a column may have unless it is named as one
_INDEX = re.compile(r"|Unnamed: \d+|__index_level_\d+__")  # as pandas writes and reads an index


@dataclass(frozen=True)
class Options:
    """The user's options for columns.

    Attributes
    ----------
    categories : columns of numbers to be read as categories, and of many texts to be kept
    drop : columns to leave out
    dates : the order of day, month and year of columns: "ymd", "dmy" or "mdy"
    decimal : the decimal mark of numbers that come as text, "." or ","; None finds out

    """

    categories: Collection[str] = ()
    drop: Collection[str] = ()
    dates: Mapping[str, str] = field(default_factory=dict)
    decimal: str | None = None

    def check(self, table: Table, target: str) -> None:
        """Refuse names that the table does not have, and words that are none of the known ones."""
        for name in (target, *self.categories, *self.drop, *self.dates):
            table.column(name)
        if target in self.drop:
            raise TableError(
                f"{table.source}: column {target!r}: expected a target, got it in drop. "
                "To fix it: leave out other columns."
            )
        if self.decimal not in (None, ".", ","):
            raise ValueError(f"decimal: expected '.', ',' or None, got {self.decimal!r}")
        for name, order in self.dates.items():
            if order not in cells.ORDERS:
                known = ", ".join(cells.ORDERS)
                raise ValueError(f"dates: column {name!r}: expected one of {known}, got {order!r}")


def fit_column(table: Table, name: str, rows: Any, options: Options, note: Note) -> Column | str:
    """The column as `rows` of the table have it, or why it is left out.

    Every cell of the table is read, so that one that cannot be is found before training.

    Raises
    ------
    TableError : a cell that cannot be read, or dates that may be meant in two ways

    """
    if name in options.categories:
        return _category(name, cells.labels(table, name), rows, named=True)
    kind = cells.kind_of(table, name)
    if kind == "number":
        return _number(table, name, rows, ".", False)
    if kind == "boolean":
        return _category(name, cells.labels(table, name), rows)
    if kind == "time":
        return _date(table, name, rows, "ymd")
    if name not in options.dates:
        written = number_style(table, name, options.decimal, note)
        if written is not None:
            return _number(table, name, rows, *written)
    order = options.dates.get(name) or date_order(table, name)
    if order is not None:
        return _date(table, name, rows, order)
    return _category(name, cells.labels(table, name), rows)


def _number(table: Table, name: str, rows: Any, decimal: str, percent: bool) -> Column | str:
    values = read_numbers(table, name, decimal, percent)[rows]
    missing = bool(host().xp.isnan(values).any())
    scale = Scale.fit(values, f"{table.source}: column {name!r}")
    return NEVER if scale is None else Number(name, scale, missing, decimal, percent)


def _date(table: Table, name: str, rows: Any, order: str) -> Column | str:
    moments = read_dates(table, name, order)[rows]
    absent = host().xp.isnan(moments)
    scale = Scale.fit(moments, f"{table.source}: column {name!r}")
    if scale is None:
        return NEVER
    return Date(name, scale, fit_cycles(moments[~absent]), bool(absent.any()), order)


NEVER = "it never changes"


def _category(name: str, found: cells.Factors, rows: Any, named: bool = False) -> Column | str:
    codes = found.codes[rows]
    xp = host().xp
    met = [found.names[code] for code in sorted(xp.unique_values(codes).tolist()) if code >= 0]
    missing = bool((codes < 0).any())
    return category(name, met, missing, int(codes.size), named)


def category(
    name: str, met: list[str], missing: bool, rows: int, named: bool = False
) -> Category | str:
    """The categories that so many rows have, in order, or why they are left out."""
    if len(met) + missing < 2:
        return NEVER
    if not named and len(met) > min(MOST, max(FEW, rows // 2)):
        return (
            f"it has {len(met)} different texts in {rows} rows; to keep it, name it among "
            "the categories (--category)"
        )
    return Category(name, tuple(met), missing)


def number_style(
    table: Table, name: str, decimal: str | None, note: Note
) -> tuple[str, bool] | None:
    """The style of a text column's numbers, (decimal mark, percent); None if it has none.

    Raises
    ------
    TableError : most cells are numbers, and one is not

    """
    marks, series, percent = (decimal,) if decimal else (".", ","), table.column(name), False
    if cells.looks_numeric(table, name):
        if series.dtype == nw.String and cells.holds(series, cells.CODE):
            return None
        values = None if decimal == "," else cells.numbers(table, name, ".", False)
        if values is None:
            percent = cells.is_percent(cells.texts(table, name))
        for mark in marks:
            values = cells.numbers(table, name, mark, percent)
            if values is None:
                continue
            if mark == "." and not decimal:
                _note_commas(table, name, percent, note)
            return None if host().xp.isnan(values).all() else (mark, percent)
    several = cells.factors(table, name).names
    plain = [text.removesuffix("%").rstrip() for text in several]
    for mark in marks:
        pattern = re.compile(cells.NUMBERS[mark])
        if 2 * sum(pattern.match(text) is not None for text in plain) > len(several):
            read_numbers(table, name, mark, percent)  # which names the cell
    return None


def _note_commas(table: Table, name: str, percent: bool, note: Note) -> None:
    """Say how commas are read, where they could be decimal ones."""
    series = table.column(name)
    if series.dtype != nw.String or not cells.holds(series, ","):
        return
    if cells.numbers(table, name, ",", percent) is not None:
        note(
            f"{table.source}: column {name!r}: its commas are read as between thousands (1,000 is "
            "one thousand). If they are decimal, say decimal=',' (--decimal ,)."
        )


def date_order(table: Table, name: str) -> str | None:
    """The order of day, month and year; None if the texts are no dates."""
    names = cells.factors(table, name).names
    if not names:
        return None
    good = {
        order: sum(cells.parse_date(text, order) is not None for text in names[:1000])
        for order in cells.ORDERS
    }
    order = max(cells.ORDERS, key=good.__getitem__)
    if 2 * good[order] <= len(names[:1000]):
        return None
    whole = [
        each
        for each in cells.ORDERS
        if all(cells.parse_date(text, each) is not None for text in names)
    ]
    if "dmy" in whole and "mdy" in whole and not all("." in text for text in names):
        raise TableError(
            f"{table.source}: column {name!r}: expected dates of one meaning, got {names[0]!r} "
            "and others in which the day or the month may come first. To fix it: write them as "
            f"2024-12-31, or say dates={{{name!r}: 'dmy'}} or 'mdy' "
            f"(--date {name}=dmy)."
        )
    return whole[0] if whole else order


def index_names(table: Table) -> list[str]:
    """Columns that are the index of a data frame: without a name of their own, integers, all
    different.

    Raises
    ------
    TableError : a column that has no name and is no index

    """
    found = []
    for name in table.names:
        if not _INDEX.fullmatch(name):
            continue
        try:
            values = read_numbers(table, name, ".", False)
        except TableError:
            values = host().asarray([0.5])
        xp = host().xp
        whole = bool((values == xp.floor(values)).all())
        if whole and xp.unique_values(values).size == values.size:
            found.append(name)
        elif not name:
            raise TableError(
                f"{table.source}: column {table.names.index(name) + 1} has no name. "
                "To fix it: give it one, or take the column out."
            )
    return found


# --- targets


def fit_target(
    table: Table, name: str, classes: bool | None, options: Options, note: Note
) -> Target:
    """The target as all rows of a table have it: its classes, or its numbers.

    `classes` None takes texts, booleans and few whole numbers, each met more than once, as classes.

    Raises
    ------
    TableError : no number where one is to be; a target that never changes; dates

    """
    style: tuple[str, bool] | None = (".", False)
    kind = cells.kind_of(table, name)
    if kind == "text":
        style = None
        if classes is False:  # so each cell that is no number is a mistake
            style = number_style(table, name, options.decimal, note) or (".", False)
        elif name not in options.categories:
            style = number_style(table, name, options.decimal, note)
    elif kind == "boolean" and not classes:
        style = None
        classes = True if classes is None else classes
    elif kind == "time":
        raise TableError(
            f"{table.source}: column {name!r}: expected a target of classes or numbers, got dates. "
            "To fix it: make a number of them, days for one."
        )
    if classes is None:
        classes = style is None or _few_wholes(read_numbers(table, name, *style))
    if classes:
        return _classes(table, name, style, name in options.categories)
    decimal, percent = style or (".", False)
    scale = Scale.fit(
        read_numbers(table, name, decimal, percent), f"{table.source}: column {name!r}"
    )
    if scale is None:
        raise constant(table, name)
    return Quantity(name, scale, decimal, percent)


def _few_wholes(values: Any) -> bool:
    xp = host().xp
    there = values[~xp.isnan(values)]
    whole = bool((there == xp.floor(there)).all())
    return whole and xp.unique_values(there).size <= min(FEW, there.size // 2)


def _classes(table: Table, name: str, style: Any, as_text: bool) -> Classes:
    labels = "text"
    found = cells.labels(table, name)
    if set(found.names) <= cells.BOOLEANS:
        labels = "boolean"
    elif not as_text and style is not None:
        plain = all(whole_number(text) is not None for text in found.names)
        if plain or cells.kind_of(table, name) == "number":
            labels = "integer"
            found = class_labels(table, name, labels)
        elif all("." in text for text in found.names):
            class_labels(table, name, "integer")  # which names the cell
    names = sorted(found.names, key=int if labels == "integer" else str)
    if len(names) < 2:
        raise constant(table, name)
    check_few(table.source, name, len(names), int((found.codes >= 0).sum()))
    return Classes(name, tuple(names), labels)


def check_few(source: str, name: str, classes: int, rows: int) -> None:
    """Refuse a target of about as many classes as there are rows that have one: TableError."""
    if classes > max(FEW, rows // 2):
        raise TableError(
            f"{source}: column {name!r}: expected classes, got {classes} different ones in {rows} "
            "rows. To fix it: take another target, or a loss of numbers."
        )


def constant(table: Table, name: str) -> TableError:
    """The error of a target that never changes."""
    return TableError(
        f"{table.source}: column {name!r}: expected a target that varies, got the same in every "
        "row, or none. To fix it: take another target, or more rows."
    )
