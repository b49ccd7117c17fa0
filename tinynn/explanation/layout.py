"""The places of boxes and arrows in the picture.

Boxes stand in columns: what is given, forward, backward, gradients, and the update as one tall box.
A backward line is in the row of the forward line that it is the derivative of. Arrows run between
the columns (in channels) and between the rows (in lanes), never behind a box; all arrows of one
value share one track.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from tinynn.explanation.description import Description, Given
from tinynn.explanation.lines import Line

GIVEN, FORWARD, BACKWARD, GRADIENTS, UPDATE = range(5)
HEIGHT, _GAP, _TRACK, _MARGIN, _TOP = 40, 12, 8, 16, 48
CHARACTER, SMALL = 7.3, 6.1  # widths of a character of the two sizes of type, at most
LONGEST = 38  # characters in a box


@dataclass(eq=False)
class Box:
    """A box, and where it stands. `numbers` are those of the lines that it stands for."""

    column: int
    kind: str
    name: str
    texts: tuple[str, ...]
    numbers: tuple[int, ...] = ()
    shape: str = ""
    row: int = 0
    x: float = 0.0
    y: float = 0.0
    width: float = 0.0
    height: float = HEIGHT
    ports: dict[str, int] = field(default_factory=dict)

    @property
    def middle(self) -> float:
        return self.y + self.height / 2


@dataclass
class Arrow:
    """The arrows of one value: paths, each a list of points, heads, and labels.

    heads: (x, y, direction), one of "right", "left", "up", "down". labels: (x, y), where the shape
    is written.
    """

    source: Box
    targets: list[Box]
    paths: list[list[tuple[float, float]]] = field(default_factory=list)
    heads: list[tuple[float, float, str]] = field(default_factory=list)
    labels: list[tuple[float, float]] = field(default_factory=list)


@dataclass
class Layout:
    """All boxes and arrows, and the size of the picture."""

    boxes: list[Box]
    arrows: list[Arrow]
    columns: dict[int, float]  # of those that are there, the left edge
    width: float
    height: float


def shorten(text: str, most: int = LONGEST) -> str:
    """The text, or its beginning."""
    return text if len(text) <= most else text[: most - 1] + "…"


def layout(description: Description) -> Layout:
    """Boxes and arrows for a description."""
    boxes = _boxes(description)
    arrows = _arrows(description, boxes)
    found = Layout(list({id(b): b for b in boxes.values()}.values()), arrows, {}, 0.0, 0.0)
    _Placing(found).place()
    return found


def _boxes(description: Description) -> dict[str, Box]:
    """Every box, by the name of its value; those of the update have numbers for names."""
    boxes: dict[str, Box] = {}
    shown = [(i, line) for i, line in enumerate(description.lines) if not line.hidden]
    read_by = {
        name: line for _, line in reversed(shown) if line.kind != "update" for name in line.takes
    }
    updates = [(i, line) for i, line in shown if line.kind == "update"]
    gradients = {name for _, line in updates for name in line.takes}
    row, rows = -1, dict[int, int]()
    for index, line in shown:
        if line.kind == "update":
            continue
        column = _column(line, gradients)
        if column == FORWARD:
            row += 1
        rows[id(line)] = row if column == FORWARD else max(row, 0)
        if column in (BACKWARD, GRADIENTS):
            rows[id(line)] = row = rows.get(id(line.follows), row)
        boxes[line.name] = Box(
            column, line.kind, line.name, (shorten(line.name), shorten(line.code)), (index,),
            line.size, rows[id(line)],
        )  # fmt: skip
    for line in (line for _, line in shown if line.key[0] == "random" and line.name in read_by):
        boxes[line.name].row = rows[id(read_by[line.name])]
    for given in description.given:
        reader = read_by.get(given.name)
        if reader is not None and given.kind != "key" and given.name not in boxes:
            boxes[given.name] = _input(given, rows[id(reader)])
    if updates:
        names = [line.name for _, line in updates]
        texts = (updates[-1][1].place.removeprefix("update, "), *names)
        box = Box(UPDATE, "update", "", tuple(map(shorten, texts)), tuple(i for i, _ in updates))
        boxes |= {f"{place} update": box for place, _ in updates}
    return boxes


def _column(line: Line, gradients: set[str]) -> int:
    if line.key[0] == "random":
        return GIVEN
    if line.kind == "backward":
        return GRADIENTS if line.name in gradients else BACKWARD
    return FORWARD


def _input(given: Given, row: int) -> Box:
    return Box(GIVEN, "given", given.name, (shorten(given.name), given.kind), (), str(given.shape),
               row)  # fmt: skip


def _arrows(description: Description, boxes: dict[str, Box]) -> list[Arrow]:
    targets: dict[int, Arrow] = {}
    for index, line in enumerate(description.lines):
        if line.hidden:
            continue
        update = line.kind == "update"
        end = boxes[f"{index} update" if update else line.name]
        for name in line.takes:
            start = boxes.get(name)
            if start is None or start is end or (update and start.column == GIVEN):
                continue
            arrow = targets.setdefault(id(start), Arrow(start, []))
            if end not in arrow.targets:
                arrow.targets.append(end)
    return list(targets.values())


class _Placing:
    """Places what a layout holds: rows and lanes first, then columns and channels, then lines."""

    def __init__(self, found: Layout) -> None:
        self.found = found
        self.stacks: dict[tuple[int, int], list[Box]] = {}
        for box in found.boxes:
            if box.column != UPDATE:
                self.stacks.setdefault((box.column, box.row), []).append(box)
        self.rows = 1 + max((row for _, row in self.stacks), default=0)
        self.lanes: dict[int, int] = {}  # of an arrow
        self.tracks: dict[tuple[int, int], int] = {}  # of an arrow in a channel

    def place(self) -> None:
        self._rows()
        self._columns()
        for arrow in self.found.arrows:
            self._draw(arrow)

    # How an arrow goes.

    def _chained(self, a: Box, b: Box) -> bool:
        """True if b is right below a, or of two backward lines right above it."""
        if a.column != b.column or a.column not in (FORWARD, BACKWARD):
            return False
        order = [
            box
            for (column, _), stack in sorted(self.stacks.items(), key=lambda pair: pair[0])
            if column == a.column
            for box in stack
        ]
        line = order.index(b) - order.index(a)
        return line == 1 or (line == -1 and a.column == BACKWARD)

    def _ways(self, arrow: Arrow) -> list[tuple[Box, str, int, int]]:
        """For each target that is not chained: the side of the exit, and both channels."""
        ways = []
        for b in arrow.targets:
            a = arrow.source
            if self._chained(a, b):
                continue
            right = b.column >= a.column
            leave = a.column if right else a.column - 1
            enter = b.column - 1 if b.column > a.column else b.column
            ways.append((b, "right" if right else "left", leave, enter))
        return ways

    # Rows.

    def _rows(self) -> None:
        spans: dict[int, list[tuple[float, float, int]]] = {}
        for number, arrow in enumerate(self.found.arrows):
            far = [c for _, _, leave, enter in self._ways(arrow) if leave != enter
                   for c in (leave, enter)]  # fmt: skip
            if far:
                spans.setdefault(arrow.source.row, []).append((min(far), max(far), number))
        counts: dict[int, int] = {}
        for row, found in spans.items():
            packed = _packed(found)
            self.lanes |= packed
            counts[row] = 1 + max(packed.values())
        y = float(_TOP)
        self.above: list[float] = []
        for row in range(self.rows):
            self.above.append(y)
            y += 28.0 + _TRACK * counts.get(row, 0)
            tall = [
                (len(s) * (HEIGHT + _GAP) - _GAP) for (_, r), s in self.stacks.items() if r == row
            ]
            most = max(tall, default=0)
            for (_, r), stack in self.stacks.items():
                if r == row:
                    top = y + (most - (len(stack) * (HEIGHT + _GAP) - _GAP)) / 2
                    for place, box in enumerate(stack):
                        box.y = top + place * (HEIGHT + _GAP)
            y += most
        self.found.height = y + _MARGIN
        for box in self.found.boxes:
            if box.column == UPDATE:
                box.y, box.height = _TOP + 10, max(y - _TOP - 10, HEIGHT)

    # Columns.

    def _columns(self) -> None:
        used = sorted({box.column for box in self.found.boxes})
        spans: dict[int, list[tuple[float, float, int]]] = {}
        for number, arrow in enumerate(self.found.arrows):
            reach: dict[int, list[float]] = {}
            for b, _, leave, enter in self._ways(arrow):
                y, lane = arrow.source.middle, self._lane(arrow, number)
                end = self._end(arrow, b)
                if leave == enter:
                    reach.setdefault(leave, []).extend((y, end))
                else:
                    reach.setdefault(leave, []).extend((y, lane))
                    reach.setdefault(enter, []).extend((lane, end))
            for channel, found in reach.items():
                if max(found) > min(found):
                    spans.setdefault(channel, []).append((min(found), max(found), number))
        x, self.channels = float(_MARGIN), dict[int, float]()
        for column in range(used[-1] + 1):
            mine = [box for box in self.found.boxes if box.column == column]
            if mine:
                self.found.columns[column] = x
            wide = max((_width(box) for box in mine), default=0.0)
            for box in mine:
                box.x, box.width = x, wide
            x += wide
            packed = _packed(spans.get(column, []))
            self.tracks |= {(number, column): track for number, track in packed.items()}
            sides = [
                arrow.source
                for arrow in self.found.arrows
                if any(w[1] == "right" and w[2] == column for w in self._ways(arrow))
            ]
            label = max((len(box.shape) * SMALL + 10 for box in sides), default=0.0)
            self.channels[column] = x + label + 8
            tracks = 1 + max(packed.values(), default=-1)
            x += (label + _TRACK * tracks + 26) if column < used[-1] else 0
        self.found.width = x + _MARGIN

    def _lane(self, arrow: Arrow, number: int) -> float:
        return self.above[arrow.source.row] + 10 + _TRACK * self.lanes.get(number, 0)

    def _end(self, arrow: Arrow, b: Box) -> float:
        """The height at which an arrow comes to a box, each at its own, beside the middle."""
        a = arrow.source
        if b.column == UPDATE:
            number = self.found.arrows.index(arrow)
            return a.middle if a.column == GRADIENTS else self._lane(arrow, number)
        alone = b.column == a.column + 1 and b.middle == a.middle
        if alone:
            return a.middle
        key = f"{'left' if b.column > a.column else 'right'} {id(a)}"
        place = b.ports.setdefault(key, len(b.ports))
        off = 7 + 5 * (place // 2)
        below = place % 2 == (b.column > a.column)  # on the right the shape stands above
        return b.middle + min(off, HEIGHT / 2 - 3) * (1 if below else -1)

    # Lines.

    def _draw(self, arrow: Arrow) -> None:
        a, number = arrow.source, self.found.arrows.index(arrow)
        for b in arrow.targets:
            if self._chained(a, b):
                down = b.y > a.y
                x = a.x + a.width / 2
                start, end = (a.y + a.height, b.y) if down else (a.y, b.y + b.height)
                arrow.paths.append([(x, start), (x, end)])
                arrow.heads.append((x, end, "down" if down else "up"))
                room = 8 if abs(end - start) > _GAP else 2  # less between two of one row
                arrow.labels.append((x + 5, (end if down else start) - room))
        sides = set()
        for b, side, leave, enter in self._ways(arrow):
            right = side == "right"
            begin = a.x + a.width if right else a.x
            left = b.column > a.column
            end_x, end_y = (b.x if left else b.x + b.width), self._end(arrow, b)
            if side not in sides and right:
                arrow.labels.append((begin + 4, a.middle - 4))
            sides.add(side)
            points = [(begin, a.middle)]
            if leave == enter:
                if end_y != a.middle:
                    x = self._track(number, leave)
                    points += [(x, a.middle), (x, end_y)]
            else:
                lane = self._lane(arrow, number)
                x = self._track(number, leave)
                points += [(x, a.middle), (x, lane)]
                if end_y != lane:
                    x = self._track(number, enter)
                    points += [(x, lane), (x, end_y)]
            arrow.paths.append([*points, (end_x, end_y)])
            arrow.heads.append((end_x, end_y, "right" if left else "left"))

    def _track(self, number: int, channel: int) -> float:
        return self.channels[channel] + _TRACK * self.tracks.get((number, channel), 0)


def _width(box: Box) -> float:
    return 16 + max(len(box.texts[0]) * CHARACTER, *(len(t) * SMALL for t in box.texts[1:]), 60.0)


def _packed(spans: Iterable[tuple[float, float, int]]) -> dict[int, int]:
    """A place for each span, such that spans that touch have different ones: few places in all."""
    ends: list[float] = []
    places: dict[int, int] = {}
    for start, end, number in sorted(spans):
        place = next((p for p, last in enumerate(ends) if last < start - 6), len(ends))
        ends[place : place + 1] = [end]
        places[number] = place
    return places
