"""Tables: a frame of any library with the name of its source, so that messages can say where.

Frames are read through narwhals, so pandas, polars, pyarrow and what else it knows are one thing
here, and a dict of columns is a frame of whichever of them is installed.
"""

import importlib.util
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import narwhals as nw

import backends


class TableError(ValueError):
    """A table that cannot be used: the message names the source, the column and the row."""


@dataclass(frozen=True)
class Table:
    """A data frame in memory, and the name of its source.

    Attributes
    ----------
    frame
        A narwhals DataFrame whose columns have texts for names.
    source
        What messages call it, a path for one.
    unit, first
        How messages call its rows: "line" 2 is the first row of a CSV file.
    memo
        Columns that were read already, by how.

    Examples
    --------
    >>> Table.of({"x": [1, 2], "y": ["a", "b"]}).names
    ['x', 'y']
    """

    frame: Any
    source: str = "table"
    unit: str = "row"
    first: int = 0
    memo: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, data: Any, *, names: Sequence[str] = (), source: str = "table") -> "Table":
        """The table of a frame, of a dict of columns, or of rows of numbers in the order `names`.

        Raises
        ------
        TableError
            A lazy frame, an array on a device, rows of another width, columns of several lengths or
            with one name twice.
        TypeError
            An object that is not a table.
        """
        if isinstance(data, Table):
            return data
        if isinstance(data, Mapping):
            return cls(_from_columns(source, data), source)
        if backends.is_array(data) or isinstance(data, list | tuple):
            return cls(_from_rows(source, data, names), source)
        try:
            frame: Any = nw.from_native(data)
        except TypeError as error:
            raise TypeError(
                f"{source}: expected a data frame (pandas, polars, pyarrow or another that "
                f"narwhals knows) or a dict of columns, got {type(data).__name__}. "
                'To fix it: give {"column": [values, ...], ...}.'
            ) from error
        except Exception as error:  # each library has an error of its own for a name met twice
            raise TableError(
                f"{source}: expected a data frame, got one that cannot be read: {error}. "
                "To fix it: give each column a name of its own."
            ) from error
        if isinstance(frame, nw.LazyFrame):
            raise TableError(
                f"{source}: expected a data frame in memory, got the lazy {type(data).__name__}. "
                "To fix it: compute it first, with .collect() or .compute()."
            )
        return cls(_named(source, frame), source)

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return list(self.frame.columns)

    def __len__(self) -> int:
        return len(self.frame)

    def column(self, name: str) -> Any:
        """The column of that name: a narwhals Series.

        Raises
        ------
        TableError
            There is none; those there are get listed.
        """
        if name not in self.frame.columns:
            raise TableError(
                f"{self.source}: there is no column {name!r}; it has {listed(self.names)}. "
                "To fix it: give the table that column, or name another."
            )
        return self.frame.get_column(name)

    def where(self, row: int) -> str:
        """The place of a row in its source: "line 17" of a text, "row 16" of a frame."""
        return f"{self.unit} {self.first + row}"

    def at(self, unit: str, first: int) -> "Table":
        """The same table, its rows called by `unit`, the first of them `first`."""
        return replace(self, unit=unit, first=first)

    def forget(self, name: str) -> None:
        """Let go of how a column was read."""
        for key in [key for key in self.memo if key[1] == name]:
            del self.memo[key]

    def head(self, rows: int) -> "Table":
        """The first rows of the table."""
        return replace(self, frame=self.frame.head(rows), memo={})

    def reject(self, name: str, row: int, problem: str, fix: str) -> NoReturn:
        """Raise the TableError of one cell."""
        raise TableError(
            f"{self.source}: column {name!r}, {self.where(row)}: {problem}. To fix it: {fix}."
        )


def listed(names: Iterable[Any], most: int = 12) -> str:
    """Names for a message: the first few, and how many there are if there are more.

    >>> listed(["a", "b", "c"], most=2)
    "'a', 'b', ... (3 in all)"
    """
    shown = [repr(name) for name in names]
    more = f", ... ({len(shown)} in all)" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more


