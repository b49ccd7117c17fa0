"""Surfaces as pictures, in SVG, without another package."""

from collections.abc import Sequence
from html import escape
from math import isfinite
from typing import Any, TypeAlias

from tinynn.trace import backend_of

Array: TypeAlias = Any

SIZE, _EDGE = 400.0, 44.0
#: From low to high: colours of viridis, which all eyes tell apart.
_SCALE = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
_LINES = 8  # of equal height in a contour


def heatmap(
    surface: Any, *, points: Array | None = None, labels: Array | None = None, title: str = ""
) -> str:
    """The picture of a surface in colours, dark for the lowest number, as SVG.

    Parameters
    ----------
    surface
        A `Surface` of numbers, (rows, columns) or (rows, columns, 1); of several outputs the last
        one is shown.
    points : (rows, 2)
        Drawn on top.
    labels : (rows,)
        Numbers that colour the points.
    title
        A line above it.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.inspection import Surface
    >>> x = np.arange(2.0)
    >>> heatmap(Surface(x, x, np.eye(2)), title="two by two").count("<rect")
    5
    """
    x, y, values = read(surface)
    return _drawn(x, y, values, _points(x, y, points, labels), title)


def contour(surface: Any, *, title: str = "") -> str:
    """The picture of a surface in colours, with lines of equal height, as SVG.

    Parameters
    ----------
    surface
        As `heatmap` takes it.
    title
        A line above it.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.inspection import Surface
    >>> x = np.linspace(-1.0, 1.0, 9)
    >>> picture = contour(Surface(x, x, x[:, None] ** 2 + x**2))
    >>> picture.startswith("<svg"), picture.count("<path")
    (True, 8)
    """
    x, y, values = read(surface)
    lines = []
    for height in heights(values):
        path = " ".join(
            f"M{a:.1f} {b:.1f}L{c:.1f} {d:.1f}" for (a, b), (c, d) in segments(x, y, values, height)
        )
        lines.append(f'<path d="{path}" fill="none" stroke="#fff" stroke-opacity="0.7"/>')
    return _drawn(x, y, values, lines, title)


def reliability_diagram(found: Any, *, title: str = "") -> str:
    """The accuracy of answers beside their confidence, a bar for each bin, as SVG.

    Bars as high as the diagonal are of probabilities that are as sure as they may be. Their shade
    is the share of the rows.

    Parameters
    ----------
    found
        What `tinynn.uncertainty.reliability` gives.
    title
        A line above it.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynn.uncertainty import reliability
    >>> found = reliability(np.asarray([[0.1, 0.9], [0.2, 0.8]]), np.asarray([1, 0]), bins=4)
    >>> reliability_diagram(found).count('class="bin"')
    1
    """
    backend = backend_of(found.share)
    accuracy, share = (backend.to_host(a).tolist() for a in (found.accuracy, found.share))
    width, most = SIZE / len(share), max(share) or 1.0
    bars = [
        f'<rect class="bin" x="{place * width + 1:.2f}" y="{SIZE * (1 - height):.2f}" '
        f'width="{width - 2:.2f}" height="{SIZE * height:.2f}" fill="#2563eb" '
        f'fill-opacity="{0.25 + 0.75 * part / most:.2f}"/>'
        for place, (height, part) in enumerate(zip(accuracy, share, strict=True))
        if part
    ]
    bars.append(
        f'<path d="M0 {SIZE:.0f}L{SIZE:.0f} 0" fill="none" stroke="#6b7280" '
        'stroke-dasharray="4 4"/>'
    )
    error = float(backend.to_host(found.error))
    note = f"confidence, and accuracy upwards; expected calibration error {error:.3f}"
    return _framed(bars, (0.0, 1.0), (0.0, 1.0), title, note)


