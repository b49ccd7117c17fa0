"""TablePreparation: what turns a raw table into the inputs of a network, and its outputs back.

It is fitted once, on the rows that training sees, is written with the model as JSON, and answers
for any table that has the same columns, from whichever library.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from math import isfinite
from typing import Any

from backends.user_code import warn
from tinynn.data import host
from tinynn.functional import sigmoid, softmax
from tinynn.tabular.cells import ORDERS, writable
from tinynn.tabular.columns import Category, Column, Date, Note, Number, Scale
from tinynn.tabular.inference import Options, fit_column, fit_target, index_names
from tinynn.tabular.table import Table, TableError, listed
from tinynn.tabular.targets import Classes, Quantity, Target

FORMAT = 1
KIND = "table"
# What makes probabilities of a network's output, (rows, outputs) to (rows, classes).
ACTIVATIONS = ("identity", "softmax", "sigmoid", "exp")
_KINDS: dict[str, Any] = {kind.kind: kind for kind in (Number, Category, Date, Classes, Quantity)}
# What the fields of a description may be.
_WORDS: dict[str, tuple[Any, ...]] = {
    "decimal": (".", ","),
    "order": ORDERS,
    "labels": ("text", "integer", "boolean"),
    "missing": (False, True),
    "percent": (False, True),
}

#: Warns of what the reader of a table may want to know.
inform = partial(warn, category=UserWarning)


@dataclass(frozen=True)
class TablePreparation:
    """The conversion of a raw table to a network's inputs, and of its outputs to answers.

    Attributes
    ----------
    target
        The `Classes` or the `Quantity` that the network answers with.
    columns
        The `Number`, `Category` and `Date` that it reads, in the order of its inputs.
    names
        The columns that may be read, as the training table had them.
    left_out
        Those of the training table's columns that are not read, and why.
    activation
        What makes probabilities of its outputs: "softmax", "sigmoid" of a single one, "exp" of
        logarithms; "identity" where the target is a number.

    Examples
    --------
    >>> table = {
    ...     "x": [1.0, 2.0, None, 3.0],
    ...     "colour": ["red", "blue", "red", "red"],
    ...     "kind": ["a", "b", "b", "a"],
    ... }
    >>> preparation = TablePreparation.fit(table, "kind")
    >>> preparation.inputs
    ('x', 'x?', 'colour=blue', 'colour=red')
    >>> preparation.transform(table).shape
    (4, 4)
    """

    target: Target
    columns: tuple[Column, ...]
    names: tuple[str, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    activation: str = "softmax"

    @classmethod
    def fit(
        cls,
        data: Any,
        target: str | Target,
        *,
        rows: Any = None,
        classes: bool | None = None,
        activation: str | None = None,
        categories: Collection[str] = (),
        drop: Collection[str] = (),
        dates: Mapping[str, str] | None = None,
        decimal: str | None = None,
        note: Note | None = None,
    ) -> "TablePreparation":
        """Fit a preparation to the columns of a table.

        Parameters
        ----------
        data
            A data frame of any library that narwhals knows, or a dict of columns.
        target
            The name of the column to predict.
        rows
            The rows that training sees, a host array of integers; None for all.
        classes
            Whether the target is classes or a number; None finds out.
        activation
            See `TablePreparation`; None is "softmax" for classes.
        categories
            Columns of numbers to be read as categories, and of many texts to be kept.
        drop
            Columns to leave out.
        dates
            For columns of dates, the order of day, month and year: "ymd", "dmy" or "mdy".
        decimal
            The decimal mark of numbers that come as text, "." or ","; None finds out.
        note
            Is called with each thing that a reader may want to know; None warns.

        Raises
        ------
        TableError
            A cell that cannot be read, a constant target, no column to learn from.
        """
        table = Table.of(data)
        options = Options(categories, drop, dates or {}, decimal)
        note = note or inform
        options.check(table, target if isinstance(target, str) else target.name)
        if isinstance(target, str):
            target = fit_target(table, target, classes, options, note)
        rows = host().xp.arange(len(table)) if rows is None else rows
        left_out = dict.fromkeys(index_names(table), "it is the index of a data frame")
        left_out |= dict.fromkeys(drop, "it is to be left out")
        left_out.pop(target.name, None)
        names = tuple(n for n in table.names if n != target.name and n not in left_out)
        fitted = {}
        for name in names:
            fitted[name] = fit_column(table, name, rows, options, note)
            table.forget(name)  # to read it again is cheaper than the memory of them all
        if activation is None:
            activation = "softmax" if isinstance(target, Classes) else "identity"
        return assembled(table.source, target, names, fitted, left_out, activation)

    @property
    def width(self) -> int:
        """The number of the network's inputs."""
        return sum(column.width for column in self.columns)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The name of each input of the network."""
        return tuple(name for column in self.columns for name in _input_names(column))

    def transform(self, data: Any, *, rows: Any = None, note: Note | None = None) -> Any:
        """The network's inputs for a raw table: a host array of float32, (rows, width).

        The table needs the columns that are read, in any order, and may have others. Rows of
        numbers without names are taken in the order of `names`. Missing cells and unknown
        categories are counted in a warning where training met none.

        Parameters
        ----------
        data
            A data frame of any library that narwhals knows, or a dict of columns.
        rows
            The rows to give, in their order: a host array of integers; None for all.
        note
            Is called with each thing that a reader may want to know; None warns.

        Raises
        ------
        TableError
            A column that is not there, or a cell that cannot be read.
        """
        table = Table.of(data, names=self.names)
        if not len(table):
            raise TableError(
                f"{table.source}: expected rows of data, got none. To fix it: give one or more."
            )
        count, rows = (len(table), slice(None)) if rows is None else (rows.size, rows)
        X = writable((count, self.width), host().xp.float32)
        at = 0
        for column in self.columns:
            column.fill(X[:, at : at + column.width], table, note or inform, rows)
            table.forget(column.name)
            at += column.width
        return X

    def targets(self, column: Any) -> Any:
        """The network's targets, (rows,): int32 classes, or float32, standardised.

        Parameters
        ----------
        column
            The target column, or a table that has it.

        Raises
        ------
        TableError
            A missing cell, or a class that training did not meet.
        """
        table = column if isinstance(column, Table) else _one_column(self.target.name, column)
        xp = host().xp
        values = self.target.encode(table)
        absent = values < 0 if isinstance(self.target, Classes) else xp.isnan(values)
        if absent.any():
            row = int(xp.nonzero(absent)[0][0])
            fix = "fill that cell, or leave its row out"
            table.reject(self.target.name, row, "expected a target, got an empty cell", fix)
        return values if isinstance(self.target, Classes) else xp.astype(values, xp.float32)

    def decode(self, prediction: Any) -> Any:
        """The network's outputs, a host array (rows, outputs), as labels or in units: (rows,)."""
        if isinstance(self.target, Quantity):
            return self.target.decode(prediction[:, 0])
        return self.target.decode(self.codes(prediction))

    def codes(self, prediction: Any) -> Any:
        """The index of the likeliest class, of outputs (rows, outputs): int32 (rows,)."""
        xp = host().xp
        if self.activation == "sigmoid":
            return xp.astype(prediction[:, 0] > 0, xp.int32)
        return xp.astype(xp.argmax(prediction, axis=1), xp.int32)

    def probabilities(self, prediction: Any) -> Any:
        """The network's outputs, a host array, as a probability of each class: (rows, classes).

        Raises
        ------
        ValueError
            The target is a number.
        """
        if isinstance(self.target, Quantity):
            raise ValueError(
                "predict_proba: expected a target of classes, got the number "
                f"{self.target.name!r}. To fix it: call predict."
            )
        xp = host().xp
        if self.activation == "sigmoid":
            return xp.concat([sigmoid(-prediction), sigmoid(prediction)], axis=1)
        return xp.exp(prediction) if self.activation == "exp" else softmax(prediction)

    def to_config(self) -> dict[str, Any]:
        """The preparation as JSON can hold it."""
        return {
            "kind": KIND,
            "format": FORMAT,
            "target": _config(self.target),
            "columns": [_config(column) for column in self.columns],
            "names": list(self.names),
            "left_out": dict(self.left_out),
            "activation": self.activation,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "TablePreparation":
        """The preparation that `to_config` described.

        Raises
        ------
        ValueError
            Another kind or format, or a description that is not whole.
        """
        try:
            if (config["kind"], config["format"]) != (KIND, FORMAT):
                raise ValueError(f"kind {config['kind']!r} in format {config['format']!r}")
            if config["activation"] not in ACTIVATIONS:
                raise ValueError(f"activation {config['activation']!r}")
            return cls(
                _built(config["target"], Classes | Quantity),
                tuple(_built(column, Number | Category | Date) for column in config["columns"]),
                tuple(config["names"]),
                dict(config["left_out"]),
                config["activation"],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"expected the description of a preparation of tables in format {FORMAT}, got one "
                f"that cannot be read: {error!r}. To fix it: save the model with this version."
            ) from error


def assembled(
    source: str,
    target: Target,
    names: tuple[str, ...],
    fitted: Mapping[str, Column | str],
    left_out: dict[str, str],
    activation: str,
) -> TablePreparation:
    """The preparation of columns, each as it was fitted or why it is left out.

    Raises
    ------
    TableError : no column is left to learn from

    """
    left_out |= {name: why for name, why in fitted.items() if isinstance(why, str)}
    columns = tuple(column for column in fitted.values() if not isinstance(column, str))
    if not columns:
        reasons = "; ".join(f"{name!r}: {why}" for name, why in left_out.items())
        raise TableError(
            f"{source}: expected columns to learn {target.name!r} from, got none that "
            f"varies ({reasons or 'there is no other column'}). To fix it: give it others."
        )
    return TablePreparation(target, columns, names, left_out, activation)


def _one_column(name: str, column: Any) -> Table:
    """A table of the target alone, from it or from a table in which it is."""
    if hasattr(column, "columns") or hasattr(column, "column_names") or isinstance(column, Mapping):
        return Table.of(column)
    return Table.of({name: column}, source="y")


def _input_names(column: Column) -> list[str]:
    """The names of the inputs that a column becomes."""
    names = [column.name]
    if isinstance(column, Category):
        names = [f"{column.name}={category}" for category in column.categories]
    elif isinstance(column, Date):
        names += [f"{column.name}:{part}({c})" for c in column.cycles for part in ("sin", "cos")]
    return [*names, f"{column.name}?"] if column.missing else names


def _config(part: Any) -> dict[str, Any]:
    return {"kind": part.kind, **asdict(part)}


def _built(config: Mapping[str, Any], kinds: Any) -> Any:
    """The part that a description is of, with each field of its type."""
    fields = dict(config)
    kind = _KINDS[fields.pop("kind")]
    for name, known in _WORDS.items():
        if name in fields and fields[name] not in known:
            raise ValueError(f"{name} {fields[name]!r}")
    if not {*fields.get("cycles", ())} <= {"year", "week", "day"}:
        raise ValueError(f"cycles {fields['cycles']!r}")
    if not issubclass(kind, kinds):
        raise TypeError(f"{kind.__name__} is out of place")
    if "scale" in fields:
        numbers = {name: float(value) for name, value in fields["scale"].items()}
        if not (all(map(isfinite, numbers.values())) and numbers["deviation"] > 0):
            raise ValueError(f"scale {fields['scale']!r}")
        fields["scale"] = Scale(**numbers)
    for name in ("categories", "classes", "cycles"):
        if name in fields:
            fields[name] = tuple(map(str, fields[name]))
    return kind(**fields)


def described(preparation: TablePreparation) -> list[str]:
    """Lines for people about what was understood of a table's columns."""
    target = preparation.target
    kind = f"one of {listed(target.classes)}" if isinstance(target, Classes) else "a number"
    lines = [f"target {target.name!r}: {kind}; from {preparation.width} inputs"]
    by_reason: dict[str, list[str]] = {}
    for name, why in preparation.left_out.items():
        by_reason.setdefault(why, []).append(name)
    for why, names in by_reason.items():
        lines.append(f"left out: {listed(names)}: {why}")
    return lines
