"""Tables from files and standard input (CSV, Parquet, Arrow, JSON lines, npz), and truth tables.

polars reads them, and every column of a CSV stays text: `tinynn.tabular` says what text means.
What polars lets pass or tells in its own words is looked at here: rows of another length, names met
twice, bytes that are no text.
"""

import csv
import io
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars

from tinynn.data import host
from tinynn.tabular.table import Table, TableError, check_names

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
MOST_COLUMNS = 100_000
# How files begin that people have and that are not read: what they are, and how to go on.
UNREAD = {
    b"\x1f\x8b": ("one that gzip has packed", "unpack it first: zcat FILE | tinynn ... -"),
    b"FEA1": ("Feather of version 1", "save it with version 2, which is an Arrow IPC file"),
    b"\xff\xff\xff\xff": ("an Arrow IPC stream", "save it as an Arrow IPC file"),
}
_MARK = b"\xef\xbb\xbf"  # the byte order mark of UTF-8
STDIN = "-"
STANDARD_INPUT = "standard input"  # as messages call it


def read(source: str) -> Table:
    """The table that `source` names: a truth table, a file by its ending, or "-", standard input.

    Raises
    ------
    TableError : no such file, a file that is damaged, empty or ragged, or one of another kind

    """
    if source in TRUTH_TABLES:
        return Table.of(
            polars.DataFrame({"a": [0, 0, 1, 1], "b": [0, 1, 0, 1], "out": TRUTH_TABLES[source]}),
            source=source,
        )
    if source == STDIN:
        data = sys.stdin.buffer.read()
        check_beginning(STANDARD_INPUT, data)
        return of_bytes(STANDARD_INPUT, data)
    check_file(source)
    return of_bytes(source, Path(source).read_bytes(), Path(source).suffix.lower())


def of_bytes(name: str, data: bytes, ending: str | None = None) -> Table:
    """The table that the bytes of a file are; without an ending their beginning tells its kind.

    Raises
    ------
    TableError : as `read`

    """
    table = READERS[ending or ending_of(data)](name, data)
    if not len(table):
        raise without_rows(name)
    return table


def without_rows(name: str) -> TableError:
    """The error of a table that has names of columns alone."""
    return TableError(
        f"{name}: expected rows of data, got none below the names of columns. "
        "To fix it: give a table that has rows."
    )


def check_file(source: str) -> None:
    """Refuse what is no file, or one of a kind that is not read: TableError."""
    path = Path(source)
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "no file of that name"
        raise TableError(
            f"{source}: expected a file or a truth table ({', '.join(TRUTH_TABLES)}), got {kind}. "
            "To fix it: give the path of a table."
        )
    with open(path, "rb") as file:
        check_beginning(source, file.read(16))
    if path.suffix.lower() not in READERS:
        raise TableError(
            f"{source}: expected a file that ends in {', '.join(READERS)}, "
            f"got {path.suffix or 'no ending'!r}. To fix it: save the table as one of these."
        )


def check_beginning(name: str, data: bytes) -> None:
    """Refuse a kind of file that is not read, by its first bytes: TableError."""
    for mark, (kind, fix) in UNREAD.items():
        if data.startswith(mark):
            raise TableError(
                f"{name}: expected a table that can be read, got {kind}. To fix it: {fix}"
            )


def ending_of(data: bytes) -> str:
    """The ending of a file whose bytes begin so, for standard input, which has none."""
    marks = {b"PAR1": ".parquet", b"ARROW1": ".arrow", b"PK\x03\x04": ".npz"}
    other = ".jsonl" if data.removeprefix(_MARK).lstrip().startswith(b"{") else ".csv"
    return next((ending for mark, ending in marks.items() if data.startswith(mark)), other)


# --- CSV


def _csv(name: str, data: bytes) -> Table:
    return csv_part(name, b"", data, 0)