def read(surface: Any) -> tuple[list[float], list[float], list[list[float]]]:
    """The surface on the host: x, y and the numbers, row by row."""
    backend = backend_of(surface.values)
    values = surface.values if surface.values.ndim == 2 else surface.values[..., -1]
    x, y, numbers = (backend.to_host(each).tolist() for each in (surface.x, surface.y, values))
    return x, y, numbers


def at(places: Sequence[float], place: float) -> float:
    """The distance of a place of an axis from its beginning, in the picture."""
    cell = SIZE / len(places)
    width = (places[-1] - places[0]) or 1.0
    return cell / 2 + (place - places[0]) / width * (SIZE - cell)


def _drawn(
    x: Sequence[float], y: Sequence[float], values: Any, on_top: list[str], title: str
) -> str:
    low, high = ends(values)
    width, height = SIZE / len(x), SIZE / len(y)
    cells = []
    for row, numbers in enumerate(values):
        top = SIZE - (row + 1) * height  # y grows upwards
        cells += [
            f'<rect x="{column * width:.2f}" y="{top:.2f}" width="{width + 0.05:.2f}" '
            f'height="{height + 0.05:.2f}" fill="{_colour(number, low, high)}"/>'
            for column, number in enumerate(numbers)
        ]
    inside = ['<g shape-rendering="crispEdges">', *cells, "</g>", *on_top]
    return _framed(inside, x, y, title, f"dark {low:.4g}, light {high:.4g}")


def _framed(
    inside: list[str], x: Sequence[float], y: Sequence[float], title: str, note: str
) -> str:
    """The whole picture: what is inside, the ends of the axes, a title and a note."""
    size = SIZE + 2 * _EDGE
    below, left = _EDGE + SIZE + 18, _EDGE - 6
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(title)}" '
            f'width="{size:.0f}" height="{size:.0f}" viewBox="0 0 {size:.0f} {size:.0f}" '
            'font-family="sans-serif" font-size="12">',
            f'<rect width="{size:.0f}" height="{size:.0f}" fill="#fff"/>',
            f'<text x="{size / 2:.0f}" y="26" text-anchor="middle">{escape(title)}</text>',
            f'<g transform="translate({_EDGE:.0f} {_EDGE:.0f})">',
            *inside,
            "</g>",
            f'<text x="{_EDGE:.0f}" y="{below:.0f}">{x[0]:.3g}</text>',
            f'<text x="{_EDGE + SIZE:.0f}" y="{below:.0f}" text-anchor="end">{x[-1]:.3g}</text>',
            f'<text x="{left:.0f}" y="{_EDGE + SIZE:.0f}" text-anchor="end">{y[0]:.3g}</text>',
            f'<text x="{left:.0f}" y="{_EDGE + 10:.0f}" text-anchor="end">{y[-1]:.3g}</text>',
            f'<text x="{size / 2:.0f}" y="{below + 16:.0f}" text-anchor="middle">{note}</text>',
            "</svg>",
        ]
    )


def ends(values: Any) -> tuple[float, float]:
    """The lowest and the highest number of a surface, of those that are finite."""
    known = [number for row in values for number in row if isfinite(number)]
    return min(known, default=0.0), max(known, default=1.0)


def share_of(number: float, low: float, high: float) -> float:
    """How far a number is from the lowest to the highest: from 0 to 1."""
    if not high > low:
        return 0.5
    scale = 1.0 if isfinite(high - low) else 0.25  # the distance of two huge numbers is none
    return (number * scale - low * scale) / (high * scale - low * scale)


def colour(number: float, low: float, high: float) -> tuple[int, int, int]:
    """Red, green and blue of a number; grey if it is not finite."""
    if not isfinite(number):
        return (156, 163, 175)
    place = min(share_of(number, low, high) * (len(_SCALE) - 1), len(_SCALE) - 1 - 1e-9)
    first, rest = int(place), place - int(place)
    pairs = zip(_SCALE[first], _SCALE[first + 1], strict=True)
    red, green, blue = (round(a + rest * (b - a)) for a, b in pairs)
    return red, green, blue


