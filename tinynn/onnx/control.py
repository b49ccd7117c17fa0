"""The rows of calls that run graphs: `scan` as Scan, `cond` as If, `while_loop` as Loop.

The graphs inside read what they close over by its name in the graph around.
"""

from functools import partial
from typing import Any

from tinynn.onnx.emitter import DTYPES, INT64, Emitter, OnnxError
from tinynn.transforms.graph import Dim, Node


def scan(out: Emitter, node: Node) -> list[str]:
    """A loop over the entries of arrays."""
    settings, args = node.kwargs, [out.value(each) for each in node.args]
    consts, carries, length = settings["consts"], settings["carries"], settings["length"]
    graph, given = settings["body"], args[consts:]
    entries, steps = graph.inputs[consts:], []
    if len(given) == carries:  # Scan counts its steps by what it goes through
        if isinstance(length, Dim):
            raise OnnxError("expected arrays to go through, or a number of steps of its own")
        given, steps = [*given, out.integers(range(length))], [(INT64, ())]
    body = out.body("body", entries, lambda: out.inlined(graph, args[:consts], entries), steps)
    out.at(node)
    count, ys = len(given) - carries, len(graph.outputs) - carries
    way = int(settings["reverse"])
    directions: dict[str, Any] = {
        "scan_input_directions": [way] * count,
        "scan_output_directions": [way] * ys,
    }
    directions = {key: value for key, value in directions.items() if value}
    return out.emit_all("Scan", given, carries + ys, body=body, num_scan_inputs=count, **directions)


def cond(out: Emitter, node: Node) -> list[str]:
    """One of two graphs of what both are given."""
    predicate, *args = [out.value(each) for each in node.args]
    branches: dict[str, Any] = {
        name: out.body(name, (), partial(out.inlined, node.kwargs[key], args))
        for name, key in (("then_branch", "then"), ("else_branch", "otherwise"))
    }
    out.at(node)
    return out.emit_all("If", [predicate], len(node.kwargs["then"].outputs), **branches)


def while_loop(out: Emitter, node: Node) -> list[str]:
    """A loop that ends when its condition is false, or after `bound` steps: it cannot fail."""
    settings, args = node.kwargs, [out.value(each) for each in node.args]
    (first, second), going, graph = settings["consts"], settings["going"], settings["body"]
    conditions, bodies, carry = args[:first], args[first : first + second], args[first + second :]
    [start] = out.inlined(going, [*conditions, *carry])
    entries = graph.inputs[second:]

    def step() -> list[tuple[str, Node]]:
        new = out.inlined(graph, bodies, entries)
        [active] = out.inlined(going, [*conditions, *[name for name, _ in new]])
        return [active, *new]

    counted = [(INT64, ()), (DTYPES["bool"], ())]
    body = out.body("body", entries, step, counted, front=True)
    out.at(node)
    bound = out.number(settings["bound"], INT64)
    return out.emit_all("Loop", [bound, start[0], *carry], len(carry), body=body)
