"""A network as the bytes of an ONNX file, from the recorded graph of its forward pass."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from backends import Backend
from tinynn import tree
from tinynn.layers import run
from tinynn.onnx.emitter import LAST, PRODUCER, Emitter, OnnxError
from tinynn.onnx.fused import fused, needed
from tinynn.onnx.preparation import Columns, answer
from tinynn.onnx.rows import ROWS
from tinynn.onnx.transposes import settle
from tinynn.transforms.definitions import definition_of
from tinynn.transforms.graph import Graph, Node
from tinynn.transforms.record import RecordingError, record

OPSET = 21  # runtimes of 2024 and later have it: onnxruntime from 1.18 on
IR_VERSION = 10  # the file format of that release


def pack(
    net: Any,
    params: Any,
    state: Any,
    x: Any,
    *,
    backend: Backend,
    heads: Mapping[str, Callable[[Any], Any]] | None = None,
    description: Mapping[str, Any] | None = None,
    preparation: Mapping[str, Any] | None = None,
) -> bytes:
    """The bytes of an ONNX file that computes what the network does in inference.

    The inputs are called "input", or by their paths in the tree, "input.image"; the outputs
    "output", or "output.kind". The size of the batch is left open.

    Parameters
    ----------
    net, params, state : as `Model` has them
    x : an array, (batch, ...), or a tree of them, like those that the network is to get
    backend : of the arrays
    heads : further outputs, such as "probabilities", and what makes each of the first one
    description : texts, or what JSON can hold, for the metadata of the file
    preparation : the description of a preparation of tables: the inputs are then the columns that
        it reads, and there is a "label", or a "prediction" in the target's unit

    Raises
    ------
    OnnxError : a layer calls a function that ONNX has no operator for, or writes something
    RecordingError : the network cannot be recorded for a batch of any size
    ImportError : the package onnx is not installed

    >>> import backends, numpy as np, onnx
    >>> from tinynn.layers import Linear
    >>> net, x = Linear(2), np.ones((1, 3))
    >>> blob = pack(net, *net.init(0, x), x, backend=backends.of(x))
    >>> [node.op_type for node in onnx.load_from_string(blob).graph.node]
    ['Gemm']
    """
    names: list[str] = []

    def forward(input: Any) -> Any:
        inputs = input if type(input) is tuple else (input,)
        output = run(net, params, state, *inputs).output
        whole = {"output": output}
        whole |= {name: head(output) for name, head in (heads or {}).items()}
        names[:] = [name for name, _ in tree.paths(whole)]
        return whole

    with backend.scope():
        graph = record(forward, x, batch_axes=0)
        known = {id(array): name for name, array in _named(params, state)}
        emitter = Emitter(backend, known, _write_calls)
        emitter.reserve([*names, "label", "prediction"])
        inputs = _write_inputs(emitter, graph, preparation)
        _write_calls(emitter, graph)
        pairs = zip(names, graph.outputs, strict=True)
        outputs = [_output(emitter, names, *pair) for pair in pairs]
        if preparation is not None:
            outputs.append(answer(emitter, "output", preparation))
        return _file(emitter, inputs, outputs, description or {})


def _named(params: Any, state: Any) -> list[tuple[str, Any]]:
    return [*tree.paths(params), *tree.paths(state)]


def _write_inputs(
    emitter: Emitter, graph: Graph, preparation: Mapping[str, Any] | None
) -> list[Any]:
    """The declarations of the inputs: what the network takes, or a table's columns."""
    if preparation is None:
        return [emitter.declared(emitter.add_input(each), each) for each in graph.inputs]
    (given,) = graph.inputs
    emitter.float_dtype = emitter.dtype(given.dtype)
    columns = Columns(emitter, preparation["columns"], emitter.float_dtype)
    emitter.names[id(given)] = columns.matrix
    return columns.declared


def _write_calls(emitter: Emitter, graph: Graph) -> None:
    """An operator, or several, for each call that the outputs need."""
    for effect in graph.effects:
        raise OnnxError(
            f"to_onnx: {effect.origin.place or 'the network'}: expected calls that only compute, "
            f"got {effect.name}, which {effect.effect}. To fix it: leave it out in inference"
        )
    instead = fused(graph, emitter.known)
    for node in needed(graph, instead):
        emitter.at(node)
        one = instead.get(id(node))
        if one is not None:
            emitter.names[id(node)] = one.write(emitter)
            continue
        row = ROWS.get(node.name)
        try:
            written = row(emitter, node) if row else _by_definition(emitter, graph, node)
        except _NotWritten as error:
            raise _NotWritten(node, f"it is made of {error.name!r}: {error.why}") from error
        except OnnxError as error:
            raise _NotWritten(node, str(error)) from error
        emitter.names[id(node)] = written


def _by_definition(emitter: Emitter, graph: Graph, node: Node) -> Any:
    """A call that ONNX has no row for, in the functions that define it; OnnxError without any."""
    try:
        definition = definition_of(node, graph)
    except RecordingError as error:
        raise OnnxError("what it is made of depends on the size of the batch") from error
    if definition is None:
        raise OnnxError("ONNX has no row for it in tinynn's table")
    emitter.written_out.append(definition)
    results = emitter.inlined(definition, list(map(emitter.value, node.parents)))
    names = [name for name, _ in results]
    return names if node.dtype is None else names[0]


class _NotWritten(OnnxError):
    """A call that cannot be written, and why."""

    def __init__(self, node: Node, why: str) -> None:
        self.name, self.why = node.name, why
        super().__init__(
            f"to_onnx: {node.origin or 'the network'}: the function {node.name!r} cannot be "
            f"written to ONNX: {why}. To fix it: compute it with other functions of the standard; "
            "docs/onnx.md lists those that can be"
        )


def _file(
    emitter: Emitter, inputs: list[Any], outputs: list[Any], description: Mapping[str, Any]
) -> bytes:
    """The whole file, checked."""
    onnx, helper = emitter.onnx, emitter.onnx.helper
    nodes, arrays = emitter.needed([each.name for each in outputs])
    body = helper.make_graph(nodes, "tinynn", inputs, outputs, arrays)
    model = helper.make_model(
        body,
        producer_name=PRODUCER,
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    settle(model, onnx)
    texts = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in description.items()
    }
    last = texts.pop(LAST, "")
    helper.set_model_props(model, {**texts, LAST: last})
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise OnnxError(
            f"to_onnx: expected a graph that ONNX finds sound, got one that it refuses: {error}. "
            "To fix it: use other functions of the standard in the layer that it names"
        ) from error
    blob: bytes = model.SerializeToString(deterministic=True)
    return blob


def _output(emitter: Emitter, names: list[str], name: str, value: Any) -> Any:
    """The declaration of an output, whose last operator takes its name."""
    if not isinstance(value, Node):
        raise OnnxError(
            f"to_onnx: {name}: expected an array, got {value!r}. To fix it: let the "
            "network return arrays"
        )
    given = emitter.value(value)
    if given in names or all(given not in node.output for node in emitter.nodes):
        given = emitter.emit("Identity", [given])  # it is an input, or an output already
    emitter.rename(given, name)
    return emitter.declared(name, value)
