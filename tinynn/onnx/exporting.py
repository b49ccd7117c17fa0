"""Export: the recorded forward pass of a model, as an ONNX file."""

import json
import os
import re
from contextlib import suppress
from typing import Any

import onnx
from onnx import helper

import backends
from tinynn import layers, losses, tree
from tinynn.onnx.builder import TYPES, GraphBuilder, UnsupportedFunctionError
from tinynn.onnx.operators import OPERATORS
from tinynn.training import Model, files
from tinynn.transforms.graph import Dim, Graph, Node
from tinynn.transforms.record import RecordingError, record

OPSET, IR_VERSION = 21, 10  # read by onnxruntime 1.18 and later


def export(
    model: Model,
    path: str | os.PathLike[str],
    X: Any = None,
    *,
    dtype: Any = "float32",
) -> None:
    """Write a model as an ONNX file, whole or not at all.

    The graph takes a batch of any size: "X", or several inputs by the keys of a dict or as "X0",
    "X1". It gives "output", or several outputs by their keys, and "probabilities" where the loss
    knows them, as `Model.predict_proba`. Parameters keep their names. The metadata has, as JSON
    under "tinynn", the description of the network, of its preparation and of the columns.

    Parameters
    ----------
    model : what `fit` or `load` gives. A preparation is described in the metadata and is no part of
        the graph: the file takes what `model.prepared` gives
    path : the file
    X : samples as the network takes them, whose shape and dtypes the file's input gets; not needed
        where the network begins with a `Linear` layer
    dtype : of floating-point inputs, parameters and results; None keeps the model's. onnxruntime
        lacks some operators in float64

    Raises
    ------
    UnsupportedFunctionError : a layer calls a function that ONNX has no operator for; which one
    ValueError : X is needed and missing, or the network cannot be recorded
    OSError : the folder is missing or full, or may not be written

    >>> import tempfile, numpy as np, tinynn
    >>> from tinynn.layers import Linear
    >>> model = tinynn.fit(Linear(1), np.ones((4, 2)), np.arange(4) / 2, epochs=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export(model, f"{folder}/model.onnx")

    """
    files.check_target(path)
    backend = model.backend
    if dtype is not None:
        model = model.to(backend, dtype=dtype)
    with backend.scope():
        inputs = _example(model, X)
        graph = _recorded(model, inputs)
        proto = _model_proto(model, graph, backend)
    onnx.checker.check_model(proto, full_check=True)
    files.write(path, proto.SerializeToString())


def _example(model: Model, X: Any) -> tuple[Any, ...]:
    """What the network is called with: samples of the model's backend and dtype."""
    backend = model.backend

    def on_backend(x: Any) -> Any:
        return x if backends.is_array(x) and backends.of(x) == backend else backend.asarray(x)

    if X is None:
        widths = [leaf.shape[0] for leaf in tree.leaves(model.params) if leaf.ndim == 2]
        if not widths:
            raise ValueError(
                "onnx.export: expected X, samples as the network takes them, since the network "
                f"does not begin with a Linear layer; got None for {model.net!r}"
            )
        X = backend.xp.zeros((1, widths[0]), dtype=_floating(model), device=backend.device)
    elif not isinstance(X, tuple | dict):
        X = on_backend(X)

    def placed(array: Any) -> Any:
        array = on_backend(array)
        wanted = _floating(model)
        is_floating = backend.xp.isdtype(array.dtype, "real floating")
        return backend.xp.astype(array, wanted) if is_floating and wanted else array

    X = tree.map(placed, X)
    return X if type(X) is tuple else (X,)


def _floating(model: Model) -> Any:
    """The floating dtype of the parameters."""
    xp = model.backend.xp
    dtypes = (leaf.dtype for leaf in tree.leaves(model.params))
    return next((dtype for dtype in dtypes if xp.isdtype(dtype, "real floating")), None)


