"""Batches: the samples of each step of each epoch, and the keys that its layers draw with."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any, ClassVar, NamedTuple

import backends
from backends import Backend, random
from tinynn import tree
from tinynn.data import BlockDataset, Bucketed, Dataset, Samples, Stream

# What the seed's key is folded with.
SHUFFLE, DRAW, HOLD_OUT, INIT = 2**30, 2**30 + 1, 2**30 + 2, 2**30 + 3

_ROWS = 8192  # that are read at once for their weights
_READ_AHEAD = 64 * 2**20  # bytes of what is read that are held for the steps of one call


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

    #: How many processes take rows of each batch; whether these are such rows.
    processes: ClassVar[int] = 1
    sharded: ClassVar[bool] = False

    def shard(self) -> Any:
        """The part of a batch that these are; None for all of it."""

    def last_shard(self) -> Any:
        """The part of the smaller last batch; None for all of it."""

    def is_last(self, place: int) -> bool:
        """True if step `place` has a smaller batch of which these are a part."""
        return False

    def divided(self, rows: int, first: int, count: int) -> tuple[int, int]:
        """(whole batches, rows of a smaller last one) among the samples of `count` steps."""
        return divmod(rows, self.size)

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

        losses: of any library. On the host nothing is compiled for their number, and the sum is
        rounded as everywhere.
        """
        home = backends.of(losses)
        xp, count, rest = home.xp, self.dataset.size, self.rest
        if losses.shape[-1] == 1:  # to weigh it rounds
            return losses[..., 0]
        if not self.averages:
            return xp.sum(losses, axis=-1)
        if self.dataset.between(0, 1).sample_weight is None:
            if not rest:
                return xp.sum(losses, axis=-1) * (self.size / count)
            total = xp.sum(losses[..., :-1], axis=-1) * self.size + losses[..., -1] * rest
            return total / count
        shares = home.asarray(self.backend.to_host(self.backend.xp.stack(self.shares(epoch))))
        return xp.sum(losses * shares, axis=-1) / xp.sum(shares)

    def shares(self, epoch: Epoch) -> list[Any]:
        """The sum of the sample weights of each step: 0-d arrays."""
        xp, size = self.backend.xp, self.size
        weights = self._read_weights if self._is_read else self._weights(0, self.dataset.size)
        if epoch.order is not None:
            weights = xp.take(weights, epoch.order)
        count = self.dataset.size
        starts = range(0, count, size)
        return [xp.sum(weights[start : min(start + size, count)]) for start in starts]

    @property
    def _is_read(self) -> bool:
        return not getattr(self.dataset, "in_memory", False)

    @cached_property
    def _read_weights(self) -> Any:
        """The weights of all samples of data that are read: once, and not in every epoch."""
        starts = range(0, self.dataset.size, _ROWS)
        parts = [self._weights(start, min(start + _ROWS, self.dataset.size)) for start in starts]
        return self.backend.xp.concat(parts)

    def _weights(self, start: int, stop: int) -> Any:
        return self.dataset.between(start, stop).sample_weight

    def close(self) -> None:
        """Let go of what a pass has begun."""

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

    def shares(self, epoch: Epoch) -> list[Any]:
        assert self.steps is not None
        return [self._share(self.samples(epoch, step, 1)) for step in range(self.steps)]

    def samples(self, epoch: Epoch, first: int, count: int) -> Samples:
        """The samples of one step: those of two may have two shapes."""
        if count != 1:
            raise ValueError(f"expected batches in buckets to be taken one by one, got {count}")
        return self.dataset.batch(epoch.order[first])


@dataclass
class _Reading:
    """A pass over data that are read: the rows that wait, and the weights of the steps before."""

    epoch: int
    pieces: Iterator[Samples]
    step: int = 0  # that the first waiting row belongs to
    ahead: deque[Samples] = field(default_factory=deque)
    begun: int = 0  # rows of the first of them that are taken
    rows: int = 0  # that wait
    ended: bool = False
    shares: list[Any] = field(default_factory=list)

    def read(self) -> bool:
        """Let another piece wait; False at the end of the pass."""
        piece = None if self.ended else next(self.pieces, None)
        if piece is None:
            self.ended = True
            return False
        self.ahead.append(piece)
        self.rows += piece.size
        return True

    def take(self, rows: int) -> list[Samples]:
        """So many of the rows that wait, or all of them if they are fewer."""
        rows, taken = min(rows, self.rows), []
        self.rows -= rows
        while rows:
            piece = self.ahead[0]
            stop = min(self.begun + rows, piece.size)
            whole = stop - self.begun == piece.size
            taken.append(piece if whole else piece.between(self.begun, stop))
            rows -= stop - self.begun
            self.begun = stop
            if stop == piece.size:
                self.ahead.popleft()
                self.begun = 0
        return taken


