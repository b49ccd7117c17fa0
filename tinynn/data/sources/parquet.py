"""Parquet files, by row groups."""

from pathlib import Path
from typing import Any

from tinynn.data.blocks import Blocks, DataError, Files
from tinynn.data.hostdata import host
from tinynn.data.sources.checks import Location, Names, library, matching


class Parquet(Blocks):
    """The row groups of a Parquet file, or of all those in a folder.

    It needs pyarrow: pip install "tinynn-xp[parquet]".

    Parameters
    ----------
    path
        A file, or a folder of files that end in .parquet, taken in the order of their names.
    x
        The columns that X is made of, numbers; or one name, of a column of numbers or of lists of
        one length. None for all that are neither `y` nor `sample_weight`.
    y
        The column of the targets, or several.
    sample_weight
        The column of weights, or None.
    window
        Rows that are shuffled together; None for as many as 32 MiB hold.

    Raises
    ------
    DataError
        No such file or column, a column that holds no numbers, a file that is damaged or has
        another schema than the first.
    ImportError
        The package pyarrow is not installed.

    Examples
    --------
    >>> import tempfile, pyarrow, pyarrow.parquet
    >>> path = tempfile.mkdtemp() + "/table.parquet"
    >>> table = pyarrow.table({"a": [1.0, 2.0], "b": [0.0, 1.0], "y": [0, 1]})
    >>> pyarrow.parquet.write_table(table, path)
    >>> X, y = Parquet(path, y="y").read_block(0)
    >>> X.shape, y.shape
    ((2, 2), (2,))
    """

    def __init__(
        self,
        path: Location,
        *,
        x: Names | None = None,
        y: Names,
        sample_weight: str | None = None,
        window: int | None = None,
    ) -> None:
        self.window = window
        self._parquet = library("pyarrow.parquet", "parquet")
        at = Path(path)
        paths = matching(at, "*.parquet") if at.is_dir() else [at]
        self.files = Files(paths)
        self._metadata = {each: self._opened(each).metadata for each in paths}
        schemas = {p: found.schema.to_arrow_schema() for p, found in self._metadata.items()}
        schema = schemas[paths[0]]
        targets = _several(y)
        taken = {*targets, sample_weight}
        chosen = [name for name in schema.names if name not in taken] if x is None else x
        self._parts: list[Names] = [part for part in (chosen, y, sample_weight) if part is not None]
        self._columns = [name for part in self._parts for name in _several(part)]
        for each, other in schemas.items():
            for name in self._columns:
                _check_column(each, name, schema, other)
        types = library("pyarrow", "parquet").types
        for part in self._parts:
            if not part:
                raise DataError(f"{path}: x: expected columns, got none. To fix it: name some")
            for name in _several(part):
                _check_numbers(paths[0], name, schema.field(name).type, types, part == name)
        self._groups = [
            (each, group)
            for each, metadata in self._metadata.items()
            for group in range(metadata.num_row_groups)
        ]
        self.sizes = [self._metadata[p].row_group(group).num_rows for p, group in self._groups]

    def _opened(self, path: Path, metadata: Any = None) -> Any:
        try:
            return self._parquet.ParquetFile(path, metadata=metadata)
        except Exception as error:  # of pyarrow's own kinds
            raise DataError(
                f"{path}: expected a Parquet file, got what cannot be read: {error}. To fix it: "
                "write it again"
            ) from error

    def read_block(self, block: int) -> tuple[Any, ...]:
        path, group = self._groups[block]
        self.files.check(path)
        with self._opened(path, self._metadata[path]) as file:
            table = file.read_row_group(group, columns=self._columns)
        at = self.place(block)
        found = []
        for part in self._parts:
            arrays = [_cells(at, table, name) for name in _several(part)]
            found.append(arrays[0] if isinstance(part, str) else _beside(arrays))
        return tuple(found)

    def place(self, block: int) -> str:
        path, group = self._groups[block]
        return f"{path}, row group {group}"

    def identity(self) -> Any:
        return self.files.identity()


def _several(names: Names) -> list[str]:
    return [names] if isinstance(names, str) else [*names]


def _check_column(path: Path, name: str, first: Any, schema: Any) -> None:
    """Refuse a file without a column, or with one of another type than the first file's."""
    if name not in schema.names:
        raise DataError(
            f"{path}: expected a column {name!r}, got {', '.join(schema.names[:12])}. To fix it: "
            "name columns that all files have"
        )
    expected, got = (each.field(name).type for each in (first, schema))
    if expected != got:
        raise DataError(
            f"{path}: column {name!r}: expected {expected}, as in the first file, got {got}. To "
            "fix it: write all files with one schema"
        )


def _check_numbers(path: Path, name: str, kind: Any, types: Any, alone: bool) -> None:
    """Refuse a column of anything but numbers or, where it is X or y alone, lists of them."""
    lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    held = kind.value_type if (lists and alone) or types.is_dictionary(kind) else kind
    if not (types.is_integer(held) or types.is_floating(held) or types.is_boolean(held)):
        raise DataError(
            f"{path}: column {name!r}: expected numbers, got {kind}. To fix it: leave it out, with "
            "x=[...], or write numbers; a column of lists is X by its name alone; texts "
            "and dates are for tinynn.tabular.fit_table"
        )


def _cells(at: str, table: Any, name: str) -> Any:
    """A column of Arrow's as a host array: (rows,), or (rows, width) of lists of one length."""
    column = table.column(name).combine_chunks()
    if column.null_count:
        raise DataError(
            f"{at}: column {name!r}: expected numbers, got {column.null_count} of {len(column)} "
            "rows that are missing. To fix it: fill the gaps, or drop those rows"
        )
    if not hasattr(column, "value_lengths"):  # lists of any length or of one have them
        return column.to_numpy(zero_copy_only=False)
    values = column.flatten().to_numpy(zero_copy_only=False)
    width, lengths = len(values) // max(len(column), 1), column.value_lengths().to_numpy()
    if (lengths != width).any():
        raise DataError(
            f"{at}: column {name!r}: expected lists of one length, got lengths from "
            f"{lengths.min()} to {lengths.max()}. To fix it: write lists of one length"
        )
    return values.reshape(len(column), width)


def _beside(columns: list[Any]) -> Any:
    """Columns, (rows,) each, as one array (rows, columns) of a dtype that holds them all."""
    xp = host().xp
    dtype = xp.result_type(*{column.dtype for column in columns})
    table = xp.empty((len(columns[0]), len(columns)), dtype=dtype)
    for place, column in enumerate(columns):
        table[:, place] = column
    return table
