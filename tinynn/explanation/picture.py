"""The description of a training step as a picture, in SVG, light and dark."""

from functools import cache
from html import escape
from importlib.resources import files
from string import Template
from typing import NamedTuple

from tinynn.explanation.description import Description
from tinynn.explanation.layout import HEIGHT, UPDATE, Arrow, Box, Layout, layout

HEADINGS = ("given", "forward", "backward", "gradients", "update")
_CLASSES = ("given", "forward", "backward", "backward", "update")
#: From the tip of an arrow's head to its other corners.
_HEADS = {
    "right": ((-7, -4), (-7, 4)),
    "left": ((7, -4), (7, 4)),
    "down": ((-4, -7), (4, -7)),
    "up": ((-4, 7), (4, 7)),
}


class Colours(NamedTuple):
    """The fill of boxes of one kind, and the colour of their edges and arrows."""

    fill: str
    edge: str


LIGHT = {
    "given": Colours("#f3f4f6", "#6b7280"),
    "forward": Colours("#dbeafe", "#2563eb"),
    "loss": Colours("#fef3c7", "#b45309"),
    "backward": Colours("#fee2e2", "#dc2626"),
    "update": Colours("#dcfce7", "#15803d"),
}
_DARK = {
    "given": Colours("#1f2937", "#9ca3af"),
    "forward": Colours("#1e3a5f", "#60a5fa"),
    "loss": Colours("#4a3412", "#fbbf24"),
    "backward": Colours("#4c1d1d", "#f87171"),
    "update": Colours("#14382a", "#4ade80"),
}


@cache
def asset(name: str) -> str:
    """A file of this package that is put into what it makes."""
    return files("tinynn.explanation").joinpath(name).read_text("utf-8")


def svg(description: Description) -> str:
    """The picture of a training step: a file of its own, which any browser shows."""
    found = layout(description)
    width, height = f"{found.width:.0f}", f"{found.height:.0f}"
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" class="tinynn-picture" role="img" '
        f'aria-label="{escape(description.title)}" '
        f'width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        f"<style>{_style()}</style>",
        f'<rect class="ground" width="{width}" height="{height}"/>',
        *_headings(found),
        *map(_arrow, found.arrows),
        *map(_box, found.boxes),
        "</svg>",
    ])  # fmt: skip


def _style() -> str:
    rules = [
        "\n".join(
            f".tinynn-picture .{kind} {{ color: {colours.edge}; }}\n"
            f".tinynn-picture .{kind} rect {{ fill: {colours.fill}; }}"
            for kind, colours in palette.items()
        )
        for palette in (LIGHT, _DARK)
    ]
    return Template(asset("picture.css")).substitute(light=rules[0], dark=rules[1])


def heads(arrow: Arrow) -> list[list[tuple[float, float]]]:
    """The corners of the heads of an arrow."""
    return [[(x, y), *((x + dx, y + dy) for dx, dy in _HEADS[way])] for x, y, way in arrow.heads]


def notes(box: Box) -> list[str]:
    """The lines of a box below its name, as many as it has room for."""
    room = int((box.height - 26) // 14) if box.column == UPDATE else 1
    found = list(box.texts[1:])
    if len(found) <= room:
        return found
    return [*found[: max(room - 1, 0)], f"… {len(found) - max(room - 1, 0)} more"]


def _headings(found: Layout) -> list[str]:
    return [
        f'<text class="heading" x="{x:.0f}" y="26">{HEADINGS[column]}</text>'
        for column, x in found.columns.items()
    ]


def _arrow(arrow: Arrow) -> str:
    """The arrows of one value, with its shape where they begin."""
    name, kind = escape(arrow.source.name), arrow.source.kind
    paths = "".join("M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points) for points in arrow.paths)
    corners = "".join(
        "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in head) + "Z" for head in heads(arrow)
    )
    labels = "".join(
        f'<text class="shape" x="{x:.1f}" y="{y:.1f}">{escape(arrow.source.shape)}</text>'
        for x, y in arrow.labels
    )
    return (
        f'<g class="arrow {kind}" data-name="{name}"><path d="{paths}"/>'
        f'<path class="head" d="{corners}"/>{labels}</g>'
    )


def _box(box: Box) -> str:
    """A box with its lines of text; that of the update names the parameters, if they fit."""
    texts = [f'<text class="name" x="{box.x + 8:.1f}" y="{box.y + 16:.1f}">'
             f"{escape(box.texts[0])}</text>"]  # fmt: skip
    texts += [
        f'<text class="note" x="{box.x + 8:.1f}" y="{box.y + 31 + 14 * place:.1f}">'
        f"{escape(note)}</text>"
        for place, note in enumerate(notes(box))
    ]
    numbers = " ".join(map(str, box.numbers))
    return (
        f'<g class="box {box.kind}" data-name="{escape(box.name)}" data-lines="{numbers}">'
        f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" '
        f'height="{max(box.height, HEIGHT):.1f}" rx="5"/>{"".join(texts)}</g>'
    )
