"""`describe`: a recorded training step as a list of lines, and what it is given."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tinynn.config import label
from tinynn.explanation.code import Writer, dtype_name
from tinynn.explanation.lines import Context, Line, graphs_in, group, inputs_of
from tinynn.explanation.names import Names
from tinynn.transforms.graph import Graph, Input, Node

#: What the labels of inputs begin with, and what these are.
_INPUTS = {
    "carry.params": "parameter",
    "carry.state": "state",
    "carry.optimizer_state": "optimizer state",
    "batch": "data",
    "key": "key",
}


@dataclass(eq=False)
class Given:
    """A value that a training step is given: data, a parameter, state, optimizer state or the key.

    Attributes:
        node: in the graph.
        value: on the host; None if it was not asked for.
    """

    name: str
    kind: str
    node: Input
    value: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.node.shape or ())

    @property
    def dtype(self) -> Any:
        return self.node.dtype


@dataclass(frozen=True)
class Description:
    """A training step for readers: text, picture and page are made of it alone.

    Attributes:
        title: the network, the loss, the optimizer and the batch.
        given: what the line takes from outside, as far as it is used.
        lines: every call of the graph, in exactly one line each.
    """

    title: str
    given: tuple[Given, ...]
    lines: tuple[Line, ...]

    @property
    def shown(self) -> list[Line]:
        """The lines without views and set-up."""
        return [line for line in self.lines if not line.hidden]


def describe(graph: Graph, context: Context | None = None, title: str = "") -> Description:
    """The description of a recorded training step; see `Line`."""
    context = context or Context()
    lines = group(graph, context)
    names = Names(graph, lines, context)
    writer = Writer(graph, lines, names, context)
    for line in lines:
        writer.write(line)
    before = ""
    for line in lines:
        # Set-up that nobody asked for stands with what is before it.
        line.place = before if line.hidden and not line.place else _place(line.place, context)
        before = line.place
        line.parts = _parts(line, writer, names.of)
    given = tuple(Given(names.of[id(v)], _kind(v), v) for v in inputs_of(lines, graph))
    return Description(title or graph.name, given, tuple(lines))


def _place(place: str, context: Context) -> str:
    """The part of a line with what it is done by: "loss, SquaredError()"."""
    by = {"loss": context.loss, "update": context.optimizer}.get(place)
    return place if by is None else f"{place}, {label(by)}"


def _kind(value: Input) -> str:
    starts = (kind for start, kind in _INPUTS.items() if f"{value.label}.".startswith(f"{start}."))
    return next(starts, "data")


def _parts(line: Line, writer: Writer, names: dict[int, str]) -> tuple[Line, ...]:
    """The calls of a line, if there are several, and those of the graphs inside of a call."""
    if len(line.nodes) > 1:
        return tuple(_one(node, line.kind, writer, names, line.place) for node in line.nodes)
    return _nested(line.nodes[0], line.kind, "", line.place)


def _one(node: Node, kind: str, writer: Writer, names: dict[int, str], place: str) -> Line:
    code, takes = writer.call(node)
    return Line(
        kind, place, (node,), node, ("call", id(node)), names[id(node)], code, takes=takes,
        parts=_nested(node, kind, "", place),
    )  # fmt: skip


def _nested(node: Node, kind: str, prefix: str, place: str) -> tuple[Line, ...]:
    """The calls of the graphs that a call is given, such as the body of a loop."""
    found: list[Line] = []
    for name, graph in graphs_in(node):
        start = f"{prefix}{name}."
        names = {id(value): f"{start}{value.label}" for value in graph.inputs}
        names |= {id(c): f"{start}c{i}" for i, c in enumerate(graph.constants)}
        names |= {id(n): f"{start}v{i}" for i, n in enumerate(graph.nodes)}
        plain = _Plain(graph, names)
        for each in graph.nodes:
            line = _one(each, kind, plain, names, place)
            line.parts = _nested(each, kind, start, place)
            found.append(line)
    return tuple(found)


class _Plain(Writer):
    """Writes single calls of a graph that is no training step."""

    def __init__(self, graph: Graph, names: dict[int, str]) -> None:
        self.graph, self.names, self.context = graph, names, Context()
        self.home, self.users, self.shown, self.row = {}, graph.users(), {}, None


def fill_in(
    description: Description, graph: Graph, values: list[Any], to_host: Callable[[Any], Any]
) -> None:
    """Carry the training step out on these values, and keep what each line and part gives."""
    wanted: dict[int, list[Line]] = {}
    for line in description.lines:
        # The bits that random numbers are made of are many, and tell nobody anything.
        for each in (line, *(line.parts if line.key[0] != "random" else ())):
            wanted.setdefault(id(each.result), []).append(each)

    def keep(node: Node, value: Any) -> None:
        if id(node) in wanted and hasattr(value, "dtype"):
            host = to_host(value).copy()
            for line in wanted[id(node)]:
                line.value = host

    given = {id(each.node): each for each in description.given}
    for node, value in zip(graph.inputs, values, strict=True):
        if id(node) in given and hasattr(value, "dtype"):
            given[id(node)].value = to_host(value).copy()
    graph.run(values, keep)


__all__ = ["Description", "Given", "describe", "dtype_name", "fill_in"]
