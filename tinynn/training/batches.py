"""Batches: the samples of each step of each epoch, and the keys that its layers draw with."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

from backends import Backend, random
from tinynn import tree
from tinynn.data import Bucketed, Dataset, Samples, Stream

# What the seed's key is folded with.
SHUFFLE, DRAW, HOLD_OUT, INIT = 2**30, 2**30 + 1, 2**30 + 2, 2**30 + 3

_READ_AHEAD = 64 * 2**20  # bytes of a stream that are held for the steps of one call


class Epoch(NamedTuple):
    """One pass over the samples.

    Attributes:
        number: counted from 0.
        order: the numbers of the samples in the order of this epoch, or its batches if they have
            shapes of their own; None where it is their own.
    """

    number: int
    order: Any


@dataclass(frozen=True)
class Batches:
    """The samples of a dataset, a batch at a time, in an order that the seed alone decides.

    Attributes:
        dataset: where they come from.
        backend: where they are.
        size: samples a batch; the last one of an epoch may be smaller.
        key: the seed's.
        shuffle: True if each epoch has an order of its own.
        draws: True if layers draw random numbers.
        averages: True if the loss of a batch is a mean over it.
    """

    dataset: Dataset
    backend: Backend
    size: int
    key: Any
    shuffle: bool
    draws: bool
    averages: bool

    @property
    def steps(self) -> int | None:
        """The number of steps in an epoch; None if it is not known yet."""
        return -(-self.dataset.size // self.size)

    @property
    def rest(self) -> int | None:
        """The size of a smaller last batch, 0 if there is none; None if it is not known yet."""
        return self.dataset.size % self.size

    @property
    def alike(self) -> bool:
        """True if all batches but a smaller last one have one shape."""
        return True

    def examples(self) -> list[Samples]:
        """A batch of each shape, as far as they are known before; full ones come first."""
        return examples(self.dataset, self.size)

    def epoch(self, number: int) -> Epoch:
        """The epoch of this number, with its order."""
        return Epoch(number, self.order(number))

    def order(self, epoch: int) -> Any:
        """The numbers of the samples in the order of this epoch; None where it is their own."""
        key = self._shuffled_by(epoch)
        return None if key is None else random.permutation(key, self.dataset.size)

    def _shuffled_by(self, epoch: int) -> Any:
        if not self.shuffle:
            return None
        return random.fold_in(random.fold_in(self.key, SHUFFLE), epoch)

    def keys(self, epoch: Epoch, first: int, count: int) -> Any:
        """A key for each of `count` steps from `first` on: (count, 2); None if no layer draws."""
        if not self.draws:
            return None
        key = random.fold_in(random.fold_in(self.key, DRAW), epoch.number)
        return random.bits(key, (count, 2), first)

    def available(self, epoch: Epoch, first: int, most: int) -> int:
        """The number of steps that can be carried out from step `first` on, at most `most`.

        0 at the end of the epoch.
        """
        assert self.steps is not None
        return min(most, self.steps - first)

    def samples(self, epoch: Epoch, first: int, count: int) -> Samples:
        """The samples of `count` steps from step `first` of an epoch on."""
        start, stop = first * self.size, min((first + count) * self.size, self.dataset.size)
        if epoch.order is None:
            return self.dataset.between(start, stop)
        return self.dataset.take(epoch.order[start:stop])

    def loss_of_epoch(self, losses: Any, epoch: Epoch) -> Any:
        """The loss of an epoch from those of its steps: (..., steps) -> (...).

        A mean counts as much as the samples it is of; a sum counts once.
        """
        xp, count, rest = self.backend.xp, self.dataset.size, self.rest
        if not self.averages:
            return xp.sum(losses, axis=-1)
        if self.dataset.between(0, 1).sample_weight is None:
            if not rest:
                return xp.sum(losses, axis=-1) * (self.size / count)
            total = xp.sum(losses[..., :-1], axis=-1) * self.size + losses[..., -1] * rest
            return total / count
        shares = xp.stack(self.shares(epoch))
        return xp.sum(losses * shares, axis=-1) / xp.sum(shares)

    def shares(self, epoch: Epoch) -> list[Any]:
        """The sum of the sample weights of each step: 0-d arrays."""
        assert self.steps is not None
        return [self._share(self.samples(epoch, step, 1)) for step in range(self.steps)]

    def _share(self, samples: Samples) -> Any:
        return self.backend.xp.sum(samples.sample_weight)


@dataclass(frozen=True)
class BucketedBatches(Batches):
    """The batches of sequences in buckets, each padded to the length of its own."""

    dataset: Bucketed

    @property
    def alike(self) -> bool:
        return False

    def order(self, epoch: int) -> Any:
        return self.dataset.deal(self.size, self._shuffled_by(epoch))

    def samples(self, epoch: Epoch, first: int, count: int) -> Samples:
        """The samples of one step: those of two may have two shapes."""
        if count != 1:
            raise ValueError(f"expected batches in buckets to be taken one by one, got {count}")
        return self.dataset.batch(epoch.order[first])


@dataclass
class _Reading:
    """A pass over a stream: the batches that were read ahead, and the weights of those before."""

    epoch: int
    batches: Iterator[Samples]
    step: int = 0  # of the first batch read ahead
    ahead: deque[Samples] = field(default_factory=deque)
    shares: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class StreamedBatches(Batches):
    """The batches of a `Stream`, in its order; they are read once, ahead of the steps.

    A step before the one to come begins the pass again, and skips the batches in between.
    """

    dataset: Stream
    _readings: list[_Reading] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def steps(self) -> int | None:
        if self.dataset.size is None:
            return self.dataset.passes.length
        return -(-self.dataset.size // self.size)

    @property
    def rest(self) -> int | None:
        return None if self.dataset.size is None else self.dataset.size % self.size

    def available(self, epoch: Epoch, first: int, most: int) -> int:
        reading, one = self._at(epoch, first), _bytes(self.dataset.first)
        while len(reading.ahead) < most and len(reading.ahead) * one < _READ_AHEAD:
            if (batch := next(reading.batches, None)) is None:
                break
            reading.ahead.append(batch)
        return min(most, len(reading.ahead))

    def samples(self, epoch: Epoch, first: int, count: int) -> Samples:
        if self.available(epoch, first, count) < count:
            raise IndexError(f"a pass of the stream ends before step {first + count}")
        reading = self._at(epoch, first)
        return self._concatenated([self._passed(reading) for _ in range(count)])

    def _concatenated(self, parts: list[Samples]) -> Samples:
        if len(parts) == 1:
            return parts[0]
        xp = self.backend.xp
        whole: Samples = tree.map(lambda *arrays: xp.concat(arrays, axis=0), *parts)
        return whole

    def shares(self, epoch: Epoch) -> list[Any]:
        return self._readings[0].shares

    def _at(self, epoch: Epoch, first: int) -> _Reading:
        """The reading whose next batch is that of step `first`."""
        reading = self._readings[0] if self._readings else None
        if reading is None or reading.epoch != epoch.number or reading.step > first:
            reading = _Reading(epoch.number, self.dataset.batches(epoch.number))
            self._readings[:] = [reading]
        while reading.step < first:
            if not reading.ahead:
                if (batch := next(reading.batches, None)) is None:
                    raise ValueError(
                        f"{self.dataset.passes.at}: expected more than {first} batches, to go on "
                        f"from there in epoch {epoch.number + 1}, got {reading.step}. To fix it: "
                        "give the batches that the run was begun with"
                    )
                reading.ahead.append(batch)
            self._passed(reading)
        return reading

    def _passed(self, reading: _Reading) -> Samples:
        batch = reading.ahead.popleft()
        reading.step += 1
        if batch.sample_weight is not None:
            reading.shares.append(self._share(batch))
        return batch


def batches_of(dataset: Dataset, *rest: Any) -> Batches:
    """The batches of a dataset, by its kind."""
    kinds: dict[type, type[Batches]] = {Stream: StreamedBatches, Bucketed: BucketedBatches}
    made = next((kinds[kind] for kind in kinds if isinstance(dataset, kind)), Batches)
    return made(dataset, *rest)


def examples(dataset: Any, size: int) -> list[Samples]:
    """A batch of each shape that batches of `size` have, as far as they are known before."""
    if isinstance(dataset, Bucketed):
        return dataset.examples(size)
    rest = (dataset.size or size) % size
    return [dataset.between(0, rows) for rows in (size, rest) if rows]


def _bytes(samples: Samples) -> int:
    """About as many bytes as these samples take."""
    return 8 * sum(prod(a.shape) for a in tree.leaves(samples))
