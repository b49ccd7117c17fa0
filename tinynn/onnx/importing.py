"""Import: the network in an ONNX file, as a `Sequential` of layers and functions.

Read are files whose output comes from their input through a chain of layers, as PyTorch and
scikit-learn write multi-layer perceptrons. The operators: <https://onnx.ai/onnx/operators/>.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import onnx
from google.protobuf.message import DecodeError
from onnx import helper, numpy_helper, shape_inference

import backends
from backends import Backend
from tinynn import functional
from tinynn.data import host
from tinynn.layers import BatchNorm, Flatten, LayerNorm, Linear, Sequential
from tinynn.training import Model

#: The versions of the operators that the rows below are written for.
OPSETS = range(6, 27)


class OnnxFileError(ValueError):
    """An ONNX file that cannot be read: cut short, of an unknown opset, another kind of network."""


class Imported(NamedTuple):
    """A layer or function, and its arrays, (NumPy arrays) by name."""

    layer: Any
    params: dict[str, Any] = {}  # noqa: RUF012 (a default, never written to)
    state: dict[str, Any] = {}  # noqa: RUF012


class Operator(NamedTuple):
    """A node of the file.

    Attributes:
        node: as onnx gives it.
        attributes: by name.
        constants: the arrays among its inputs, None where one is not constant, in order.
        rank: how many axes its first value has; None where that is not known.
    """

    node: Any
    attributes: dict[str, Any]
    constants: list[Any]
    rank: int | None

    def refused(self, why: str) -> OnnxFileError:
        """The error for a node that there is no layer for."""
        name = self.node.name or self.node.output[0]
        return OnnxFileError(
            f"from_onnx: node {name!r}: expected an operator that a layer of tinynn stands for, "
            f"got {f'{self.node.op_type} {why}'.strip()}. docs/onnx.md lists what is read"
        )


def from_onnx(path: str | os.PathLike[str], backend: str | Backend | None = None) -> Model:
    """Read the network in an ONNX file, to predict with it or to train it on.

    Parameters
    ----------
    path : a file in which the first output of floating-point numbers comes from the input through
        a chain of layers
    backend : where the parameters go; None is the host's library

    Returns
    -------
    Model : of a `Sequential`, without a loss

    Raises
    ------
    OnnxFileError : the file is cut short, of an opset that is not known, or has an operator or a
        branch that there is no layer for; which one
    OSError : there is no such file, or it may not be read

    >>> import tempfile, numpy as np, tinynn
    >>> from tinynn.layers import Linear
    >>> from tinynn.onnx import export, from_onnx
    >>> model = tinynn.fit(Linear(1), np.ones((4, 2)), np.arange(4) / 2, epochs=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export(model, f"{folder}/model.onnx")
    ...     from_onnx(f"{folder}/model.onnx").net
    Sequential(Linear(1))

    """
    proto = _read(path)
    home = host() if backend is None else backends.get(backend)
    parts: list[Imported] = []
    for operator in _chain(proto.graph):
        row = OPERATORS.get(operator.node.op_type)
        if row is None:
            raise operator.refused("")
        last = parts.pop() if parts else None
        parts += [part for part in row(operator, last) if part is not None]
    placed = [
        {name: home.asarray(array) for name, array in arrays.items()}
        for part in parts
        for arrays in (part.params, part.state)
    ]
    numbered = {str(i): i for i in range(len(parts))}
    params = {name: placed[2 * i] for name, i in numbered.items() if placed[2 * i]}
    state = {name: placed[2 * i + 1] for name, i in numbered.items() if placed[2 * i + 1]}
    return Model(Sequential(*(part.layer for part in parts)), params, state)


def _read(path: str | os.PathLike[str]) -> Any:
    try:
        proto = onnx.load(path)
        onnx.checker.check_model(proto)
        proto = shape_inference.infer_shapes(proto)
    except OSError:
        raise
    except (DecodeError, onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise OnnxFileError(
            f"from_onnx: {path}: expected an ONNX file, whole, got one that cannot be read: "
            f"{lines[0]}"
        ) from error
    for opset in proto.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version not in OPSETS:
            raise OnnxFileError(
                f"from_onnx: {path}: expected operators of opset {OPSETS[0]} to {OPSETS[-1]}, got "
                f"{opset.version}. To fix it: export it again, with another opset"
            )
    return proto


def _chain(graph: Any) -> list[Operator]:
    """The nodes on the way from the input to the first output of floating-point numbers."""
    constants = _constants(graph)
    makers = {name: node for node in graph.node for name in node.output}
    inputs = {each.name for each in graph.input} - constants.keys()
    ranks = {
        each.name: len(each.type.tensor_type.shape.dim)
        for each in (*graph.input, *graph.value_info, *graph.output)
        if each.type.tensor_type.HasField("shape")
    }
    chain: list[Operator] = []
    value = _first_floating(graph)
    while value not in inputs:
        node = makers[value]
        given = [constants.get(name) for name in node.input]
        attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        places = [i for i, array in enumerate(given) if array is None and node.input[i]]
        rank = ranks.get(node.input[places[0]]) if places else None
        operator = Operator(node, attributes, given, rank)
        if len(places) != 1:
            raise operator.refused(f"of {len(places)} values, where the network branches")
        chain.append(operator)
        value = node.input[places[0]]
    return chain[::-1]


def _constants(graph: Any) -> dict[str, Any]:
    """The arrays that are known, those computed from others by transposing included."""
    known = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    for node in graph.node:
        attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        if node.op_type == "Constant" and "value" in attributes:
            known[node.output[0]] = numpy_helper.to_array(attributes["value"])
        elif node.op_type in ("Identity", "Transpose") and node.input[0] in known:
            array = known[node.input[0]]
            turned = node.op_type == "Transpose"
            known[node.output[0]] = array.transpose(attributes.get("perm")) if turned else array
    return known


def _first_floating(graph: Any) -> str:
    floating = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
    for output in graph.output:
        if output.type.tensor_type.elem_type in floating:
            return str(output.name)
    raise OnnxFileError("from_onnx: expected an output of floating-point numbers, got none")


# Rows: functions of (operator, what comes before) that give what stands for both.

Row = Callable[[Operator, Imported | None], list[Imported | None]]


def function(make: Callable[[Operator], Any]) -> Row:
    """An activation."""
    return lambda operator, last: [last, Imported(make(operator))]


def along_the_last_axis(activation: Any) -> Row:
    """A softmax, whose axis has to be the last."""

    def row(operator: Operator, last: Imported | None) -> list[Imported | None]:
        axis = operator.attributes.get("axis", -1)
        if axis != -1 and operator.rank != axis + 1:
            raise operator.refused(f"along axis {axis}")
        return [last, Imported(activation)]

    return row


def nothing(operator: Operator, last: Imported | None) -> list[Imported | None]:
    """What changes no value in inference."""
    return [last]


def gemm(operator: Operator, last: Imported | None) -> list[Imported | None]:
    """A product and a bias."""
    given, (_, weight, *bias) = operator.attributes, operator.constants
    scaled = given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0
    if scaled or given.get("transA", 0) or weight is None:
        raise operator.refused("with factors, of a transposed input, or without a constant weight")
    weight = weight.T if given.get("transB", 0) else weight
    return [last, _linear(operator, weight, bias[0] if bias else None)]


def matmul(operator: Operator, last: Imported | None) -> list[Imported | None]:
    """A product by a constant from the right."""
    weight = operator.constants[1]
    if weight is None or weight.ndim != 2:
        raise operator.refused("by a constant from the left, or by other than a matrix")
    return [last, _linear(operator, weight, None)]


def add(operator: Operator, last: Imported | None) -> list[Imported | None]:
    """The bias of the product before it."""
    bias = next(array for array in operator.constants if array is not None)
    if last is None or not isinstance(last.layer, Linear) or last.layer.bias:
        raise operator.refused("that is not the bias of a product")
    return [_linear(operator, last.params["weight"], bias)]


def _linear(operator: Operator, weight: Any, bias: Any) -> Imported:
    features = weight.shape[1]
    if bias is None:
        return Imported(Linear(features, bias=False), {"weight": weight})
    if bias.size not in (1, features) or bias.shape[-1:] not in ((), (1,), (bias.size,)):
        raise operator.refused(f"with a bias of shape {bias.shape}")
    vector = bias.reshape(-1) + weight.dtype.type(0) * weight[0, :]  # one number is spread
    return Imported(Linear(features), {"weight": weight, "bias": vector})


def batch_norm(operator: Operator, last: Imported | None) -> list[Imported | None]:
    """Over samples of one axis: of more, ONNX has the channels first."""
    if operator.rank != 2:
        raise operator.refused(f"of {operator.rank} axes")
    weight, bias, mean, var = operator.constants[1:5]
    given = operator.attributes
    layer = BatchNorm(momentum=given.get("momentum", 0.9), epsilon=given.get("epsilon", 1e-5))
    return [last, Imported(layer, {"weight": weight, "bias": bias}, {"mean": mean, "var": var})]


def layer_norm(operator: Operator, last: Imported | None) -> list[Imported | None]:
    """Over the last axis."""
    weight, *bias = operator.constants[1:3]
    if weight is None or weight.ndim != 1:
        raise operator.refused("over several axes")
    layer = LayerNorm(epsilon=operator.attributes.get("epsilon", 1e-5))
    shift = bias[0] if bias and bias[0] is not None else 0 * weight
    return [last, Imported(layer, {"weight": weight, "bias": shift})]


def flatten(operator: Operator, last: Imported | None) -> list[Imported | None]:
    """One row a sample."""
    if operator.attributes.get("axis", 1) != 1:
        raise operator.refused("at another axis than the first")
    return [last, Imported(Flatten())]


def reshape(operator: Operator, last: Imported | None) -> list[Imported | None]:
    """Flatten, as some write it; of rows it changes nothing."""
    shape = operator.constants[1]
    if shape is None or shape.size != 2 or not (shape[0] in (0, -1) or shape[1] == -1):
        raise operator.refused("to other than a row a sample")
    return [last] if operator.rank == 2 else [last, Imported(Flatten())]


def cast(operator: Operator, last: Imported | None) -> list[Imported | None]:
    """Between floating-point numbers; the network computes in the dtype of its parameters."""
    if operator.attributes["to"] not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE):
        raise operator.refused("to other than floating-point numbers")
    return [last]


def gelu(operator: Operator, last: Imported | None) -> list[Imported | None]:
    """The exact one."""
    if operator.attributes.get("approximate", b"none") != b"none":
        raise operator.refused("in its approximation by tanh")
    return [last, Imported(functional.gelu)]


def _with(name: str, activation: Any, attribute: str, default: float, own: float) -> Row:
    """An activation of one setting."""

    def make(operator: Operator) -> Any:
        value = float(f"{operator.attributes.get(attribute, default):.7g}")  # 0.01 in 32 bits
        return activation if value == own else partial(activation, **{name: value})

    return function(make)


#: Type of the operator -> what reads it.
OPERATORS: dict[str, Row] = {
    "Add": add,
    "BatchNormalization": batch_norm,
    "Cast": cast,
    "Dropout": nothing,
    "Elu": _with("alpha", functional.elu, "alpha", 1.0, 1.0),
    "Flatten": flatten,
    "Gelu": gelu,
    "Gemm": gemm,
    "Identity": nothing,
    "LayerNormalization": layer_norm,
    "LeakyRelu": _with("slope", functional.leaky_relu, "alpha", 0.01, 0.01),
    "LogSoftmax": along_the_last_axis(functional.log_softmax),
    "MatMul": matmul,
    "Relu": function(lambda _: functional.relu),
    "Reshape": reshape,
    "Sigmoid": function(lambda _: functional.sigmoid),
    "Softmax": along_the_last_axis(functional.softmax),
    "Softplus": function(lambda _: functional.softplus),
    "Tanh": function(lambda _: functional.tanh),
}
