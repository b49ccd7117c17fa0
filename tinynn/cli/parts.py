"""Tables that are read a part at a time: lines of CSV and of JSON, row groups, record batches."""

import io
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from shutil import copyfileobj
from typing import Any, BinaryIO, Protocol

import click
import polars

from tinynn.cli import reading
from tinynn.data.blocks import Files
from tinynn.data.sources.checks import library
from tinynn.tabular.parts import Parts
from tinynn.tabular.table import Table, TableError, check_names

MEMORY = 1024  # MB that a table may take where nobody says how many
_TAKES = 4  # times its file that a table takes in memory, about
_PART = 8 * 2**20  # bytes of text that are read at once
_DECODED = 32 * 2**20  # bytes of a Parquet row group that are read at once where it is gone through
_ROWS = 2**16  # rows of an Arrow record batch that are a part, if it has more


def opened(source: str, megabytes: int) -> Table | Parts:
    """The table in a file: as a whole if it fits into so many MB, else in parts.

    Standard input that does not fit is written to a temporary file (in TMPDIR), which goes
    with the command.

    Raises
    ------
    TableError
        As `reading.read`.
    """
    if source in reading.TRUTH_TABLES:
        return reading.read(source)
    if source == reading.STDIN:
        data, rest = _standard_input(megabytes)
        return reading.of_bytes(reading.STANDARD_INPUT, data) if rest is None else _spooled(rest)
    reading.check_file(source)
    path = Path(source)
    if path.stat().st_size * _TAKES <= megabytes * 2**20 or path.suffix.lower() not in KINDS:
        return reading.read(source)
    return KINDS[path.suffix.lower()](source)


def each(source: str, megabytes: int) -> Iterator[Table]:
    """The parts of the table in a file, or the whole of it, as `opened` finds it.

    CSV from standard input is gone through once, and is written nowhere.
    """
    if source == reading.STDIN:
        data, rest = _standard_input(megabytes)
        if rest is None:
            yield reading.of_bytes(reading.STANDARD_INPUT, data)
            return
        if reading.ending_of(data) == ".csv":
            yield from csv_tables(reading.STANDARD_INPUT, rest)
            return
        found: Table | Parts = _spooled(rest)
    else:
        found = opened(source, megabytes)
    if isinstance(found, Table):
        yield found
    elif isinstance(found, ParquetParts | CsvParts):
        yield from found.pieces()
    else:
        yield from map(found.read, range(len(found)))


# --- standard input


class _Rejoined(io.RawIOBase):
    """A stream of which the first bytes have been read already."""

    def __init__(self, head: bytes, rest: Any) -> None:
        self._head, self._rest = io.BytesIO(head), rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not (size := self._head.readinto(buffer)):
            self._head.close()
            self._head = io.BytesIO()  # so that its bytes are free
            size = self._rest.readinto(buffer)
        return int(size)


