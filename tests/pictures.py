"""The pictures of docs/design.md, as SVG that reads on light and on dark pages.

`python -m tests.pictures` draws them into docs/pictures/: the packages of tinynn and which import
which, from its import statements, and the way from a function to a program.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "pictures"
WIDE, HIGH, ACROSS, DOWN = 112, 34, 20, 34  # of a box, and between boxes
EVERYBODYS = {"tree", "config"}  # arrows to these would hide the others
Box = tuple[float, float]
FLOW = (
    ("your function", "array code of the standard"),
    ("trace", "its arrays are followed"),
    ("transforms", "grad, vmap, jvp: new calls"),
    ("record", "calls become a graph"),
    ("passes", "a smaller graph"),
    ("emitter", "a program you can read"),
    ("engine", "runs it, batch after batch"),
)


def levels(arrows: Mapping[str, set[str]]) -> dict[str, int]:
    """How many packages lie below each, on the longest way down."""
    found: dict[str, int] = {}

    def level(package: str) -> int:
        if package not in found:
            found[package] = 1 + max((level(each) for each in arrows[package]), default=-1)
        return found[package]

    for package in arrows:
        level(package)
    return found


def direct(arrows: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """The arrows that do not follow from others."""

    def below(package: str) -> set[str]:
        return arrows[package].union(*(below(each) for each in arrows[package]))

    return [
        (package, to)
        for package, targets in arrows.items()
        for to in sorted(targets - EVERYBODYS)
        if not any(to in below(other) for other in targets - {to})
    ]


def packages(arrows: Mapping[str, set[str]]) -> str:
    """The packages by level, what is imported below what imports it."""
    found = levels(arrows)
    rows = [
        [package for package in arrows if found[package] == n]
        for n in range(max(found.values()) + 1)
    ]
    rows = ordered(rows, direct(arrows))
    widest = max(map(len, rows))
    places: dict[str, Box] = {}
    for n, row in enumerate(reversed(rows)):
        start = (widest - len(row)) * (WIDE + ACROSS) / 2
        for i, package in enumerate(row):
            places[package] = (start + i * (WIDE + ACROSS) + 1, n * (HIGH + DOWN) + 1)
    lines = [arrow(places[a], places[b]) for a, b in direct(arrows)]
    boxes = [box(place, package) for package, place in places.items()]
    size = widest * (WIDE + ACROSS) - ACROSS + 2, len(rows) * (HIGH + DOWN) - DOWN + 2
    return svg(size, "The packages of tinynn, and which import which", [*lines, *boxes])


def ordered(rows: list[list[str]], edges: list[tuple[str, str]]) -> list[list[str]]:
    """Rows whose packages stand over those that they lead to, so that few arrows cross."""
    places: dict[str, float] = {}
    result = []
    for row in rows:
        middle = {a: [places[b] for b in (b for x, b in edges if x == a)] or [0.0] for a in row}
        row = sorted(row, key=lambda package: sum(middle[package]) / len(middle[package]))
        places |= {package: i - (len(row) - 1) / 2 for i, package in enumerate(row)}
        result.append(row)
    return result


def flow() -> str:
    """What becomes of a function, step by step, from top to bottom."""
    parts = []
    for n, (name, said) in enumerate(FLOW):
        place = (1.0, n * (HIGH + 22) + 1.0)
        parts.append(box(place, name, wide=330, said=said))
        if n:
            parts.append(line((166, place[1] - 22), (166, place[1])))
    size = 332, len(FLOW) * (HIGH + 22) - 20
    return svg(size, "From a function to a program", parts)


def box(place: Box, name: str, wide: float = WIDE, said: str = "") -> str:
    x, y = place
    at = x + 14 if said else x + wide / 2
    anchor = "start" if said else "middle"
    text = f'<text x="{at:g}" y="{y + 22:g}" text-anchor="{anchor}">{name}</text>'
    more = f'<text x="{x + 130:g}" y="{y + 22:g}" class="said">{said}</text>' if said else ""
    return f'<rect x="{x:g}" y="{y:g}" width="{wide:g}" height="{HIGH}" rx="6"/>{text}{more}'


def arrow(above: Box, below: Box) -> str:
    start = (above[0] + WIDE / 2, above[1] + HIGH)
    return line(start, (below[0] + WIDE / 2, below[1]))


def line(start: Box, end: Box) -> str:
    (a, b), (c, d) = start, end
    return f'<path d="M{a:g} {b:g}L{c:g} {d - 3:g}" marker-end="url(#head)"/>'


def svg(size: tuple[float, float], title: str, parts: Iterable[str]) -> str:
    wide, high = size
    head = (
        '<marker id="head" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="6" markerHeight="6" '
        'orient="auto"><path d="M0 0L8 4L0 8z" style="fill:#7d8a97;stroke:none"/></marker>'
    )
    style = (
        "text{font:14px system-ui,sans-serif;fill:#14324a}.said{font-size:13px}"
        "rect{fill:#dbe7f3;stroke:#4878a8}path{stroke:#7d8a97;fill:none;stroke-width:1.3}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:g} {high:g}" '
        f'width="{wide:g}" role="img">\n<title>{title}</title>\n<style>{style}</style>\n'
        f"<defs>{head}</defs>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def imports() -> dict[str, set[str]]:
    """Package -> the packages that its files import, late or early; not for type checkers alone."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "tinynn").glob("*/**/*.py")) + sorted(
        (ROOT / "tinynn").glob("*.py")
    ):
        package = path.relative_to(ROOT / "tinynn").parts[0].removesuffix(".py")
        if package.startswith("__"):
            continue
        found.setdefault(package, set())
        for node in statements(ast.parse(path.read_text())):
            for name in imported(node):
                parts = name.split(".")
                if parts[0] == "tinynn" and len(parts) > 1 and parts[1] != package:
                    found[package].add(parts[1])
    return {package: found[package] & set(found) for package in sorted(found)}


def statements(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from statements(child)


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def pictures() -> dict[str, str]:
    """Name of the file -> what is to be in it."""
    return {"packages.svg": packages(imports()), "program.svg": flow()}


if __name__ == "__main__":
    for name, text in pictures().items():
        (FOLDER / name).write_text(text)
