"""Blocks: data in files that no memory holds, a part at a time, in an order that the key decides.

The order of an epoch: the blocks are permuted and laid in a row, as many of them make a window as
have `window` rows in all (one at least), and the rows of a window are permuted among themselves.
Both permutations are drawn by the portable generator from the seed, the number of the epoch and
that of the window, so that the order is the same on every machine, whatever reads the blocks and
however many were read before. Each row comes once an epoch, and no more than a window is held to be
shuffled.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from backends import random
from tinynn import tree
from tinynn.data.dataset import held_out_count
from tinynn.data.hostdata import host


class DataError(ValueError):
    """Data in files that cannot be read, or that are not what they were: the message says where."""


class Blocks:
    """The interface of data in blocks of rows, each of which is read as a whole.

    A source of your own has `sizes` and `read_block`; the rest may stay as it is.

    Attributes
    ----------
    sizes
        The number of rows of each block.
    window
        Rows that are shuffled together; None for as many as 32 MiB hold.

    Examples
    --------
    >>> import numpy as np
    >>> class Squares(Blocks):
    ...     sizes = [100] * 5
    ...
    ...     def read_block(self, block):
    ...         x = np.linspace(block, block + 1, 100, dtype="float32")[:, None]
    ...         return x, x[:, 0] ** 2
    >>> from tinynn import fit
    >>> from tinynn.layers import Linear
    >>> model = fit(Linear(1), Squares(), loss="squared_error", epochs=2)
    >>> len(model.history["loss"])
    2
    """

    sizes: Sequence[int] = ()
    window: int | None = None

    def read_block(self, block: int) -> tuple[Any, ...]:
        """The rows of a block, host arrays: (X, y) or (X, y, sample_weight), X and y trees."""
        raise NotImplementedError

    def place(self, block: int) -> str:
        """The name of a block in messages."""
        return f"block {block}"

    def identity(self) -> Any:
        """A value for JSON that other data would not have, for a run that is to be resumed."""
        return [int(size) for size in self.sizes]


class Files:
    """The files of a source: what they are now, and whether they are still as they were."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.stamps = {path: _stamp(path) for path in paths}

    def check(self, path: Path) -> None:
        """Raise DataError unless a file has the size and the time of change that it had at first.

        Parameters
        ----------
        path
            Of the file; one that is met for the first time is remembered.
        """
        now = _stamp(path)
        if (before := self.stamps.setdefault(path, now)) != now:
            raise DataError(
                f"{path}: expected the file of {before[0]} bytes that was there when it was read "
                f"first, got one of {now[0]} bytes, changed since. To fix it: let files alone "
                "while they are trained on, and write others beside them"
            )

    def identity(self) -> list[list[Any]]:
        """The name and the size of each file."""
        return [[path.name, size] for path, (size, _) in self.stamps.items()]


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError as error:
        raise DataError(
            f"{path}: expected a file, got {error.strerror or error}. To fix it: put it back"
        ) from error
    return found.st_size, found.st_mtime_ns


class Part(Blocks):
    """Some rows of each block of others: those that a fraction holds out, or all the rest.

    Parameters
    ----------
    blocks
        What the rows are of.
    counts
        How many rows of each block are held out.
    key
        What they are drawn with; None takes the last of each block.
    held
        True for these, False for the others.
    """

    def __init__(self, blocks: Blocks, counts: Sequence[int], key: Any, held: bool) -> None:
        self.blocks, self.counts, self.key, self.held = blocks, counts, key, held
        self.window = blocks.window
        pairs = zip(blocks.sizes, counts, strict=True)
        self.sizes = [few if held else size - few for size, few in pairs]

    def place(self, block: int) -> str:
        return self.blocks.place(block)

    def identity(self) -> Any:
        return self.blocks.identity()

    @staticmethod
    def of(blocks: Blocks, fraction: float, key: Any) -> tuple["Part", "Part"]:
        """(the rows to train on, those held out): as near to the fraction as whole rows allow."""
        size = sum(blocks.sizes)
        few, passed, taken, counts = held_out_count(size, fraction), 0, 0, []
        left = few
        for rows in reversed(blocks.sizes):
            if key is None:  # the last rows of all
                counts.append(min(rows, left))
                left -= counts[-1]
                continue
            passed += rows
            counts.append(round(few * passed / size) - taken)
            taken += counts[-1]
        counts.reverse()
        return Part(blocks, counts, key, False), Part(blocks, counts, key, True)

    def rows(self, block: int) -> Any:
        """The numbers of these rows within a block, in order: a host array of integers."""
        xp, size, few = host().xp, self.blocks.sizes[block], self.counts[block]
        if self.key is None:
            order = xp.arange(size)
            return order[size - few :] if self.held else order[: size - few]
        order = random.permutation(random.fold_in(self.key, block), size)
        return xp.sort(order[:few] if self.held else order[few:])

    def read_block(self, block: int) -> tuple[Any, ...]:
        read, rows = self.blocks.read_block(block), self.rows(block)
        taken: tuple[Any, ...] = tree.map(lambda a: a[rows, ...], tuple(read))
        return taken


class Window(NamedTuple):
    """Blocks whose rows are shuffled together.

    Attributes
    ----------
    number
        Of the window in its epoch.
    blocks
        Their numbers, in the order of the epoch.
    first, rows
        The place of its first row in the epoch, and how many there are.
    """

    number: int
    blocks: tuple[int, ...]
    first: int
    rows: int


def windows(sizes: Sequence[int], most: int, key: Any) -> Iterator[Window]:
    """The windows of an epoch, each of `most` rows if its blocks allow, and of one at least.

    Parameters
    ----------
    sizes
        The rows of each block.
    most
        Rows of a window.
    key
        On the host, of the epoch; None leaves the blocks in their order.

    Examples
    --------
    >>> [window.blocks for window in windows([2, 2, 2, 1], 4, None)]
    [(0, 1), (2, 3)]
    """
    count = len(sizes)
    order = range(count) if key is None else random.permutation(key, count).tolist()
    blocks: list[int] = []
    number = first = rows = 0
    for block in order:
        if rows and rows + sizes[block] > most:
            yield Window(number, tuple(blocks), first, rows)
            blocks, number, first, rows = [], number + 1, first + rows, 0
        blocks.append(block)
        rows += sizes[block]
    if rows:
        yield Window(number, tuple(blocks), first, rows)
