"""Surfaces as pixels: PNG, and blocks of colour in a terminal, without another package."""

import zlib
from collections.abc import Sequence
from math import isfinite
from struct import pack
from typing import Any, TypeAlias

from tinynn.inspection.pictures import (
    SIZE,
    at,
    colour,
    ends,
    heights,
    marked,
    read,
    segments,
    share_of,
)

Array: TypeAlias = Any
Colour: TypeAlias = tuple[int, int, int]

_SHADES = " .:-=+*#%@"
_UPPER = "\u2580"  # the upper half of a character's cell
_WHITE = (255, 255, 255)


def to_png(
    surface: Any,
    *,
    points: Array | None = None,
    labels: Array | None = None,
    lines: bool = False,
    size: int = 400,
) -> bytes:
    """The picture of a surface in colours, as the content of a PNG file, without axes and text.

    Parameters
    ----------
    surface, points, labels
        As `heatmap` takes them.
    lines
        Whether lines of equal height are drawn, as `contour` does.
    size
        Pixels of each side.

    Raises
    ------
    ValueError
        A size that is no whole number above 0.

    References
    ----------
    W3C 2003, "Portable Network Graphics (PNG) Specification (Second Edition)".

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.inspection import Surface
    >>> x = np.arange(2.0)
    >>> to_png(Surface(x, x, np.eye(2)))[1:4]
    b'PNG'
    """
    if isinstance(size, bool) or not hasattr(size, "__index__") or size < 1:
        raise ValueError(f"to_png: size: expected a whole number of 1 or more, got {size!r}")
    x, y, values = read(surface)
    low, high = ends(values)
    rows = []
    for row in range(size):
        numbers = values[len(y) - 1 - row * len(y) // size]  # y grows upwards
        cells = [bytes(colour(number, low, high)) for number in numbers]
        rows.append(bytearray(b"".join(cells[i * len(x) // size] for i in range(size))))
    if lines:
        for height in heights(values):
            for start, stop in segments(x, y, values, height):
                _draw_line(rows, start, stop)
    found, least, most = marked(points, labels)
    for a, b, mark in found:
        place = at(x, a), SIZE - at(y, b)
        _draw_disc(rows, place, 4.0, _WHITE)
        _draw_disc(rows, place, 3.0, colour(mark, least, most))
    return _encoded(rows)


def _draw_line(rows: list[bytearray], start: Any, stop: Any) -> None:
    """Whiten the pixels between two places of a picture of SIZE."""
    scale = len(rows) / SIZE
    (a, b), (c, d) = ((u * scale, v * scale) for u, v in (start, stop))
    steps = max(1, round(max(abs(c - a), abs(d - b))))
    for step in range(steps + 1):
        column, row = a + (c - a) * step / steps, b + (d - b) * step / steps
        _put(rows, int(row), int(column), _WHITE)


def _draw_disc(rows: list[bytearray], place: Any, radius: float, inside: Colour) -> None:
    scale = len(rows) / SIZE
    middle, high, far = place[0] * scale, place[1] * scale, radius * scale
    for row in range(int(high - far), int(high + far) + 2):
        for column in range(int(middle - far), int(middle + far) + 2):
            if (row + 0.5 - high) ** 2 + (column + 0.5 - middle) ** 2 <= far * far:
                _put(rows, row, column, inside)


def _put(rows: list[bytearray], row: int, column: int, value: Colour) -> None:
    if 0 <= row < len(rows) and 0 <= column < len(rows):
        rows[row][3 * column : 3 * column + 3] = bytes(value)


def _encoded(rows: Sequence[bytes | bytearray]) -> bytes:
    """The file: a header, the rows, each after the number of its filter, which is none, an end."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return pack(">I", len(data)) + kind + data + pack(">I", zlib.crc32(kind + data))

    header = pack(">IIBBBBB", len(rows[0]) // 3, len(rows), 8, 2, 0, 0, 0)  # 8 bits of RGB
    data = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows), 9)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*part) for part in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    )


def to_terminal(
    surface: Any,
    *,
    points: Array | None = None,
    labels: Array | None = None,
    title: str = "",
    plain: bool = False,
) -> str:
    """The picture of a surface as lines of text: a character is two places, one above the other.

    In a terminal of 24-bit colours. Points are black for the lowest label and white for the
    highest.

    Parameters
    ----------
    surface, points, labels
        As `heatmap` takes them.
    title
        A line above it.
    plain
        True for shades of characters without colours, and points as "o" and "x".

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.inspection import Surface
    >>> x = np.arange(4.0)
    >>> print(to_terminal(Surface(x, x, x + 4 * x[:, None]), plain=True))
    #%%@
    :-==
    """
    x, y, values = read(surface)
    low, high = ends(values)
    found, least, most = marked(points, labels)
    on_top = {(_nearest(y, b), _nearest(x, a)): share_of(mark, least, most) for a, b, mark in found}
    written = [title] if title else []
    for row in range(len(y) - 1, -1, -2):
        pair = (row, max(row - 1, 0))
        if plain:
            written.append(_shaded(values, pair, low, high, on_top))
        else:
            cells = [
                [
                    _grey(on_top[each, column])
                    if (each, column) in on_top
                    else colour(values[each][column], low, high)
                    for each in pair
                ]
                for column in range(len(x))
            ]
            written.append("".join(_block(*cell) for cell in cells) + "\x1b[0m")
    return "\n".join(written)


def can_write(stream: Any) -> bool:
    """Whether a stream of text has the character that the coloured picture is made of."""
    try:
        _UPPER.encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _nearest(places: Sequence[float], place: float) -> int:
    return min(range(len(places)), key=lambda i: abs(places[i] - place))


def _grey(share: float) -> Colour:
    part = round(255 * share) if isfinite(share) else 128
    return part, part, part


def _block(above: Colour, below: Colour) -> str:
    return "\x1b[38;2;{};{};{};48;2;{};{};{}m{}".format(*above, *below, _UPPER)


def _shaded(values: Any, pair: Any, low: float, high: float, on_top: Any) -> str:
    """A line without colours: the shade of the upper of two rows."""
    line = []
    for column, number in enumerate(values[pair[0]]):
        marks = [on_top[row, column] for row in pair if (row, column) in on_top]
        if marks:
            line.append("o" if marks[0] < 0.5 else "x")
        elif isfinite(number):
            line.append(_SHADES[round(share_of(number, low, high) * (len(_SHADES) - 1))])
        else:
            line.append("?")
    return "".join(line)
