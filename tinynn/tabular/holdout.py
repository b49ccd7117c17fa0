"""Rows that are held out: of each class its share, of a table in memory or in parts."""

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any

from backends import random
from tinynn.data import host
from tinynn.tabular.cells import writable

_COUNTERS = 2**22  # of the first pass, of all strata


def hold_out(strata: Sequence[Any], fraction: float, seed: int) -> list[Any]:
    """The rows to hold out: a host array of booleans, (rows,), for each part of a table.

    `fraction` of each stratum is drawn at random, and one row of it at least is kept. Row i of the
    table has number i of `random.bits(key(seed), rows)`, and of a stratum those with the smallest
    numbers are held out: which rows they are does not depend on how the table is parted.

    Parameters
    ----------
    strata
        Host arrays of integers from 0 on, (rows,), one for each part.

    Notes
    -----
    The smallest numbers of a stratum are found in two passes over the strata: one counts the
    numbers by their first bits, one sorts those that begin as the largest that is held out. Beside
    the strata and the answer it takes memory for these alone.

    >>> import numpy as np
    >>> (held,) = hold_out([np.asarray([0] * 5 + [1] * 10 + [2])], 0.2, seed=0)
    >>> int(held[:5].sum()), int(held[5:15].sum()), int(held[15])
    (1, 2, 0)
    """
    xp = host().xp
    many = 1 + max((int(part.max()) for part in strata if part.size), default=0)
    digits = min(16, max(1, (_COUNTERS // many).bit_length() - 1))  # as many bits are counted by
    counts: Any = 0
    for part, numbers in _numbered(strata, seed):
        cells = xp.astype(part, xp.int64) << digits | _first_bits(numbers, digits)
        counts = counts + xp.bincount(cells, minlength=many << digits)
    counts = xp.reshape(counts, (many, -1))
    passed = xp.cumulative_sum(counts, axis=1)
    total = passed[:, -1]
    quota = xp.astype(xp.minimum(xp.round(fraction * total), xp.maximum(total - 1, 0)), xp.int64)
    # The first bits of the largest number that is held out of each stratum; none has -1.
    last = xp.where(quota > 0, xp.sum(xp.astype(passed < quota[:, None], xp.int64), axis=1), -1)
    near: list[Any] = []
    for part, numbers in _numbered(strata, seed):
        chosen = _first_bits(numbers, digits) == last[part]
        near.append(xp.stack([xp.astype(part, xp.int64), numbers])[:, chosen])
    codes, numbers = xp.concat(near, axis=1)
    order = xp.argsort(numbers)
    order = order[xp.argsort(codes[order], stable=True)]
    some = xp.nonzero(quota)[0]
    there = counts[some, last[some]]  # as many are near, of which the first so many are held out
    few = quota[some] - (passed[some, last[some]] - there)
    bounds = writable(many, xp.int64) + xp.iinfo(xp.int64).min
    bounds[some] = numbers[order][xp.cumulative_sum(there) - there + few - 1] + 1
    return [numbers < bounds[part] for part, numbers in _numbered(strata, seed)]


def _numbered(strata: Sequence[Any], seed: int) -> Iterator[tuple[Any, Any]]:
    """Each part, and the numbers of its rows: int64, all different, the row below the draw."""
    home = host()
    xp, key = home.xp, random.key(seed, home)
    edges = [0, *accumulate(int(part.size) for part in strata)]
    for part, (start, stop) in zip(strata, pairwise(edges), strict=True):
        drawn = home.to_host(random.bits_between(key, edges[-1], start, stop))
        yield part, xp.astype(drawn, xp.int64) << 32 | xp.arange(start, stop)


def _first_bits(numbers: Any, count: int) -> Any:
    """So many first bits of int64, the lowest number having 0."""
    return (numbers >> (64 - count)) + (1 << (count - 1))
