"""Sequences that differ in length, as arrays."""

from collections.abc import Sequence
from operator import index
from typing import Any

import backends
from tinynn.data.dataset import Array
from tinynn.data.hostdata import host


def pad_sequences(
    sequences: Sequence[Any], *, length: int | None = None, value: float = 0.0
) -> tuple[Array, Array]:
    """One array of sequences that differ in length, and their lengths.

    Parameters
    ----------
    sequences
        Arrays, (time, ...), of one library, dtype and shape but for the time; or lists of numbers,
        or of lists of them, which become host arrays.
    length
        The number of steps of the result; None is that of the longest sequence.
    value
        What is put behind the shorter ones.

    Returns
    -------
    (x, lengths)
        x: (sequences, length, ...), of their dtype, library and device; lengths: (sequences,)
        int32. Recurrent layers take such a pair: `fit(net, pad_sequences(texts), y)`.

    Raises
    ------
    ValueError
        There are none; one is longer than `length`, or differs in more than its length.

    Examples
    --------
    >>> x, lengths = pad_sequences([[1, 2, 3], [4]])
    >>> x.tolist(), lengths.tolist()
    ([[1, 2, 3], [4, 0, 0]], [3, 1])
    """
    if not len(sequences):
        raise ValueError("pad_sequences: expected one sequence or more, got none")
    given = [a if backends.is_array(a) else _array(i, a) for i, a in enumerate(sequences)]
    backend = backends.of(*given)
    like = next((a for a in given if a.ndim and a.shape[0]), given[0])
    lengths = [_checked(i, a, like) for i, a in enumerate(given)]
    longest = max(range(len(lengths)), key=lengths.__getitem__)
    steps = lengths[longest] if length is None else index(length)
    if lengths[longest] > steps:
        raise ValueError(
            f"pad_sequences: sequence {longest}: expected {steps} steps at most, got "
            f"{lengths[longest]}. To fix it: cut it, or give another length="
        )
    xp, tail = backend.xp, tuple(like.shape[1:])
    with backend.scope():
        rest = [
            xp.full((steps - n, *tail), value, dtype=like.dtype, device=backend.device)
            for n in lengths
        ]
        rows = [xp.concat([a, b]) if n else b for a, b, n in zip(given, rest, lengths, strict=True)]
        return xp.stack(rows), backend.asarray(lengths, dtype="int32")


def _array(number: int, sequence: Any) -> Array:
    try:
        return host().asarray(sequence)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"pad_sequences: sequence {number}: expected an array or a list of numbers, got "
            f"{type(sequence).__name__}. To fix it: encode text and categories as numbers"
        ) from error


def _checked(number: int, a: Array, like: Array) -> int:
    """The number of steps."""
    none = a.ndim == 1 and not a.shape[0]  # of a dtype and a width that nobody can tell
    alike = tuple(a.shape[1:]) == tuple(like.shape[1:]) and a.dtype == like.dtype
    if a.ndim and (none or alike):
        return int(a.shape[0])
    expected = ", ".join(["time", *map(str, like.shape[1:])])
    raise ValueError(
        f"pad_sequences: sequence {number}: expected shape ({expected}) and {like.dtype}, as the "
        f"others, got {tuple(a.shape)} and {a.dtype}. To fix it: give sequences that differ in "
        "length alone"
    )
