"""The description of a training step as a page: one HTML file with all that it needs."""

import json
import re
from collections.abc import Iterator
from html import escape
from string import Template
from typing import Any

from tinynn.explanation.description import Description, Given, dtype_name
from tinynn.explanation.lines import Line
from tinynn.explanation.numbers import rows_of
from tinynn.explanation.picture import asset, svg
from tinynn.explanation.text import folded

_WORD = re.compile(r"[^\W\d]\w*")


def page(description: Description) -> str:
    """The page: lines, the picture, and what is known of each line.

    Whatever comes from outside (names of layers, of columns) is escaped.
    """
    known = {line.name for line in description.lines} | {g.name for g in description.given}
    data = {
        **{identity: _data(line, number) for identity, number, line in _numbered(description)},
        **{f"given {each.name}": _given(each) for each in description.given},
    }
    return Template(asset("page.html")).substitute(
        title=escape(description.title),
        css=asset("page.css"),
        lines="\n".join(_items(description, known)),
        folded=escape(folded(description, "lines")),
        picture=svg(description),
        # In a script no entity is read: the one sign that could end it is written otherwise.
        data=json.dumps(data, ensure_ascii=False).replace("<", "\\u003c"),
        script=asset("page.js"),
    )


def _numbered(description: Description) -> Iterator[tuple[str, int, Line]]:
    """Every line and part: its identity in the page, and the number of the line."""
    for number, line in enumerate(description.lines):
        yield str(number), number, line
        for place, part in enumerate(_parts(line)):
            yield f"{number}.{place}", number, part


def _parts(line: Line) -> list[Line]:
    return [call for call in line.calls() if call is not line]


def _data(line: Line, number: int) -> dict[str, Any]:
    return {
        "line": number,
        "name": line.name,
        "left": ", ".join((line.name, *line.also)),
        "code": line.code,
        "formula": line.formula,
        "kind": line.kind,
        "place": line.place,
        "shape": line.size,
        "dtype": dtype_name(line.dtype) if line.dtype is not None else "",
        "takes": list(line.takes),
        "calls": len(line.nodes),
        "numbers": [] if line.value is None else rows_of(line.value),
    }


def _given(given: Given) -> dict[str, Any]:
    return {
        "line": -1,
        "name": given.name,
        "left": given.name,
        "code": given.node.label,
        "formula": "",
        "kind": given.kind,
        "place": "",
        "shape": str(given.shape),
        "dtype": dtype_name(given.dtype) if given.dtype is not None else "",
        "takes": [],
        "calls": 0,
        "numbers": [] if given.value is None else rows_of(given.value),
    }


def _items(description: Description, known: set[str]) -> Iterator[str]:
    shown = every = ""  # the headings so far: without and with what is hidden at first
    for number, line in enumerate(description.lines):
        extra = " extra" if line.hidden else ""
        heading = f"# {escape(line.heading)}</li>"
        if not line.hidden and line.heading != shown:
            kind = " plain" if line.heading == every else ""
            yield f'<li class="place{kind}">{heading}'
        elif line.heading != every:
            yield f'<li class="place extra">{heading}'
        every = line.heading
        shown = shown if line.hidden else line.heading
        yield _item(line, str(number), f"line {_kind(line)}{extra}", known)
        for index, part in enumerate(_parts(line)):
            yield _item(part, f"{number}.{index}", f"line part {_kind(line)}{extra}", known)


def _kind(line: Line) -> str:
    return line.kind.replace(" ", "-")


def _item(line: Line, identity: str, kind: str, known: set[str]) -> str:
    code = _marked(f"{', '.join((line.name, *line.also))} = {line.code}", known)
    notes = f'  <span class="shape">{escape(line.size)}</span>'
    return f'<li class="{kind}" tabindex="0" data-id="{identity}">{code}{notes}</li>'


def _marked(code: str, known: set[str]) -> str:
    """The code with every name of a value in an element of its own."""
    parts, end = [], 0
    for found in _WORD.finditer(code):
        word = found[0]
        if word in known:
            parts.append(escape(code[end : found.start()]))
            parts.append(f'<span class="value" data-name="{escape(word)}">{escape(word)}</span>')
            end = found.end()
    return "".join([*parts, escape(code[end:])])
