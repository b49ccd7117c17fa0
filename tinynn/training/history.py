"""The numbers of a training run, epoch by epoch."""

from typing import Any


class History(dict[str, list[float]]):
    """Lists of Python numbers, one for each epoch: "epoch", "loss", "validation_loss", metrics.

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

    def extend(self, columns: dict[str, list[Any]]) -> None:
        """Append the numbers of several epochs, by name."""
        for name, numbers in columns.items():
            self.setdefault(name, []).extend(numbers)

    @property
    def last(self) -> dict[str, float]:
        """The newest epoch's numbers; empty before the first."""
        return {name: numbers[-1] for name, numbers in self.items() if numbers}
