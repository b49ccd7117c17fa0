"""The description of a training step as text."""

from collections.abc import Iterator

from tinynn.explanation.description import Description
from tinynn.explanation.lines import Line
from tinynn.explanation.numbers import rows_of

_CODE = 50  # columns for code, where it is shorter


def text(description: Description, detail: str = "lines") -> str:
    """The lines as Python, a line each, with shapes, formulas, and values if there are some.

    detail: "lines"; "all", with views and set-up; "calls", with every call in a line of its own.
    """
    out = [f"# {row}" for row in description.title.splitlines()]
    place = ""
    shown = list(_chosen(description, detail))
    wide = max((len(_left(line)) for line in shown if len(_left(line)) <= _CODE), default=0)
    said: set[str] = set()
    for line in shown:
        if line.heading != place:
            place = line.heading
            out.append(f"# {place}")
        formula = line.formula
        if line.kind == "update":  # one for all parameters, above them
            if formula and formula not in said:
                out.append(f"#     {formula}")
            said.add(formula)
            formula = ""
        shape = line.size.ljust(_wide(shown)) if formula else line.size
        note = f"{shape}{'   ' + formula if formula else ''}"
        out.append(f"{_left(line).ljust(wide)}  # {note}" if note else _left(line))
        if line.value is not None:
            out += [f"#     {row}" for row in rows_of(line.value)]
    return "\n".join([*out, f"# {folded(description, detail)}"]) + "\n"


def _chosen(description: Description, detail: str) -> Iterator[Line]:
    for line in description.lines:
        if detail == "calls":
            yield from line.calls()
        elif detail != "lines" or not line.hidden:
            yield line


def _left(line: Line) -> str:
    return f"{', '.join((line.name, *line.also))} = {line.code}"


def _wide(lines: list[Line]) -> int:
    return max(len(line.size) for line in lines)


def folded(description: Description, detail: str) -> str:
    """The last line: what of the program is not shown."""
    lines = description.lines
    calls = sum(len(line.nodes) for line in lines)
    if detail == "calls":
        return f"{calls} calls, all of them"
    shown = [line for line in lines if detail == "all" or not line.hidden]
    hidden = calls - sum(len(line.nodes) for line in shown)
    many = [line for line in shown if len(line.nodes) > 1]
    parts = [f"{len(shown)} lines for {calls} calls"]
    if many:
        parts.append(f"{sum(len(s.nodes) for s in many)} are folded into {len(many)} of them")
    if hidden:
        parts.append(f"{hidden} of views and set-up are left out")
    return ", ".join(parts)
