"""Sequences that differ in length, as arrays."""

from collections.abc import Sequence
from operator import index
from typing import Any

import backends
from backends import Backend
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
    backend, given, lengths, empty = given_sequences("pad_sequences", sequences)
    check_value("pad_sequences", value, empty)
    longest = max(range(len(lengths)), key=lengths.__getitem__)
    steps = lengths[longest] if length is None else index(length)
    if lengths[longest] > steps:
        raise ValueError(
            f"pad_sequences: sequence {longest}: expected {steps} steps at most, got "
            f"{lengths[longest]}. To fix it: cut it, or give another length="
        )
    xp, tail = backend.xp, tuple(empty.shape[1:])
    with backend.scope():
        rest = [
            xp.full((steps - n, *tail), value, dtype=empty.dtype, device=backend.device)
            for n in lengths
        ]
        rows = [xp.concat([a, b]) if n else b for a, b, n in zip(given, rest, lengths, strict=True)]
        return xp.stack(rows), backend.asarray(lengths, dtype="int32")


def given_sequences(
    where: str, sequences: Sequence[Any]
) -> tuple[Backend, list[Array], list[int], Array]:
    """The backend of sequences, they as arrays, their lengths, and one like them of no step.

    Raises ValueError, which begins with `where`, if there are none, or if they are not alike.
    """
    if not len(sequences):
        raise ValueError(f"{where}: expected one sequence or more, got none")
    given = [a if backends.is_array(a) else _array(where, i, a) for i, a in enumerate(sequences)]
    backend = backends.of(*given)
    like = next((a for a in given if a.ndim and a.shape[0]), given[0])
    lengths = [_checked(where, i, a, like) for i, a in enumerate(given)]
    return backend, given, lengths, like[:0, ...]


def check_value(where: str, value: Any, like: Array) -> None:
    """Raise ValueError, which begins with `where`, for a value that the dtype would cut."""
    if backends.of(like).xp.isdtype(like.dtype, "real floating"):
        return
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(
            f"{where}: value: expected a whole number, to be put behind sequences of "
            f"{like.dtype}, got {value!r}. To fix it: give one, or sequences of floats"
        )


def _array(where: str, number: int, sequence: Any) -> Array:
    try:
        return host().asarray(sequence)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{where}: sequence {number}: expected an array or a list of numbers, got "
            f"{type(sequence).__name__}. To fix it: encode text and categories as numbers"
        ) from error


def _checked(where: str, number: int, a: Array, like: Array) -> int:
    """The number of steps."""
    none = a.ndim == 1 and not a.shape[0]  # of a dtype and a width that nobody can tell
    alike = tuple(a.shape[1:]) == tuple(like.shape[1:]) and a.dtype == like.dtype
    if a.ndim and (none or alike):
        return int(a.shape[0])
    expected = ", ".join(["time", *map(str, like.shape[1:])])
    raise ValueError(
        f"{where}: sequence {number}: expected shape ({expected}) and {like.dtype}, as the "
        f"others, got {tuple(a.shape)} and {a.dtype}. To fix it: give sequences that differ in "
        "length alone"
    )
