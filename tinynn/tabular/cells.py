"""Reading the cells of a column: as numbers, as moments in time, or as texts.

The same cells give the same values whichever library the frame is of, and whether they came typed
or as text. Text is read by the rules written here, not by those of a library:

- empty cells and the marks that pandas reads as missing are missing
- numbers may have a decimal point or a decimal comma, thousands in groups, and a percent sign; one
  column has one decimal mark
- dates are year, month and day in the order of ISO 8601, of Europe or of the United States, with a
  time of day or without
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, wraps
from typing import Any

import narwhals as nw

from tinynn.data import host
from tinynn.tabular.table import Table, TableError, text_of

# What pandas.read_csv takes for missing, and "?" of the UCI repository.
MISSING = frozenset(
    " |#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA|NULL|NaN|None"
    "|n/a|nan|null|?".split("|")
) | {""}

_GROUP = "[ '\u00a0\u202f]"  # what parts thousands beside a comma or a point
_HEAD, _TAIL = r"^[+-]?", r"(?:[eE][+-]?[0-9]{1,4})?$"


def _grouped(mark: str) -> str:
    """Digits, alone or in groups of three with `mark` between them."""
    first, next_ = "[1-9][0-9]{0,2}", "[0-9]{3}"
    return rf"(?:[0-9]+|{first}(?:{mark}{next_})+|{first}(?:{_GROUP}{next_})+)"


# By decimal mark. The other mark may part thousands.
NUMBERS = {
    ".": rf"{_HEAD}(?:{_grouped(',')}(?:\.[0-9]*)?|\.[0-9]+){_TAIL}",
    ",": rf"{_HEAD}(?:{_grouped('[.]')}(?:,[0-9]*)?|,[0-9]+){_TAIL}",
}
_PLAIN = rf"{_HEAD}(?:[0-9]+\.?[0-9]*|\.[0-9]+){_TAIL}"
CODE = r"^\s*[+-]?0[0-9]"  # 01067 is no number: its zero would be lost

BOOLEANS = frozenset({"false", "true"})
_SOME = 1000  # cells that are looked at first

_DATE = re.compile(
    r"(\d{1,4})([-/.])(\d{1,2})\2(\d{1,4})"
    r"(?:[T ]\s*(\d{1,2}):(\d{2})(?::(\d{2})(\.\d{1,9})?)?\s*(Z|[+-]\d{2}:?\d{2})?)?"
)
ORDERS = ("ymd", "dmy", "mdy")


def _remembered(read: Callable[..., Any]) -> Callable[..., Any]:
    """The reading of a column is done once a table."""

    @wraps(read)
    def reading(table: Table, *how: Any) -> Any:
        key = (read.__name__, *how)
        if key not in table.memo:
            table.memo[key] = read(table, *how)
        return table.memo[key]

    return reading


@dataclass(frozen=True)
class Factors:
    """A column as its different texts and, for each row, the index of its own.

    `codes` is a host array of integers, (rows,), and -1 where the cell is missing.
    """

    names: list[str]
    codes: Any

    def first(self, bad: list[bool]) -> tuple[int, str] | None:
        """The first row whose text is a bad one, and the text; None if no text is."""
        if not any(bad):
            return None
        flags = host().asarray([*bad, False])
        row = int(host().xp.nonzero(flags[self.codes])[0][0])
        return row, self.names[int(self.codes[row])]


def kind_of(table: Table, name: str) -> str:
    """The kind of a column by its type: "number", "time", "text", "boolean".

    Raises
    ------
    TableError : lists, structures and the like, which are no cells of a table

    """
    dtype = table.column(name).dtype
    if dtype.is_numeric() or dtype == nw.Duration:
        return "number"
    if dtype == nw.Boolean:
        return "boolean"
    if dtype in (nw.Date, nw.Datetime):
        return "time"
    if dtype in (nw.String, nw.Categorical, nw.Enum, nw.Object, nw.Time) or str(dtype) == "Unknown":
        return "text"
    raise TableError(
        f"{table.source}: column {name!r}: expected numbers, texts or dates, got {dtype}. "
        "To fix it: make columns of it, or leave it out with drop (--drop)."
    )


def texts(table: Table, name: str) -> Any:
    """The column as a narwhals Series of text, missing cells and marks being null."""
    series = table.column(name)
    if series.dtype in (nw.Object, nw.Time) or str(series.dtype) == "Unknown":
        cells = [text_of(cell) for cell in series.to_list()]
        series = nw.new_series(name, cells, nw.String, backend=series.implementation)
    elif series.dtype != nw.String:
        series = series.cast(nw.String)
    column = nw.col(name).str.strip_chars()
    kept = nw.when(~column.is_in(list(MISSING))).then(column)
    return series.to_frame().select(kept.alias(name)).get_column(name)


@_remembered
def floats(table: Table, name: str) -> Any:
    """A column of a number's type: a host array of float64, (rows,), NaN where missing."""
    series = table.column(name)
    if series.dtype == nw.Duration:
        series = series.dt.total_microseconds().cast(nw.Float64) / 1e6
    return _host_floats(series.cast(nw.Float64))


