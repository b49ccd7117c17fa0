"""Numbers for people: few digits, aligned; of large arrays a corner and a summary."""

import math
from itertools import islice
from typing import Any

_ROWS, _COLUMNS, _ALL = 4, 6, 32  # of a corner, and entries of an array that is shown whole


def short(value: Any, digits: int = 3) -> str:
    """A number with so many significant digits, and without a negative zero.

    >>> short(0.123456), short(-0.0), short(12), short(1234567.0), short(True)
    ('0.123', '0', '12', '1.23e+06', 'True')
    """
    if isinstance(value, bool | int):
        return str(value)
    text = f"{value:.{digits}g}"
    return "0" if text == "-0" else text


def rows_of(array: Any) -> list[str]:
    """An array on the host as lines of text.

    >>> import numpy as np
    >>> rows_of(np.asarray([[1.0, -0.25], [0.0, 100.0]]))
    ['  1  -0.25', '  0    100']
    >>> rows_of(np.arange(1000.0))
    ['0  1  2  3  4  5  ...', 'min 0  mean 500  max 999']
    """
    if array.ndim == 0:
        return [short(array.tolist(), 4)]
    whole = array.size <= _ALL and array.ndim <= 2
    flat = array.reshape(-1, array.shape[-1]) if array.size else array.reshape(0, 1)
    corner = flat if whole else flat[:_ROWS, :_COLUMNS]
    cells = [[short(value) for value in row] for row in corner.tolist()]
    wide = max((len(cell) for row in cells for cell in row), default=0)
    if len(cells) == 1:
        wide = 0
    lines = ["  ".join(cell.rjust(wide) for cell in row) for row in cells]
    if whole:
        return lines or ["empty"]
    if flat.shape[1] > _COLUMNS:
        lines = [f"{line}  ..." for line in lines]
    if flat.shape[0] > _ROWS:
        lines.append("...")
    return [*lines, summary(array)]


def summary(array: Any) -> str:
    """The least, the mean and the largest entry of an array on the host, as text."""
    if array.dtype.kind == "b":
        return f"{short(float(array.mean()) * 100)}% True"
    if array.dtype.kind not in "iuf" or not array.size:
        return f"{array.size} entries"
    names = ("min", "mean", "max")
    numbers = [float(each) for each in (array.min(), array.mean(), array.max())]
    text = "  ".join(f"{name} {short(n)}" for name, n in zip(names, numbers, strict=True))
    if all(map(math.isfinite, numbers)):
        return text
    bad = sum(not math.isfinite(value) for value in islice(array.reshape(-1).tolist(), 10**6))
    return f"{text}  ({bad} of {array.size} not finite)"
