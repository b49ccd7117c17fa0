"""From the columns of a table to the numbers of a network, and back.

An `Encoding` is fitted on the training part of a table, goes to and from JSON with the model, and
is applied to any table that has the same columns: numbers are standardised, categories become one
input each (one-hot), classes are counted from 0.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from backends import random
from tinynn.cli.table import Table, TableError, listed
from tinynn.data import host

# A column with more texts than this, most of them met once, is a name and not a category.
MANY = 20


@dataclass(frozen=True)
class Number:
    """A column of numbers: the mean and the deviation that standardise it.

    >>> Number("age", mean=30.0, scale=10.0).decode([-1.0, 0.5])
    [20.0, 35.0]
    """

    name: str
    mean: float
    scale: float

    @classmethod
    def fit(cls, table: Table, name: str) -> "Number | None":
        """From the column's mean and (population) deviation; None if all its cells are equal."""
        values = table.numbers(name)
        if min(values) == max(values):
            return None
        mean = math.fsum(value / len(values) for value in values)
        deviation = math.hypot(*(value - mean for value in values)) / math.sqrt(len(values))
        if not 0 < deviation < math.inf:
            raise TableError(
                f"{table.source}: column {name!r}: expected numbers whose deviation a float can "
                f"hold, got {min(values)} to {max(values)}. Give it another unit."
            )
        return cls(name, mean, deviation)

    def encode(self, table: Table) -> list[float]:
        """The column, standardised: (rows,)."""
        values = [(value - self.mean) / self.scale for value in table.numbers(self.name)]
        for row, value in enumerate(values):
            if abs(value) > 1e30:  # what every float dtype can hold
                table.reject(self.name, row, f"{value:.0e} deviations away from what was trained")
        return values

    def inputs(self, table: Table) -> list[list[float]]:
        """The network's one input: (1, rows)."""
        return [self.encode(table)]

    def decode(self, values: Sequence[float]) -> list[float]:
        """Standardised values, in the column's own unit."""
        return [value * self.scale + self.mean for value in values]