def _host_floats(series: Any) -> Any:
    """A Series of Float64 on the host, float64, NaN where it is null."""
    home = host()
    array = series.to_numpy()
    if array.dtype != home.xp.float64:  # of objects, where a library marks what is missing so
        array = home.asarray([float("nan") if v is None or v != v else v for v in array.tolist()])
    return array


@_remembered
def seconds(table: Table, name: str) -> Any:
    """A column of dates or times by type: float64 seconds since 1970 (UTC), NaN where missing."""
    series = table.column(name)
    series = series.cast(nw.Datetime("us", getattr(series.dtype, "time_zone", None)))
    return _host_floats(series.dt.timestamp("us").cast(nw.Float64)) / 1e6


@_remembered
def numbers(table: Table, name: str, decimal: str, percent: bool) -> Any:
    """A column of text as numbers: a host array of float64, (rows,), NaN where missing.

    None if one of the texts is no number.
    """
    series = table.column(name)
    odd = _reads_underscores(series.implementation) and holds(series, "_")
    if series.dtype == nw.String and decimal == "." and not percent and not odd:
        try:  # the library's own way, which is faster
            return _host_floats(series.cast(nw.Float64))
        except Exception:  # of each library its own: a cell is empty, or no plain number
            pass
    return _parse(texts(table, name), decimal, percent)


@cache
def _reads_underscores(library: Any) -> bool:
    """True if a library takes 1_0 for a number, as Python does."""
    try:
        nw.new_series("", ["1_0"], nw.String, backend=library).cast(nw.Float64)
    except Exception:  # of each library its own
        return False
    return True


def _parse(series: Any, decimal: str, percent: bool) -> Any:
    text = nw.col(series.name)
    if percent:
        text = text.str.replace(r"\s*%$", "")
    frame = series.to_frame().select(text.alias("plain"), _matches(text, _PLAIN))
    if decimal == "," or not frame["sound"].all():
        frame = frame.select("plain", _matches(nw.col("plain"), NUMBERS[decimal]))
        if not frame["sound"].all():
            return None
        group = "." if decimal == "," else ","
        plain = nw.col("plain").str.replace_all(group, "", literal=True)
        plain = plain.str.replace_all(_GROUP, "")
        frame = frame.select(plain.str.replace_all(",", ".", literal=True).alias("plain"))
    return _host_floats(frame["plain"].cast(nw.Float64))


def _matches(text: Any, pattern: str) -> Any:
    """A mask of the texts that match, or are missing (for which libraries differ)."""
    return (text.is_null() | text.str.contains(pattern)).alias("sound")


def is_percent(series: Any) -> bool:
    """True if every text ends with a percent sign, those that are missing aside."""
    return bool((series.is_null() | series.str.ends_with("%")).all())


def holds(series: Any, pattern: str) -> bool:
    """True if the pattern is found in one of the texts."""
    literal = len(pattern) == 1
    return bool(series.str.contains(pattern, literal=literal).drop_nulls().any())


