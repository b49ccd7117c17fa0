"""Checks of arrays of integers: ids and lengths."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from tinynn.functional.errors import DtypeError, InputError
from tinynn.trace import is_readable, namespace
from tinynn.trace.scopes import scopes

Array: TypeAlias = Any


@dataclass(frozen=True)
class Range:
    """The range that integers are to be in.

    Attributes:
        sources, made: arrays, and what makes the numbers of them; None: they are the only source.
        owner, name, low, high, fix: as for `require_range`.
        path: of the layer that asks.
    """

    sources: tuple[Array, ...]
    made: Callable[..., Array] | None
    owner: str
    name: str
    low: int
    high: int
    fix: str
    path: str

    def check(self, *sources: Array) -> None:
        """InputError, at the path of the layer, if numbers of these sources are out of range."""
        numbers = sources[0] if self.made is None else self.made(*sources)
        try:
            require_range(self.owner, self.name, numbers, self.low, self.high, self.fix)
        except InputError as error:
            error.path = self.path
            raise


class _Noting(threading.local):
    ranges: list[Range] | None = None


_noting = _Noting()


@contextmanager
def noting() -> Iterator[list[Range]]:
    """The ranges of integers that cannot be read, as a recording goes on."""
    around, _noting.ranges = _noting.ranges, []
    try:
        yield _noting.ranges
    finally:
        _noting.ranges = around


def _note(found: Range) -> None:
    """Note a range, unless its sources are of a part of the program alone, as in a scan."""
    whole = all(getattr(array, "trace", None) is scopes.recording for array in found.sources)
    if _noting.ranges is not None and whole:
        _noting.ranges.append(found)


def _path() -> str:
    """The path of the layer that is being called."""
    frames = [frame for frame in scopes.frames if isinstance(frame, tuple) and frame[0]]
    return ".".join(str(frame[0]) for frame in frames)


def require_integers(owner: Any, name: str, numbers: Array, fix: str) -> None:
    """DtypeError unless these are integers; `owner`, `name` and `fix` are words of the message."""
    if not hasattr(numbers, "dtype") or not namespace(numbers).isdtype(numbers.dtype, "integral"):
        got = getattr(numbers, "dtype", type(numbers).__name__)
        raise DtypeError(
            f"{owner}: expected {name} of an integer dtype, got {got}. To fix it: {fix}"
        )


def require_range(
    owner: Any,
    name: str,
    numbers: Array,
    low: int,
    high: int,
    fix: str,
    sources: tuple[Array, ...] = (),
    made: Callable[..., Array] | None = None,
) -> None:
    """InputError if one of these integers is out of range, where they can be read.

    In a recording and under `vmap` there are no numbers to look at; so compiled steps read nothing
    from a device, and eager ones two numbers. What a recording could not look at `noting` gives,
    with the arrays, `sources`, of which `made` makes the numbers if they are not given as they are.
    """
    if 0 in numbers.shape:
        return
    if not is_readable(numbers):
        whole = sources or (numbers,)
        _note(Range(whole, made, str(owner), name, low, high, fix, _path()))
        return
    xp = namespace(numbers)
    if not xp.isdtype(numbers.dtype, "signed integer"):  # some libraries lack min of the others
        numbers = xp.astype(numbers, xp.int64)
    ends = xp.min(numbers), xp.max(numbers)
    if not all(map(is_readable, ends)):  # a library's own compiler follows whatever is computed
        return
    least, most = map(int, ends)
    if least < low or most > high:
        raise InputError(
            f"{owner}: expected {name} from {low} to {high}, got {name} from {least} to {most}. "
            f"To fix it: {fix}"
        )
