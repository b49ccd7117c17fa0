"""The output of the command line: answers, in every format, and the list of array libraries."""

import io
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import click
import polars

import backends
from tinynn.data.sources.checks import library
from tinynn.tabular.comparing import Score
from tinynn.tabular.preparation import TablePreparation, inform
from tinynn.tabular.table import Table, TableError
from tinynn.tabular.targets import Classes
from tinynn.training import Model

_NARROW = 80  # columns of a terminal; the table needs as many


class Answers:
    """The model's answers to the parts of a table, one after another: data frames.

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
        bounds = () if interval is None else ("lower", "upper", "set")
        taken = ("prediction", "probability", *bounds)
        if id is not None and id.partition("_")[0] in taken:
            raise TableError(
                f"--id: expected a name that the answers do not take, got {id!r}. "
                "To fix it: give the column another name."
            )
        target = self.preparation.target
        if probabilities and not isinstance(target, Classes):
            raise TableError(
                f"--probabilities: expected a model of classes, got one of the number "
                f"{target.name!r}. To fix it: leave the option out."
            )
        if interval is not None and model.calibration is None:
            raise TableError(
                "--interval: expected a model that was calibrated by rows held out, got one that "
                "was not. To fix it: train a single network with rows held out, --validation 0.2 "
                "and no --networks, or with --folds, or call model.calibrate in Python."
            )

    @property
    def digits(self) -> int | None:
        """The digits of probabilities in text; None for numbers, which have all of theirs."""
        return 6 if isinstance(self.preparation.target, Classes) else None

    def __iter__(self) -> Iterator[polars.DataFrame]:
        for table in self.tables:
            frame, labels = self._answered(table)
            yield frame
            self.rows += len(table)
            if self.preparation.target.name in table.names and not self.unscored:
                try:
                    self.score.add(labels, self.preparation.targets(table))
                except TableError as error:  # not every table knows better
                    self.unscored = f"not scored: {error}"

    def _answered(self, table: Table) -> tuple[polars.DataFrame, Any]:
        """The answers to a part, and these as an array: (rows,).

        A row has the cell of the column `id`, the answer, and its probability where it is a class;
        with `probabilities`, that of every class; with an `interval`, such as 0.9, the bounds of a
        number, or of every class whether it is in the row's set.
        """
        preparation, home, columns = self.preparation, self.model.backend, dict[str, Any]()
        if self.id is not None:
            cells = polars.Series(table.column(self.id).to_native())
            # Each part has categories of its own, and a file has those of all.
            plain = cells.dtype not in (polars.Categorical, polars.Enum)
            columns[self.id] = cells if plain else cells.cast(polars.String)
        x = home.asarray(preparation.transform(table, note=self._note))
        given = self.model.outputs(x)
        outputs = home.to_host(given)
        labels, target = preparation.decode(outputs), preparation.target
        columns["prediction"] = labels
        if isinstance(target, Classes):
            chances = preparation.probabilities(outputs)
            if target.labels != "integer":  # texts once, and each row the index of its own
                classes = polars.Series(target.classes)
                columns["prediction"] = classes.gather(preparation.codes(outputs))
            if self.probabilities:
                columns |= {f"probability_{c}": chances[:, i] for i, c in enumerate(target.classes)}
            else:
                columns["probability"] = chances.max(axis=1)
            if self.interval is not None:
                sets = self.model.sets(given, self.interval)
                columns |= {f"set_{c}": sets[:, i] for i, c in enumerate(target.classes)}
        else:
            columns["prediction"] = labels.astype("float32")  # with as many digits as are known
            if self.interval is not None:
                found = self.model.bounds(given, self.interval)
                columns["lower"] = found.lower.astype("float32")
                columns["upper"] = found.upper.astype("float32")
        return polars.DataFrame(columns), labels

    def _note(self, message: str) -> None:
        """Warn of each matter of a column once, not in each part."""
        column, _, matter = message.partition(": ")[2].partition(": ")
        kind = f"{column} {'hold' if ' cells hold ' in matter else 'lack'}"
        if kind not in self._heard:
            self._heard.add(kind)
            inform(message)


def csv(answers: Answers) -> Iterator[bytes]:
    """Answers as the bytes of CSV, part by part, the names of the columns first."""
    for number, frame in enumerate(answers):
        text = io.BytesIO()
        frame.write_csv(text, float_precision=answers.digits, include_header=not number)
        yield text.getvalue()


def _json_lines(answers: Answers) -> Iterator[bytes]:
    for frame in answers:
        text = io.BytesIO()
        frame.write_ndjson(text)
        yield text.getvalue()


def _parquet(answers: Answers) -> Iterator[bytes]:
    return _written(answers, library("pyarrow.parquet", "parquet").ParquetWriter)


def _arrow(answers: Answers) -> Iterator[bytes]:
    return _written(answers, library("pyarrow.ipc", "parquet").new_file)


class _Drain(io.RawIOBase):
    """A file of which the bytes are taken away as they come."""

    def __init__(self) -> None:
        self.kept, self._size = list[bytes](), 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, data: Any) -> int:
        self.kept.append(bytes(data))
        self._size += len(self.kept[-1])
        return len(self.kept[-1])

    def taken(self) -> bytes:
        """The bytes that came since they were taken last."""
        data = b"".join(self.kept)
        self.kept.clear()
        return data


def _written(answers: Answers, opened: Callable[[Any, Any], Any]) -> Iterator[bytes]:
    """The bytes that a writer of pyarrow's makes of answers, part by part."""
    drain, writer = _Drain(), None
    for frame in answers:
        table = frame.to_arrow(compat_level=polars.CompatLevel.oldest())
        writer = opened(drain, table.schema) if writer is None else writer
        writer.write_table(table)
        yield drain.taken()
    if writer is not None:
        writer.close()
        yield drain.taken()


#: The bytes of answers in each format, by the ending of the file.
FORMATS: dict[str, Callable[[Answers], Iterator[bytes]]] = {
    ".csv": csv,
    ".parquet": _parquet,
    ".feather": _arrow,
    ".arrow": _arrow,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
}


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