def csv_part(name: str, head: bytes, data: bytes, before: int) -> Table:
    """The table of some lines of a CSV file.

    Parameters
    ----------
    name
        What messages call it.
    head
        The line of names, or lines; empty if they begin `data`.
    data
        The lines.
    before
        How many lines of the file are before these.

    Raises
    ------
    TableError : as `read`

    """
    data = _utf8(name, head + data, before)
    names, delimiter, header_lines = header(name, data)
    skipped = before - header_lines if head else 0
    try:
        with errors(name, "a table in CSV"):
            frame = polars.read_csv(data, separator=delimiter, infer_schema=False)
    except TableError:
        _check_rows(name, data, delimiter, len(names), skipped)  # which says in which line
        _check_quotes(name, data, delimiter, skipped)
        raise
    if frame.width != len(names):
        _check_rows(name, data, delimiter, len(names), skipped)
        raise TableError(
            f"{name}: line 1: expected {len(names)} names of columns, got {frame.width}. "
            "To fix it: look for quotes that are open or out of place."
        )
    frame.columns = names
    blank = _blank_lines_at_the_end(data)
    frame = frame.head(len(frame) - blank)
    last = frame.to_series(frame.width - 1)
    if last.null_count() and frame.width > 1:  # of a row that is short, the last cell is missing
        cells = (len(frame) + 1) * (frame.width - 1)
        if b'"' in data or data.count(delimiter.encode()) != cells:
            _check_rows(name, data, delimiter, len(names), skipped)
    lines = data.count(b"\n") + (not data.endswith(b"\n")) - blank
    if lines == len(frame) + header_lines:  # no cell runs over several lines
        return Table.of(frame, source=name).at("line", header_lines + 1 + skipped)
    table = Table.of(frame, source=name)
    return table.at(f"after line {before}, row", 0) if before else table


def _utf8(name: str, data: bytes, before: int = 0) -> bytes:
    """The bytes of a text as UTF-8 without a byte order mark, its lines ended by line feeds."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            data = data.decode("utf-16").encode()
        except UnicodeError as error:
            raise TableError(
                f"{name}: expected text in UTF-16, as its first bytes say, got {error}. "
                "To fix it: save the table as CSV in UTF-8."
            ) from None
    data = data.removeprefix(_MARK)
    if (place := data.find(b"\0")) >= 0:
        line = data.count(b"\n", 0, place) + 1 + max(before - 1, 0)
        raise TableError(
            f"{name}: expected text in UTF-8, got a NUL byte in line {line}. To fix it: save the "
            "table as CSV in UTF-8 (a file of another format needs that format's ending)."
        )
    if b"\n" not in data:
        data = data.replace(b"\r", b"\n")
    return data


def header(name: str, data: bytes) -> tuple[list[str], str, int]:
    """The names of the columns, what parts them, and how many lines they take."""
    end = data.find(b"\n")
    end = len(data) if end < 0 else end
    marks = {mark: data.count(mark.encode(), 0, end) for mark in ",;\t|"}
    delimiter = max(marks, key=marks.__getitem__)  # the comma, unless another is more frequent
    if marks[delimiter] >= MOST_COLUMNS:
        raise TableError(
            f"{name}: line 1: expected at most {MOST_COLUMNS:,} columns, got "
            f"{marks[delimiter] + 1:,}. To fix it: give a table with a row for each sample."
        )
    start = data[: max(end + 1, 1 << 20)]
    lines = _lines(name, start if len(start) == len(data) else start[: start.rfind(b"\n") + 1])
    reader = csv.reader(lines, delimiter=delimiter)
    try:
        names = [cell.strip() for cell in next(reader, [])]
    except csv.Error as error:
        raise _quotes(name, 1, error) from error
    if not any(names):
        raise TableError(
            f"{name}: expected the names of the columns in line 1, got nothing. "
            "To fix it: put a line with the names above the rows."
        )
    check_names(f"{name}: line 1", names)
    return names, delimiter, reader.line_num


def _lines(name: str, data: bytes, skipped: int = 0) -> Iterator[str]:
    """The lines of a text in UTF-8; TableError where it is none."""
    for number, line in enumerate(io.BytesIO(data), 1 + skipped):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise TableError(
                f"{name}: expected text in UTF-8, got byte 0x{line[error.start]:02x} in line "
                f"{number}. To fix it: save the table as CSV in UTF-8."
            ) from None


def _check_rows(name: str, data: bytes, delimiter: str, width: int, skipped: int) -> None:
    """Refuse rows of another length, and quotes out of place, by their line: TableError."""
    reader = csv.reader(_lines(name, data, skipped), delimiter=delimiter, strict=True)
    line, blank = 1 + skipped, 0
    try:
        for cells in reader:
            if cells and (blank or len(cells) != width):
                got = "an empty line" if blank else str(len(cells))
                raise TableError(
                    f"{name}: line {blank or line}: expected {width} cells, as the first line has "
                    f"names, got {got}. To fix it: give every row as many cells."
                )
            blank = blank or (0 if cells else line)
            line = reader.line_num + 1 + skipped
    except csv.Error as error:
        raise _quotes(name, line, error) from error


def _check_quotes(name: str, data: bytes, delimiter: str, skipped: int) -> None:
    """Refuse a quote inside of a cell that has none around it: TableError.

    Python's reader takes it for a character, polars for the beginning of a quoted part.
    """
    mark = re.escape(delimiter)
    bare = re.compile(rf'(?:^|{mark})[^"{mark}\n]+"', re.MULTILINE)
    for number, line in enumerate(_lines(name, data, skipped), 1 + skipped):
        if bare.search(line):
            raise _quotes(name, number, "a quote inside of a cell that does not begin with one")


def _quotes(name: str, line: int, error: csv.Error | str) -> TableError:
    return TableError(
        f"{name}: line {line}: expected cells of CSV, got one that cannot be read: {error}. "
        "To fix it: close the quote that is open, or take out one that is out of place."
    )


def _blank_lines_at_the_end(data: bytes) -> int:
    text = data[-(1 << 16) :].replace(b"\r", b"")
    return max(0, len(text) - len(text.rstrip(b"\n")) - 1)


# --- other formats


@contextmanager
def errors(name: str, expected: str) -> Iterator[None]:
    """Turn errors of polars into one of ours: also its panics, which are no Exceptions."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError, TableError):
        raise
    except BaseException as error:
        words = " ".join(str(error).split("\n\n")[0].split())
        raise TableError(
            f"{name}: expected {expected}, got what cannot be read: {words}. "
            "To fix it: save the table again."
        ) from error


