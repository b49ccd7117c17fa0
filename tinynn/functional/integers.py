"""Checks of arrays of integers: ids and lengths."""

from typing import Any, TypeAlias

from tinynn.functional.errors import DtypeError, InputError
from tinynn.trace import is_readable, namespace

Array: TypeAlias = Any


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
    from a device, and eager ones two numbers.
    """
    if 0 in numbers.shape or not is_readable(numbers):
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
