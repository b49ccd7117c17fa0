"""The picture as PNG or PDF, drawn by matplotlib."""

from io import BytesIO
from typing import Any

from tinynn.explanation.description import Description
from tinynn.explanation.layout import layout
from tinynn.explanation.picture import HEADINGS, LIGHT, heads, notes

_PIXEL = 1 / 96  # inches; and three quarters of a point
_INK, _SOFT = "#1f2937", "#4b5563"


def plot(description: Description, kind: str) -> bytes:
    """The picture as a file of that kind, "png" or "pdf".

    Raises ImportError, with the command that helps, where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import FancyBboxPatch
    except ImportError as error:
        raise ImportError(
            f"save: expected matplotlib for a .{kind}, which is not installed. To fix it: "
            'pip install "tinynn-xp[plot]", or save the picture as .svg'
        ) from error
    found = layout(description)
    figure = Figure(figsize=(found.width * _PIXEL, found.height * _PIXEL), dpi=192)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, found.width), ylim=(found.height, 0))
    axes.axis("off")

    def write(x: float, y: float, text: str, size: float, **style: Any) -> None:
        axes.text(x, y, text, fontsize=size * 0.75, family="monospace", parse_math=False, **style)

    for column, x in found.columns.items():
        write(x, 26, HEADINGS[column], 12, color=_INK, weight="bold")
    for arrow in found.arrows:
        edge = LIGHT[arrow.source.kind].edge
        for path in arrow.paths:
            axes.plot(*zip(*path, strict=True), color=edge, linewidth=0.9)
        for head in heads(arrow):
            axes.fill(*zip(*head, strict=True), color=edge)
        for x, y in arrow.labels:
            write(x, y, arrow.source.shape, 10, color=_SOFT)
    for box in found.boxes:
        fill, edge = LIGHT[box.kind]
        axes.add_patch(
            FancyBboxPatch(
                (box.x, box.y),
                box.width,
                box.height,
                "round,pad=0,rounding_size=5",
                facecolor=fill,
                edgecolor=edge,
                linewidth=0.9,
            )
        )
        write(box.x + 8, box.y + 16, box.texts[0], 12, color=_INK, weight="bold")
        for place, note in enumerate(notes(box)):
            write(box.x + 8, box.y + 31 + 14 * place, note, 10, color=_SOFT)
    buffer = BytesIO()
    figure.savefig(buffer, format=kind)
    return buffer.getvalue()
