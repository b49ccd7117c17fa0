"""Streams: batches that the user's own iterable gives one after another, never held as a whole."""

import inspect
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import backends
from tinynn import tree
from tinynn.data.adapter import DataAdapter
from tinynn.data.blockdataset import BlockDataset
from tinynn.data.blocks import Blocks
from tinynn.data.dataset import Array, Samples, TargetsSeen

_OF_DATA = ("dtype", "columns", "column_names", "to_pylist", "toarray", "tocsr", "forward")


def is_stream(value: Any) -> bool:
    """True for an iterable of batches, or a function that returns one; False for data."""
    if isinstance(value, tuple | dict | str | bytes) or backends.is_array(value):
        return False
    if any(hasattr(value, name) for name in _OF_DATA) or isinstance(value, type):
        return False
    return hasattr(type(value), "__iter__") or callable(value)


def is_indexed(value: Any) -> bool:
    """True for a map-style dataset: single samples by number, and a length."""
    kind = type(value)
    parts = hasattr(kind, "__getitem__") and hasattr(kind, "__len__")
    return parts and not hasattr(kind, "__iter__") and not any(hasattr(value, n) for n in _OF_DATA)


def source_of(at: str, value: Any) -> Any:
    """`Passes` over batches, an `IndexedDataset` over single samples, or `value` if it is neither.

    Args:
        at: what begins the messages, "fit: X" for one.
        value: what was given as X, without y.
    """
    if is_stream(value):
        return Passes(at, value)
    return IndexedDataset(at, value) if is_indexed(value) else value


class Passes:
    """The passes over an iterable of batches, of which the first batch has been read.

    Args:
        at: what begins the messages.
        given: an iterable of (X, y) or (X, y, sample_weight), or a function that returns one: of no
            argument, or of the number of the epoch, counted from 0.

    Attributes:
        once: True for an iterator, which ends after one pass.
        length: the number of batches, if it is known before they are read.
        first: the first batch as it was given.
    """

    def __init__(self, at: str, given: Any) -> None:
        self.at, self.given = at, given
        self.once = hasattr(type(given), "__next__")
        self._by_epoch = not hasattr(type(given), "__iter__") and _takes_one(given)
        self.length = len(given) if hasattr(type(given), "__len__") else None
        self._begun: Iterator[Any] | None = self._new(0)
        with _reading(at, 1):
            self.first: Any = next(self._begun, None)
        if self.first is None:
            raise ValueError(
                f"{at}: expected at least one batch, got none. To fix it: check what makes the "
                "batches; an iterator that was gone through before gives no more"
            )
        check_batch(f"{at}, batch 1", self.first)

    def begin(self, epoch: int) -> Iterator[Any]:
        """The batches of this epoch, as they are given.

        Raises ValueError for a second pass over an iterator.
        """
        begun, self._begun = self._begun, None
        if begun is not None and (epoch == 0 or not self._by_epoch):
            return chain([self.first], begun)
        if self.once:
            raise ValueError(once_message(self.at, "more than one pass"))
        return self._new(epoch)

    def _new(self, epoch: int) -> Iterator[Any]:
        if hasattr(type(self.given), "__iter__"):
            return iter(self.given)
        made = self.given(epoch) if self._by_epoch else self.given()
        if not hasattr(type(made), "__iter__"):
            raise TypeError(
                f"{self.at}: expected a function that returns an iterable of batches, got "
                f"{type(made).__name__} from it. To fix it: write a generator function, with yield"
            )
        return iter(made)


class Stream(TargetsSeen):
    """A dataset of batches in an order of their own; its size is known after the first pass.

    Args:
        passes: the passes over the batches.
        adapter: what brings each batch to the backend.

    Attributes:
        size: the number of samples in a pass; None before the end of the first.
        check: called with each batch of the first pass, after the check for NaN.
    """

    def __init__(self, passes: Passes, adapter: DataAdapter) -> None:
        at_first = adapter.at(f"{passes.at}, batch 1")
        super().__init__(brought(passes.first, at_first, check=True))
        adapter.dtype = at_first.dtype
        self.passes, self.adapter, self.at = passes, adapter, passes.at
        self.batch_size = self.first.size
        self.size: Any = None
        self.check: Callable[[Samples], object] = lambda samples: None

    def take(self, order: Array) -> Samples:
        raise TypeError("a stream gives its samples in its own order")

    def between(self, start: int, stop: int) -> Samples:
        """Samples of the first batch, which show the shapes and dtypes of all."""
        return self.first.between(start, stop)

    def batches(self, epoch: int = 0) -> Iterator[Samples]:
        """The batches of one pass: each of the size of the first, but the last may be smaller.

        Raises ValueError, with the number of the batch, for a batch of other shapes or dtypes, and
        for a pass of another length than the first.
        """
        waiting: Samples | None = None
        passed = number = 0
        given = self.passes.begin(epoch)
        while True:
            with _reading(self.passes.at, number + 1):
                batch = next(given, None)
            if batch is None:
                break
            if waiting is not None:
                if waiting.size != self.batch_size:
                    self._refuse_size(waiting.size, number)
                yield waiting
            number += 1
            waiting = self._brought(batch, number)
            passed += waiting.size
            if waiting.size > self.batch_size:
                self._refuse_size(waiting.size, number)
        if self.size is not None and passed != self.size:
            raise ValueError(
                f"{self.passes.at}: expected {self.size} samples in each pass, as in the first, "
                f"got {passed} in {number} batches of epoch {epoch + 1}. To fix it: give an "
                "iterable that begins anew each time, such as the function that makes a generator"
            )
        self.size = passed
        if waiting is not None:
            yield waiting

    def _refuse_size(self, rows: int, number: int) -> None:
        raise ValueError(
            f"{self.passes.at}, batch {number}: expected {self.batch_size} samples, as in the "
            f"first batch (the last alone may have fewer), got {rows}. To fix it: make batches of "
            "one size"
        )

    def _brought(self, batch: Any, number: int) -> Samples:
        at = f"{self.passes.at}, batch {number}"
        check_batch(at, batch)
        samples = brought(batch, self.adapter.at(at), check=self.size is None)
        samples = self.with_tail(samples, self.adapter.target.xp)
        like, found = _kinds(self.first), _kinds(samples)
        for path in {**like, **found}:
            if (expected := like.get(path)) != (got := found.get(path)):
                raise ValueError(
                    f"{at}: {path}: expected {_said(expected)}, as in the first batch, got "
                    f"{_said(got)}. To fix it: make all batches alike"
                )
        if self.size is None:
            self.check(samples)
        return samples