def _parquet(name: str, data: bytes) -> Table:
    with errors(name, "a Parquet file"):
        return Table.of(polars.read_parquet(io.BytesIO(data)), source=name)


def _arrow(name: str, data: bytes) -> Table:
    with errors(name, "an Arrow IPC (Feather) file"):
        return Table.of(polars.read_ipc(io.BytesIO(data)), source=name)


def _json_lines(name: str, data: bytes) -> Table:
    if not data.strip():
        raise without_rows(name)
    return Table.of(json_lines(name, data), source=name)


def json_lines(name: str, data: bytes, schema: Any = None) -> polars.DataFrame:
    """The frame of JSON lines; a schema says which columns they have, and of what types."""
    data = data.removeprefix(_MARK)
    with errors(name, "JSON lines, an object a line"):
        return polars.read_ndjson(io.BytesIO(data), schema=schema, infer_schema_length=None)


def _npz(name: str, data: bytes) -> Table:
    columns: list[tuple[str, Any]] = []
    try:
        with host().xp.load(io.BytesIO(data), allow_pickle=False) as arrays:
            for key in arrays.files:
                columns += _split(name, key, arrays[key])
    except TableError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise TableError(
            f"{name}: expected an npz file of plain arrays, got what cannot be read: {error}. "
            "To fix it: save it again, without objects."
        ) from error
    check_names(name, [column for column, _ in columns])
    return Table.of(dict(columns), source=name)


def _split(name: str, key: str, array: Any) -> Iterator[tuple[str, Any]]:
    """A column for each entry of a row: `x` of shape (rows, 2, 2) gives x_0_0, x_0_1, ..."""
    if array.ndim == 0 or array.dtype.kind in "cV":
        got = f"the single value {key!r}" if array.ndim == 0 else f"{key!r} of {array.dtype}"
        raise TableError(
            f"{name}: expected arrays of rows of numbers or texts, got {got}. "
            "To fix it: save an array with an entry for each row."
        )
    if array.ndim == 1:
        yield key, array if array.dtype.kind in "biufM" else array.tolist()
        return
    for index in range(array.shape[1]):
        yield from _split(name, f"{key}_{index}", array[:, index])


READERS: dict[str, Callable[[str, bytes], Table]] = {
    ".csv": _csv,
    ".tsv": _csv,
    ".npz": _npz,
    ".parquet": _parquet,
    ".feather": _arrow,
    ".arrow": _arrow,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
}