@dataclass(frozen=True)
class Category:
    """A column of categories, in order. `integers` compares cells as whole numbers: 3 is 3.0.

    >>> from tinynn.cli.table import read
    >>> Category("out", ("0", "1"), integers=True).encode(read("xor"))
    [0, 1, 1, 0]
    """

    name: str
    categories: tuple[str, ...]
    integers: bool = False

    @classmethod
    def fit(cls, table: Table, name: str, *, integers: bool = False) -> "Category | None":
        """From the column's different cells; None if they are all equal."""
        found = set(_names(table, name, integers))
        if len(found) > max(MANY, len(table) // 2):
            raise TableError(
                f"{table.source}: column {name!r}: expected categories, got {len(found)} "
                f"different ones in {len(table)} rows. Leave the column out: --drop {name!r}."
            )
        ordered = sorted(found, key=int) if integers else sorted(found)
        return cls(name, tuple(ordered), integers) if len(found) > 1 else None

    def encode(self, table: Table) -> list[int]:
        """The index of each row's category: (rows,)."""
        codes = {category: code for code, category in enumerate(self.categories)}
        cells = _names(table, self.name, self.integers)
        for row, cell in enumerate(cells):
            if cell not in codes:
                known = listed(self.categories)
                table.reject(self.name, row, f"expected one of {known}, got {cell!r}")
        return [codes[cell] for cell in cells]

    def inputs(self, table: Table) -> list[list[float]]:
        """One input for each category, 1 where it is met: (categories, rows)."""
        codes = self.encode(table)
        return [[float(code == own) for code in codes] for own in range(len(self.categories))]


def _names(table: Table, name: str, integers: bool) -> list[str]:
    if not integers:
        return table.texts(name)
    numbers = table.numbers(name)
    for row, number in enumerate(numbers):
        if not number.is_integer():
            table.reject(name, row, f"expected a whole number as a class, got {number}")
    return [str(int(number)) for number in numbers]


@dataclass(frozen=True)
class Encoding:
    """What a network's inputs and outputs mean.

    `constant` names the columns that were left out because they never change.
    """

    columns: tuple[Number | Category, ...]
    target: Number | Category
    constant: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """How many inputs the network has."""
        return sum(len(c.categories) if isinstance(c, Category) else 1 for c in self.columns)

    def features(self, table: Table) -> list[tuple[float, ...]]:
        """What the network is given: (rows, width)."""
        inputs = [values for column in self.columns for values in column.inputs(table)]
        return list(zip(*inputs, strict=True))

    def to_json(self) -> dict[str, Any]:
        """The encoding as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Encoding":
        """The encoding that `to_json` described."""
        columns = tuple(_column(column) for column in data["columns"])
        return cls(columns, _column(data["target"]), tuple(data["constant"]))


def _column(data: dict[str, Any]) -> Number | Category:
    if "categories" not in data:
        return Number(**data)
    return Category(**{**data, "categories": tuple(data["categories"])})


def has_classes(table: Table, target: str) -> bool:
    """Whether a target reads as classes: texts, or few whole numbers, each met more than once."""
    if not table.is_numeric(target):
        return True
    numbers = table.numbers(target)
    whole = all(number.is_integer() for number in numbers)
    return whole and len(set(numbers)) <= min(MANY, len(table) // 2)


def _are_integers(table: Table, target: str) -> bool:
    """Whether a column holds whole numbers, and no codes: 01 is not 1, nor 2**53 + 1 a float."""
    if not table.is_numeric(target):
        return False
    for number, text in zip(table.numbers(target), table.texts(target), strict=True):
        plain = text.removesuffix(".0") == str(int(number)) and abs(number) < 2**53
        if number.is_integer() and not plain:
            return False
    return True


def prepare(
    table: Table,
    target: str,
    *,
    classes: bool,
    categories: Collection[str] = (),
    drop: Collection[str] = (),
    fraction: float = 0.2,
    seed: int = 0,
) -> tuple[Encoding, list[int], list[int]]:
    """Fit an encoding on the training part of a table.

    Parameters
    ----------
    target : the column to predict: as classes if `classes`, else as numbers
    categories : columns of numbers that are to be read as categories
    drop : columns to leave out
    fraction : the part of the rows to hold out; the same share of each class

    Returns
    -------
    encoding, and the rows of the training part and of the held-out part

    Raises
    ------
    TableError : a cell that is missing or no number, a constant target, nothing to learn from

    """
    for name in (target, *categories, *drop):
        table.column(name)
    if target in drop:
        raise TableError(f"{table.source}: the target {target!r} cannot be left out.")
    if len(table) < 2:
        raise TableError(f"{table.source}: expected two rows or more to learn from, got one.")
    integers = classes and target not in categories and _are_integers(table, target)
    labels: list[Any] = _names(table, target, integers) if classes else table.numbers(target)
    if len(set(labels)) == 1:
        raise TableError(
            f"{table.source}: column {target!r}: expected a target that varies, "
            f"got {labels[0]} in every row."
        )
    names = [name for name in table.columns if name != target and name not in drop]
    texts = [name for name in names if name in categories or not table.is_numeric(name)]

    # The first row of each category and class stays in the training part, so that none is unknown
    # there; of a target of numbers, the smallest and the largest, so that it varies.
    known = [table.texts(name) for name in texts]
    kept = {row for column in known for row in _first_rows(column)}
    kept |= _first_rows(labels) if classes else {labels.index(f(labels)) for f in (min, max)}
    strata = labels if classes else [0] * len(table)
    held = hold_out(strata, fraction, seed, kept)
    training = sorted(set(range(len(table))) - set(held))

    part = table.take(training)
    fitted = [Category.fit(part, n) if n in texts else Number.fit(part, n) for n in names]
    columns = tuple(column for column in fitted if column is not None)
    constant = tuple(name for name, column in zip(names, fitted, strict=True) if column is None)
    if not columns:
        raise TableError(
            f"{table.source}: expected columns to learn {target!r} from, got none that varies."
        )
    answer = Category.fit(part, target, integers=integers) if classes else Number.fit(part, target)
    assert answer is not None  # the training part has two different targets: see `kept`
    encoding = Encoding(columns, answer, constant)
    encoding.features(table.take(held))  # a cell that cannot be read is found before training
    return encoding, training, held


def hold_out(strata: Sequence[Any], fraction: float, seed: int, kept: set[int]) -> list[int]:
    """Rows to hold out, in order: `fraction` of each stratum at random, none that is `kept`.

    >>> hold_out("aaaaabbbbb", 0.2, seed=0, kept={0, 5})
    [1, 9]
    """
    home = host()
    order = home.to_host(random.permutation(random.key(seed, home), len(strata)))
    groups = defaultdict(list)
    for row in order.tolist():
        groups[strata[row]].append(row)
    held = []
    for rows in groups.values():
        count = round(fraction * len(rows))
        held += [row for row in rows if row not in kept][:count]
    return sorted(held)


def _first_rows(column: Sequence[Any]) -> set[int]:
    """The row in which each value is first met."""
    return set({value: row for row, value in reversed(list(enumerate(column)))}.values())