def _standard_input(megabytes: int) -> tuple[bytes, BinaryIO | None]:
    """(how standard input begins, all of it); it alone, and None, if it fits into memory."""
    most = max(megabytes * 2**20 // _TAKES, 16)
    stream = sys.stdin.buffer
    data = stream.read(most + 1)
    reading.check_beginning(reading.STANDARD_INPUT, data)
    if len(data) <= most:
        return data, None
    return data[:16], io.BufferedReader(_Rejoined(data, stream))


def _spooled(rest: BinaryIO) -> Table | Parts:
    """The parts of standard input, in a temporary file that is there until the command ends."""
    kept = click.get_current_context().with_resource(tempfile.NamedTemporaryFile())  # noqa: SIM115
    copyfileobj(rest, kept, 2**20)
    kept.flush()
    kept.seek(0)
    kind = KINDS.get(reading.ending_of(kept.read(16)))
    if kind is None:  # npz, of which a part cannot be read
        kept.seek(0)
        return reading.of_bytes(reading.STANDARD_INPUT, kept.read())
    return kind(reading.STANDARD_INPUT, kept.name)


class ParquetParts:
    """The row groups of a Parquet file."""

    def __init__(self, source: str, path: str | None = None) -> None:
        self.source, self._path = source, Path(path or source)
        self._files = Files([self._path])
        parquet = library("pyarrow.parquet", "parquet")
        with reading.errors(source, "a Parquet file"):
            self._file = parquet.ParquetFile(self._path)
            metadata = self._file.metadata
        self.names = self._file.schema_arrow.names
        check_names(source, self.names)
        rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._groups = [group for group, count in enumerate(rows) if count]
        self._starts = list(accumulate(rows, initial=0))
        if not self._groups:
            raise reading.without_rows(source)

    def __len__(self) -> int:
        return len(self._groups)

    def read(self, part: int, columns: Sequence[str] | None = None) -> Table:
        """A row group, with all columns or with these."""
        self._files.check(self._path)
        group = self._groups[part]
        wanted = None if columns is None else [n for n in columns if n in self.names]
        with reading.errors(self.source, f"row group {group} of a Parquet file"):
            frame = polars.from_arrow(self._file.read_row_group(group, columns=wanted))
        return Table.of(frame, source=self.source).at("row", self._starts[group])

    def pieces(self) -> Iterator[Table]:
        """The rows in turn, of a large row group a piece at a time."""
        rows = 0
        for group in self._groups:
            found = self._file.metadata.row_group(group)
            most = max(1, _DECODED * found.num_rows // max(found.total_byte_size, 1))
            with reading.errors(self.source, f"row group {group} of a Parquet file"):
                for batch in self._file.iter_batches(min(most, 2**20), row_groups=[group]):
                    self._files.check(self._path)
                    yield Table.of(polars.from_arrow(batch), source=self.source).at("row", rows)
                    rows += batch.num_rows


class CsvParts:
    """The lines of a CSV file, in parts that end where a line does and no quote is open."""

    def __init__(self, source: str, path: str | None = None) -> None:
        self.source, self._path = source, Path(path or source)
        self._files = Files([self._path])
        with open(self._path, "rb") as file:
            self._head, _, self._lines = _head_of(source, file)
        self.names = reading.header(source, self._head)[0]

    @cached_property
    def _parts(self) -> list[tuple[int, int, int]]:
        """(first byte, bytes, lines before) of each part."""
        place, found = len(self._head), []
        with open(self._path, "rb") as file:
            file.seek(place)
            for data, before in _lines_of(file, self._lines):
                if data.strip(b"\r\n"):
                    found.append((place, len(data), before))
                place += len(data)
        if not found:
            raise reading.without_rows(self.source)
        return found

    def __len__(self) -> int:
        return len(self._parts)

    def read(self, part: int, columns: Sequence[str] | None = None) -> Table:
        """Some lines, with all columns: they are read anyhow."""
        self._files.check(self._path)
        start, size, before = self._parts[part]
        data = _bytes_at(self._path, start, size)
        return reading.csv_part(self.source, self._head, data, before)

    def pieces(self) -> Iterator[Table]:
        """All parts in turn, without a look at where they are before."""
        with open(self._path, "rb") as file:
            for table in csv_tables(self.source, file):
                self._files.check(self._path)
                yield table


def _bytes_at(path: Path, start: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(size)


def csv_tables(source: str, file: BinaryIO) -> Iterator[Table]:
    """The parts of a CSV file that is gone through once."""
    head, first, lines = _head_of(source, file)
    empty = True
    rest = io.BufferedReader(_Rejoined(first, file))
    for data, before in _lines_of(rest, lines):
        if data.strip(b"\r\n"):
            empty = False
            yield reading.csv_part(source, head, data, before)
    if empty:
        raise reading.without_rows(source)


def _head_of(source: str, file: BinaryIO) -> tuple[bytes, bytes, int]:
    """(the line or lines of names, what was read after them, how many they are)."""
    start = file.read(1 << 20)
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\n" not in start:
        raise TableError(
            f"{source}: expected text in UTF-8 with lines that end in line feeds, to be "
            "read in parts, got another one. To fix it: save the table so, or read it as a "
            "whole, with --memory"
        )
    _, _, lines = reading.header(source, start.removeprefix(b"\xef\xbb\xbf"))
    size = 0
    for _ in range(lines):
        size = start.find(b"\n", size) + 1 or len(start)
    return start[:size], start[size:], lines


def _lines_of(file: BinaryIO, lines: int) -> Iterator[tuple[bytes, int]]:
    """(some lines, how many were before) of parts of a file, from where it is."""
    while data := file.read(_PART):
        read = [data, file.readline()]
        odd, end = sum(piece.count(b'"') for piece in read) % 2, (data + read[1])[-3:]
        while odd or end.endswith((b"\n\n", b"\n\r\n")):
            if not (line := file.readline()):  # a quote that is open is told when it is read
                break
            read.append(line)
            odd, end = (odd + line.count(b'"')) % 2, (end + line)[-3:]
        data = b"".join(read)
        yield data, lines
        lines += data.count(b"\n")


class ArrowParts:
    """The record batches of an Arrow IPC (Feather) file, large ones in several parts."""

    def __init__(self, source: str, path: str | None = None) -> None:
        self.source, self._path, self._at = source, Path(path or source), (-1, polars.DataFrame())
        self._files = Files([self._path])
        arrow, self._ipc = library("pyarrow", "parquet"), library("pyarrow.ipc", "parquet")
        # No memory map: a file that is cut short while it is mapped ends the process.
        self._open: Any = partial(arrow.OSFile, str(self._path))
        with reading.errors(source, "an Arrow IPC (Feather) file"), self._open() as opened:
            file = self._ipc.open_file(opened)
            self.names = file.schema.names
            one = self._ipc.IpcReadOptions(included_fields=[0])  # the others are not decompressed
            rows = self._ipc.open_file(opened, options=one)
            sizes = [rows.get_batch(i).num_rows for i in range(rows.num_record_batches)]
        check_names(source, self.names)
        self._parts, before = [], 0
        for batch, size in enumerate(sizes):
            self._parts += [(batch, start, before + start) for start in range(0, size, _ROWS)]
            before += size
        if not self._parts:
            raise reading.without_rows(source)

    def __len__(self) -> int:
        return len(self._parts)

    def read(self, part: int, columns: Sequence[str] | None = None) -> Table:
        """Rows of a record batch, with all columns or with these."""
        self._files.check(self._path)
        batch, start, before = self._parts[part]
        if self._at[0] != batch:  # parts of one follow each other, as a rule
            expected = f"record batch {batch} of an Arrow IPC (Feather) file"
            with reading.errors(self.source, expected), self._open() as file:
                read = polars.from_arrow(self._ipc.open_file(file).get_batch(batch))
            self._at = batch, polars.DataFrame(read)
        frame = self._at[1].slice(start, _ROWS)
        if columns is not None:
            frame = frame.select([name for name in columns if name in self.names])
        return Table.of(frame, source=self.source).at("row", before)


class JsonParts:
    """The lines of a file of JSON lines, in parts; a first pass finds columns and types of all."""

    def __init__(self, source: str, path: str | None = None) -> None:
        self.source, self._path, self._parts = (
            source,
            Path(path or source),
            list[tuple[int, int, int]](),
        )
        self._files = Files([self._path])
        known, rows = polars.DataFrame(), 0
        with open(self._path, "rb") as file:
            while data := file.read(_PART) + file.readline():
                start = file.tell() - len(data)
                if not data.strip():
                    continue
                found = reading.json_lines(source, data)
                self._parts.append((start, len(data), rows))
                rows += len(found)
                with reading.errors(source, "columns of one type in all lines"):
                    both = [known, found.clear()]
                    known = polars.concat(both, how="diagonal_relaxed")
        self._schema = known.schema
        self.names = known.columns
        if not rows:
            raise reading.without_rows(source)

    def __len__(self) -> int:
        return len(self._parts)

    def read(self, part: int, columns: Sequence[str] | None = None) -> Table:
        """Some lines, with all columns or with these, of the types that all lines have."""
        self._files.check(self._path)
        start, size, before = self._parts[part]
        data = _bytes_at(self._path, start, size)
        wanted = [n for n in self.names if columns is None or n in columns]
        schema = {name: self._schema[name] for name in wanted}
        frame = reading.json_lines(self.source, data, schema)
        return Table.of(frame, source=self.source).at("row", before)


class _Kind(Protocol):
    """The interface of a kind of parts."""

    def __call__(self, source: str, path: str | None = None) -> Any:
        """The parts of the file at `path`, which messages call `source`, its path by default."""


#: The formats that are read in parts, by the endings of files.
KINDS: dict[str, _Kind] = {
    ".csv": CsvParts,
    ".tsv": CsvParts,
    ".parquet": ParquetParts,
    ".feather": ArrowParts,
    ".arrow": ArrowParts,
    ".jsonl": JsonParts,
    ".ndjson": JsonParts,
}
