"""Batches of which each process computes with its own rows: what engines are given there."""

from typing import Any

from backends import Backend
from tinynn import tree
from tinynn.data import ArrayDataset, Bucketed, Samples, Slice, Subset
from tinynn.layers import ShapeError, run
from tinynn.parallel import Communicator, Shard, all_reduce_of
from tinynn.training.batches import Batches, Epoch, ReadBatches


def rows_of(rank: int, size: int, rows: int) -> tuple[int, int]:
    """The first row of a batch that is this process's own, and the one after its last.

    >>> [rows_of(rank, 3, 8) for rank in range(3)]
    [(0, 2), (2, 5), (5, 8)]
    """
    return rank * rows // size, (rank + 1) * rows // size


def check_shared(step: Any, batches: Batches, communicator: Communicator) -> None:
    """Refuse batches of which some processes get no row, and what needs whole batches."""
    loss, size = step.loss, batches.size
    if isinstance(batches.dataset, Bucketed):
        raise ValueError(
            "fit: X: expected arrays or a dataset, whose batches processes can share, got "
            "sequences in buckets. To fix it: pad them to one length, or train in one process"
        )
    if "objective" in getattr(step.optimizer, "needs", ()):
        raise ValueError(
            f"fit: optimizer: expected one that goes by the gradient, which is summed over "
            f"processes, got {step.optimizer!r}. To fix it: train in one process"
        )
    if size < communicator.size:
        raise ValueError(
            f"fit: batch_size: expected {communicator.size} rows or more, one for each process, "
            f"got batches of {size}. To fix it: start fewer processes, or give a batch_size= for "
            "all of them together"
        )
    if communicator.size > 1 and not getattr(loss, "by_row", True):
        raise ValueError(
            f"fit: loss: expected one whose value of a row depends on that row alone, which "
            f"{communicator.size} processes can share, got {loss!r}, which compares the rows "
            "of a batch. To fix it: train in one process"
        )


