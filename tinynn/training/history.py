"""The numbers of a training run, epoch by epoch."""

from collections.abc import Mapping, Sequence
from typing import Any


def single(row: Mapping[str, Any]) -> dict[str, float]:
    """The entries of a row that are one number, which confusion matrices are not.

    >>> single({"epoch": 1, "confusion_matrix": [[3.0, 1.0], [0.0, 2.0]]})
    {'epoch': 1}
    """
    return {name: each for name, each in row.items() if not isinstance(each, list)}


class History(dict[str, list[Any]]):
    """Lists of Python numbers, one for each epoch: "epoch", "loss", "validation_loss", metrics.

    Of a metric that is several numbers, such as a confusion matrix, each is a list of lists.

    >>> history = History()
    >>> history.add({"epoch": 1, "loss": 0.5})
    >>> history.add({"epoch": 2, "loss": 0.25})
    >>> history["loss"], history.last
    ([0.5, 0.25], {'epoch': 2, 'loss': 0.25})
    """

    def add(self, row: dict[str, Any]) -> None:
        """Append one epoch's numbers, by name."""
        for name, number in row.items():
            self.setdefault(name, []).append(number)

    def extend(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Append the numbers of several epochs, by name."""
        for name, numbers in columns.items():
            self.setdefault(name, []).extend(numbers)

    @property
    def last(self) -> dict[str, Any]:
        """The newest epoch's numbers; empty before the first."""
        return {name: numbers[-1] for name, numbers in self.items() if numbers}
