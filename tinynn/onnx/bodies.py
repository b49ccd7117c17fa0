"""The graphs inside Scan, seen as part of the graph around: one step of the loop, written there.

Shapes and constants are then found in one pass over all operators, the inner ones among them.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from tinynn.onnx.emitter import INT64, OnnxError, library

OLDEST = 9  # before it Scan has an axis for the batch


class Body(NamedTuple):
    """A Scan's attributes: its graph, how many values are carried, and for each array gone through
    and made its axis, and whether it is gone through from its end."""

    graph: Any
    carries: int
    axes: tuple[list[int], list[int]]  # of what goes in, and of what comes out
    turned: tuple[list[int], list[int]]

    @property
    def inputs(self) -> list[str]:
        """The names that the graph has for its inputs."""
        return [each.name for each in self.graph.input]

    @property
    def outputs(self) -> list[str]:
        """The names of its results."""
        return [each.name for each in self.graph.output]


def body_of(node: Any) -> Body:
    """The attributes of a Scan."""
    given = {a.name: library().helper.get_attribute_value(a) for a in node.attribute}
    count, graph = given["num_scan_inputs"], given["body"]
    carries = len(node.input) - count
    ys = len(graph.output) - carries
    if len(graph.input) != len(node.input) or carries < 0 or ys < 0 or count < 1:
        raise OnnxError(
            f"operator Scan ({node.name}): expected a body of {len(node.input)} inputs, as it is "
            f"given, and num_scan_inputs among these, got {len(graph.input)} and {count}. To fix "
            "it: export it again"
        )

    def of_each(kind: str) -> tuple[list[int], list[int]]:
        lists = [
            list(given.get(f"scan_{way}_{kind}") or [0] * n)
            for way, n in (("input", count), ("output", ys))
        ]
        return lists[0], lists[1]

    return Body(graph, carries, of_each("axes"), of_each("directions"))


def inside_first(nodes: Iterable[Any]) -> Iterator[Any]:
    """All operators in order; those inside a Scan stand before it."""
    for node in nodes:
        if node.op_type == "Scan":
            yield from inside_first(body_of(node).graph.node)
        yield node


def initializers(graph: Any) -> list[Any]:
    """The arrays that a graph holds, and the graphs inside Scan."""
    found = list(graph.initializer)
    for node in graph.node:
        if node.op_type == "Scan":
            found += initializers(body_of(node).graph)
    return found


def check_names(graph: Any, opset: int) -> None:
    """OnnxError where a Scan is too old, or two graphs inside have the same name for values."""
    seen: set[str] = {each.name for each in (*graph.input, *graph.initializer)}
    for node in graph.node if opset < OLDEST else ():
        if node.op_type == "Scan":
            raise OnnxError(
                f"operator Scan ({node.name}): expected that of opset {OLDEST} or newer, got opset "
                f"{opset}. To fix it: export it for a newer one"
            )
    for node in inside_first(graph.node):
        made = list(filter(None, node.output))
        if node.op_type == "Scan":
            inner = body_of(node).graph
            own = {each.name for each in (*inner.input, *inner.initializer)}
            made += sorted(own)
        for name in made:
            if name in seen:
                raise OnnxError(
                    f"operator {node.op_type} ({node.name}): expected names of its own for what is "
                    f"inside, got {name!r} twice. To fix it: give them other names"
                )
            seen.add(name)


def flatten(graph: Any, opset: int) -> None:
    """Let a graph have one step of its loop for each Scan."""
    if all(node.op_type != "Scan" for node in graph.node):
        return
    arrays = initializers(graph)[len(graph.initializer) :]
    nodes = [type(node).FromString(node.SerializeToString()) for node in _flat(graph.node, opset)]
    graph.initializer.extend(arrays)
    graph.ClearField("node")
    graph.node.extend(nodes)


def _flat(nodes: Iterable[Any], opset: int) -> list[Any]:
    flat: list[Any] = []
    for node in nodes:
        flat += _step(node, opset) if node.op_type == "Scan" else [node]
    return flat


def _step(node: Any, opset: int) -> list[Any]:
    make, body = library().helper.make_node, body_of(node)
    number, carries = _constant(0), body.carries
    flat = [
        make("Identity", [given], [name])
        for given, name in zip(node.input[:carries], body.inputs[:carries], strict=True)
    ]
    gone_through = node.input[carries:]
    for given, name, axis in zip(gone_through, body.inputs[carries:], body.axes[0], strict=True):
        first = f"{name}/first"
        flat += [make("Constant", [], [first], value=number)]
        flat += [make("Gather", [given, first], [name], axis=axis)]
    flat += _flat(body.graph.node, opset)
    for name, given in zip(node.output[:carries], node.input[:carries], strict=True):
        flat += [make("Identity", [given], [name])] if name else []
    entries = f"{body.inputs[carries]}/entries"  # as many zeros as there are steps
    place = _constant([body.axes[0][0]])
    flat += [
        make("Shape", [gone_through[0]], [f"{entries}/shape"]),
        make("Constant", [], [f"{entries}/axis"], value=place),
        make("Gather", [f"{entries}/shape", f"{entries}/axis"], [f"{entries}/length"]),
        make("ConstantOfShape", [f"{entries}/length"], [entries], value=_constant([0])),
    ]
    stacked = zip(node.output[carries:], body.outputs[carries:], body.axes[1], strict=False)
    for name, y, axis in stacked:
        if name:
            flat += _unsqueezed(y, f"{name}/one", axis, opset)
            flat += [make("Gather", [f"{name}/one", entries], [name], axis=axis)]
    return flat


def _unsqueezed(name: str, made: str, axis: int, opset: int) -> list[Any]:
    make = library().helper.make_node
    if opset < 13:
        return [make("Unsqueeze", [name], [made], axes=[axis])]
    axes = make("Constant", [], [f"{made}/axes"], value=_constant([axis]))
    return [axes, make("Unsqueeze", [name, f"{made}/axes"], [made])]


def _constant(values: int | list[int]) -> Any:
    shape = (len(values),) if isinstance(values, list) else ()
    given = values if isinstance(values, list) else [values]
    return library().helper.make_tensor("value", INT64, shape, given)
