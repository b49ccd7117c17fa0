"""A network out of an ONNX file, in layers of tinynn's own.

It reads chains: products, activations and norms one after the other, as PyTorch and scikit-learn
export such networks. Factors and shifts are put into the linear layer beside them.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinynn import tree
from tinynn.layers import Sequential
from tinynn.onnx.emitter import LAST, PRODUCER, OnnxError, library
from tinynn.onnx.readers import READERS, Chain, Step

DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
OLDEST = 6  # before it arguments broadcast differently


def read(
    path: str | os.PathLike[str], output: str | None = None
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The network in a file, its parameters and its state, host arrays.

    Parameters
    ----------
    path : the file
    output : the name of the output to be computed; None: "output" if there is one, else the last
        one, which of scikit-learn's classifiers are the probabilities

    Raises
    ------
    OnnxError : the file is cut short, no ONNX file, of an opset that is not known, or holds an
        operator that there is no layer for
    ImportError : the package onnx is not installed

    """
    model = _loaded(path)
    try:
        return _network(model.graph, _wanted(model.graph, output))
    except OnnxError as error:
        raise OnnxError(f"{path}: {error}") from error
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise OnnxError(
            f"{path}: expected arrays and attributes that fit each other, got others: "
            f"{type(error).__name__}: {error}. To fix it: export it again"
        ) from error


def _loaded(path: str | os.PathLike[str]) -> Any:
    """The file, whole and of a version that is known."""
    onnx, blob = library(), Path(path).read_bytes()
    hint = "To fix it: export or copy it again"
    try:
        model = onnx.load_from_string(blob)
    except Exception as error:  # protobuf's own, of a module that moves
        raise OnnxError(
            f"{path}: expected an ONNX file, got {len(blob)} bytes that are none, or cut short. "
            f"{hint}"
        ) from error
    _check_opsets(path, model)
    if any(a.data_location == onnx.TensorProto.EXTERNAL for a in model.graph.initializer):
        raise OnnxError(
            f"{path}: expected the parameters in the file, got some in others. To fix it: export "
            "it as one file (external_data=False)"
        )
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # or the text of its error cannot be decoded
        raise OnnxError(f"{path}: expected a whole ONNX file, got: {error}. {hint}") from error
    last = [each.key for each in model.metadata_props][-1:]
    if model.producer_name == PRODUCER and last != [LAST]:
        raise OnnxError(f"{path}: expected all that was written, got a file cut short. {hint}")
    return model


def _check_opsets(path: str | os.PathLike[str], model: Any) -> None:
    """OnnxError unless the operators are of versions that are known."""
    newest = library().defs.onnx_opset_version()
    for each in model.opset_import:
        known = each.domain in DOMAINS
        if not known or (each.domain != DOMAINS[2] and not OLDEST <= each.version <= newest):
            raise OnnxError(
                f"{path}: expected operators of opset {OLDEST} to {newest}, got "
                f"{each.domain or 'opset'} {each.version}. To fix it: export it for opset {newest}"
                " or an older one"
            )


def _wanted(graph: Any, output: str | None) -> str:
    names = [each.name for each in graph.output]
    if output is None:
        output = "output" if "output" in names else names[-1]
    if output not in names:
        raise OnnxError(f"expected an output of {', '.join(names)}, got {output!r}")
    return output


def _constants(graph: Any) -> dict[str, Any]:
    """The arrays that do not depend on the input, by name."""
    helper, to_array = library().helper, library().numpy_helper.to_array
    found = {each.name: to_array(each) for each in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            if "value" in values:
                found[node.output[0]] = to_array(values["value"])
        elif node.op_type == "Identity" and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
        elif node.op_type == "Transpose" and node.input[0] in found:
            turned = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            found[node.output[0]] = found[node.input[0]].transpose(turned.get("perm"))
    return found


def _network(graph: Any, output: str) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The layers from the input to this output."""
    constants = _constants(graph)
    inputs = [each.name for each in graph.input if each.name not in constants]
    made = {name: node for node in graph.node for name in node.output}
    steps: list[Step] = []
    name = output
    while name not in inputs:
        step = _step(made, constants, name)
        steps.append(step)
        name = step.x
    given = next(each for each in graph.input if each.name == name)
    chain = Chain(len(given.type.tensor_type.shape.dim))
    for step in reversed(steps):
        READERS[step.operator](chain, step)
    layers, params, state = chain.finish()
    for path, array in [*tree.paths(params), *tree.paths(state)]:
        if array.dtype.name not in ("float32", "float64"):
            raise OnnxError(
                f"parameter {path}: expected float32 or float64, got {array.dtype.name}. To fix "
                "it: export the network in float32"
            )
    return Sequential(*layers), params, state


def _step(made: Mapping[str, Any], constants: Mapping[str, Any], name: str) -> Step:
    """The operator that gives a value, with the one input that follows from the network's."""
    node = made.get(name)
    if node is None:
        raise OnnxError(f"expected {name!r} to follow from the network's input; nothing makes it")
    helper = library().helper
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    given = {i: constants[each] for i, each in enumerate(node.input) if each in constants}
    others = [each for each in node.input if each and each not in constants]
    operator, label = node.op_type, node.name or name
    if len(others) == 2:
        pair = _of_two(made, constants, operator, others)
        if pair is not None:
            return Step(pair[0], label, pair[1], given, attributes)
    if operator not in READERS or len(others) != 1:
        many = f" of {len(others)} inputs that follow from the network's" if others[1:] else ""
        raise OnnxError(
            f"operator {operator} ({label}){many}: expected one of a chain of "
            f"{', '.join(sorted(k for k in READERS if k[0].isupper()))}. To fix it: export the "
            "network without it, or name another output"
        )
    return Step(operator, label, others[0], given, attributes)


def _of_two(
    made: Mapping[str, Any], constants: Mapping[str, Any], operator: str, names: list[str]
) -> tuple[str, str] | None:
    """The functions x * sigmoid(x) and concat(1 - p, p) with p = sigmoid(x), and their x.

    1 - p may be sigmoid(-x) as well.
    """
    nodes = [made.get(name) for name in names]
    if operator == "Mul":
        for x, gate in (names, names[::-1]):
            node = made.get(gate)
            if node is not None and node.op_type == "Sigmoid" and node.input[0] == x:
                return "silu", x
    if operator == "Concat" and [n.op_type for n in nodes if n is not None] == ["Sigmoid"] * 2:
        (negative,), (x,) = (made[name].input for name in names)
        node = made.get(negative)
        if node is not None and node.op_type == "Neg" and node.input[0] == x:
            return "of two classes", x
    if operator == "Concat" and nodes[0] is not None and nodes[0].op_type == "Sub":
        one, p = nodes[0].input
        unit = constants.get(one)
        if unit is not None and (unit == 1).all() and p == names[1]:
            node = made.get(p)
            if node is not None and node.op_type == "Sigmoid":
                return "of two classes", node.input[0]
    return None
