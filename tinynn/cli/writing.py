"""The output of the command line: answers as CSV, and the list of array libraries."""

import io
import sys
import textwrap
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, cast

import click
import polars

import backends
from tinynn.tabular.comparing import Score
from tinynn.tabular.preparation import TablePreparation
from tinynn.tabular.table import Table, TableError
from tinynn.tabular.targets import Classes
from tinynn.training import Model

_NARROW = 80  # columns of a terminal; the table needs as many


class Answers:
    """The model's answers to the parts of a table, one after another: bytes of CSV.

    Attributes
    ----------
    rows
        How many rows were answered for.
    score
        The score of the answers where the table has the target too.
    unscored
        Why there is none, if a target cannot be read.
    """

    def __init__(
        self,
        model: Model,
        tables: Iterable[Table],
        id: str | None,
        probabilities: bool,
        interval: float | None = None,
    ) -> None:
        self.model, self.tables, self.id, self.probabilities = model, tables, id, probabilities
        self.interval = interval
        self.preparation = cast(TablePreparation, model.preparation)
        self.score, self.unscored, self.rows = Score(self.preparation), "", 0
        self._heard: set[str] = set()

    def __iter__(self) -> Iterator[bytes]:
        for table in self.tables:
            text, labels = self._answered(table)
            yield text
            self.rows += len(table)
            if self.preparation.target.name in table.names and not self.unscored:
                try:
                    self.score.add(labels, self.preparation.targets(table))
                except TableError as error:  # not every table knows better
                    self.unscored = f"not scored: {error}"

    def _answered(self, table: Table) -> tuple[bytes, Any]:
        of_all = self.id, self.probabilities, self.interval
        return answers(self.model, table, *of_all, header=not self.rows, note=self._note)

    def _note(self, message: str) -> None:
        """Warn of each matter of a column once, not in each part."""
        column, _, matter = message.partition(": ")[2].partition(": ")
        kind = f"{column} {'hold' if ' cells hold ' in matter else 'lack'}"
        if kind not in self._heard:
            self._heard.add(kind)
            warnings.warn(message, stacklevel=2)


def answers(
    model: Model,
    table: Table,
    id: str | None,
    probabilities: bool,
    interval: float | None = None,
    *,
    header: bool = True,
    note: Any = None,
) -> tuple[bytes, Any]:
    """The model's answers to a table as CSV, and as an array: (rows,).

    A line has the cell of the column `id`, the answer, and its probability where it is a class;
    with `probabilities`, that of every class; with an `interval`, such as 0.9, the bounds of a
    number. The names of the columns come first with `header`,
    and `note` is called with what a reader may want to know.
    """
    preparation: Any = model.preparation
    target = preparation.target
    columns: dict[str, Any] = {}
    if id is not None:
        if id.partition("_")[0] in ("prediction", "probability"):
            raise TableError(
                f"--id: expected a name that the answers do not take, got {id!r}. "
                "To fix it: give the column another name."
            )
        columns[id] = polars.Series(table.column(id).to_native())
    if probabilities and not isinstance(target, Classes):
        raise TableError(
            f"--probabilities: expected a model of classes, got one of the number {target.name!r}. "
            "To fix it: leave the option out."
        )
    if interval is not None and isinstance(target, Classes):
        raise TableError(
            f"--interval: expected a model of numbers, got one of the classes of {target.name!r}. "
            "To fix it: take --probabilities, or predict_set in Python."
        )
    home = model.backend
    x = home.asarray(preparation.transform(table, note=note))
    given = model.outputs(x)
    outputs = home.to_host(given)
    labels = preparation.decode(outputs)
    columns["prediction"] = labels
    if isinstance(target, Classes):
        chances = preparation.probabilities(outputs)
        if target.labels != "integer":  # texts once, and each row the index of its own
            classes = polars.Series(target.classes)
            columns["prediction"] = classes.gather(preparation.codes(outputs))
        if probabilities:
            columns |= {f"probability_{c}": chances[:, i] for i, c in enumerate(target.classes)}
        else:
            columns["probability"] = chances.max(axis=1)
        precision = 6
    else:
        columns["prediction"] = labels.astype("float32")  # which has as many digits as there are
        if interval is not None:
            found = model.bounds(given, interval)
            columns |= {
                "lower": found.lower.astype("float32"), "upper": found.upper.astype("float32"),
            }  # fmt: skip
        precision = None
    text = io.BytesIO()
    frame = polars.DataFrame(columns)
    frame.write_csv(text, float_precision=precision, include_header=header)
    return text.getvalue(), labels


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def show_backends() -> None:
    """List the array libraries: as a table, or below one another where that is too wide."""
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    # Away from a terminal a command stays on one line.
    console = Console(width=None if _is_terminal() else 300)
    grid = Grid("library", "version", "devices", "default float", "usable")
    for status in backends.available():
        usable = "yes" if status.usable else f"no: {status.reason}\nto fix it: {status.fix}"
        devices = ", ".join(status.devices)
        cells = (status.name, status.version, devices, status.default_float, usable)
        if console.width < _NARROW:
            click.echo(" ".join(filter(None, [status.name, status.version])))
            for line in (*filter(None, [devices, status.default_float]), *usable.splitlines()):
                shown = textwrap.wrap(line, max(console.width - 2, 20), break_on_hyphens=False)
                click.echo(textwrap.indent("\n".join(shown), "  "))
        # As Text, because "[" would begin a style; and folded, so that no command loses its end.
        grid.add_row(*(Text(cell, overflow="fold") for cell in cells))
    if console.width >= _NARROW:
        console.print(grid)