def check_shares(step: Any, start: Any, batches: Batches, communicator: Communicator) -> None:
    """Let the smallest share of a batch of each size go through the network, before any work.

    Every process does it with the same rows, so that an error is one of all.
    """
    for whole in filter(None, (batches.size, batches.rest)):
        rows = max(1, whole // communicator.size)
        share, shard = batches.dataset.between(0, rows), Shard(_copied, rows, 0, whole)
        try:
            run(
                step.net, *start, *share.inputs, key=0, training=True,
                compute_dtype=step.compute_dtype, shard=shard,
            )  # fmt: skip
        except ShapeError as error:
            error.add_note(
                f"fit: batches of {whole} rows leave {rows} for one of {communicator.size} "
                "processes. To fix it: take BatchNorm(synchronized=True), whose statistics are of "
                "the whole batch, start fewer processes, or choose another batch_size"
            )
            raise


def _copied(array: Any) -> Any:
    return array


class ShardedBatches:
    """One process's rows of the batches that all processes train on together.

    Their order, and the keys that layers draw with, are those of the whole batches: the number of
    processes changes neither. Of a dataset the process reads its own rows, of a stream all.

    Parameters
    ----------
    whole
        The batches.
    communicator
        Of the processes.

    Attributes
    ----------
    size, rest
        This process's rows of a batch, and of a smaller last one, as `Batches` has them.
    dataset
        Its own samples where batches are the same in each epoch; else those of all.
    """

    def __init__(self, whole: Batches, communicator: Communicator) -> None:
        self.whole, self.communicator = whole, communicator
        self.rank, self.processes = communicator.rank, communicator.size
        self.backend: Backend = whole.backend
        self.shuffle, self.draws, self.steps = whole.shuffle, whole.draws, whole.steps
        self.alike, self.sharded = True, True
        self._cut = isinstance(whole, ReadBatches)  # read by all processes
        self._all_reduce = all_reduce_of(communicator)
        self._last = whole.rest or 0  # rows of a smaller last batch, as far as they are known
        self.size = self._held(whole.size)
        self.rest = whole.rest and self._held(whole.rest)
        self.dataset: Any = whole.dataset
        if not (self.shuffle or self.draws or self.rest or self._cut):
            self.dataset = self._own_samples()

    def examples(self) -> list[Samples]:
        """A batch of each size, as far as they are known before; a whole one comes first."""
        return [self.dataset.between(0, rows) for rows in (self.size, self.rest) if rows]

    def close(self) -> None:
        """Let go of what a pass has begun."""
        self.whole.close()

    def shard(self, rows: int | None = None) -> Shard:
        """This process's part of a batch of so many rows; None: of a whole one."""
        rows = self.whole.size if rows is None else rows
        first, stop = rows_of(self.rank, self.processes, rows)
        return Shard(self._all_reduce, stop - first, first, rows, self.whole.averages)

    def last_shard(self) -> Shard:
        """This process's part of the smaller last batch."""
        return self.shard(self._last)

    def is_last(self, place: int) -> bool:
        """True if step `place`, whose samples were given, has the smaller last batch."""
        return bool(self._last) and place == self._place_of_last

    def epoch(self, number: int) -> Epoch:
        """The epoch of this number, with the order of all samples."""
        return self.whole.epoch(number)

    def keys(self, epoch: Epoch, first: int, count: int) -> Any:
        """The keys of the whole batches."""
        return self.whole.keys(epoch, first, count)

    def available(self, epoch: Epoch, first: int, most: int) -> int:
        """The number of steps that can be carried out from step `first` on, at most `most`."""
        return self.whole.available(epoch, first, most)

    def samples(self, epoch: Epoch, first: int, count: int) -> Samples:
        """This process's samples of `count` steps from step `first` of an epoch on."""
        dataset, start = self.whole.dataset, first * self.whole.size
        if self._cut:
            read = self.whole.samples(epoch, first, count)
            if rest := read.size % self.whole.size:
                self._last, self._count = rest, first + count
            places = self._places(0, read.size)
            taken: Samples = tree.map(lambda a: self.backend.xp.take(a, places, axis=0), read)
            return taken
        stop = min(start + count * self.whole.size, dataset.size)
        if epoch.order is None and count == 1:
            low, high = self._bounds(stop - start)
            return dataset.between(start + low, start + high)
        places = self._places(start, stop)
        if epoch.order is not None:
            places = self.backend.xp.take(epoch.order, places)
        return dataset.take(places)

    def divided(self, rows: int, first: int, count: int) -> tuple[int, int]:
        """(whole batches, this process's rows of a smaller last one) among samples given."""
        full = count - self.is_last(first + count - 1)
        return full, rows - full * self.size

    @property
    def _place_of_last(self) -> int:
        return (self._count if self.steps is None else self.steps) - 1

    _count = 0  # the steps of a stream, once its end was read

    def _bounds(self, rows: int) -> tuple[int, int]:
        """The rows of a batch to compute with: one that is another's where there is no own."""
        first, stop = rows_of(self.rank, self.processes, rows)
        return (first, stop) if stop > first else (0, 1)

    def _held(self, rows: int) -> int:
        low, high = self._bounds(rows)
        return high - low

    def _places(self, start: int, stop: int) -> Any:
        """The numbers of this process's rows of the batches from row `start` up to `stop`."""
        xp, device, size = self.backend.xp, self.backend.device, self.whole.size
        full, rest = divmod(stop - start, size)
        parts = []
        if full:
            first, end = self._bounds(size)
            begins = xp.arange(start, start + full * size, size, device=device)
            rows = xp.arange(first, end, device=device)
            parts.append(xp.reshape(begins[:, None] + rows[None, :], (-1,)))
        if rest:
            first, end = self._bounds(rest)
            begin = start + full * size
            parts.append(xp.arange(begin + first, begin + end, device=device))
        return parts[0] if len(parts) == 1 else xp.concat(parts)

    def _own_samples(self) -> Any:
        """The samples of this process, for batches that are alike in all epochs."""
        dataset = self.whole.dataset
        places = self._places(0, dataset.size)
        if getattr(dataset, "in_memory", False):
            return ArrayDataset(dataset.take(places), self.backend)
        return Subset(dataset, places, self.backend)


class Gathering:
    """Rows that each process has a share of, brought together in all of them.

    Parameters
    ----------
    communicator
        Of the processes.
    rows
        How many there are in all.
    xp
        The namespace of the arrays.
    """

    def __init__(self, communicator: Communicator, rows: int, xp: Any) -> None:
        self.communicator, self.rows, self.xp = communicator, rows, xp
        self.start, self.stop = rows_of(communicator.rank, communicator.size, rows)

    def own(self, dataset: Any) -> Slice:
        """This process's samples; one that is not its own where it has none."""
        return Slice(dataset, self.start, max(self.stop, self.start + 1))

    def gathered(self, value: Any) -> Any:
        """A tree of arrays with the rows of all, from those of this process."""
        return tree.map(self._of_all, value)

    def _of_all(self, array: Any) -> Any:
        xp, tail = self.xp, tuple(array.shape[1:])
        dtype, own = array.dtype, array[: self.stop - self.start, ...]
        if xp.isdtype(dtype, "bool"):
            own = xp.astype(own, xp.uint8)
        before, after = (
            xp.zeros((count, *tail), dtype=own.dtype, device=array.device)
            for count in (self.start, self.rows - self.stop)
        )
        whole = self.communicator.all_reduce(xp.concat((before, own, after)))
        return whole if whole.dtype == dtype else xp.astype(whole, dtype)
