"""CSV files of numbers, by parts of whole lines."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinynn.data.blocks import Blocks, DataError, Files
from tinynn.data.hostdata import host
from tinynn.data.sources.checks import BLOCK, Location, Names


class CSV(Blocks):
    """A CSV file of numbers below a line of names, in parts of whole lines.

    It is gone through once to find where its lines are. For text, dates and missing cells there is
    `tinynn.tabular`.

    Parameters
    ----------
    path
        Of the file, in UTF-8.
    x
        The columns that X is made of; None for all that are neither `y` nor `sample_weight`.
    y
        The column of the targets, or several.
    sample_weight
        The column of weights, or None.
    delimiter
        Between cells.
    dtype
        Of X and the weights, and of y where it is not all whole numbers in the first part.
    window
        Rows that are shuffled together; None for as many as 32 MiB hold.

    Raises
    ------
    DataError
        No such file or column; and, when it is read, a cell that is no number.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp(), "table.csv")
    >>> _ = path.write_text("a,b,y\\n1,2,0\\n3,4,1\\n")
    >>> CSV(path, y="y").read_block(0)[1]
    array([0, 1])
    """

    def __init__(
        self,
        path: Location,
        *,
        x: Sequence[str] | None = None,
        y: Names,
        sample_weight: str | None = None,
        delimiter: str = ",",
        dtype: str = "float32",
        window: int | None = None,
    ) -> None:
        self.window, self.path, self._delimiter = window, Path(path), delimiter
        self.files = Files([self.path])
        with open(self.path, "rb") as file:
            line = file.readline()
            start = file.tell()
            self._parts = list(_parts_of_lines(file, start))
        names = [n.strip().strip('"') for n in line.decode("utf-8-sig").strip().split(delimiter)]
        targets = [y] if isinstance(y, str) else [*y]
        taken = {*targets, sample_weight}
        features = [n for n in names if n not in taken] if x is None else [*x]
        wanted = [*features, *targets, *([sample_weight] if sample_weight else [])]
        for name in wanted:
            if name not in names:
                raise DataError(
                    f"{path}: line 1: expected a column {name!r}, got {', '.join(names[:12])}. To "
                    "fix it: name one of these"
                )
        self._names, self._one = names, isinstance(y, str)
        self._features, self._targets = ([names.index(n) for n in g] for g in (features, targets))
        self._weight = names.index(sample_weight) if sample_weight else None
        self._dtype = host().dtypes()[dtype]
        self.sizes = [rows for *_, rows, _ in self._parts]
        self._whole = False
        if self.sizes:
            labels = self._table(0)[:, self._targets]
            self._whole = bool((labels == host().xp.round(labels)).all())

    def _table(self, block: int) -> Any:
        """All cells of a part: float64 (rows, columns)."""
        start, stop, _, line = self._parts[block]
        self.files.check(self.path)
        with open(self.path, "rb") as file:
            file.seek(start)
            data = file.read(stop - start)
        try:
            table = host().xp.loadtxt(
                io.BytesIO(data), delimiter=self._delimiter, ndmin=2, comments=None, quotechar='"'
            )
        except ValueError as error:
            raise self._odd(data, line, error) from error
        if table.shape[1] != len(self._names):
            raise self._odd(data, line, ValueError("another number of cells"))
        return table

    def _odd(self, data: bytes, line: int, error: ValueError) -> DataError:
        """The error of the first line that has other cells than numbers, one for each name."""
        problem: Any = error
        for number, text in enumerate(data.decode("utf-8", "replace").splitlines(), line):
            cells = [cell.strip().strip('"') for cell in text.split(self._delimiter)]
            bad = [n for n, cell in zip(self._names, cells, strict=False) if not _is_number(cell)]
            if bad or len(cells) != len(self._names):
                got = f"{len(cells)} cells" if not bad else repr(cells[self._names.index(bad[0])])
                where = f", column {bad[0]!r}" if bad else ""
                line, problem = number, f"{got}{where}"
                break
        return DataError(
            f"{self.path}: line {line}: expected {len(self._names)} numbers, got {problem}. To fix "
            "it: correct that line; text and gaps are for tinynn.tabular.fit_table"
        )

    def read_block(self, block: int) -> tuple[Any, ...]:
        table, xp = self._table(block), host().xp
        y = table[:, self._targets[0]] if self._one else table[:, self._targets]
        if self._whole and (y != xp.round(y)).any():
            raise DataError(
                f"{self.place(block)}: y: expected whole numbers, as in the first part, got "
                "others. To fix it: write all of them with a point"
            )
        y = xp.astype(y, xp.int64 if self._whole else self._dtype)
        found = (xp.astype(table[:, self._features], self._dtype), y)
        if self._weight is None:
            return found
        return (*found, xp.astype(table[:, self._weight], self._dtype))

    def place(self, block: int) -> str:
        return f"{self.path}, from line {self._parts[block][3]}"

    def identity(self) -> Any:
        return self.files.identity()


def _parts_of_lines(file: Any, start: int) -> Any:
    """(first byte, byte after the last, lines, number of the first) of parts of a text."""
    line = 2
    while data := file.read(BLOCK):
        data += file.readline()
        lines = data.count(b"\n") + (not data.endswith(b"\n"))
        yield start, start + len(data), lines, line
        start, line = start + len(data), line + lines


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