def check_names(source: str, names: Sequence[str]) -> None:
    """Refuse a name that two columns have: TableError."""
    if len(set(names)) < len(names):
        places: dict[str, int] = {}
        for index, name in enumerate(names):
            if name in places:
                raise TableError(
                    f"{source}: the name {name!r} is there twice, as columns {places[name] + 1} "
                    f"and {index + 1}. To fix it: give each column a name of its own."
                )
            places[name] = index


def _named(source: str, frame: Any) -> Any:
    """The frame with texts for names: pandas allows numbers."""
    names = list(frame.columns)
    texts = [str(name) for name in names]
    check_names(source, texts)
    if texts == names:
        return frame
    return frame.rename(dict(zip(names, texts, strict=True)))


def _from_columns(source: str, columns: Mapping[Any, Any]) -> Any:
    """A frame of a dict of columns, in a library that is installed."""
    names = [str(name) for name in columns]
    check_names(source, names)
    cells = {name: _cells(values) for name, values in zip(names, columns.values(), strict=True)}
    if len({len(values) for values in cells.values()}) > 1:
        found = ", ".join(f"{name!r} has {len(values)}" for name, values in cells.items())
        raise TableError(
            f"{source}: expected columns of one length, got: {found}. "
            "To fix it: give every column a cell for each row."
        )
    backend: Any = frame_library()
    try:
        return nw.from_dict(cells, backend=backend)
    except Exception:  # cells of several kinds in one column: each library has its own error
        texts = {name: _as_texts(values) for name, values in cells.items()}
        return nw.from_dict(texts, backend=backend)


def frame_library() -> Any:
    """A frame library to make frames with: one that is imported already, else one installed."""
    known = [kind for kind in nw.Implementation if kind.value and _makes_frames(kind)]
    for kind in sorted(known, key=lambda kind: kind.value not in sys.modules):
        if kind.value in sys.modules or importlib.util.find_spec(kind.value) is not None:
            return kind
    raise TableError(
        "expected a library of data frames to hold these columns, found none installed. "
        'To fix it: pip install "tinynn-xp[cli]".'
    )


def _makes_frames(kind: Any) -> bool:
    """True if narwhals makes frames in memory of that library, on the host."""
    return kind.is_polars() or kind.is_pyarrow() or kind.is_pandas()


def _cells(values: Any) -> Any:
    """One column's values as frames take them: lists, arrays of the host, series."""
    if isinstance(values, tuple | range):
        return list(values)
    if backends.is_array(values):
        return backends.of(values).to_host(values)
    series: Any = nw.from_native(values, series_only=True, pass_through=True)
    return series.to_list() if isinstance(series, nw.Series) else list(values)


def _as_texts(values: Iterable[Any]) -> list[str | None]:
    return [text_of(value) for value in values]


def text_of(value: Any) -> str | None:
    """A cell as text; None where it is missing.

    >>> text_of(3.0), text_of(True), text_of(None), text_of(float("nan"))
    ('3', 'true', None, None)
    """
    if value is None or value != value:  # NaN, NaT and the like differ from themselves
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)


def _from_rows(source: str, rows: Any, names: Sequence[str]) -> Any:
    """A frame of rows of numbers, whose columns go by their order."""
    if backends.is_array(rows):
        home = backends.of(rows)
        if home != backends.get(backends.names()[0]):
            raise TableError(
                f"{source}: expected a table in host memory, got an array on {home!r}. To fix it: "
                "bring it there, with backends.of(array).to_host(array), or give a data frame."
            )
        shape, rows = tuple(rows.shape), rows.tolist() if rows.ndim < 2 else rows
    else:
        rows = list(rows)
        whole = all(isinstance(row, list | tuple) for row in rows) and rows
        shape = (len(rows), len(rows[0])) if whole else (len(rows),)
    widths = {len(row) for row in rows} if len(shape) == 2 else set()
    if not names or len(shape) != 2 or widths != {len(names)}:
        wanted = f"(rows, {len(names)}), for {listed(names)}" if names else "columns with names"
        raise TableError(
            f"{source}: expected a data frame, a dict of columns or rows of shape {wanted}; got "
            f"shape {shape}. To fix it: give a table whose columns have their names."
        )
    columns = zip(*rows, strict=True) if isinstance(rows, list) else rows.T
    return _from_columns(source, dict(zip(names, columns, strict=True)))
