"""Ragged sequences: held without padding, and given in batches of about one length."""

from collections.abc import Sequence
from operator import index
from typing import Any, NamedTuple

import backends
from backends import Backend, random
from tinynn.data.dataset import Array, Samples, TargetsBeside
from tinynn.data.sequences import check_value, given_sequences

_BUCKETS = 4


class Ragged:
    """Sequences that differ in length, as the X of `fit`: batches of about one length.

    Sequences of about one length stand in a bucket, and each batch is padded to the length of its
    bucket alone. So there are as many shapes of batches as buckets, and one more for the rest:
    every engine makes a program of each.

    Parameters
    ----------
    sequences
        As `pad_sequences` takes them.
    buckets
        The lengths that batches are padded to, the last no shorter than the longest sequence; or
        how many lengths there are to be, chosen so that each bucket has about as many sequences.
    value
        What is put behind the shorter ones.

    Attributes
    ----------
    values
        (steps, ...), all sequences, one after another.
    lengths
        Their lengths.
    buckets
        The lengths that batches are padded to, in order.

    Raises
    ------
    ValueError
        As `pad_sequences`; for buckets that are none, or all too short; where no sequence has a
        step.

    Notes
    -----
    The network is given x, (batch, bucket, ...), and lengths, (batch,) int32, as from
    `pad_sequences`. `fit` draws the order of all sequences with the portable generator, deals them
    to their buckets and these into batches. What is left over in a bucket goes on to the next
    longer one; what is left in the last is the smaller last batch of the epoch. `predict` and
    `evaluate` pad all sequences to one length.

    Examples
    --------
    >>> texts = Ragged([[1], [2, 3], [4, 5], [6, 7, 8, 9]], buckets=2)
    >>> texts.buckets, texts.lengths
    ((2, 4), (1, 2, 2, 4))
    >>> texts.padded()[0].tolist()
    [[1, 0, 0, 0], [2, 3, 0, 0], [4, 5, 0, 0], [6, 7, 8, 9]]
    """

    def __init__(
        self,
        sequences: Sequence[Any],
        *,
        buckets: int | Sequence[int] = _BUCKETS,
        value: float = 0.0,
    ) -> None:
        backend, given, lengths, empty = given_sequences("Ragged", sequences)
        check_value("Ragged", value, empty)
        if not any(lengths):
            raise ValueError(
                "Ragged: expected a sequence of one step or more, got empty ones alone. To fix it: "
                "check how they were read"
            )
        self.lengths, self.value = tuple(lengths), value
        self.buckets = _bucket_lengths(buckets, sorted(lengths))
        with backend.scope():
            filled = [a for a, n in zip(given, lengths, strict=True) if n]
            self.values = backend.xp.concat([empty, *filled], axis=0)

    def __repr__(self) -> str:
        lengths = ", ".join(map(str, self.buckets))
        return f"Ragged({len(self.lengths)} sequences, buckets=({lengths}))"

    def padded(self) -> tuple[Array, Array]:
        """(x, lengths) of all sequences, padded to one length, as `pad_sequences` gives them."""
        backend = backends.of(self.values)
        with backend.scope():
            order = backend.xp.arange(len(self.lengths), device=backend.device)
            return _Rows(self, self.values, backend).padded(order, self.buckets[-1])


class Dealt(NamedTuple):
    """A batch: the length that it is padded to, and the numbers of its sequences."""

    length: int
    order: list[int]


class Bucketed:
    """Ragged sequences in buckets: what a dataset of all of them and of a part have in common.

    Parameters
    ----------
    lengths
        Of each sequence.
    buckets
        The lengths that batches are padded to, in order.
    backend
        Where the batches are to be.
    """

    in_memory = False

    def __init__(self, lengths: Sequence[int], buckets: tuple[int, ...], backend: Backend) -> None:
        self.lengths, self.buckets, self.backend = lengths, buckets, backend
        self.size = len(lengths)

    def padded(self, order: Array, length: int) -> Samples:
        """The samples of these numbers, (batch,) on the device, padded to a length."""
        raise NotImplementedError

    def take(self, order: Array) -> Samples:
        return self.padded(order, self.buckets[-1])

    def between(self, start: int, stop: int) -> Samples:
        return self.take(self.backend.xp.arange(start, stop, device=self.backend.device))

    def batch(self, dealt: Dealt) -> Samples:
        """The samples of a batch, padded to its length."""
        return self.padded(self.backend.asarray(dealt.order), dealt.length)

    def examples(self, size: int) -> list[Samples]:
        """A batch of each shape that batches of `size` sequences have; full ones come first."""
        shapes = {(len(d.order), d.length): d for d in self.deal(size, None)}
        return [self.batch(shapes[shape]) for shape in sorted(shapes, reverse=True)]

    def deal(self, size: int, key: Array | None) -> list[Dealt]:
        """The batches of an epoch, of `size` sequences but for the last; in order without a key."""
        waiting: dict[int, list[int]] = {length: [] for length in self.buckets}
        for number in range(self.size) if key is None else self._drawn(key, self.size):
            waiting[next(n for n in self.buckets if n >= self.lengths[number])].append(number)
        used = [length for length in self.buckets if waiting[length]]
        dealt: list[Dealt] = []
        left: list[int] = []
        for length in used:
            held = left + waiting[length]
            full = len(held) // size * size
            dealt += [Dealt(length, held[i : i + size]) for i in range(0, full, size)]
            left = held[full:]
        if key is not None and dealt:
            dealt = [dealt[i] for i in self._drawn(random.fold_in(key, 1), len(dealt))]
        return dealt + ([Dealt(used[-1], left)] if left else [])

    def _drawn(self, key: Array, count: int) -> list[int]:
        numbers: list[int] = self.backend.to_host(random.permutation(key, count)).tolist()
        return numbers


