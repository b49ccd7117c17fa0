"""The description of a training step as a page: one HTML file with all that it needs."""

import json
import re
from collections.abc import Iterator
from html import escape
from string import Template
from typing import Any

from tinynn.explanation.description import Description, Given, dtype_name
from tinynn.explanation.numbers import rows_of
from tinynn.explanation.picture import asset, svg
from tinynn.explanation.steps import Step
from tinynn.explanation.text import folded

_WORD = re.compile(r"[^\W\d]\w*")


def page(description: Description) -> str:
    """The page: lines, the picture, and what is known of each line.

    Whatever comes from outside (names of layers, of columns) is escaped.
    """
    known = {step.name for step in description.steps} | {g.name for g in description.given}
    data = {
        **{identity: _data(step, number) for identity, number, step in _numbered(description)},
        **{f"given {each.name}": _given(each) for each in description.given},
    }
    return Template(asset("page.html")).substitute(
        title=escape(description.title),
        css=asset("page.css"),
        lines="\n".join(_lines(description, known)),
        folded=escape(folded(description, "steps")),
        picture=svg(description),
        # In a script no entity is read: the one sign that could end it is written otherwise.
        data=json.dumps(data, ensure_ascii=False).replace("<", "\\u003c"),
        script=asset("page.js"),
    )


def _numbered(description: Description) -> Iterator[tuple[str, int, Step]]:
    """Every step and part: its identity in the page, and the number of the step."""
    for number, step in enumerate(description.steps):
        yield str(number), number, step
        for place, part in enumerate(step.parts):
            yield f"{number}.{place}", number, part


def _data(step: Step, number: int) -> dict[str, Any]:
    return {
        "step": number,
        "name": step.name,
        "left": ", ".join((step.name, *step.also)),
        "code": step.code,
        "formula": step.formula,
        "kind": step.kind,
        "place": step.place,
        "shape": str(step.shape),
        "dtype": dtype_name(step.dtype) if step.dtype is not None else "",
        "takes": list(step.takes),
        "calls": len(step.nodes),
        "numbers": [] if step.value is None else rows_of(step.value),
    }


def _given(given: Given) -> dict[str, Any]:
    return {
        "step": -1,
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


def _lines(description: Description, known: set[str]) -> Iterator[str]:
    place = None
    for number, step in enumerate(description.steps):
        heading = step.place + (", backward" if step.kind == "backward" else "")
        extra = " extra" if step.hidden else ""
        if heading != place and not step.hidden:
            yield f'<li class="place"># {escape(heading or "the network itself")}</li>'
            place = heading
        yield _line(step, str(number), f"line {_kind(step)}{extra}", known)
        for index, part in enumerate(step.parts):
            yield _line(part, f"{number}.{index}", f"line part {_kind(step)}{extra}", known)


def _kind(step: Step) -> str:
    return step.kind.replace(" ", "-")


def _line(step: Step, identity: str, kind: str, known: set[str]) -> str:
    code = _marked(f"{', '.join((step.name, *step.also))} = {step.code}", known)
    notes = f'  <span class="shape">{escape(str(step.shape))}</span>'
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
