"""Windows that move over the spatial axes of an array: their settings, checked and made alike."""

from collections.abc import Sequence
from contextlib import suppress
from operator import index
from typing import Any, TypeAlias

from tinynn.functional.errors import InputError, ShapeError

Array: TypeAlias = Any
Padding: TypeAlias = str | int | Sequence[Sequence[int]]
Ints: TypeAlias = tuple[int, ...]
Pairs: TypeAlias = tuple[tuple[int, int], ...]


def channels_last(name: str, channels: str) -> bool:
    """True for "last", False for "first"."""
    if channels not in ("last", "first"):
        raise ValueError(f'{name}: expected channels to be "last" or "first", got {channels!r}')
    return channels == "last"


def channels_first(xp: Any, y: Array, last: bool) -> Array:
    """The result with its channels where the input had them."""
    return y if last else xp.moveaxis(y, -1, 1)


def per_axis(name: str, what: str, given: Any, axes: int, least: int = 1) -> Ints:
    """A setting of each spatial axis, from one for all or each its own."""
    expected = f"a whole number of {least} or more, or one for each of {axes} spatial axes"
    try:
        numbers = tuple(map(_index, given if isinstance(given, Sequence) else (given,) * axes))
    except TypeError as error:
        raise InputError(f"{name}: expected {what} to be {expected}, got {given!r}") from error
    if len(numbers) != axes or min(numbers, default=least - 1) < least:
        raise InputError(f"{name}: expected {what} to be {expected}, got {given!r}")
    return numbers


def _index(given: Any) -> int:
    """A whole number; TypeError for what is none, truth values among it."""
    if isinstance(given, bool) or (hasattr(given, "ndim") and given.ndim):
        raise TypeError
    return index(given)


def resolved(
    name: str, padding: Padding, lengths: Ints | None, kernel: Ints, stride: Ints, dilation: Ints
) -> Pairs:
    """Padding as a pair for each axis.

    lengths: of the spatial axes, to be checked: no kernel may be larger than what is padded. None
    where the kernel moves over the result.
    """
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    pairs = _pairs(name, padding, lengths, reach, stride)
    for axis, length in enumerate(lengths or ()):
        if length + sum(pairs[axis]) < reach[axis]:
            raise ShapeError(
                f"{name}: expected a padded input of {reach[axis]} elements or more along spatial "
                f"axis {axis}, which a kernel of {kernel[axis]} with dilation {dilation[axis]} "
                f"covers, got {length} and padding {pairs[axis]}. To fix it: use a smaller kernel, "
                'or padding="same"'
            )
    return pairs


def around(name: str, padding: Any, axes: int) -> Pairs:
    """What is put around each axis, as a pair: of a number or of pairs, and of no word."""
    if not isinstance(padding, str):
        with suppress(InputError):  # which names words, too
            return _pairs(name, padding, None, [1] * axes, (1,) * axes)
    raise InputError(
        f"{name}: expected padding to be a whole number, or a pair (before, after) for each of "
        f"{axes} spatial axes, got {padding!r}"
    )


def _pairs(name: str, padding: Padding, lengths: Any, reach: list[int], stride: Ints) -> Pairs:
    if padding == "valid":
        return ((0, 0),) * len(reach)
    if padding == "causal" and len(reach) == 1:
        return ((reach[0] - 1, 0),)
    if padding == "same" and lengths is not None:
        # As in JAX and Keras: ceil(length / stride) elements come out, and an odd zero is behind.
        missing = [
            max((-(-n // s) - 1) * s + r - n, 0)
            for n, s, r in zip(lengths, stride, reach, strict=True)
        ]
        return tuple((m // 2, m - m // 2) for m in missing)
    given: Any = padding  # unchecked: settings come from files, too
    try:
        if isinstance(given, Sequence):
            low_high = tuple((_index(low), _index(high)) for low, high in given)
        else:
            low_high = ((_index(given),) * 2,) * len(reach)
    except (TypeError, ValueError):
        low_high = ()
    if len(low_high) != len(reach):
        causal = ', "causal"' if len(reach) == 1 else ""
        raise InputError(
            f'{name}: expected padding to be "valid", "same"{causal}, a whole number, or a pair '
            f"(before, after) for each of {len(reach)} spatial axes, got {padding!r}"
        )
    return low_high
