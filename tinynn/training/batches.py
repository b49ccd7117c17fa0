"""Batches: the samples of each step of each epoch, and the keys that its layers draw with."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from backends import Backend, random
from tinynn.data import Dataset, Samples

# What the seed's key is folded with.
SHUFFLE, DRAW, HOLD_OUT, INIT = 2**30, 2**30 + 1, 2**30 + 2, 2**30 + 3


class Epoch(NamedTuple):
    """One pass over the samples.

    Attributes:
        number: counted from 0.
        order: the numbers of the samples in the order of this epoch; None where it is their own.
        keys: (steps, 2), a key for each step; None if no layer draws.
    """

    number: int
    order: Any
    keys: Any


@dataclass(frozen=True)
class Batches:
    """The samples of a dataset, a batch at a time, in an order that the seed alone decides.

    Attributes:
        dataset: where they come from.
        backend: where they are.
        size: samples a batch; the last one of an epoch may be smaller.
        key: the seed's.
        shuffle: whether each epoch has an order of its own.
        draws: whether layers draw random numbers.
        averages: whether the loss of a batch is a mean over it.
    """

    dataset: Dataset
    backend: Backend
    size: int
    key: Any
    shuffle: bool
    draws: bool
    averages: bool

    @property
    def steps(self) -> int:
        """How many steps an epoch has."""
        return -(-self.dataset.size // self.size)

    def epoch(self, number: int) -> Epoch:
        """The order and the keys of an epoch."""
        return Epoch(number, self.order(number), self.keys(number))

    def order(self, epoch: int) -> Any:
        """The numbers of the samples in the order of this epoch; None where it is their own."""
        if not self.shuffle:
            return None
        key = random.fold_in(random.fold_in(self.key, SHUFFLE), epoch)
        return random.permutation(key, self.dataset.size)

    def keys(self, epoch: int) -> Any:
        """A key for each step of this epoch: (steps, 2); None if no layer draws."""
        if not self.draws:
            return None
        key = random.fold_in(random.fold_in(self.key, DRAW), epoch)
        return random.bits(key, (self.steps, 2))

    def samples(self, order: Any, first: int, count: int) -> Samples:
        """The samples of `count` steps from step `first` of an epoch on."""
        start, stop = first * self.size, min((first + count) * self.size, self.dataset.size)
        if order is None:
            return self.dataset.between(start, stop)
        return self.dataset.take(order[start:stop])

    def loss_of_epoch(self, losses: Any, order: Any) -> Any:
        """The loss of an epoch from those of its steps: (..., steps) -> (...).

        A mean counts as much as the samples it is of; a sum counts once.
        """
        xp, count, rest = self.backend.xp, self.dataset.size, self.dataset.size % self.size
        if not self.averages:
            return xp.sum(losses, axis=-1)
        first = self.dataset.between(0, 1).sample_weight
        if first is None:
            if not rest:
                return xp.sum(losses, axis=-1) * (self.size / count)
            total = xp.sum(losses[..., :-1], axis=-1) * self.size + losses[..., -1] * rest
            return total / count
        parts = [self.samples(order, step, 1).sample_weight for step in range(self.steps)]
        shares = xp.stack([xp.sum(part) for part in parts])
        return xp.sum(losses * shares, axis=-1) / xp.sum(shares)