def _colour(number: float, low: float, high: float) -> str:
    return "#" + "".join(f"{part:02x}" for part in colour(number, low, high))


def _points(x: Sequence[float], y: Sequence[float], points: Any, labels: Any) -> list[str]:
    found, low, high = marked(points, labels)
    return [
        f'<circle cx="{at(x, a):.1f}" cy="{SIZE - at(y, b):.1f}" r="3" stroke="#fff" '
        f'fill="{_colour(mark, low, high)}"/>'
        for a, b, mark in found
    ]


def marked(points: Any, labels: Any) -> tuple[list[tuple[float, float, float]], float, float]:
    """Each point with its number, and the lowest and the highest of these.

    Points that are at no place, NaN or infinite, are left out.

    Raises ValueError for points of another shape, and labels that are no numbers, one for each.
    """
    if points is None:
        return [], 0.0, 1.0
    rows = _listed(points)
    if not all(isinstance(row, list | tuple) and len(row) == 2 for row in rows):
        raise ValueError(
            "points: expected the shape (rows, 2), a place on each axis, got "
            f"{tuple(points.shape) if hasattr(points, 'shape') else points!r}. To fix it: give the "
            "two columns that the axes are of"
        )
    marks = [1.0] * len(rows) if labels is None else [_number(mark) for mark in _listed(labels)]
    if len(marks) != len(rows):
        raise ValueError(
            f"labels: expected one for each of {len(rows)} points, got {len(marks)}. To fix it: "
            "give the labels of the same rows"
        )
    each = [(*row, mark) for row, mark in zip(rows, marks, strict=True) if all(map(isfinite, row))]
    known = [mark for mark in marks if isfinite(mark)]
    return each, min(known, default=0.0), max(known, default=1.0)


def _listed(given: Any) -> list[Any]:
    """The entries of an array or a list; those of one column as they are."""
    if isinstance(given, list | tuple):
        return list(given)
    host = backend_of(given).to_host(given)
    if host.ndim == 2 and host.shape[1] == 1:
        host = host.reshape(-1)
    found: list[Any] = host.tolist()
    return found


def _number(label: Any) -> float:
    if isinstance(label, list | tuple) and len(label) == 1:
        label = label[0]
    if isinstance(label, int | float):
        return float(label)
    raise ValueError(
        f"labels: expected numbers, got {label!r}. To fix it: number the classes, "
        "xp.unique_inverse(labels).inverse_indices"
    )


def heights(values: Any) -> list[float]:
    """Those of the lines of a contour."""
    low, high = ends(values)
    shares = [place / (_LINES + 1) for place in range(1, _LINES + 1)]
    return [low * (1.0 - share) + high * share for share in shares]


def segments(x: Sequence[float], y: Sequence[float], values: Any, height: float) -> list[Any]:
    """Marching triangles: two in each square of the grid, a straight line through each.

    Pairs of places of the picture, whose second number grows downwards.
    """
    found = []
    for row in range(len(y) - 1):
        for column in range(len(x) - 1):
            corners = [
                (x[column + i], y[row + j], values[row + j][column + i])
                for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))
            ]
            for triangle in ((0, 1, 2), (0, 2, 3)):
                met = _crossings([corners[k] for k in triangle], height)
                if len(met) == 2:
                    found.append([(at(x, a), SIZE - at(y, b)) for a, b in met])
    return found


def _crossings(corners: list[tuple[float, float, float]], height: float) -> list[Any]:
    """The points in which the edges of a triangle cross this height; none of one with a gap."""
    if not all(isfinite(number) for _, _, number in corners):
        return []
    met = []
    for (a, b, low), (c, d, high) in zip(corners, corners[1:] + corners[:1], strict=True):
        if (low < height) != (high < height):
            share = share_of(height, min(low, high), max(low, high))
            share = share if low < high else 1.0 - share
            met.append((a + share * (c - a), b + share * (d - b)))
    return met