class IndexedDataset:
    """A dataset of single samples by number, such as PyTorch's map-style datasets."""

    def __init__(self, at: str, given: Any) -> None:
        self.at, self.given, self.size = at, given, len(given)
        if self.size == 0:
            raise ValueError(f"{at}: expected at least one sample, got none")
        first = self._sample(0)
        arrays = [a for a in tree.leaves(first) if backends.is_array(a)]
        self.backend = backends.of(*arrays) if arrays else backends.get(backends.names()[0])
        floats = [a.dtype for a in arrays if self.backend.xp.isdtype(a.dtype, "real floating")]
        self._floating = floats[0] if floats else self.backend.default_float

    def take(self, order: Array) -> Samples:
        numbers = self.backend.to_host(order).tolist()
        return self._stacked([self._sample(number) for number in numbers])

    def between(self, start: int, stop: int) -> Samples:
        return self._stacked([self._sample(number) for number in range(start, stop)])

    def _sample(self, number: int) -> tuple[Any, ...]:
        sample = self.given[number]
        check_batch(f"{self.at}, sample {number}", sample, numbers=True)
        return tuple(sample)

    def _stacked(self, samples: list[tuple[Any, ...]]) -> Samples:
        return Samples(*tree.map(self._column, *samples))

    def _column(self, *entries: Any) -> Array:
        if backends.is_array(entries[0]):
            return self.backend.xp.stack(entries)
        floating = any(isinstance(entry, float) for entry in entries)
        return self.backend.asarray(list(entries), self._floating if floating else None)


def dataset_of(adapter: DataAdapter, x: Any, y: Any, sample_weight: Any, **names: Any) -> Any:
    """The dataset of X, y and weights, of blocks, or the stream of `Passes`."""
    if not isinstance(x, Passes | Blocks):
        return adapter.dataset(x, y, sample_weight, **names)
    at = x.at if isinstance(x, Passes) else f"{adapter.where}: {names.get('prefix', '')}X"
    if y is not None or sample_weight is not None:
        what = "batches" if isinstance(x, Passes) else "blocks"
        raise ValueError(
            f"{at}: expected {what} to bring targets and weights themselves, got "
            f"{'y' if y is not None else 'sample_weight'} beside them. To fix it: leave that out"
        )
    if isinstance(x, Passes):
        return Stream(x, adapter)
    dataset = BlockDataset(at, x, adapter.target, adapter.dtype)
    adapter.dtype = dataset.dtype
    return dataset


def brought(batch: Any, adapter: DataAdapter, check: bool) -> Samples:
    """A batch on the adapter's backend; `check` looks for NaN, as in arrays given whole."""
    given = Samples(*batch)
    inputs = adapter.inputs(given.x)
    size = tree.leaves(inputs)[0].shape[0]
    targets = adapter.targets(given.y, size)
    if check:
        adapter.check_finite({"X": inputs, "y": targets})
    weights = adapter.sample_weight(given.sample_weight, size, check=check)
    return Samples(inputs, targets, weights)


def check_batch(at: str, batch: Any, numbers: bool = False) -> None:
    """TypeError unless a batch is (X, y) or (X, y, sample_weight); single numbers only if asked."""
    sound = isinstance(batch, tuple | list) and len(batch) in (2, 3)
    if not sound or (not numbers and any(isinstance(part, int | float) for part in batch)):
        got = f"{type(batch).__name__}" + (f" of {len(batch)}" if hasattr(batch, "__len__") else "")
        raise TypeError(
            f"{at}: expected (X, y) or (X, y, sample_weight), got {got}. To fix it: yield such "
            "tuples of arrays; or, if these are the rows of X, give y beside it"
        )


def once_message(at: str, passes: str) -> str:
    """The message about an iterator that would have to be gone through again."""
    return (
        f"{at}: expected batches that can be gone through again, for {passes}, got an iterator, "
        "which ends after one. To fix it: give what makes it: the generator function itself, "
        "without calling it, or a list or a loader of batches"
    )


class _reading:
    """Context in which the user's code runs: what it raises says which batch was asked for."""

    def __init__(self, at: str, number: int) -> None:
        self.at, self.number = at, number

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception):
            error.add_note(f"{self.at}: raised where batch {self.number} was asked for")


def _takes_one(function: Any) -> bool:
    """True if a function has a positional parameter without a default."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(
        p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        for p in parameters
    )


def _kinds(samples: Samples) -> dict[str, tuple[tuple[int, ...], Any]]:
    """The shape without the first axis, and the dtype, of each array."""
    return {path: (tuple(a.shape[1:]), a.dtype) for path, a in tree.paths(samples)}


def _said(kind: tuple[tuple[int, ...], Any] | None) -> str:
    return "none" if kind is None else f"rows of shape {kind[0]} and {kind[1]}"
