"""A graph as an SVG picture: the forward pass down one side, the backward pass up the other."""

from dataclasses import dataclass
from html import escape

from tinynn.transforms.graph import Graph, Input, Node

_WIDTH, _HEIGHT, _GAP, _COLUMN = 150, 34, 14, 210
#: For each part of the step: its column, its fill, its line, and what the legend calls it.
_PARTS = {
    "input": (0, "#f3f4f6", "#9ca3af", "data and parameters"),
    "forward": (1, "#dbeafe", "#2563eb", "forward"),
    "backward": (2, "#fee2e2", "#dc2626", "backward"),
    "update": (3, "#dcfce7", "#16a34a", "update"),
}


@dataclass
class _Box:
    part: str
    top: float
    title: str
    note: str

    @property
    def left(self) -> float:
        return 20 + _PARTS[self.part][0] * _COLUMN


def part_of(node: Node) -> str:
    """Which part of a training step a value belongs to."""
    if isinstance(node, Input):
        return "input"
    if node.origin.backward:
        return "backward"
    return "update" if node.origin.place == "update" else "forward"


def svg(graph: Graph) -> str:
    """The picture of a graph.

    The forward pass goes down; the backward pass goes up beside it, so that each derivative
    stands near the call that it is the derivative of.
    """
    boxes = _placed(graph)
    height = max(box.top for box in boxes.values()) + _HEIGHT + 20
    width = 20 + len(_PARTS) * _COLUMN
    lines = [_line(boxes[id(a)], boxes[id(n)]) for n in graph.nodes for a in n.parents
             if id(a) in boxes]  # fmt: skip
    legend = [
        f'<text x="{20 + column * _COLUMN}" y="22" font-weight="bold" fill="{stroke}">{name}</text>'
        for column, _, stroke, name in _PARTS.values()
    ]
    drawn = [_drawn(box) for box in boxes.values()]
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" '
        f'width="{width}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height:.0f}" fill="white"/>',
        *legend, *lines, *drawn, "</svg>",
    ])  # fmt: skip


def _placed(graph: Graph) -> dict[int, _Box]:
    """Every value's box, by its id."""
    columns: dict[str, list[Node]] = {part: [] for part in _PARTS}
    for node in graph.nodes:
        columns[part_of(node)].append(node)
    rows = max(len(columns["forward"]), len(columns["backward"]))
    boxes: dict[int, _Box] = {}
    for part, nodes in columns.items():
        # Up, from where the forward pass ends.
        order = list(reversed(nodes)) if part == "backward" else nodes
        pitch = (_HEIGHT + _GAP) * rows / max(len(order), 1)
        pitch = pitch if part in ("forward", "backward") else _HEIGHT + _GAP
        for row, node in enumerate(order):
            boxes[id(node)] = _Box(part, 36 + row * pitch, node.name, _note(node))
    # Inputs stand beside the first call that takes them.
    users, free = graph.users(), 36.0
    first = {id(i): min(boxes[id(n)].top for n in users[id(i)]) for i in graph.inputs
             if id(i) in users}  # fmt: skip
    for each in sorted((i for i in graph.inputs if id(i) in first), key=lambda i: first[id(i)]):
        top = max(free, first[id(each)])
        boxes[id(each)] = _Box("input", top, each.label, _note(each))
        free = top + _HEIGHT + _GAP
    return boxes


def _note(node: Node) -> str:
    """The shape and the layer."""
    shape = " x ".join(map(str, node.shape or ())) or "one number"
    place = "" if isinstance(node, Input) else node.origin.place
    return f"{shape}   {place}" if place and place != "update" else shape


def _line(start: _Box, end: _Box) -> str:
    """An arrow from one box to another, in the colour of where it ends."""
    color = _PARTS[end.part][2]
    if start.left == end.left:
        x, top, bottom = start.left + _WIDTH / 2, start.top, end.top
        bend = 40 if abs(bottom - top) > 1.5 * (_HEIGHT + _GAP) else 0
        y1, y2 = (top + _HEIGHT, bottom) if bottom > top else (top, bottom + _HEIGHT)
        path = f"M{x},{y1:.0f} C{x - 2 * bend},{y1:.0f} {x - 2 * bend},{y2:.0f} {x},{y2:.0f}"
    else:
        right = end.left > start.left
        x1 = start.left + (_WIDTH if right else 0)
        x2 = end.left + (0 if right else _WIDTH)
        y1, y2, middle = start.top + _HEIGHT / 2, end.top + _HEIGHT / 2, (x1 + x2) / 2
        path = f"M{x1},{y1:.0f} C{middle},{y1:.0f} {middle},{y2:.0f} {x2},{y2:.0f}"
    return f'<path d="{path}" fill="none" stroke="{color}" stroke-opacity="0.55"/>'


def _drawn(box: _Box) -> str:
    """One box with its two lines of text."""
    _, fill, stroke, _ = _PARTS[box.part]
    note = box.note if len(box.note) < 30 else box.note[:28] + "…"
    return (
        f'<rect x="{box.left}" y="{box.top:.0f}" width="{_WIDTH}" height="{_HEIGHT}" rx="5" '
        f'fill="{fill}" stroke="{stroke}"/>'
        f'<text x="{box.left + 6}" y="{box.top + 14:.0f}" font-weight="bold">'
        f"{escape(box.title)}</text>"
        f'<text x="{box.left + 6}" y="{box.top + 27:.0f}" fill="#4b5563" font-size="9">'
        f"{escape(note)}</text>"
    )
