"""Checks of arrays of integers: ids and lengths."""

import threading
from collections.abc import Iterator
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
        numbers: those that were to be looked at.
        owner, name, low, high, fix: as for `require_range`.
        path: of the layer that asks.
    """

    numbers: Array
    owner: str
    name: str
    low: int
    high: int
    fix: str
    path: str

    def check(self, numbers: Array) -> None:
        """InputError, at the path of the layer, if one of these is out of range."""
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


def _note(numbers: Array, owner: str, name: str, low: int, high: int, fix: str) -> None:
    """Note a range, unless the numbers are of a part of the program alone, as in a scan."""
    if _noting.ranges is not None and getattr(numbers, "trace", None) is scopes.recording:
        names = [str(frame[0]) for frame in scopes.frames if isinstance(frame, tuple) and frame[0]]
        _noting.ranges.append(Range(numbers, owner, name, low, high, fix, ".".join(names)))


def require_integers(owner: Any, name: str, numbers: Array, fix: str) -> None:
    """DtypeError unless these are integers; `owner`, `name` and `fix` are words of the message."""
    if not hasattr(numbers, "dtype") or not namespace(numbers).isdtype(numbers.dtype, "integral"):
        got = getattr(numbers, "dtype", type(numbers).__name__)
        raise DtypeError(
            f"{owner}: expected {name} of an integer dtype, got {got}. To fix it: {fix}"
        )


def require_range(owner: Any, name: str, numbers: Array, low: int, high: int, fix: str) -> None:
    """InputError if one of these integers is out of range, where they can be read.

    In a recording and under `vmap` there are no numbers to look at; so compiled steps read nothing
    from a device, and eager ones two numbers. What a recording could not look at `noting` gives.
    """
    if 0 in numbers.shape:
        return
    if not is_readable(numbers):
        _note(numbers, str(owner), name, low, high, fix)
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
