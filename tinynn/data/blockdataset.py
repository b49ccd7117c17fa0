"""BlockDataset: blocks as a dataset on a backend, read ahead window by window."""

from collections.abc import Generator, Iterator
from hashlib import sha256
from typing import Any

from backends import Backend, random
from tinynn import tree
from tinynn.data.ahead import ahead
from tinynn.data.blocks import Blocks, DataError, Part, Window, windows
from tinynn.data.dataset import ArrayDataset, Samples, TargetsSeen
from tinynn.data.hostdata import host

WINDOW = 32 * 2**20  # bytes of rows that are shuffled together where nobody says how many rows
_IN_MEMORY = 64 * 2**20  # bytes of held-out samples that are read once for all epochs
_HEAD = 256  # rows of the beginning that are kept, to show what all are like
_QUEUE = 2  # windows that wait between the thread that reads and the steps


class BlockDataset(TargetsSeen):
    """A dataset of blocks, of which a few are in memory at a time.

    Parameters
    ----------
    at
        What begins the messages, "fit: X" for one.
    blocks
        Where the samples come from.
    backend
        Where they are to be.
    dtype
        That floats get; None for that of the first of X.
    tail
        The axes of the targets after the first, as the loss expects them; None: as they are.

    Attributes
    ----------
    size
        The number of samples.
    check
        Called with each window of the first pass; `fit` lets the loss check the targets.
    """

    def __init__(
        self,
        at: str,
        blocks: Blocks,
        backend: Backend,
        dtype: Any = None,
        tail: tuple[int, ...] | None = None,
    ) -> None:
        self.at, self.blocks, self.backend, self.tail = at, blocks, backend, tail
        self.sizes = [int(size) for size in blocks.sizes]
        self.size = sum(self.sizes)
        if self.size < 1:
            raise DataError(f"{at}: expected rows of data, got none. To fix it: give some")
        if blocks.window is not None and not (
            hasattr(blocks.window, "__index__") and blocks.window > 0
        ):
            raise ValueError(
                f"{at}: window: expected a number of rows of 1 or more, or None, got "
                f"{blocks.window!r}. To fix it: leave it out"
            )
        self.check: Any = lambda samples: None
        self._seen: set[int] = set()  # blocks whose numbers were looked at
        self._passed = False  # once through, with all targets looked at
        self._like: dict[str, Any] = {}
        first = next(block for block, size in enumerate(self.sizes) if size)
        read = self._read(first)
        self._like = _kinds(read)
        floats = [a.dtype for a in tree.leaves(read.x) if a.dtype.kind == "f"]
        self.dtype = backend.default_float if dtype is None else dtype
        if dtype is None and floats:
            self.dtype = self._known(floats[0])
        self._check_finite(first, read)
        row = max(sum(a.nbytes for a in tree.leaves(read)) // len(tree.leaves(read.x)[0]), 1)
        self.window = int(blocks.window or max(1, WINDOW // row))
        self.row = row
        super().__init__(self._placed(tree.map(lambda a: a[:_HEAD, ...].copy(), read)), tail)

    def _known(self, dtype: Any) -> Any:
        if dtype.name in ("float32", "float64") and dtype.name in self.backend.dtypes():
            return self.backend.dtypes()[dtype.name]
        raise ValueError(
            f"{self.at}: expected float32 or float64, got {dtype}, which {self.backend!r} does not "
            'train in. To fix it: say dtype="float32"'
        )

    def split(self, fraction: float, key: Any) -> tuple["BlockDataset", "BlockDataset"]:
        """(the samples to train on, those held out), both read from the same blocks.

        Parameters
        ----------
        fraction
            Of the samples, to hold out; of each block as many.
        key
            What they are drawn with; None holds out the last.
        """
        parts = Part.of(self.blocks, fraction, self._host_key(key))
        train, held = (
            BlockDataset(self.at, part, self.backend, self.dtype, self.tail) for part in parts
        )
        return train, held

    def kept(self) -> Any:
        """The same samples, in memory if they are few, and then checked at once."""
        if self.size * self.row > _IN_MEMORY:
            return self
        samples = self.between(0, self.size)
        self.check(samples)
        return ArrayDataset(samples, self.backend)

    def identity(self) -> Any:
        """A value for JSON that other data, or the same in another order, would not have."""
        sizes = sha256(repr(self.sizes).encode()).hexdigest()[:16]
        return [self.blocks.identity(), self.window, sizes]

    def take(self, order: Any) -> Samples:
        raise TypeError("blocks give their samples in an order of their own")

    def between(self, start: int, stop: int) -> Samples:
        """The samples from number `start` up to `stop`, in the order of the blocks."""
        if stop > self.first.size:
            found = self._joined(list(self._pieces(list(windows(self.sizes, stop, None)), stop)))
            if start or stop > max(_HEAD, 2**16):
                return found.between(start, stop)
            self.first = found
        return self.first.between(start, stop)

    def batches(self, epoch: int = 0) -> Iterator[Samples]:
        """All samples in the order of the blocks, window by window."""
        return self.passes(None, 0)

    def passes(self, key: Any, first: int) -> Generator[Samples, None, None]:
        """The samples of an epoch from place `first` on, window by window, read ahead in a thread.

        Parameters
        ----------
        key
            Of the epoch, on any backend; None leaves the order as it is.
        first
            How many samples of the order are left out.

        Raises
        ------
        DataError
            A block that cannot be read, or is not like the first.
        """
        key = self._host_key(key)
        wanted = (w for w in windows(self.sizes, self.window, key) if w.first + w.rows > first)
        # The device is spoken to in the thread of the steps: streams belong to threads.
        for window, rows in ahead(((w, self._shuffled(w, key)) for w in wanted), _QUEUE):
            samples = self._adopted(rows)
            if not self._passed:
                self.check(samples)
            skipped = max(0, first - window.first)
            yield samples.between(skipped, samples.size) if skipped else samples
        self._passed = self._passed or first == 0

    def _host_key(self, key: Any) -> Any:
        return None if key is None else self.backend.to_host(key).copy()

    def _shuffled(self, window: Window, key: Any) -> Samples:
        """The rows of a window in memory of their own, in their order of this epoch."""
        if key is None:
            return self._collected(window, None)
        places = random.permutation(random.fold_in(key, 1 + window.number), window.rows)
        return self._collected(window, places)

    def _collected(self, window: Window, places: Any) -> Samples:
        out: Any = None
        start = 0
        for block in window.blocks:
            read = self._read(block)
            stop = start + self.sizes[block]
            if out is None:
                out = tree.map(lambda a: self._buffer(a, window.rows), read)
            to = slice(start, stop) if places is None else places[start:stop]
            for buffer, rows in zip(tree.leaves(out), tree.leaves(read), strict=True):
                buffer[to] = rows
            start = stop
        return self.with_tail(out, host().xp)

    def _buffer(self, like: Any, rows: int) -> Any:
        """Host memory for so many rows like these, in the dtype that they get."""
        name = self.backend.dtype_name(self.dtype) if like.dtype.kind == "f" else like.dtype.name
        return self.backend.host_buffer((rows, *like.shape[1:]), name)

    def _adopted(self, rows: Samples) -> Samples:
        samples: Samples = tree.map(self.backend.adopt, rows)
        return samples

    def _placed(self, read: Samples) -> Samples:
        out = tree.map(lambda a: self._buffer(a, len(a)), read)
        for buffer, rows in zip(tree.leaves(out), tree.leaves(read), strict=True):
            buffer[...] = rows
        return self._adopted(self.with_tail(out, host().xp))

    def _pieces(self, found: list[Window], rows: int) -> Iterator[Samples]:
        for window in found:
            if window.first < rows:
                yield self._adopted(self._collected(window, None))

    def _joined(self, parts: list[Samples]) -> Samples:
        if len(parts) == 1:
            return parts[0]
        joined: Samples = tree.map(lambda *a: self.backend.xp.concat(a, axis=0), *parts)
        return joined

    def _read(self, block: int) -> Samples:
        """A block as host arrays, of the shapes and dtypes of the first; finite the first time."""
        at = f"{self.at}: {self.blocks.place(block)}"
        try:
            read: Any = self.blocks.read_block(block)
        except DataError as error:
            raise DataError(f"{self.at}: {error}") from error
        except Exception as error:  # of each library its own
            raise DataError(
                f"{at}: expected rows of data, got what cannot be read: {type(error).__name__}: "
                f"{error}. To fix it: write that part again"
            ) from error
        if not isinstance(read, tuple | list) or len(read) not in (2, 3):
            raise DataError(
                f"{at}: expected (X, y) or (X, y, sample_weight), got {type(read).__name__}. To "
                "fix it: let read_block return such a tuple of host arrays"
            )
        samples = Samples(*read)
        if getattr(getattr(samples.sample_weight, "dtype", None), "kind", "f") in "biu":
            samples = samples._replace(sample_weight=read[2].astype("float32"))
        self._check_alike(at, samples, self.sizes[block])
        if self._like:  # and the dtype is known
            self._check_finite(block, samples)
        return samples

    def _check_finite(self, block: int, samples: Samples) -> None:
        """Refuse what floats here cannot hold, the first time that a block is read."""
        if block not in self._seen:
            most = float(self.backend.xp.finfo(self.dtype).max)
            _check_finite(f"{self.at}: {self.blocks.place(block)}", samples, most)
            self._seen.add(block)

    def _check_alike(self, at: str, samples: Samples, rows: int) -> None:
        for path, array in tree.paths(samples):
            if not hasattr(getattr(array, "dtype", None), "kind"):
                raise DataError(
                    f"{at}: {path}: expected a host array, got {type(array).__name__}. To fix it: "
                    "let read_block return host arrays"
                )
            if array.dtype.kind not in "biuf" or not array.ndim or len(array) != rows:
                raise DataError(
                    f"{at}: {path}: expected {rows} rows of numbers, got {array.dtype} of shape "
                    f"{tuple(array.shape)}. To fix it: give each row of X its numbers"
                )
        if samples.sample_weight is not None and samples.sample_weight.ndim != 1:
            raise DataError(
                f"{at}: sample_weight: expected one number a row, got shape "
                f"{tuple(samples.sample_weight.shape)}. To fix it: give an array of one axis"
            )
        found = _kinds(samples)
        like = self._like or found
        for path in {**like, **found}:
            if like.get(path) != found.get(path):
                said = [
                    "none" if kind is None else f"rows of shape {kind[0]} and {kind[1]}"
                    for kind in (like.get(path), found.get(path))
                ]
                raise DataError(
                    f"{at}: {path}: expected {said[0]}, as in the first block, got {said[1]}. To "
                    "fix it: make all blocks alike"
                )


def _kinds(samples: Samples) -> dict[str, tuple[tuple[int, ...], Any]]:
    """The shape without the first axis, and the dtype, of each array."""
    return {path: (tuple(a.shape[1:]), a.dtype.name) for path, a in tree.paths(samples)}


def _check_finite(at: str, samples: Samples, most: float) -> None:
    """Refuse NaN, infinities and what is beyond `most`, and negative weights, by the column."""
    xp = host().xp
    for path, array in tree.paths(samples):
        if array.dtype.kind != "f":
            continue
        sound = xp.abs(array) <= min(most, float(xp.finfo(array.dtype).max))
        if xp.all(sound):
            continue
        bad = ~sound.reshape(len(array), array.shape[1] if array.ndim > 1 else 1, -1)
        columns = bad.any(axis=2)
        worst = int(columns.any(axis=0).argmax())
        named = f"{path}, column {worst}" if array.ndim > 1 else path
        raise DataError(
            f"{at}: {named}: expected finite numbers, got {int(columns[:, worst].sum())} of "
            f"{len(array)} rows with NaN or infinity, the first in row "
            f"{int(columns[:, worst].argmax())}. To fix it: fill the gaps, or drop those rows"
        )
    weights = samples.sample_weight
    if weights is not None and (weights < 0).any():
        raise DataError(
            f"{at}: sample_weight: expected no negative number, got one in row "
            f"{int((weights < 0).argmax())}. To fix it: give weights of 0 or more"
        )