@dataclass(frozen=True)
class ReadBatches(Batches):
    """Batches that are read once, ahead of the steps, in the order of an epoch.

    A step before the one to come begins the pass again.
    """

    dataset: Any
    _readings: list[_Reading] = field(default_factory=list, init=False, repr=False, compare=False)

    def begin(self, epoch: Epoch, first: int) -> _Reading:
        """A new pass, at step `first` or before."""
        raise NotImplementedError

    def available(self, epoch: Epoch, first: int, most: int) -> int:
        reading = self._at(epoch, first)
        while reading.rows < most * self.size:
            held = reading.rows * self._row >= _READ_AHEAD
            if (held and reading.rows >= self.size) or not reading.read():
                break
        whole, rest = divmod(reading.rows, self.size)
        return min(most, whole + bool(rest and reading.ended))

    def waiting(self, count: int) -> int:
        """The rows of the next `count` steps, of those that are `available`."""
        return min(self._readings[0].rows, count * self.size)

    def samples(self, epoch: Epoch, first: int, count: int) -> Samples:
        if self.available(epoch, first, count) < count:
            raise IndexError(f"a pass over the data ends before step {first + count}")
        return self._taken(self._at(epoch, first), count)

    def shares(self, epoch: Epoch) -> list[Any]:
        return self._readings[0].shares

    @cached_property
    def _row(self) -> int:
        """About as many bytes as a sample takes."""
        return 8 * sum(prod(a.shape) for a in tree.leaves(self.dataset.between(0, 1)))

    def _at(self, epoch: Epoch, first: int) -> _Reading:
        """The reading whose next row is the first of step `first`."""
        reading = self._readings[0] if self._readings else None
        if reading is None or reading.epoch != epoch.number or reading.step > first:
            reading = self.begin(epoch, first)
            self._readings[:] = [reading]
        while reading.step < first:
            while reading.rows < self.size and reading.read():
                pass
            if not reading.rows:
                raise ValueError(
                    f"{self.dataset.at}: expected more than {first} batches, to go on "
                    f"from there in epoch {epoch.number + 1}, got {reading.step}. To fix it: "
                    "give the batches that the run was begun with"
                )
            self._taken(reading, 1)
        return reading

    def _taken(self, reading: _Reading, count: int) -> Samples:
        """The rows of so many steps, of whose weights the sums are kept."""
        parts = reading.take(count * self.size)
        samples = parts[0]
        if len(parts) > 1:
            xp = self.backend.xp
            samples = tree.map(lambda *arrays: xp.concat(arrays, axis=0), *parts)
        reading.step += count
        if samples.sample_weight is not None:
            for start in range(0, samples.size, self.size):
                stop = min(start + self.size, samples.size)
                reading.shares.append(self._share(samples.between(start, stop)))
        return samples


@dataclass(frozen=True)
class StreamedBatches(ReadBatches):
    """The batches of a `Stream`, in its order."""

    dataset: Stream

    @property
    def steps(self) -> int | None:
        if self.dataset.size is None:
            return self.dataset.passes.length
        return -(-self.dataset.size // self.size)

    @property
    def rest(self) -> int | None:
        return None if self.dataset.size is None else self.dataset.size % self.size

    def begin(self, epoch: Epoch, first: int) -> _Reading:
        return _Reading(epoch.number, self.dataset.batches(epoch.number))


@dataclass(frozen=True)
class BlockBatches(ReadBatches):
    """The batches of a `BlockDataset`, which reads where a step is, in the order of its windows."""

    dataset: BlockDataset

    def order(self, epoch: int) -> Any:
        """The key of this epoch's order; None where it is that of the blocks."""
        if not self.shuffle:
            return None
        return random.fold_in(random.fold_in(self.key, SHUFFLE), epoch)

    def begin(self, epoch: Epoch, first: int) -> _Reading:
        self.close()
        if self.dataset.sample_weight is not None:
            first = 0  # the weights of the steps before count in the loss of the epoch
        return _Reading(epoch.number, self.dataset.passes(epoch.order, first * self.size), first)

    def close(self) -> None:
        for reading in self._readings:
            reading.pieces.close()  # type: ignore[attr-defined]
        self._readings.clear()


def batches_of(dataset: Dataset, *rest: Any) -> Batches:
    """The batches of a dataset, by its kind."""
    kinds: dict[type, type[Batches]] = {
        Stream: StreamedBatches,
        BlockDataset: BlockBatches,
        Bucketed: BucketedBatches,
    }
    made = next((kinds[kind] for kind in kinds if isinstance(dataset, kind)), Batches)
    return made(dataset, *rest)


def examples(dataset: Any, size: int) -> list[Samples]:
    """A batch of each shape that batches of `size` have, as far as they are known before."""
    if isinstance(dataset, Bucketed):
        return dataset.examples(size)
    rest = (dataset.size or size) % size
    return [dataset.between(0, rows) for rows in (size, rest) if rows]
