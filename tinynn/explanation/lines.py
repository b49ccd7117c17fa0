"""The description of a training step: its calls as a list of lines, made once from the graph.

Text, picture and page are readers of it. Each node of the graph is in exactly one line. Several
calls that belong together are folded into one line, whose `parts` are the calls: a function that
is made of others (`softmax`), the pullback of a call, random numbers, the update of a parameter.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tinynn import tree
from tinynn.explanation import formulas
from tinynn.trace.scopes import Composite
from tinynn.transforms.graph import Graph, Input, Node, mapped

KINDS = ("forward", "loss", "backward", "update", "view", "set-up")
#: Functions that only show the elements of an array in another way.
VIEWS = frozenset(
    "broadcast_to expand_dims item matrix_transpose moveaxis permute_dims reshape squeeze "
    "stop_gradient".split()
)
LOSS = "Loss.__call__"  # the composite that tinynn's losses are called in
_LIKE = frozenset(("ones_like", "zeros_like", "full_like", "empty_like"))


@dataclass(eq=False)
class Line:
    """One line of the description.

    Attributes:
        kind: one of KINDS. Those of the last two are shown only when asked for.
        place: the layer, "layer 0, Linear(4)", or the part of the line.
        name: of the result, in the code of the lines that take it.
        code: what is computed, in Python: "x @ weight_0".
        formula: the same in mathematics; "" where the code says it.
        shape, dtype: of the result.
        takes: the names of the values in the code.
        nodes: the calls of the graph that the line stands for, in order.
        result: the node of the result, one of `nodes`.
        saves: other results, that later lines use.
        also: the names of those that are the layer's new state.
        parts: the calls one by one, if there are several, and those of a graph inside of a call.
        follows: of a backward line, the forward line that it is the derivative of.
        value: the result in a first step, on the host; None if it was not asked for.
    """

    kind: str
    place: str
    nodes: tuple[Node, ...]
    result: Node
    key: tuple[Any, ...] = ()
    name: str = ""
    code: str = ""
    formula: str = ""
    takes: tuple[str, ...] = ()
    saves: tuple[Node, ...] = ()
    also: tuple[str, ...] = ()
    parts: tuple["Line", ...] = ()
    follows: "Line | None" = None
    value: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.result.shape or ())

    @property
    def dtype(self) -> Any:
        return self.result.dtype

    @property
    def size(self) -> str:
        """The shape as text; of what is no array, such as several results, nothing."""
        return "" if self.dtype is None else str(self.shape)

    @property
    def hidden(self) -> bool:
        """True if it is shown only when asked for."""
        return self.kind in ("view", "set-up")

    @property
    def heading(self) -> str:
        """The heading of lines that belong together."""
        place = self.place or "the network"
        backward = self.kind == "backward" or (self.hidden and self.result.origin.backward)
        return f"{place}, backward" if backward else place

    def calls(self) -> Iterator["Line"]:
        """A line for every call that it stands for, those of graphs inside of calls included."""
        if len(self.nodes) == 1:
            yield self
        for part in self.parts:
            yield from part.calls()

    def __repr__(self) -> str:
        return f"<Line {self.name} = {self.code}>"


@dataclass(frozen=True)
class Context:
    """The parts of a training step that are not in its graph.

    Attributes:
        loss, optimizer: those of the line.
        gradients: the path of a parameter -> the node of its gradient.
    """

    loss: Any = None
    optimizer: Any = None
    gradients: dict[str, Node] = field(default_factory=dict)


def group(graph: Graph, context: Context) -> list[Line]:
    """The nodes of a graph as lines, in order, without names and code yet."""
    keys = _Keys(graph, context)
    ordinary = [node for node in graph.nodes if not keys.updates(node)]
    lines = [
        _line(nodes, key, keys)
        for key, run in _runs(ordinary, keys)
        for nodes in ([run] if key[0] == "composite" else _components(run))
    ]
    lines += [
        _line(nodes, key, keys)
        for key, run in _updates([n for n in graph.nodes if keys.updates(n)], graph, keys)
        for nodes in [run]
    ]
    _connect(lines, graph)
    return lines


class _Keys:
    """For each node what it is folded by: nodes of one key that stand together are one line."""

    def __init__(self, graph: Graph, context: Context) -> None:
        self.context = context
        self.row = formulas.of_loss(context.loss)
        self.origins: dict[int, frozenset[str]] = {}
        for value in graph.inputs:
            self.origins[id(value)] = frozenset(["key" if value.label == "key" else "data"])
        for node in graph.nodes:
            like = node.function.name in _LIKE
            parents = () if like else node.parents
            known = [self.origins.get(id(a), frozenset()) for a in parents]
            self.origins[id(node)] = frozenset().union(*known)
        self.outputs = {id(node) for node in graph.outputs if isinstance(node, Node)}

        self.users = graph.users()
        self.gradients = {id(node) for node in context.gradients.values()}

    def shows(self, view: Node) -> bool:
        """True if a view is a line: a gradient, new state, or one of the results of a call."""
        if id(view) in self.outputs or id(view) in self.gradients:
            return True
        users = self.users.get(id(view), [])
        backward = view.origin.backward
        return view.name == "item" and any(backward or not u.origin.backward for u in users)

    def updates(self, node: Node) -> bool:
        return (None, "update") in node.origin.frames

    def kind(self, node: Node) -> str:
        if node.origin.backward:
            return "backward"
        if self.updates(node):
            return "update"
        return "loss" if (None, "loss") in node.origin.frames else "forward"

    def fold(self, node: Node) -> Any:
        """The outermost function or layer around a call that is folded into one line."""
        return next((f for f in node.origin.frames if self.composite(f) is not None), None)

    def composite(self, frame: Any) -> formulas.Row | None:
        if type(frame) is Composite:
            of_loss = frame.name == LOSS
            return self.row if of_loss else formulas.COMPOSITES.get(frame.name)
        ours = type(frame[1]).__module__.startswith("tinynn.")
        return formulas.COMPOSITES.get(type(frame[1]).__name__) if ours else None

    def of(self, node: Node) -> tuple[Any, ...]:
        if self.origins[id(node)] == {"key"}:
            layers = [frame for frame in node.origin.frames if type(frame) is tuple]
            return "random", id(layers[-1]) if layers else 0
        frame = self.fold(node)
        if node.origin.backward and frame is not None:
            return "pullback", id(frame)
        several = node.name == "item" or any(
            user.name == "item" for user in self.users.get(id(node), [])
        )
        if node.origin.backward and not several:
            pullback = node.origin.pullback
            return "pullback", id(pullback.of) if pullback else id(node)
        return ("call", id(node)) if frame is None else ("composite", id(frame))


def _runs(nodes: list[Node], keys: _Keys) -> Iterator[tuple[tuple[Any, ...], list[Node]]]:
    """Consecutive nodes of one key. They are consecutive in a valid order, so nothing outside of
    a run both follows from it and leads to it."""
    run: list[Node] = []
    before: tuple[Any, ...] = ()
    for node in nodes:
        key = keys.of(node)
        if run and key != before:
            yield before, run
            run = []
        run.append(node)
        before = key
    if run:
        yield before, run


def _components(run: list[Node]) -> list[list[Node]]:
    """The parts of a run that have no value in common, each in order."""
    where: dict[int, list[Node]] = {}
    for node in run:
        mine = [node]
        for parent in node.parents:
            other = where.get(id(parent))
            if other is not None and other is not mine:
                mine = [*other, *(n for n in mine if n not in other)]
                for each in mine:
                    where[id(each)] = mine
        for each in mine:
            where[id(each)] = mine
    unique = {id(found): found for found in where.values()}
    place = {id(node): index for index, node in enumerate(run)}
    ordered = [sorted(found, key=lambda n: place[id(n)]) for found in unique.values()]
    return sorted(ordered, key=lambda found: place[id(found[-1])])


def _line(nodes: list[Node], key: tuple[Any, ...], keys: _Keys) -> Line:
    kind = keys.kind(nodes[-1])
    if key[0] == "counters":
        kind = "set-up"
    elif all(map(is_view, nodes)) and not keys.shows(nodes[-1]):
        kind = "view"
    elif key[0] in ("call", "pullback") and not any(keys.origins[id(n)] for n in nodes):
        kind = "set-up"
    return Line(kind, nodes[0].origin.place, tuple(nodes), nodes[-1], key)


def is_view(node: Node) -> bool:
    """True if a call only shows the elements of its argument in another way."""
    if node.function.name == "getitem":
        return len(node.args) == 1
    return node.name in VIEWS


def _updates(
    nodes: list[Node], graph: Graph, keys: _Keys
) -> Iterator[tuple[tuple[Any, ...], list[Node]]]:
    """The update: what follows from the counters alone, what all parameters share, and then each
    parameter with what the optimizer keeps for it."""
    paths = output_paths(graph)
    params = [p.removeprefix("params.") for p in paths if p.startswith("params.")]
    reached: dict[int, set[str]] = {}
    for path, node in paths.items():
        if isinstance(node, Node):
            reached.setdefault(id(node), set()).add(_parameter(path, params))
    for node in reversed(nodes):
        mine = reached.setdefault(id(node), set())
        for parent in node.parents:
            reached.setdefault(id(parent), set()).update(mine)
    pulled = {id(node) for node in graph.nodes if node.origin.backward}
    follows: set[int] = set()
    for node in nodes:
        if any(id(p) in pulled or id(p) in follows for p in node.parents):
            follows.add(id(node))
    shares: dict[tuple[Any, ...], list[Node]] = {("counters",): [], ("shared",): []}
    for path in params:
        shares["update", path] = []
    for node in nodes:
        to = reached[id(node)]
        own = ("update", next(iter(to))) if len(to) == 1 and to != {""} else None
        shares[own or (("shared",) if id(node) in follows else ("counters",))].append(node)
    yield from ((key, found) for key, found in shares.items() if found)


def _parameter(path: str, params: Iterable[str]) -> str:
    """The parameter that an output belongs to, itself or what an optimizer keeps for it."""
    found = [p for p in params if path == f"params.{p}" or path.endswith(f".{p}") or p == ""]
    mine = path.startswith(("params.", "optimizer_state."))
    return max(found, key=len) if found and mine else ""


def output_paths(graph: Graph) -> dict[str, Any]:
    """The outputs of a training step by path: "params.0.weight", and "loss".

    Of any other graph they are numbered.
    """
    numbers = range(len(graph.outputs))
    if graph.structure is None:
        return {f"result {place}": graph.outputs[place] for place in numbers}
    found = tree.paths(graph.structure.unflatten([str(place) for place in numbers]))
    named = {path: graph.outputs[int(place)] for path, place in found}
    return {
        "loss" if path == "1" else path.removeprefix("0."): value for path, value in named.items()
    }


def _connect(lines: list[Line], graph: Graph) -> None:
    """Say of each line which of its nodes are results, and which forward line it follows."""
    home = {id(node): line for line in lines for node in line.nodes}
    users = graph.users()
    outputs = {id(value): path for path, value in output_paths(graph).items()}
    for line in lines:
        used = [
            node
            for node in line.nodes
            if id(node) in outputs or any(home[id(u)] is not line for u in users.get(id(node), []))
        ]
        forward = [
            node
            for node in used
            if not outputs.get(id(node), "").startswith("state.")
            and any(
                home[id(u)] is not line and not u.origin.backward for u in users.get(id(node), [])
            )
        ]
        params = [node for node in used if outputs.get(id(node), "").startswith("params.")]
        line.result = (params or forward or used or [line.nodes[-1]])[-1]
        if line.key[0] == "counters":  # the number of the step comes first
            line.result = next((node for node in used if id(node) in outputs), line.result)
        line.saves = tuple(node for node in used if node is not line.result)
        pullback = line.nodes[-1].origin.pullback
        if line.kind in ("backward", "view") and pullback is not None:
            line.follows = home.get(id(pullback.of))


def graphs_in(node: Node) -> list[tuple[str, Graph]]:
    """The graphs that a call is given by keyword, such as the body of a loop, with their names."""
    found: list[tuple[str, Graph]] = []
    for key, value in node.kwargs.items():
        inside: list[Graph] = []

        def see(leaf: Any, inside: list[Graph] = inside) -> Any:
            if isinstance(leaf, Graph):
                inside.append(leaf)
            return leaf

        mapped(value, see)
        many = len(inside) > 1
        found += [(f"{key}_{i}" if many else key, graph) for i, graph in enumerate(inside)]
    return found


def inputs_of(lines: Iterable[Line], graph: Graph) -> list[Input]:
    """The inputs that lines take, in the order of the graph."""
    taken = {id(a) for line in lines for node in line.nodes for a in node.parents}
    return [value for value in graph.inputs if id(value) in taken]
