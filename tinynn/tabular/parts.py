"""Tables that no memory holds: a part at a time, and what is found out of them part by part.

A preparation is fitted to such a table in passes: one that finds the kind of each column, from the
different texts of it (the first 65,536, and beside these one for each rule that all the others keep
and it breaks); one for means, deviations, extremes and categories, which are merged part by part;
and as many as the medians take, two or three as a rule, of the columns of numbers alone. What comes
out is what `TablePreparation.fit` finds of the same rows in memory, but for rounding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import narwhals as nw

from tinynn.data import Blocks, DataError, host
from tinynn.tabular import cells
from tinynn.tabular.preparation import TablePreparation
from tinynn.tabular.table import Table, TableError
from tinynn.tabular.targets import Classes

DISTINCT = 2**16  # texts of a column that are kept to find its kind by


class Parts(Protocol):
    """The interface of a table in parts, each of which is read as a `Table`.

    Attributes
    ----------
    source
        What messages call it, a path for one.
    names
        The names of the columns.
    """

    source: str
    names: Sequence[str]

    def __len__(self) -> int:
        """The number of parts."""

    def read(self, part: int, columns: Sequence[str] | None = None) -> Table:
        """A part, with all its columns or with these at least."""


def is_parts(data: Any) -> bool:
    """True for a table in parts."""
    return callable(getattr(data, "read", None)) and hasattr(data, "source")


@dataclass(frozen=True)
class Sample(Table):
    """Some cells of a column, each of which knows its place in the whole table."""

    places: tuple[str, ...] = ()

    def where(self, row: int) -> str:
        return self.places[row]


@dataclass
class Distinct:
    """The different cells of a column, as far as they are kept, and what the others show.

    Attributes
    ----------
    series
        Narwhals series of cells, one a part.
    places
        Where each cell was met first.
    missing
        True if a cell was missing.
    full
        True if there were more than are kept.
    """

    series: list[Any] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    missing: bool = False
    full: bool = False
    _seen: set[Any] = field(default_factory=set)
    _broken: set[str] = field(default_factory=set)

    def add(self, table: Table, name: str) -> None:
        """Look at the cells of a part."""
        column = table.column(name)
        frame = column.to_frame().with_row_index("#").unique(subset=[name], keep="first")
        frame = frame.sort("#")
        self.missing = self.missing or bool(column.is_null().any())
        chosen = []
        for row, (index, cell) in enumerate(frame.select("#", name).iter_rows()):
            if cell is None or cell != cell or cell in self._seen:
                continue
            if len(self._seen) >= DISTINCT:
                self.full = True
                break
            self._seen.add(cell)
            chosen.append((row, index))
        if self.full and column.dtype == nw.String:
            chosen += self._exceptions(frame, name)
        if chosen:
            self.series.append(frame.get_column(name)[[row for row, _ in chosen]])
            self.places += [table.where(int(index)) for _, index in chosen]

    def _exceptions(self, frame: Any, name: str) -> Iterator[tuple[int, int]]:
        """For each rule that all texts kept so far, the first that breaks it."""
        text = frame.get_column(name).str.strip_chars()
        rules = {
            "code": ~text.str.contains(cells.CODE),
            "percent": text.str.ends_with("%"),
            "comma": ~text.str.contains(","),
            **{f"number {mark}": text.str.contains(p) for mark, p in cells.NUMBERS.items()},
        }
        missing = text.is_in(list(cells.MISSING))
        for rule, kept in rules.items():
            if rule not in self._broken and (broken := (~kept & ~missing).fill_null(False)).any():
                self._broken.add(rule)
                row = int(broken.arg_true()[0])
                yield row, frame.get_column("#")[row]

    def sample(self, source: str, name: str, times: int = 1) -> Sample:
        """The cells as a table of this column, each so many times, and one that is missing."""
        parts = [part.to_frame() for part in self.series] * times
        places = self.places * times
        frame = nw.concat(parts) if parts else None
        if frame is None:
            raise TableError(f"{source}: column {name!r}: expected cells, got none. To fix it: "
                             "leave the column out with drop (--drop).")  # fmt: skip
        if self.missing:
            gap = frame.head(1).select(nw.when(nw.lit(False)).then(nw.col(name)).alias(name))
            frame, places = nw.concat([frame, gap]), [*places, "a row"]
        return Sample(frame, source, places=tuple(places))


class TableBlocks(Blocks):
    """The rows of a table in parts that have a target, as a network takes them.

    Parameters
    ----------
    parts
        The table.
    preparation
        What makes inputs and targets of it.
    rows
        The rows of each part that have a target: host arrays of integers.
    weights
        That of each class, a host array, or None.
    """

    def __init__(
        self, parts: Parts, preparation: TablePreparation, rows: Sequence[Any], weights: Any = None
    ) -> None:
        self.parts, self.preparation, self.rows, self.weights = parts, preparation, rows, weights
        self.sizes = [int(each.size) for each in rows]

    def read_block(self, block: int) -> tuple[Any, ...]:
        preparation, rows, xp = self.preparation, self.rows[block], host().xp
        target = preparation.target
        read = [column.name for column in preparation.columns]
        try:
            table = self.parts.read(block, [*read, target.name])
            X = preparation.transform(table, rows=rows, note=lambda message: None)
            y = target.encode(table)[rows]
        except TableError as error:
            raise DataError(str(error)) from error
        if not isinstance(target, Classes):
            return X, xp.astype(y, xp.float32)
        return (X, y) if self.weights is None else (X, y, self.weights[y])

    def place(self, block: int) -> str:
        return f"{self.parts.source}, part {block}"

    def identity(self) -> Any:
        return [self.parts.source, self.preparation.to_config(), list(self.sizes)]


def check_parts(parts: Parts) -> Iterator[Table]:
    """All parts in turn, each with the columns and types of the first.

    Raises
    ------
    TableError
        A part that is unlike the first.
    """
    first: dict[str, Any] = {}
    for number in range(len(parts)):
        table = parts.read(number)
        kinds = {name: str(table.column(name).dtype) for name in table.names}
        first = first or kinds
        if kinds != first:
            name = next(n for n in {**first, **kinds} if first.get(n) != kinds.get(n))
            raise TableError(
                f"{table.source}: column {name!r}: expected {first.get(name, 'none')}, as in the "
                f"first part of {parts.source}, got {kinds.get(name, 'none')} from "
                f"{table.where(0)} on. To fix it: write all parts with one schema."
            )
        yield table
