"""The estimators in skl2onnx: a pipeline that ends in one becomes one ONNX file.

<https://onnx.ai/sklearn-onnx/api_summary.html#registered-functions>
"""

from collections.abc import Callable, Mapping
from typing import Any

from tinynn.data import host
from tinynn.onnx import OnnxError, pack
from tinynn.onnx.emitter import DTYPES, library
from tinynn.onnx.writing import OPSET
from tinynn.sklearn import labels
from tinynn.sklearn.classifier import NetworkClassifier
from tinynn.sklearn.labels import MULTILABEL, SEVERAL
from tinynn.sklearn.regressor import NetworkRegressor
from tinynn.trace import namespace


def register_skl2onnx() -> None:
    """Let `skl2onnx.to_onnx` convert the estimators, alone and in pipelines.

    Once in a process. A classifier's outputs are "label" and "probabilities", with skl2onnx's
    options `zipmap`, `output_class_labels` and `nocl`; a regressor's is "variable", of shape
    (samples, outputs).

    Raises
    ------
    ImportError : the package skl2onnx is not installed

    """
    try:
        from skl2onnx import update_registered_converter
    except ImportError as error:
        raise ImportError(
            "register_skl2onnx: expected the package skl2onnx, found none. To fix it: run "
            "pip install skl2onnx"
        ) from error
    update_registered_converter(
        NetworkClassifier,
        "TinynnNetworkClassifier",
        _classifier_shapes,
        _convert_classifier,
        options={
            "zipmap": [True, False, "columns"],
            "output_class_labels": [False, True],
            "nocl": [True, False],  # numbers in place of the classes' names
        },
    )
    update_registered_converter(
        NetworkRegressor, "TinynnNetworkRegressor", _regressor_shapes, _convert_regressor
    )


def _classifier_shapes(operator: Any) -> None:
    from skl2onnx.common.data_types import Int64TensorType, StringTensorType

    estimator, rows = operator.raw_operator, operator.inputs[0].get_first_dimension()
    if estimator._kind == SEVERAL:
        raise _cannot(estimator, "one column of classes, or columns of 0 and 1", "several columns")
    if not hasattr(estimator, "predict_proba"):
        raise _cannot(estimator, "a loss that knows probabilities", repr(estimator.loss))
    width = labels.count(estimator.classes_)
    shape = [rows, width] if estimator._kind == MULTILABEL else [rows]
    _, texts = _classes(operator.scope_inst, estimator)
    operator.outputs[0].set_type((StringTensorType if texts else Int64TensorType)(shape))
    operator.outputs[1].set_type(_floats(operator)([rows, width]))


def _regressor_shapes(operator: Any) -> None:
    shape = [operator.inputs[0].get_first_dimension(), operator.raw_operator.n_outputs_]
    operator.outputs[0].set_type(_floats(operator)(shape))


def _floats(operator: Any) -> Any:
    """The type of the numbers that come out: as those that go in, or float32."""
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    double = isinstance(operator.inputs[0].type, DoubleTensorType)
    return DoubleTensorType if double else FloatTensorType


def _convert_classifier(scope: Any, operator: Any, container: Any) -> None:
    estimator, (label, chances) = operator.raw_operator, operator.outputs
    outputs = {"probabilities": chances.full_name}
    heads = {"probabilities": estimator._probabilities, "places": estimator._places}
    if estimator._kind == MULTILABEL:
        _embed(scope, operator, container, heads, {**outputs, "places": label.full_name})
        return
    places = scope.get_unique_variable_name("places")
    _embed(scope, operator, container, heads, {**outputs, "places": places})
    known, texts = _classes(scope, estimator)
    kind = library().TensorProto.STRING if texts else DTYPES["int64"]
    values = [str(each).encode() if texts else int(each) for each in known]
    classes = scope.get_unique_variable_name("classes")
    container.add_initializer(classes, kind, [len(values)], values)
    container.add_node("Gather", [classes, places], label.full_name, op_version=OPSET, axis=0)


def _classes(scope: Any, estimator: Any) -> tuple[list[Any], bool]:
    """(the classes as the file names them; whether they are texts)."""
    known = labels.listed(estimator.classes_)
    if scope.get_options(estimator, {"nocl": False})["nocl"]:
        known = list(range(len(known)))
    return known, any(isinstance(each, str) for each in known)


def _convert_regressor(scope: Any, operator: Any, container: Any) -> None:
    estimator = operator.raw_operator

    def prediction(outputs: Any) -> Any:
        numbers = estimator._numbers(outputs)
        return namespace(numbers).reshape(numbers, (-1, estimator.n_outputs_))

    outputs = {"prediction": operator.outputs[0].full_name}
    _embed(scope, operator, container, {"prediction": prediction}, outputs)


def _embed(
    scope: Any,
    operator: Any,
    container: Any,
    heads: Mapping[str, Callable[[Any], Any]],
    outputs: Mapping[str, str],
) -> None:
    """Put the network's graph into the container; `outputs` are its heads' names there."""
    graph, given = _graph(operator, heads), operator.inputs[0]
    if (target := container.target_opset_any_domain("")) < OPSET:
        raise _cannot(operator.raw_operator, f"target_opset={OPSET} or more", str(target))
    source = given.full_name
    if graph.input[0].type.tensor_type.elem_type != given.type.to_onnx_type().tensor_type.elem_type:
        source = scope.get_unique_variable_name("floats")
        kind = graph.input[0].type.tensor_type.elem_type
        container.add_node("Cast", [given.full_name], source, op_version=OPSET, to=kind)
    names = {graph.input[0].name: source, **outputs}
    for tensor in graph.initializer:
        names[tensor.name] = scope.get_unique_variable_name(tensor.name)
        tensor.name = names[tensor.name]
        container.initializers.append(tensor)
    value_of = library().helper.get_attribute_value
    for node in graph.node:
        for name in node.output:
            names.setdefault(name, scope.get_unique_variable_name(name))
        container.add_node(
            node.op_type,
            [names.get(name, name) for name in node.input],
            [names[name] for name in node.output],
            op_domain=node.domain,
            op_version=OPSET,
            name=scope.get_unique_operator_name(node.name),
            **{each.name: value_of(each) for each in node.attribute},
        )


def _graph(operator: Any, heads: Mapping[str, Callable[[Any], Any]]) -> Any:
    """The network as an ONNX graph of the floats that come in."""
    from skl2onnx.common.data_types import DoubleTensorType

    estimator, home = operator.raw_operator, host()
    dtype = "float64" if _floats(operator) is DoubleTensorType else "float32"
    model = estimator.model_.to(home, dtype)
    rows = home.xp.zeros((2, estimator.n_features_in_), dtype=home.dtypes()[dtype])
    blob = pack(model.net, model.params, model.state, rows, backend=home, heads=heads)
    return library().load_from_string(blob).graph


def _cannot(estimator: Any, expected: str, got: str) -> OnnxError:
    return OnnxError(
        f"skl2onnx, {type(estimator).__name__}: expected {expected}, got {got}. To fix it: write "
        "the network alone, estimator.model_.to_onnx(path)"
    )
