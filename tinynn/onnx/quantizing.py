"""Whole numbers of 8 bits in place of floats in an ONNX file, after training.

The form is that of QDQ: an operator is given what a DequantizeLinear makes of whole numbers, and
runtimes carry out both at once where they can.
"""

from collections.abc import Mapping
from typing import Any

from tinynn.onnx.emitter import OnnxError

#: Operators whose second input is a weight, and the axis of its outputs.
_WEIGHTS = {"Gemm": 1, "MatMul": 1, "Conv": 0}
#: The largest whole number of a weight; and where its inputs are whole numbers, too: processors
#: without VNNI add two products of 8 bits in 16, which 255 * 64 * 2 fits.
_LEVELS, _LEVELS_OF_PRODUCTS = 127, 64


def quantize(
    blob: bytes, rows: Mapping[str, Any] | None = None, alone: bytes | None = None
) -> bytes:
    """The same network with weights, and inputs of its products, as whole numbers of 8 bits.

    A weight has a scale for each of its outputs, from the largest of its numbers; zero stays zero.
    With rows, what goes into products is rounded as well, to 256 levels between the least and the
    largest number that these rows lead to there, and weights take 7 of the 8 bits, so that sums
    overflow on no processor. Biases stay as they are.

    Parameters
    ----------
    blob : an ONNX file of floats, as `pack` makes it
    rows : host arrays by the names of the network's inputs, like those that are to come; None
        leaves the inputs of products as they are
    alone : the file of the network without its preparation, which takes these rows; None where it
        is the same

    Raises
    ------
    OnnxError : there is no product with a weight in the file
    ImportError : the package onnx is not installed

    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", CVPR.
    """
    import onnx

    model = onnx.load_from_string(blob)
    graph, helper = model.graph, onnx.helper
    arrays = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    products = [node for node in graph.node if _is_product(node, arrays)]
    if not products:
        raise OnnxError(
            "to_onnx: quantize: expected a network with weights in products, got none. To fix it: "
            "leave quantize out"
        )
    ranges = {}
    if rows is not None:
        found = _ranges(onnx, blob if alone is None else alone, rows)
        ranges = dict(zip([node.input[0] for node in products], found, strict=True))
    most = _LEVELS if rows is None else _LEVELS_OF_PRODUCTS
    known: dict[str, str] = {}
    made: list[Any] = []

    def add(name: str, value: Any) -> str:
        graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        return name

    def weight(name: str, axis: int) -> str:
        array = arrays[name]
        others = tuple(each for each in range(array.ndim) if each != axis)
        scale = abs(array).max(axis=others) / most
        scale = (scale + (scale == 0)).astype(array.dtype)
        shape = [-1 if each == axis else 1 for each in range(array.ndim)]
        whole = (array / scale.reshape(shape)).round().clip(-most, most).astype("int8")
        new = f"{name}.dequantized"
        given = [add(f"{name}.int8", whole), add(f"{name}.scale", scale)]
        made.append(helper.make_node("DequantizeLinear", given, [new], axis=axis))
        return new

    def activation(name: str) -> str:
        low, high = ranges[name]
        kind = low.dtype.type
        scale = kind(max(float(high - low) / 255.0, 1e-30))
        zero = round(-float(low) / float(scale))
        parts = [add(f"{name}.scale", _array(low, scale)), add(f"{name}.zero", _zero(low, zero))]
        made.append(helper.make_node("QuantizeLinear", [name, *parts], [f"{name}.uint8"]))
        new = f"{name}.dequantized"
        made.append(helper.make_node("DequantizeLinear", [f"{name}.uint8", *parts], [new]))
        return new

    nodes = []
    for node in graph.node:
        if node in products:
            for place, name in enumerate(list(node.input[:2])):
                if place == 0 and name not in ranges:
                    continue
                if name not in known:
                    axis = _WEIGHTS[node.op_type]
                    known[name] = weight(name, axis) if place else activation(name)
                    nodes += made
                    made.clear()
                node.input[place] = known[name]
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    wanted = {name for node in graph.node for name in node.input}
    kept = [each for each in graph.initializer if each.name in wanted]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    onnx.checker.check_model(model, full_check=True)
    result: bytes = model.SerializeToString(deterministic=True)
    return result


def _is_product(node: Any, arrays: Mapping[str, Any]) -> bool:
    """True for an operator whose weight is in the file, as it was trained."""
    if node.op_type not in _WEIGHTS or node.input[1] not in arrays:
        return False
    turned = any(each.name == "transB" and each.i for each in node.attribute)
    weight = arrays[node.input[1]]
    return not turned and weight.dtype.kind == "f" and weight.ndim >= 2


def _ranges(onnx: Any, blob: bytes, rows: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """The least and the largest of what goes into each product, 0 within."""
    from onnx.reference import ReferenceEvaluator

    model = onnx.load_from_string(blob)
    arrays = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    names = [node.input[0] for node in model.graph.node if _is_product(node, arrays)]
    there = {each.name for each in model.graph.output}
    inputs = {each.name for each in model.graph.input}
    inside = [name for name in dict.fromkeys(names) if name not in inputs]
    for name in inside:
        if name not in there:
            model.graph.output.append(onnx.ValueInfoProto(name=name))
    found = dict(zip(inside, ReferenceEvaluator(model).run(inside, dict(rows)), strict=True))
    found |= {name: rows[name] for name in names if name in inputs}
    return [(found[name].min().clip(max=0), found[name].max().clip(min=0)) for name in names]


def _array(like: Any, number: Any) -> Any:
    return (like * 0 + number).astype(like.dtype)


def _zero(like: Any, number: int) -> Any:
    return (like * 0 + min(max(number, 0), 255)).astype("uint8")
