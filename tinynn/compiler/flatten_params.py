"""Flat storage: one vector for all parameters, one for each thing an optimizer keeps of them.

What an optimizer does to each parameter alike is then done to all of them in one call. The pass
compares the new values of the parameters node by node: as long as all do the same, they become one
node on the vector; where they begin to differ (the gradients), the values are packed side by side.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from math import prod
from typing import Any

from tinynn.compiler.identifiers import of_input
from tinynn.compiler.rewrite import elementwise, is_call, rewritten
from tinynn.transforms.graph import PACK, PART, Graph, Input, Node


class ParamLayout:
    """How the values that live on are kept: each in an array of its own, or side by side.

    Parameters
    ----------
    count
        How many arrays there are.
    rows
        The places of the values that lie side by side in one vector; a vector a row.
    shapes
        Theirs, in every row alike.
    """

    def __init__(
        self,
        count: int,
        rows: Sequence[list[int]] = (),
        shapes: Sequence[tuple[int, ...]] = (),
    ) -> None:
        gone = {place for row in rows for place in row}
        self.rows, self.shapes = list(rows), list(shapes)
        self.others = [place for place in range(count) if place not in gone]
        self.count = len(self.rows) + len(self.others)
        ends = list(accumulate(map(prod, self.shapes)))
        self.starts, self.total = [0, *ends[:-1]], ends[-1] if ends else 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ParamLayout) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def stored(self, xp: Any, values: Sequence[Any], lead: tuple[int, ...] = ()) -> list[Any]:
        """The arrays that hold copies of these values; `lead`: the axes that all have before."""
        flat = [  # two or more values, of which `concat` makes a new array
            xp.concat([xp.reshape(values[p], (*lead, -1)) for p in row], axis=len(lead))
            for row in self.rows
        ]
        return flat + [xp.asarray(values[place], copy=True) for place in self.others]

    def written(self, empty: Callable[..., Any], values: Sequence[Any]) -> list[Any]:
        """The same in new arrays of `empty(shape, dtype)`, without memory for anything else."""
        made = []
        for row in self.rows:
            vector = empty((self.total,), values[row[0]].dtype)
            for place, start, shape in zip(row, self.starts, self.shapes, strict=True):
                vector[start : start + prod(shape)].reshape(shape)[...] = values[place]
            made.append(vector)
        for place in self.others:
            made.append(empty(values[place].shape, values[place].dtype))
            made[-1][...] = values[place]
        return made

    def values(self, xp: Any, kept: Sequence[Any], lead: tuple[int, ...] = ()) -> list[Any]:
        """The values that these arrays hold, in memory of theirs; `lead` as in `stored`."""
        out = dict(zip(self.others, kept[len(self.rows) :], strict=True))
        for row, vector in zip(self.rows, kept, strict=False):
            for place, start, shape in zip(row, self.starts, self.shapes, strict=True):
                part = vector[..., start : start + prod(shape)]
                out[place] = xp.reshape(part, (*lead, *shape))
        return [out[place] for place in sorted(out)]


class _Differ(Exception):
    """The parameters are not all treated alike."""


def packed(graph: Graph, rows: Sequence[list[int]], kept: int) -> tuple[Graph, ParamLayout]:
    """The graph with one vector in place of each row of inputs, and how they are stored then.

    Where the parameters are not all treated alike, the graph as it was, an array for each.

    Parameters
    ----------
    rows
        The places of inputs that live on, and of their new values among the outputs: row 0 the
        parameters, the others what is kept of each of them, in the same order.
    kept
        How many inputs live on in all.
    """
    inputs = [[graph.inputs[place] for place in row] for row in rows]
    if not inputs or len(inputs[0]) < 2 or len({n.dtype for row in inputs for n in row}) != 1:
        return graph, ParamLayout(kept)
    storage = ParamLayout(kept, rows, [tuple(node.shape) for node in inputs[0]])
    packer = _Packer(graph, inputs, storage)
    try:
        new = [packer.row(tuple(graph.outputs[place] for place in row)) for row in rows]
    except _Differ:
        return graph, ParamLayout(kept)
    return packer.graph_of(new), storage


class _Packer:
    """Finds what happens to all parameters alike."""

    def __init__(self, graph: Graph, rows: list[list[Input]], storage: ParamLayout) -> None:
        self.graph, self.storage = graph, storage
        self.shapes = [node.shape for node in rows[0]]
        self.labels = [node.label for node in rows[0]]
        self.dtype = rows[0][0].dtype
        self.made: list[Node] = []
        self.done: dict[Any, Any] = {}
        self.vectors: list[Input] = []
        self.parts: dict[int, Node] = {}
        for row in rows:
            label = row[0].label
            while not all(n.label.startswith(label) for n in row):
                label = label[:-1]
            label = label.rstrip(".0123456789") or "kept"
            vector = Input(None, (), {}, (self.storage.total,), self.dtype, label=label)
            self.vectors.append(vector)
            self.done[tuple(map(id, row))] = vector
            for node, start in zip(row, self.storage.starts, strict=True):
                kwargs = {"start": start, "shape": tuple(node.shape), "label": node.label}
                self.parts[id(node)] = Node(PART, (vector,), kwargs, node.shape, node.dtype)

    def row(self, values: tuple[Any, ...]) -> Any:
        """The vector of these values, one for each parameter."""
        first = values[0]
        if not isinstance(first, Node) or first.shape == ():
            if any(v is not first and (isinstance(v, Node) or v != first) for v in values):
                raise _Differ
            return first
        key = tuple(map(id, values))
        if key not in self.done:
            self.done[key] = self._vector(values)
        return self.done[key]

    def _vector(self, values: tuple[Any, ...]) -> Node:
        if [getattr(v, "shape", None) for v in values] != self.shapes or any(
            v.dtype != self.dtype for v in values
        ):
            raise _Differ
        first = values[0]
        alike = all(elementwise(v) and v.function is first.function for v in values)
        if alike and all(v.kwargs == first.kwargs for v in values):
            try:
                columns = zip(*[v.args for v in values], strict=True)
                args = tuple([self.row(tuple(column)) for column in columns])
                return self._add(Node(first.function, args, first.kwargs, origin=first.origin))
            except _Differ:
                pass
        if len(set(map(id, values))) < len(values) or not all(map(is_call, values)):
            raise _Differ
        kwargs = {"name": "gradients", "labels": [f"{of_input(each)}_grad" for each in self.labels]}
        return self._add(Node(PACK, values, kwargs))

    def _add(self, node: Node) -> Node:
        node.shape, node.dtype = (self.storage.total,), self.dtype
        self.made.append(node)
        return node

    def graph_of(self, new: list[Node]) -> Graph:
        """The graph whose first inputs and outputs are the vectors."""
        gone = {place for row in self.storage.rows for place in row}
        inputs = [*self.vectors, *[n for i, n in enumerate(self.graph.inputs) if i not in gone]]
        rest = [o for i, o in enumerate(self.graph.outputs) if i not in gone]
        nodes = [*self.graph.nodes, *self.made]
        graph = replace(self.graph, inputs=inputs, nodes=nodes, outputs=[*new, *rest])
        return rewritten(graph, lambda node, build: node, instead=self.parts)
