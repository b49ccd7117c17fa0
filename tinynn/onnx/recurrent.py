"""Recurrent layers without lengths as the operators RNN, GRU and LSTM, which runtimes do fastest.

With lengths they are a Scan: ONNX fills the outputs after the last valid step with zeros, ours
repeat the last one.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from tinynn.layers import GRU, LSTM, RNN
from tinynn.onnx.emitter import Emitter
from tinynn.transforms.graph import Constant, Graph, Node

#: The gates of each operator, by their places in our weights, and its attributes.
OPERATORS: dict[type, tuple[str, list[int], dict[str, Any]]] = {
    RNN: ("RNN", [0], {}),
    GRU: ("GRU", [1, 0, 2], {"linear_before_reset": 1}),
    LSTM: ("LSTM", [0, 3, 1, 2], {}),
}


def recurrent(graph: Graph, known: Mapping[int, str]) -> dict[int, tuple[tuple[Any, ...], Any]]:
    """The replacement of a layer's result, by its id: arguments, and a function that writes.

    known: the name of an array of parameters, by its id.
    """
    groups: dict[int, tuple[Any, list[Node]]] = {}
    for node in graph.nodes:
        for frame in node.origin.frames:
            if isinstance(frame, tuple) and _is_operator(frame[1]):
                groups.setdefault(id(frame), (frame[1], []))[1].append(node)
    found = {}
    for layer, nodes in groups.values():
        inside = {id(node) for node in nodes}
        outer = [node for node in graph.nodes if id(node) not in inside]
        read = {id(a) for node in outer for a in node.parents} | set(map(id, graph.outputs))
        results = [node for node in nodes if id(node) in read]
        others = {id(a): a for node in nodes for a in node.parents if id(a) not in inside}
        given = [a for a in others.values() if not isinstance(a, Constant)]
        named = {
            known.get(id(a.value), "").rpartition(".")[2]: a
            for a in others.values()
            if isinstance(a, Constant)
        }
        if len(results) == len(given) == 1 and "recurrent_weight" in named:
            args = (given[0], *named.values())
            found[id(results[0])] = args, partial(_write, layer, given[0], named, results[0].dtype)
    return found


def _is_operator(layer: Any) -> bool:
    """True for a layer that ONNX has an operator for; a GRU that cuts its weight is a Scan."""
    return type(layer) in OPERATORS and getattr(layer, "reset_after", True)


def _write(layer: Any, x: Node, named: Mapping[str, Constant], dtype: Any, out: Emitter) -> str:
    operator, order, attributes = OPERATORS[type(layer)]
    gates, size = len(order), layer.features

    def ordered(name: str) -> str:
        """A parameter as ONNX has it: its gates in another order, and an axis for directions."""
        return out.stored(
            named[name], name,
            lambda host: host.T.reshape(gates, size, -1)[order].reshape(1, gates * size, -1),
        )  # fmt: skip

    inputs = [
        out.transpose(out.value(x, dtype), [1, 0, 2]),
        ordered("weight"),
        ordered("recurrent_weight"),
    ]
    if layer.bias:
        own = ordered("bias")
        zeros = out.stored(named["bias"], "zeros", lambda host: 0 * host.reshape(1, -1, 1))
        other = ordered("recurrent_bias") if layer.recurrent_bias else zeros
        both = out.emit("Concat", [own, other], axis=1)
        inputs.append(out.emit("Squeeze", [both, out.integers([2])]))
    direction = "reverse" if layer.reverse else "forward"
    steps, last = out.emit_all(
        operator, inputs, 2, hidden_size=size, direction=direction, **attributes
    )
    if not layer.return_sequences:
        return out.emit("Squeeze", [last, out.integers([0])])
    return out.transpose(out.emit("Squeeze", [steps, out.integers([1])]), [1, 0, 2])
