"""Tables from files: CSV, npz and Parquet, and the truth tables by name.

A `Table` keeps its cells as they came and reads a column as numbers or as texts when asked. A cell
that cannot be read so is an error that names the file, the column and the line.
"""

import csv
import importlib
import io
import math
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from tinynn.data import host

# `out` for the inputs (0, 0), (0, 1), (1, 0), (1, 1). No bias column: every layer has a bias.
TRUTH_TABLES = {
    "and": (0, 0, 0, 1),
    "first": (0, 0, 1, 1),
    "nand": (1, 1, 1, 0),
    "nor": (1, 0, 0, 0),
    "or": (0, 1, 1, 1),
    "xnor": (1, 0, 0, 1),
    "xor": (0, 1, 1, 0),
}

Cell = str | int | float | None


class TableError(ValueError):
    """A table that cannot be used: the message names the file, the column and the line."""


@dataclass(frozen=True)
class Table:
    """Columns of equal length, by name, and where each row stood in its source.

    `target` is the column that a built-in table is about; None for a file.

    >>> table = read("xor")
    >>> table.numbers("out"), table.where(2)
    ([0.0, 1.0, 1.0, 0.0], 'row 2')
    """

    source: str
    columns: Mapping[str, Sequence[Cell]]
    places: Sequence[int]
    unit: str = "row"
    target: str | None = None

    def __len__(self) -> int:
        return len(self.places)

    def where(self, row: int) -> str:
        """The place of a row in its source: "line 17" of a text, "row 16" of arrays."""
        return f"{self.unit} {self.places[row]}"

    def take(self, rows: Sequence[int]) -> "Table":
        """The table of these rows alone, which keep their places."""
        picked = {name: [cells[row] for row in rows] for name, cells in self.columns.items()}
        return replace(self, columns=picked, places=[self.places[row] for row in rows])

    def column(self, name: str) -> Sequence[Cell]:
        """The cells of a column; TableError lists the columns there are if it is missing."""
        if name not in self.columns:
            raise TableError(
                f"{self.source}: there is no column {name!r}; it has {listed(self.columns)}."
            )
        return self.columns[name]

    def is_numeric(self, name: str) -> bool:
        """Whether most of the column's cells are numbers (a cell that is missing has no say)."""
        cells = [cell for cell in self.column(name) if not _missing(cell)]
        return 2 * sum(_number(cell) is not None for cell in cells) > len(cells) or not cells

    def numbers(self, name: str) -> list[float]:
        """The column as finite numbers; TableError names the first cell that is none."""
        numbers = []
        for row, cell in enumerate(self.column(name)):
            number = _number(cell)
            if number is None or not math.isfinite(number):
                expected = "a finite number" if number is not None else "a number"
                self.reject(name, row, f"expected {expected}, got {_shown(cell)}")
            numbers.append(number)
        return numbers

    def texts(self, name: str) -> list[str]:
        """The column as texts; TableError names the first cell that is missing."""
        cells = self.column(name)
        for row, cell in enumerate(cells):
            if _missing(cell):
                self.reject(name, row, f"expected a text, got {_shown(cell)}")
        return [_text(cell) for cell in cells]

    def reject(self, name: str, row: int, problem: str) -> NoReturn:
        """Raise the TableError of one cell."""
        raise TableError(
            f"{self.source}: column {name!r}, {self.where(row)}: {problem}. "
            "Fix that cell, or leave its row out."
        )


def read(source: str) -> Table:
    """The table that `source` names: a truth table, or a .csv, .tsv, .npz or .parquet file.

    Raises
    ------
    TableError : no such file, a file that is damaged, empty or ragged, or one of another kind

    """
    if source in TRUTH_TABLES:
        columns = {"a": (0, 0, 1, 1), "b": (0, 1, 0, 1), "out": TRUTH_TABLES[source]}
        return Table(source, columns, range(4), target="out")
    path = Path(source)
    reader = _READERS.get(path.suffix.lower())
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "no file of that name"
        raise TableError(
            f"{source}: expected a file or a truth table ({', '.join(TRUTH_TABLES)}), got {kind}."
        )
    if reader is None:
        raise TableError(
            f"{source}: expected a file that ends in {', '.join(_READERS)}, "
            f"got {path.suffix or 'no ending'!r}."
        )
    table = reader(path)
    if not len(table):
        raise TableError(f"{source}: expected rows of data, got none below the names of columns.")
    return table


def listed(names: Iterable[str], most: int = 12) -> str:
    """Names for a message: the first few, and how many there are if there are more."""
    shown = [repr(name) for name in names]
    more = f", ... ({len(shown)} in all)" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more


# --- CSV


def _read_csv(path: Path) -> Table:
    try:
        text = path.read_bytes().decode("utf-8-sig")  # with or without a byte order mark
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise TableError(
            f"{path}: expected text in UTF-8, got byte 0x{error.object[error.start]:02x} in line "
            f"{line}. Save the table as CSV in UTF-8."
        ) from None
    lines = _csv_lines(path, text)
    _, header = next(lines, (1, []))
    names = _names(path, header)
    rows, places = [], []
    blank = 0
    for line, cells in lines:
        if not cells:
            blank = blank or line
            continue
        if blank or len(cells) != len(names):
            got = f"{len(cells)}" if not blank else "an empty line"
            raise TableError(
                f"{path}: line {blank or line}: expected {len(names)} cells, as the first line "
                f"has names, got {got}."
            )
        rows.append([cell.strip() for cell in cells])
        places.append(line)
    cells_of = zip(*rows, strict=True) if rows else [()] * len(names)
    columns = dict(zip(names, cells_of, strict=True))
    return Table(str(path), columns, places, unit="line")