class RaggedDataset(Bucketed, TargetsBeside):
    """A dataset of ragged sequences, given batch by batch.

    Parameters
    ----------
    ragged
        The sequences.
    values
        Theirs, on the backend.
    rest
        y and weights of all samples; their x is not looked at.
    backend
        Where the batches are to be.
    """

    def __init__(self, ragged: Ragged, values: Array, rest: Samples, backend: Backend) -> None:
        Bucketed.__init__(self, ragged.lengths, ragged.buckets, backend)
        TargetsBeside.__init__(self, rest, backend)
        self.rows = _Rows(ragged, values, backend)

    def part(self, indices: Array) -> "RaggedPart":
        """The samples of these numbers, (samples,) on the device, as a dataset."""
        return RaggedPart(self, indices)

    def padded(self, order: Array, length: int) -> Samples:
        return self.rest.take(order)._replace(x=self.rows.padded(order, length))


class RaggedPart(Bucketed):
    """Some samples of a dataset of ragged sequences.

    Parameters
    ----------
    dataset
        What the samples are of.
    indices
        (samples,) their numbers, on the device.
    """

    def __init__(self, dataset: RaggedDataset, indices: Array) -> None:
        numbers = dataset.backend.to_host(indices).tolist()
        lengths = [dataset.lengths[i] for i in numbers]
        super().__init__(lengths, dataset.buckets, dataset.backend)
        self.dataset, self.indices = dataset, indices

    def padded(self, order: Array, length: int) -> Samples:
        return self.dataset.padded(self.backend.xp.take(self.indices, order, axis=0), length)


class _Rows:
    """Sequences one after another in one array, and where each of them stands."""

    def __init__(self, ragged: Ragged, values: Array, backend: Backend) -> None:
        self.values, self.value, self.backend = values, ragged.value, backend
        starts = [0]
        for length in ragged.lengths:
            starts.append(starts[-1] + length)
        self.starts = backend.asarray(starts[:-1])
        self.lengths = backend.asarray(list(ragged.lengths), dtype="int32")

    def padded(self, order: Array, length: int) -> tuple[Array, Array]:
        """(x, lengths) of the sequences of these numbers, one gather for all of them."""
        xp, starts = self.backend.xp, self.starts
        lengths = xp.take(self.lengths, order, axis=0)
        steps = xp.arange(length, dtype=starts.dtype, device=self.backend.device)
        inside = steps < xp.expand_dims(xp.astype(lengths, starts.dtype), axis=1)
        places = xp.expand_dims(xp.take(starts, order, axis=0), axis=1) + steps
        places = xp.where(inside, places, xp.zeros_like(places))
        x = xp.take(self.values, xp.reshape(places, (-1,)), axis=0)
        tail = tuple(x.shape[1:])
        x = xp.reshape(x, (*places.shape, *tail))
        inside = xp.reshape(inside, (*inside.shape, *(1,) * len(tail)))
        return xp.where(inside, x, xp.full_like(x, self.value)), lengths


def _bucket_lengths(given: Any, lengths: list[int]) -> tuple[int, ...]:
    """The lengths of the buckets, of the sorted lengths of the sequences."""
    if not hasattr(given, "__len__"):
        if not hasattr(given, "__index__") or (count := index(given)) < 1:
            raise ValueError(
                f"Ragged: buckets: expected one or more, or their lengths, got {given!r}. To fix "
                "it: give buckets=4, or a list of lengths"
            )
        last = [-(-len(lengths) * i // count) - 1 for i in range(1, count + 1)]
        return tuple(sorted({max(1, lengths[max(i, 0)]) for i in last}))
    try:
        found = tuple(sorted({index(length) for length in given}))
    except TypeError as error:
        raise ValueError(
            f"Ragged: buckets: expected lengths that are whole numbers, got {given!r}. To fix it: "
            "give a list such as [8, 16, 32]"
        ) from error
    if not found or found[0] < 1 or found[-1] < lengths[-1]:
        raise ValueError(
            f"Ragged: expected buckets of one step or more, the last of {lengths[-1]} or more as "
            f"the longest sequence, got {found}. To fix it: add a longer one, or cut the sequences"
        )
    return found
