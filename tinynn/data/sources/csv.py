"""CSV files of numbers, by parts of whole lines."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinynn.data.blocks import Blocks, DataError, Files
from tinynn.data.hostdata import host
from tinynn.data.sources.checks import BLOCK, Location, Names

_WHOLE = 2**53  # beyond it float64 leaves out whole numbers


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
        Of X and the weights.
    y_dtype
        Of y; None for int64 where the first part has whole numbers alone, and else for `dtype`.
    window
        Rows that are shuffled together; None for as many as 32 MiB hold.

    Raises
    ------
    DataError
        No such file or column, or two columns of one name; and, when it is read, a cell that is no
        number, or none that its dtype holds.
    ValueError
        No such dtype.

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
        y_dtype: str | None = None,
        window: int | None = None,
    ) -> None:
        self.window, self.path, self._delimiter = window, Path(path), delimiter
        self.files = Files([self.path])
        with open(self.path, "rb") as file:
            line = file.readline()
            start = file.tell()
            self._parts = list(_parts_of_lines(file, start))
        names = _names(self.path, line, delimiter)
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
        self._dtype = _dtype("dtype", dtype)
        self._y_dtype = self._dtype if y_dtype is None else _dtype("y_dtype", y_dtype)
        self.sizes = [rows for *_, rows, _ in self._parts]
        if y_dtype is None and self.sizes:
            labels, xp = self._table(0)[:, self._targets], host().xp
            if ((labels == xp.round(labels)) & (xp.abs(labels) < _WHOLE)).all():
                self._y_dtype = xp.int64

    def _table(self, block: int) -> Any:
        """All cells of a part: float64 (rows, columns)."""
        start, stop, rows, line = self._parts[block]
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
        if table.shape[0] != rows:
            raise self._odd(data, line, ValueError(f"{table.shape[0]} of {rows} lines"))
        return table

    def _odd(self, data: bytes, line: int, error: ValueError) -> DataError:
        """The error of the first line that has other cells than numbers, one for each name."""
        problem: Any = error
        for number, text in enumerate(data.decode("utf-8", "replace").splitlines(), line):
            if text.count('"') % 2:  # it would run on into other lines
                line, problem = number, "a quote that is open"
                break
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
        table = self._table(block)
        y = table[:, self._targets[0]] if self._one else table[:, self._targets]
        x = self._held(block, "dtype", table[:, self._features], self._dtype)
        y = self._held(block, "y_dtype", y, self._y_dtype)
        if self._weight is None:
            return x, y
        return x, y, self._held(block, "dtype", table[:, self._weight], self._dtype)

    def _held(self, block: int, name: str, values: Any, dtype: Any) -> Any:
        """Cells in a dtype, which must hold them: none is cut, and NaN is told later."""
        xp, (kind, least, most) = host().xp, _range(dtype)
        bad = (values < least) | (values > most)
        if (bad | (values != xp.round(values)) if kind == "whole numbers" else bad).any():
            wider = "float32" if kind == "whole numbers" else "float64"
            raise DataError(
                f"{self.place(block)}: expected {kind} from {least} to {most}, got others. To fix "
                f'it: correct them, or say {name}="{wider}"'
            )
        return xp.astype(values, dtype)

    def place(self, block: int) -> str:
        return f"{self.path}, from line {self._parts[block][3]}"

    def identity(self) -> Any:
        return self.files.identity()


def _parts_of_lines(file: Any, start: int) -> Any:
    """(first byte, byte after the last, lines, number of the first) of parts of a text."""
    line = 2
    while data := file.read(BLOCK):
        data += file.readline()
        if text := data.rstrip(b"\r\n"):  # empty lines at the end are no rows
            yield start, start + len(data), text.count(b"\n") + 1, line
        start, line = start + len(data), line + data.count(b"\n")


def _names(path: Path, line: bytes, delimiter: str) -> list[str]:
    """The names of the columns, each of which is met once."""
    try:
        text = line.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: line 1: expected text in UTF-8, got byte 0x{line[error.start]:02x}. To fix "
            "it: unpack the file, or save it as CSV in UTF-8"
        ) from error
    names = [name.strip().strip('"') for name in text.split(delimiter)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(
            f"{path}: line 1: expected names of columns that differ, got {twice[0]!r} twice or "
            "more. To fix it: give each column a name of its own"
        )
    return names


def _dtype(name: str, given: str) -> Any:
    known = host().dtypes()
    if given not in known or known[given].kind not in "biuf":
        raise ValueError(
            f"CSV: {name}: expected the name of a dtype of numbers, got {given!r}. To fix it: say "
            f'{name}="float32"'
        )
    return known[given]


def _range(dtype: Any) -> tuple[str, float, float]:
    """The kind of numbers that a dtype holds, from the least to the most of them."""
    xp = host().xp
    if xp.isdtype(dtype, "real floating"):
        return "numbers", float(xp.finfo(dtype).min), float(xp.finfo(dtype).max)
    info = (0, 1) if dtype == xp.bool else (xp.iinfo(dtype).min, xp.iinfo(dtype).max)
    return "whole numbers", max(info[0], -_WHOLE), min(info[1], _WHOLE)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
