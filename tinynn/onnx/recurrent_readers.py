"""The rows of RNN, GRU and LSTM, which become layers over (batch, time, features)."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from tinynn.layers import GRU, LSTM, RNN, Bidirectional
from tinynn.onnx import operators
from tinynn.onnx.builder import Builder
from tinynn.onnx.recurrent import OPERATORS
from tinynn.onnx.source import STATES, Step

USUAL = {
    RNN: ["Tanh"],
    GRU: ["Sigmoid", "Tanh"],
    LSTM: ["Sigmoid", "Tanh", "Tanh"],
}
TIME_FIRST = partial(operators.permute_dims, axes=(1, 0, 2))


def _row(kind: Any) -> Callable[[Builder, Step], None]:
    return lambda build, step: _recurrent(kind, build, step)


def _recurrent(kind: Any, build: Builder, step: Step) -> None:
    ways = 2 if step.text("direction", "forward") == "bidirectional" else 1
    _check(kind, ways, step)
    used = [place for place, name in enumerate(step.outputs) if name in step.source.uses]
    lengths = step.input(4)
    if 2 in used or (lengths and 0 in used):
        raise step.fail("no use of its cell state, nor of single outputs behind given lengths")
    weights, recurrent = step.known(1, "weights"), step.known(2, "weights")
    bias = step.known(3, "biases") if step.input(3) else None
    settings: dict[str, Any] = {}
    if kind is GRU:
        settings["reset_after"] = bool(step.attributes.get("linear_before_reset", 0))
    layer: Any = kind(
        recurrent.shape[2], bias=bias is not None,
        reverse=step.text("direction", "forward") == "reverse", **settings,
    )  # fmt: skip
    parts = [_parameters(layer, weights, recurrent, bias, way) for way in range(ways)]
    params = parts[0] if ways == 1 else {"layer": parts[0], "opposite": parts[1]}
    first = build.value(step.input(0))
    if not step.attributes.get("layout", 0):
        first = build.then(step, TIME_FIRST, first)
    values = (first, build.value(lengths)) if lengths else (first,)
    if len(used) > 1:
        raise step.fail("use of all its outputs, or of the last one, not of both")
    for place in used:
        used_layer: Any = replace(layer, return_sequences=place == 0)
        if ways == 2:
            used_layer = Bidirectional(used_layer)
        made = build.call(step, used_layer, params=params, values=values)
        build.bind(step.outputs[place], _as_onnx(build, step, made.name, place, ways))


def _check(kind: Any, ways: int, step: Step) -> None:
    """OnnxError for what our layers cannot be."""
    given = [e.decode() for e in step.attributes.get("activations", [])]
    if given not in ([], USUAL[kind] * ways):
        raise step.fail(f"the activations {', '.join(USUAL[kind])}")
    width = step.known(2, "weights").shape[2]
    if step.attributes.get("hidden_size", width) != width:
        raise step.fail(f"hidden_size to be {width}, as its weights have it")
    for place in STATES:
        if step.input(place) and not step.source.is_zero(step.input(place)):
            raise step.fail("first states of zeros")


def _parameters(layer: Any, weights: Any, recurrent: Any, bias: Any, way: int) -> dict[str, Any]:
    """The parameters of one direction, its gates in the order of ours."""
    order = OPERATORS[type(layer)][1]
    gates, size = len(order), recurrent.shape[2]
    back = [order.index(gate) for gate in range(gates)]

    def ours(array: Any) -> Any:
        parts = array.reshape(gates, size, *array.shape[1:])[back]
        return parts.reshape(array.shape).T

    found = {"weight": ours(weights[way]), "recurrent_weight": ours(recurrent[way])}
    if bias is not None:
        own, other = (ours(part) for part in bias[way].reshape(2, gates * size))
        after = {"bias": own, "recurrent_bias": other}
        found |= after if layer.recurrent_bias else {"bias": own + other}
    return found


def _as_onnx(build: Builder, step: Step, name: Any, place: int, ways: int) -> Any:
    """The result with its axes as the operator has them: (time, ways, batch, features)."""
    first = not step.attributes.get("layout", 0)
    sequences = place == 0
    if ways == 1:
        if first and sequences:
            name = build.then(step, TIME_FIRST, name)
        axis = (1 if sequences else 0) if first else (2 if sequences else 1)
        return build.then(step, partial(operators.unsqueeze, axis=(axis,)), name)
    size = step.known(2, "weights").shape[2]
    shape = (0, 0, 2, size) if sequences else (0, 2, size)
    name = build.then(step, partial(operators.reshape, shape=shape), name)
    axes = (1, 2, 0, 3) if sequences else (1, 0, 2)
    return build.then(step, partial(operators.permute_dims, axes=axes), name) if first else name


READERS = {"RNN": _row(RNN), "GRU": _row(GRU), "LSTM": _row(LSTM)}