def looks_numeric(table: Table, name: str) -> bool:
    """True if the first texts of a column are numbers, in one way of writing or the other."""
    some = [text for text in texts(table.head(_SOME), name).to_list() if isinstance(text, str)]
    plain = [text.removesuffix("%").rstrip() for text in some]
    return any(all(re.match(pattern, text) for text in plain) for pattern in NUMBERS.values())


def first_bad(table: Table, name: str, decimal: str, percent: bool) -> tuple[int, str]:
    """The row of the first text that is no number, and the text."""
    for row, cell in enumerate(texts(table, name).to_list()):
        text = cell if not isinstance(cell, str) or not percent else cell.removesuffix("%").rstrip()
        if isinstance(text, str) and not re.match(NUMBERS[decimal], text):
            return row, cell
    raise AssertionError("numbers found one")


@_remembered
def factors(table: Table, name: str) -> Factors:
    """A column of text as its different texts, in order, and the index of each row's."""
    series = texts(table, name)
    names = sorted(series.drop_nulls().unique().to_list())
    if not names:
        return Factors([], host().xp.full(len(series), -1, dtype=host().xp.int32))
    codes = series.replace_strict(names, list(range(len(names))), default=-1, return_dtype=nw.Int32)
    return Factors(names, codes.to_numpy())


@_remembered
def labels(table: Table, name: str, booleans: bool | None = None) -> Factors:
    """A column of any type as texts: whole numbers without a point, booleans in small letters.

    `booleans` says whether the texts true and false are booleans; None: if there are no others.
    """
    kind = kind_of(table, name)
    if kind == "number" and not table.column(name).dtype.is_integer():
        return _factors_of_numbers(floats(table, name))
    found = factors(table, name)
    small = [text.lower() for text in found.names]
    if kind == "boolean" or (set(small) <= BOOLEANS if booleans is None else booleans):
        return renamed(found, small)
    return found


def _factors_of_numbers(values: Any) -> Factors:
    """Numbers as texts, and the index of each row's; -1 for NaN."""
    xp = host().xp
    present = ~xp.isnan(values)
    unique, inverse = xp.unique_inverse(values[present])
    codes = writable(values.shape[0], xp.int32) - 1
    codes[present] = inverse
    return Factors([str(text_of(value)) for value in unique.tolist()], codes)


def writable(shape: Any, dtype: Any) -> Any:
    """A host array of zeros that may be written to: a copy can be, whatever a namespace gives."""
    return host().xp.zeros(shape, dtype=dtype).copy()


def renamed(factors: Factors, names: list[str]) -> Factors:
    """The same rows under other names, of which some may now be one."""
    unique = sorted(set(names))
    home = host()
    to = home.asarray([*map(unique.index, names), -1], home.xp.int32)
    return Factors(unique, to[factors.codes])  # -1 is the last


def parse_date(text: str, order: str) -> float | None:
    """A text as seconds since 1970 (UTC); None if it is no date in that order.

    >>> parse_date("1970-01-02", "ymd"), parse_date("1970-01-01T00:01:00+01:00", "ymd")
    (86400.0, -3540.0)
    >>> parse_date("31/12/1969", "mdy") is None
    True
    """
    match = _DATE.fullmatch(text)
    if match is None:
        return None
    first, _, second, third, hour, minute, second_, fraction, zone = match.groups()
    parts = dict(zip(order, (first, second, third), strict=True))
    if len(parts["y"]) != 4 or len(parts["m"]) > 2 or len(parts["d"]) > 2:
        return None
    year, month, day = (int(parts[part]) for part in "ymd")
    clock = (int(hour or 0), int(minute or 0), int(second_ or 0), int(float(fraction or 0) * 1e6))
    try:
        moment = datetime(year, month, day, *clock, UTC).timestamp()
    except ValueError:
        return None
    if zone and zone != "Z":
        sign = -1 if zone[0] == "-" else 1
        moment -= sign * (int(zone[1:3]) * 3600 + int(zone[-2:]) * 60)
    return moment
