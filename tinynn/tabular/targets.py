"""The target of a table: classes or a number, as a network learns it, and back."""

from dataclasses import dataclass
from typing import Any, ClassVar

from tinynn.data import host
from tinynn.tabular import cells
from tinynn.tabular.columns import Scale, read_numbers
from tinynn.tabular.table import Table, listed

_UNKNOWN = "correct that cell, or leave its row out"


@dataclass(frozen=True)
class Classes:
    """A target of classes: their texts in order, and what they are outside of text.

    `labels` is "text", "integer" or "boolean".
    """

    kind: ClassVar[str] = "classes"
    name: str
    classes: tuple[str, ...]
    labels: str = "text"

    @property
    def width(self) -> int:
        """The number of classes."""
        return len(self.classes)

    def encode(self, table: Table) -> Any:
        """The index of each row's class: int32 (rows,); -1 where the cell is missing.

        Raises
        ------
        TableError : a class that training did not meet

        """
        found = class_labels(table, self.name, self.labels)
        known = {name: code for code, name in enumerate(self.classes)}
        if bad := found.first([name not in known for name in found.names]):
            expected = f"expected one of {listed(self.classes)}, got {bad[1]!r}"
            table.reject(self.name, bad[0], expected, _UNKNOWN)
        home = host()
        return home.asarray([*(known[n] for n in found.names), -1], home.xp.int32)[found.codes]

    def decode(self, codes: Any) -> Any:
        """The labels of indices, (rows,): texts, integers or booleans."""
        return self.values[codes]

    @property
    def values(self) -> Any:
        """The classes themselves, a host array: (classes,)."""
        home = host()
        if self.labels == "integer":
            return home.asarray(list(map(int, self.classes)), home.xp.int64)
        if self.labels == "boolean":
            return home.asarray([name == "true" for name in self.classes])
        return home.xp.asarray(self.classes)


@dataclass(frozen=True)
class Quantity:
    """A target that is a number: what standardises it, and how it is written as text."""

    kind: ClassVar[str] = "quantity"
    name: str
    scale: Scale
    decimal: str = "."
    percent: bool = False

    @property
    def width(self) -> int:
        """The number of outputs that a network has for it."""
        return 1

    def values(self, table: Table) -> Any:
        """The column in its own unit: float64 (rows,), NaN where missing."""
        return read_numbers(table, self.name, self.decimal, self.percent)

    def encode(self, table: Table) -> Any:
        """The column, standardised: float64 (rows,); NaN where the cell is missing."""
        return (self.values(table) - self.scale.mean) / self.scale.deviation

    def decode(self, values: Any) -> Any:
        """Standardised values, (rows,), in the column's own unit: float64."""
        xp = host().xp
        return xp.astype(values, xp.float64) * self.scale.deviation + self.scale.mean


Target = Classes | Quantity


def class_labels(table: Table, name: str, labels: str) -> cells.Factors:
    """A target's column as the texts of its classes: 3.0 is 3 where classes are integers."""
    found = cells.labels(table, name, labels == "boolean")
    if labels != "integer":
        return found
    if bad := found.first([whole_number(text) is None for text in found.names]):
        expected = f"expected a whole number as a class, got {bad[1]!r}"
        table.reject(name, bad[0], expected, _UNKNOWN)
    return cells.renamed(found, [str(whole_number(text)) for text in found.names])


def whole_number(text: str) -> int | None:
    """The whole number of a text that is written plainly: no code (01), and none too long."""
    digits = text.removesuffix(".0").removeprefix("-")
    plain = digits.isascii() and digits.isdecimal() and (digits == "0" or digits[0] != "0")
    return int(text.removesuffix(".0")) if plain and len(digits) <= 18 else None