def _csv_lines(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Each row with the line that it starts on (a quoted cell may run over several)."""
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)  # the comma, unless another is the more frequent
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True
    )
    line = 1
    try:
        for cells in reader:
            yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise TableError(
            f"{path}: line {line}: {error}. Is a quote open or out of place?"
        ) from error


def _names(path: Path, header: Sequence[str]) -> list[str]:
    """The names of columns in a CSV's first line, each there and each once."""
    names = [name.strip() for name in header]
    if not any(names):
        raise TableError(f"{path}: expected the names of the columns in line 1, got nothing.")
    for index, name in enumerate(names):
        if not name:
            raise TableError(
                f"{path}: line 1: column {index + 1} has no name. Give it one, or leave it out "
                "(an index that a data frame wrote?)."
            )
        if name in names[:index]:
            raise TableError(
                f"{path}: line 1: the name {name!r} is there twice, as columns "
                f"{names.index(name) + 1} and {index + 1}. The first line has to name the columns."
            )
    return names


# --- npz and Parquet


def _read_npz(path: Path) -> Table:
    columns: dict[str, Sequence[Cell]] = {}
    try:
        with path.open("rb") as file, host().xp.load(file, allow_pickle=False) as arrays:
            for name in arrays.files:
                for column, cells in _split(path, name, arrays[name]):
                    _add(path, columns, column, cells)
    except TableError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise TableError(f"{path}: expected an npz file of plain arrays: {error}.") from error
    return _table(path, columns)


def _split(path: Path, name: str, array: Any) -> Iterator[tuple[str, list[Any]]]:
    """A column for each entry of a row: `x` of shape (rows, 2, 2) gives x_0_0, x_0_1, ..."""
    if array.ndim == 0:
        raise TableError(f"{path}: expected arrays of rows, got the single value {name!r}.")
    if array.ndim == 1:
        yield name, array.tolist()
        return
    for index in range(array.shape[1]):
        yield from _split(path, f"{name}_{index}", array[:, index])


def _read_parquet(path: Path) -> Table:
    frames: dict[str, Callable[[Any, str], list[Any]]] = {
        "polars": lambda frame, name: frame.get_column(name).to_list(),
        "pandas": lambda frame, name: frame[name].tolist(),
    }
    for library, cells in frames.items():
        try:
            frame = importlib.import_module(library).read_parquet(path)
        except ImportError:  # the library itself, or what it reads Parquet with
            continue
        except Exception as error:  # each library raises its own for a damaged file
            raise TableError(f"{path}: expected a Parquet file: {error}.") from error
        columns: dict[str, Sequence[Cell]] = {}
        for name in frame.columns:
            _add(path, columns, str(name), cells(frame, name))
        return _table(path, columns)
    raise TableError(
        f"{path}: reading Parquet takes {' or '.join(frames)}, and neither is installed. "
        'Install one: pip install "tinynn-xp[frames]".'
    )


def _add(path: Path, columns: dict[str, Sequence[Cell]], name: str, cells: list[Any]) -> None:
    """File a column of an array or a frame, with its cells as texts and numbers."""
    if name in columns:
        raise TableError(f"{path}: the name {name!r} is there twice. Give each column its own.")
    columns[name] = [_cell(path, name, row, value) for row, value in enumerate(cells)]


def _cell(path: Path, name: str, row: int, value: Any) -> Cell:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, complex | list | tuple | dict):
        raise TableError(
            f"{path}: column {name!r}, row {row}: expected a number or a text, "
            f"got a {type(value).__name__}."
        )
    return str(value)  # dates, decimals


def _table(path: Path, columns: dict[str, Sequence[Cell]]) -> Table:
    lengths = {name: len(cells) for name, cells in columns.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name!r} has {length}" for name, length in lengths.items())
        raise TableError(f"{path}: expected columns of one length: {found}.")
    return Table(str(path), columns, range(max(lengths.values(), default=0)))


_READERS: dict[str, Callable[[Path], Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".npz": _read_npz,
    ".parquet": _read_parquet,
}


# --- cells


def _missing(cell: Cell) -> bool:
    return cell in (None, "") or (isinstance(cell, float) and math.isnan(cell))


def _number(cell: Cell) -> float | None:
    """The number that a cell holds, infinite or nan too; None for a text or a missing cell."""
    if cell is None or (isinstance(cell, str) and "_" in cell):  # float() reads 1_000 as 1000
        return None
    try:
        return float(cell)
    except OverflowError:
        return math.inf
    except ValueError:
        return None


def _text(cell: Cell) -> str:
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def _shown(cell: Cell) -> str:
    return "an empty cell" if cell in (None, "") else repr(cell)
