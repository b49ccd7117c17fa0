"""Networks that end before the others: early stopping of each, and successive halving."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from math import ceil, inf, isfinite
from typing import Any

from tinynn.config import Configured, require
from tinynn.training.callbacks import EarlyStopping, Measured, sign_of


@dataclass(frozen=True)
class SuccessiveHalving(Configured):
    """Train many candidates a little, and the best of them on: `fit_many(halving=)`.

    Again and again all but the best 1 / `factor` of the candidates are dropped, and those that are
    left are trained `factor` times as long as so far; the last one gets all epochs. A candidate is
    a network, or with folds all networks of its folds, which are judged by their mean. Those that
    are dropped stay as they were.

    A dropped network takes no more time.

    Parameters
    ----------
    factor
        How many times fewer candidates go on after each round.
    monitor
        A name in the history, by whose last number candidates are judged.
    mode
        "min" or "max", whether lower or higher is better; None asks the metric itself.

    References
    ----------
    Jamieson and Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter
    optimization", AISTATS.

    Examples
    --------
    >>> SuccessiveHalving(factor=3).rounds(9, epochs=90)
    {10: 3, 30: 1}
    """

    factor: int = 2
    _: KW_ONLY
    monitor: str = "validation_loss"
    mode: str | None = None

    def __post_init__(self) -> None:
        require(
            self,
            "factor",
            lambda n: hasattr(n, "__index__") and not isinstance(n, bool) and n >= 2,
            "a whole number of 2 or more",
        )
        require(self, "mode", (None, "min", "max").__contains__, '"min", "max" or None')

    def rounds(self, candidates: int, epochs: int) -> dict[int, int]:
        """The number of candidates that go on after an epoch, by the epoch.

        Parameters
        ----------
        candidates
            How many there are in the beginning.
        epochs
            How many the last candidate is trained.
        """
        left, counts = candidates, []
        while left > 1:
            left = ceil(left / self.factor)
            counts.append(left)
        found: dict[int, int] = {}
        for place, count in enumerate(counts):
            found[max(1, round(epochs / self.factor ** (len(counts) - place)))] = count
        return {epoch: count for epoch, count in found.items() if epoch < epochs}


def check_stopping(early: Any, halving: Any) -> None:
    """TypeError unless these are the two of their kind, or None."""
    for name, given, kind in (
        ("early_stopping", early, EarlyStopping),
        ("halving", halving, SuccessiveHalving),
    ):
        if given is not None and not isinstance(given, kind):
            raise TypeError(
                f"fit_many: {name}: expected {'an' if early is given else 'a'} {kind.__name__}, "
                f"got {given!r}. To fix it: give {name}={kind.__name__}()"
            )


class Stopping:
    """The networks that end, told the measures of every epoch."""

    def __init__(
        self,
        early: EarlyStopping | None,
        halving: SuccessiveHalving | None,
        measured: Measured,
        networks: int,
        folds: int,
        epochs: int,
    ) -> None:
        self.early, self.halving, self.folds = early, halving, folds
        self.rounds = halving.rounds(networks // folds, epochs) if halving else {}
        if early:
            self._sign = sign_of("EarlyStopping", early.monitor, early.mode, measured)
        if halving:
            name = "SuccessiveHalving"
            self._sign_of_round = sign_of(name, halving.monitor, halving.mode, measured)
        self._best, self._best_epoch = [inf] * networks, [0] * networks
        self._last = [inf] * networks  # what a round judges, of the last epoch of each
        self.best_carry: Any = None

    def ended(
        self,
        row: Mapping[str, Sequence[float]],
        epoch: int,
        alive: list[int],
        carry: Any,
        merged: Any,
    ) -> set[int]:
        """The networks that end after this epoch.

        row: the measures of all networks by name; merged: what puts carries together.
        """
        gone: set[int] = set()
        for part in (self.early, self.halving):
            if part and alive and isinstance(row[part.monitor][alive[0]], list):
                raise ValueError(
                    f"{type(part).__name__}: expected monitor to be a single number, got "
                    f"{part.monitor!r}, which is several. To fix it: monitor another metric"
                )
        if self.early:
            gone |= self._early(row[self.early.monitor], epoch, alive, carry, merged)
        if self.halving:
            values = row[self.halving.monitor]
            for k in alive:
                number = self._sign_of_round * values[k]
                self._last[k] = number if isfinite(number) else inf
            if epoch in self.rounds:
                gone |= self._worst(self.rounds[epoch], set(alive))
        return gone & set(alive)

    def _early(
        self, values: Sequence[float], epoch: int, alive: list[int], carry: Any, merged: Any
    ) -> set[int]:
        assert self.early is not None
        better = [k for k in alive if self._sign * values[k] < self._best[k] - self.early.min_delta]
        for k in better:
            self._best[k], self._best_epoch[k] = self._sign * values[k], epoch
        if self.early.restore_best and better:
            first = self.best_carry is None
            self.best_carry = carry if first else merged(self.best_carry, carry, better)
        return {k for k in alive if epoch - self._best_epoch[k] >= self.early.patience}

    def _worst(self, count: int, alive: set[int]) -> set[int]:
        """The networks of all candidates but this many."""
        width = self.folds
        candidates = {
            start // width: range(start, start + width)
            for start in range(0, len(self._last), width)
            if alive & set(range(start, start + width))
        }
        means = {c: sum(self._last[k] for k in each) / width for c, each in candidates.items()}
        ranked = sorted(candidates, key=lambda c: (means[c], c))
        return {k for c in ranked[count:] for k in candidates[c]}

    def restored(self, carry: Any, lengths: Sequence[int], merged: Any) -> tuple[Any, list[int]]:
        """The carry with the best one of each network, and the epoch that it is of."""
        if self.best_carry is None:
            return carry, list(lengths)
        known = [k for k, epoch in enumerate(self._best_epoch) if epoch]
        kept = [self._best_epoch[k] or length for k, length in enumerate(lengths)]
        return merged(carry, self.best_carry, known), kept

    # What a checkpoint keeps.

    def numbers(self) -> dict[str, Sequence[float]]:
        """All that is known of each network, but for its best carry."""
        return {"best": self._best, "best_epoch": self._best_epoch, "last": self._last}

    def set_numbers(self, numbers: Mapping[str, Sequence[float]]) -> None:
        """Continue from these."""
        self._best, self._last = (list(map(float, numbers[name])) for name in ("best", "last"))
        self._best_epoch = [int(epoch) for epoch in numbers["best_epoch"]]
