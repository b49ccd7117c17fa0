"""The description of a training step as text."""

from collections.abc import Iterator

from tinynn.explanation.description import Description
from tinynn.explanation.numbers import rows_of
from tinynn.explanation.steps import Step

_CODE = 50  # columns for code, where it is shorter
_HEADINGS = {"forward": "", "loss": "", "backward": ", backward", "update": ""}


def text(description: Description, detail: str = "steps") -> str:
    """The steps as Python, a line each, with shapes, formulas, and values if there are some.

    detail: "steps"; "all", with views and set-up; "calls", with every call in a line of its own.
    """
    lines = [f"# {line}" for line in description.title.splitlines()]
    place = None
    shown = list(_chosen(description, detail))
    wide = max((len(_left(step)) for step in shown if len(_left(step)) <= _CODE), default=0)
    said: set[str] = set()
    for step in shown:
        heading = step.place + (", backward" if step.kind == "backward" else "")
        if heading != place:
            lines += [f"# {heading or 'the network itself'}"]
            place = heading
        formula = step.formula
        if step.kind == "update":  # one for all parameters, above them
            if formula and formula not in said:
                lines.append(f"#     {formula}")
            said.add(formula)
            formula = ""
        shape = str(step.shape).ljust(_wide(shown)) if formula else str(step.shape)
        lines.append(f"{_left(step).ljust(wide)}  # {shape}{'   ' + formula if formula else ''}")
        if step.value is not None:
            lines += [f"#     {row}" for row in rows_of(step.value)]
    return "\n".join([*lines, f"# {folded(description, detail)}"]) + "\n"


def _chosen(description: Description, detail: str) -> Iterator[Step]:
    for step in description.steps:
        if detail == "calls" and step.parts:
            yield from step.parts
        elif detail != "steps" or not step.hidden:
            yield step


def _left(step: Step) -> str:
    return f"{', '.join((step.name, *step.also))} = {step.code}"


def _wide(steps: list[Step]) -> int:
    return max(len(str(step.shape)) for step in steps)


def folded(description: Description, detail: str) -> str:
    """The last line: what of the program is not shown."""
    steps = description.steps
    calls = sum(len(step.nodes) for step in steps)
    if detail == "calls":
        return f"{calls} calls, all of them"
    shown = [step for step in steps if detail == "all" or not step.hidden]
    hidden = calls - sum(len(step.nodes) for step in shown)
    many = [step for step in shown if len(step.nodes) > 1]
    parts = [f"{len(shown)} lines for {calls} calls"]
    if many:
        parts.append(f"{sum(len(s.nodes) for s in many)} are folded into {len(many)} of them")
    if hidden:
        parts.append(f"{hidden} of views and set-up are left out")
    return ", ".join(parts)
