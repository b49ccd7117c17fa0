"""Tables in files that are read a part at a time: CSV by whole lines, Parquet by row groups."""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import polars

from tinynn.cli import reading
from tinynn.data.blocks import Files
from tinynn.data.sources.checks import library
from tinynn.tabular.parts import Parts
from tinynn.tabular.table import Table, TableError

MEMORY = 1024  # MB that a table may take where nobody says how many
_TAKES = 4  # times its file that a table takes in memory, about
_PART = 8 * 2**20  # bytes of text that are read at once


def opened(source: str, megabytes: int) -> Table | Parts:
    """The table in a file: as a whole if it fits into so many MB, else in parts.

    Raises
    ------
    TableError
        As `reading.read`.
    """
    path = Path(source)
    if source in reading.TRUTH_TABLES or not path.is_file():
        return reading.read(source)
    if path.stat().st_size * _TAKES <= megabytes * 2**20:
        return reading.read(source)
    kinds: dict[str, Any] = {".csv": CsvParts, ".tsv": CsvParts, ".parquet": ParquetParts}
    kind = kinds.get(path.suffix.lower(), reading.read)  # others have no parts
    found: Table | Parts = kind(source)
    return found


def each(source: str, megabytes: int) -> Iterator[Table]:
    """The parts of the table in a file, or the whole of it, as `opened` finds it."""
    found = opened(source, megabytes)
    if isinstance(found, Table):
        yield found
        return
    for part in range(len(found)):
        yield found.read(part)


class ParquetParts:
    """The row groups of a Parquet file."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._files = Files([Path(source)])
        parquet = library("pyarrow.parquet", "parquet")
        with reading.errors(source, "a Parquet file"):
            self._file = parquet.ParquetFile(source)
            metadata = self._file.metadata
        self.names = self._file.schema_arrow.names
        rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._groups = [group for group, count in enumerate(rows) if count]
        self._starts = list(accumulate(rows, initial=0))
        if not self._groups:
            raise reading.without_rows(source)

    def __len__(self) -> int:
        return len(self._groups)

    def read(self, part: int, columns: Sequence[str] | None = None) -> Table:
        """A row group, with all columns or with these."""
        self._files.check(Path(self.source))
        group = self._groups[part]
        wanted = None if columns is None else [n for n in columns if n in self.names]
        with reading.errors(self.source, f"row group {group} of a Parquet file"):
            frame = polars.from_arrow(self._file.read_row_group(group, columns=wanted))
        return Table.of(frame, source=self.source).at("row", self._starts[group])


class CsvParts:
    """The lines of a CSV file, in parts that end where a line does and no quote is open."""

    def __init__(self, source: str) -> None:
        self.source, self._path = source, Path(source)
        self._files = Files([self._path])
        with open(source, "rb") as file:
            start = file.read(1 << 20)
            if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\n" not in start:
                raise TableError(
                    f"{source}: expected text in UTF-8 with lines that end in line feeds, to be "
                    "read in parts, got another one. To fix it: save the table so, or read it as a "
                    "whole, with --memory"
                )
            self.names, _, lines = reading.header(source, start.removeprefix(b"\xef\xbb\xbf"))
            file.seek(0)
            self._header = b"".join(file.readline() for _ in range(lines))
            self._parts = list(_lines_of(file, lines))
        if not self._parts:
            raise reading.without_rows(source)

    def __len__(self) -> int:
        return len(self._parts)

    def read(self, part: int, columns: Sequence[str] | None = None) -> Table:
        """Some lines, with all columns: they are read anyhow."""
        self._files.check(self._path)
        start, stop, before = self._parts[part]
        with open(self.source, "rb") as file:
            file.seek(start)
            data = file.read(stop - start)
        return reading.csv_part(self.source, self._header, data, before)


def _lines_of(file: Any, lines: int) -> Any:
    """(first byte, byte after the last, lines before) of parts of a file, from where it is."""
    start = file.tell()
    while data := file.read(_PART):
        read = [data, file.readline()]
        odd, end = sum(piece.count(b'"') for piece in read) % 2, (data + read[1])[-3:]
        while odd or end.endswith((b"\n\n", b"\n\r\n")):
            if not (line := file.readline()):  # a quote that is open is told when it is read
                break
            read.append(line)
            odd, end = (odd + line.count(b'"')) % 2, (end + line)[-3:]
        data = b"".join(read)
        if data.strip(b"\r\n"):
            yield start, start + len(data), lines
        lines, start = lines + data.count(b"\n"), start + len(data)
