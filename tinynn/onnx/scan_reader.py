"""The row of Scan, which becomes a layer that carries values through the entries of arrays."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from tinynn.onnx import bodies, operators
from tinynn.onnx.builder import Builder
from tinynn.onnx.emitter import OnnxError
from tinynn.onnx.network import Scan
from tinynn.onnx.source import Step


def scan(rows: Mapping[str, Callable[[Builder, Step], None]], build: Builder, step: Step) -> None:
    """A loop whose body `rows` read; what it takes from around is given to every step."""
    body, part = bodies.body_of(step.node), step.source.part(step.node)
    for name in ("body", "num_scan_inputs", *_LISTS):
        step.attributes.get(name)
    inner = Builder(part)
    try:
        inner.read(rows)
        inputs, arrays, calls, outputs = inner.loop(body.outputs)
    except OnnxError as error:
        raise OnnxError(f"operator Scan ({step.name}): in its body: {error}") from error
    around = part.inputs[: len(part.inputs) - len(body.inputs)]
    names = [*inputs[: len(around)], *inputs[len(part.inputs) :]]  # in front of those of a step
    layer = Scan(
        (*names, *inputs[len(around) : len(part.inputs)]), tuple(calls), tuple(outputs),
        carries=body.carries, axes=(tuple(body.axes[0]), tuple(body.axes[1])),
        reverse=(tuple(map(bool, body.turned[0])), tuple(map(bool, body.turned[1]))),
    )  # fmt: skip
    values = [_array(build, name) for name in (*around, *arrays, *step.inputs)]
    build.call(step, layer, values=tuple(values))
    build.results(step, lambda place: partial(operators.item, index=place), len(step.outputs))


def _array(build: Builder, name: str) -> Any:
    """A value of the graph around; a number would be no array to carry."""
    return build.array(name) if name in build.source.constants else build.value(name)


_LISTS = [f"scan_{way}_{kind}" for way in ("input", "output") for kind in ("axes", "directions")]
