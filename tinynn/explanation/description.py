"""`describe`: a recorded training step as a list of steps, and what it is given."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tinynn.config import label
from tinynn.explanation.code import Writer, dtype_name
from tinynn.explanation.names import Names
from tinynn.explanation.steps import Context, Step, graphs_in, group, inputs_of
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
        given: what the step takes from outside, as far as it is used.
        steps: every call of the graph, in exactly one step each.
        outputs: the names of results: parameters, state, and the loss.
    """

    title: str
    given: tuple[Given, ...]
    steps: tuple[Step, ...]

    @property
    def shown(self) -> list[Step]:
        """The steps without views and set-up."""
        return [step for step in self.steps if not step.hidden]


def describe(graph: Graph, context: Context | None = None, title: str = "") -> Description:
    """The description of a recorded training step; see `Step`."""
    context = context or Context()
    steps = group(graph, context)
    names = Names(graph, steps, context)
    writer = Writer(graph, steps, names, context)
    for step in steps:
        writer.write(step)
        step.parts = _parts(step, writer, names.of)
    before = ""
    for step in steps:
        for each in (step, *step.parts):
            # Set-up that nobody asked for stands with what is before it.
            each.place = before if step.hidden and not each.place else _place(each.place, context)
        before = step.place
    given = tuple(Given(names.of[id(v)], _kind(v), v) for v in inputs_of(steps, graph))
    return Description(title or graph.name, given, tuple(steps))


def _place(place: str, context: Context) -> str:
    """The part of a step with what it is done by: "loss, SquaredError()"."""
    by = {"loss": context.loss, "update": context.optimizer}.get(place)
    return place if by is None else f"{place}, {label(by)}"


def _kind(value: Input) -> str:
    starts = (kind for start, kind in _INPUTS.items() if f"{value.label}.".startswith(f"{start}."))
    return next(starts, "data")


def _parts(step: Step, writer: Writer, names: dict[int, str]) -> tuple[Step, ...]:
    """The calls of a step, if there are several, and those of the graphs inside of a call."""
    if len(step.nodes) > 1:
        return tuple(_one(node, step.kind, writer, names) for node in step.nodes)
    return _nested(step.nodes[0], step.kind, "")


def _one(node: Node, kind: str, writer: Writer, names: dict[int, str]) -> Step:
    code, takes = writer.call(node)
    return Step(
        kind, node.origin.place, (node,), node, ("call", id(node)), names[id(node)], code,
        takes=takes, parts=_nested(node, kind, ""),
    )  # fmt: skip


def _nested(node: Node, kind: str, prefix: str) -> tuple[Step, ...]:
    """The calls of the graphs that a call is given, such as the body of a loop."""
    found: list[Step] = []
    for name, graph in graphs_in(node):
        start = f"{prefix}{name}."
        names = {id(value): f"{start}{value.label}" for value in graph.inputs}
        names |= {id(c): f"{start}c{i}" for i, c in enumerate(graph.constants)}
        names |= {id(n): f"{start}v{i}" for i, n in enumerate(graph.nodes)}
        plain = _Plain(graph, names)
        for each in graph.nodes:
            step = _one(each, kind, plain, names)
            step.parts = _nested(each, kind, start)
            found.append(step)
    return tuple(found)


class _Plain(Writer):
    """Writes single calls of a graph that is no training step."""

    def __init__(self, graph: Graph, names: dict[int, str]) -> None:
        self.graph, self.names, self.context = graph, names, Context()
        self.home, self.users, self.shown, self.row = {}, graph.users(), {}, None


def fill_in(
    description: Description, graph: Graph, values: list[Any], to_host: Callable[[Any], Any]
) -> None:
    """Carry the step out on these values of the inputs, and keep what each step and part gives."""
    wanted: dict[int, list[Step]] = {}
    for step in description.steps:
        for each in (step, *step.parts):
            wanted.setdefault(id(each.result), []).append(each)

    def keep(node: Node, value: Any) -> None:
        if id(node) in wanted and hasattr(value, "dtype"):
            host = to_host(value).copy()
            for step in wanted[id(node)]:
                step.value = host

    given = {id(each.node): each for each in description.given}
    for node, value in zip(graph.inputs, values, strict=True):
        if id(node) in given and hasattr(value, "dtype"):
            given[id(node)].value = to_host(value).copy()
    graph.run(values, keep)


__all__ = ["Description", "Given", "describe", "dtype_name", "fill_in"]
