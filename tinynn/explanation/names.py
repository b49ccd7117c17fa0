"""Names of the values of a training step, by what they are: weight_0, h0, h0_grad, loss."""

import keyword
import re
from typing import Any

from tinynn.explanation.lines import Context, Line, output_paths
from tinynn.trace.scopes import Composite
from tinynn.transforms.graph import Graph, Node


class Names:
    """A name for every value of a graph; no two are the same.

    Those of the results of lines say what they are; those of other calls are v0, v1, ..., as
    `print(graph)` has them.
    """

    def __init__(self, graph: Graph, lines: list[Line], context: Context) -> None:
        self.taken: set[str] = set()
        self.of: dict[int, str] = {}
        self.graph, self.lines, self.context = graph, lines, context
        params = [v.label[13:] for v in graph.inputs if v.label.startswith("carry.params.")]
        for value in graph.inputs:
            self._give(value, _input(value.label, params))
        for index, constant in enumerate(graph.constants):
            self._give(constant, f"c{index}")
        paths = output_paths(graph)
        loss = paths.get("loss")
        if isinstance(loss, Node):
            self._give(loss, "loss")
        for path, gradient in context.gradients.items():
            self._give(gradient, f"{_parameter(path)}_grad")
        self._layers()
        self._updated(paths)
        self._cotangents()
        self._scheduled()
        for line in lines:
            if line.key[0] == "random":
                layer = _path(line.result)
                what = "mask" if "Dropout" in line.place else "draw"
                self._give(line.result, f"{what}_{layer}" if layer else what)
        count = 0
        for line in lines:
            if id(line.result) not in self.of and not line.hidden:
                count += 1
                self._give(line.result, f"t{count}")
        for index, node in enumerate(graph.nodes):
            self._give(node, f"v{index}")

    def _give(self, value: Any, name: str) -> None:
        """The name, with a number if it is taken, unless the value has one."""
        if id(value) in self.of:
            return
        name = re.sub(r"\W", "_", name)
        name = f"{name}_" if keyword.iskeyword(name) or name[:1].isdigit() else name
        free, number = name, 1
        while free in self.taken:
            number += 1
            free = f"{name}_{number}"
        self.taken.add(free)
        self.of[id(value)] = free

    def _layers(self) -> None:
        """h0 for what layer 0 gives, the outermost layer of several that end in it."""
        home = {id(node): line for line in self.lines for node in line.nodes}
        users = self.graph.users()
        forward = [s for s in self.lines if s.kind in ("forward", "view") and not _pulled(s)]
        read_by_loss = {
            id(a): a
            for line in self.lines
            if line.kind == "loss"
            for node in line.nodes
            for a in node.parents
            if id(a) in home and home[id(a)].kind in ("forward", "view")
        }
        if len(read_by_loss) == 1:
            self._give(next(iter(read_by_loss.values())), "prediction")
        last: dict[int, tuple[int, str, Line]] = {}
        for line in forward:
            frames = [f for f in line.result.origin.frames if type(f) is tuple and f[0] is not None]
            for depth, frame in enumerate(frames):
                name = "_".join(str(index) for index, _ in frames[: depth + 1])
                inside = any(
                    frame in u.origin.frames and not u.origin.backward and home[id(u)] is not line
                    for u in users.get(id(line.result), [])
                )
                read = any(not u.origin.backward for u in users.get(id(line.result), []))
                if read and not inside:
                    last[id(frame)] = depth, name, line
        for _, name, line in sorted(last.values(), key=lambda row: row[0]):
            if line.key[0] != "random":
                self._give(line.result, f"h{name}" if name[:1].isdigit() else name)

    def _updated(self, paths: dict[str, Any]) -> None:
        """Name the new value of an input after it, unless the old one is read later."""
        order = {id(node): place for place, s in enumerate(self.lines) for node in s.nodes}
        read: dict[int, int] = {}
        for node in self.graph.nodes:
            for parent in node.parents:
                read[id(parent)] = max(read.get(id(parent), -1), order[id(node)])
        inputs = {value.label.removeprefix("carry."): value for value in self.graph.inputs}
        for path, node in paths.items():
            old = inputs.get(path)
            if old is None or id(node) not in order or id(node) in self.of:
                continue
            name = self.of[id(old)]
            if read.get(id(old), -1) <= order[id(node)]:
                self.of[id(node)] = name
            else:
                self._give(node, f"{name}_new")

    def _scheduled(self) -> None:
        """Name the result of a schedule of the learning rate."""
        optimizer = self.context.optimizer
        while hasattr(optimizer, "parts"):
            optimizer = optimizer.parts[-1]
        if not callable(getattr(optimizer, "learning_rate", None)):
            return
        for line in self.lines:
            free = [node for node in (line.result, *line.saves) if id(node) not in self.of]
            if line.key[0] == "counters" and len(free) == 1:
                self._give(free[0], "learning_rate")

    def _cotangents(self) -> None:
        """h0_grad for the derivative of the loss by h0."""
        for line in self.lines:
            for node in line.nodes:
                pullback = node.origin.pullback
                if pullback is None or not isinstance(pullback.cotangent, Node):
                    continue
                name = self.of.get(id(pullback.of))
                if name is not None:
                    self._give(pullback.cotangent, f"{name}_grad")


def _pulled(line: Line) -> bool:
    return line.result.origin.backward


def _path(node: Node) -> str:
    """The path of the layer that a call was made in."""
    frames = [f for f in node.origin.frames if type(f) is not Composite and f[0] is not None]
    return "_".join(str(index) for index, _ in frames)


def _parameter(path: str) -> str:
    """0.weight as weight_0."""
    *layers, name = path.split(".")
    return "_".join([name or "w", *layers])


def _input(label: str, params: list[str]) -> str:
    """carry.params.0.weight as weight_0, and batch.x as x."""
    if label.startswith(("carry.params", "carry.state")):
        return _parameter(label.split(".", 2)[2] if label.count(".") > 1 else "")
    if label.startswith("carry.optimizer_state."):
        path = label.removeprefix("carry.optimizer_state.")
        ends = [p for p in params if path.endswith(f".{p}")]
        own = max(ends, key=len, default="")
        words = [w for w in path.removesuffix(own).split(".") if w and not w.isdigit()]
        return "_".join([*words, *([_parameter(own)] if own else [])]) or "kept"
    return label.removeprefix("batch.").replace(".", "_")