def _recorded(model: Model, inputs: tuple[Any, ...]) -> Graph:
    """The graph of (params, state, *inputs) -> outputs by name, for a batch of any size."""

    def forward(params: Any, state: Any, *inputs: Any) -> Any:
        output = layers.run(model.net, params, state, *inputs).output
        found = {"output": output}
        if isinstance(model.loss, losses.Loss):
            with suppress(TypeError):  # a loss of numbers
                found["probabilities"] = model.loss.probabilities(output)
        return found

    axes = (None, None, *(0 for _ in inputs))
    try:
        return record(forward, model.params, model.state, *inputs, batch_axes=axes)
    except RecordingError as error:
        raise ValueError(f"onnx.export: {error}") from error


def _model_proto(model: Model, graph: Graph, backend: Any) -> Any:
    builder = GraphBuilder(graph, backend)
    values = dict(tree.paths({"params": model.params, "state": model.state}))
    inputs, used = [], _used(graph)
    count = len({node.label.partition(".")[0] for node in graph.inputs} - {"params", "state"})
    for given in graph.inputs:
        first, _, rest = given.label.partition(".")
        if first not in ("params", "state"):
            inputs.append(builder.add_input(given, _input_name(given.label, count)))
        elif id(given) in used:
            builder.add_initializer(given, rest or "parameter", values[given.label])
    for node in graph.nodes:
        row = OPERATORS.get(node.name)
        if row is None:
            raise UnsupportedFunctionError(node.name, node)
        builder.scope = _scope(node)
        builder.known[id(node)] = row(builder, node)
    outputs = _outputs(builder, graph)
    proto = helper.make_graph(
        builder.nodes, "tinynn", inputs, outputs, list(builder.initializers.values())
    )
    made = helper.make_model(
        proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
        producer_name="tinynn",
    )  # fmt: skip
    helper.set_model_props(made, {"tinynn": json.dumps(_description(model))})
    return made


def _used(graph: Graph) -> set[int]:
    """The ids of the values that something takes."""
    taken = {id(parent) for node in graph.nodes for parent in node.parents}
    return taken | {id(output) for output in graph.outputs}


def _input_name(label: str, count: int) -> str:
    """ "X" for the only input; the key of a dict, or "X0", "X1" of a tuple."""
    argument, _, rest = label.partition(".")
    place = int(argument.removeprefix("x")) - len(("params", "state"))
    return rest or ("X" if count == 1 else f"X{place}")


def _scope(node: Node) -> str:
    """The path of the layer that made a call, as a folder: "0/attention/"."""
    found = re.match(r"layer ([\w.]+),", node.origin.place)
    return found[1].replace(".", "/") + "/" if found else ""


def _outputs(builder: GraphBuilder, graph: Graph) -> list[Any]:
    """The outputs, under their own names."""
    builder.scope, made = "", []
    names = [path for path, _ in tree.paths(graph.structure.unflatten([0] * len(graph.outputs)))]
    for name, node in zip(names, graph.outputs, strict=True):
        name = name.removeprefix("output.")
        if not isinstance(node, Node):
            raise ValueError(f"onnx.export: expected arrays as outputs, got {node!r} as {name}")
        builder.nodes.append(
            helper.make_node("Identity", [builder.value(node)], [name], name=f"output/{name}")
        )
        shape = [_length(length) for length in node.shape]
        dtype = TYPES[builder.dtype_of(node)]
        made.append(helper.make_tensor_value_info(name, dtype, shape))
    return made


def _length(length: int) -> int | str | None:
    """A length of an output: "batch", a number, or None where it is another one."""
    if not isinstance(length, Dim):
        return int(length)
    return "batch" if length == Dim(length.batch) else None


def _description(model: Model) -> dict[str, Any]:
    """What the file says of the model; of a network that cannot be described, its repr."""
    try:
        description = model.to_config()
    except ValueError:
        description = {"network": repr(model.net), "columns": list(model.columns)}
    description.pop("history", None)
    return description
