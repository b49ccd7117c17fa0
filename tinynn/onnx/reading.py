"""A network out of an ONNX file, in layers of tinynn's own.

A chain becomes a `Sequential`, a graph with branches a `GraphNetwork`.
"""

import os
from pathlib import Path
from typing import Any

from tinynn import tree
from tinynn.onnx.builder import Builder
from tinynn.onnx.emitter import LAST, PRODUCER, OnnxError, library
from tinynn.onnx.readers import READERS
from tinynn.onnx.source import Source

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
        return _network(model, _wanted(model.graph, output))
    except OnnxError as error:
        raise OnnxError(f"{path}: {error}") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
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


def _network(model: Any, output: str) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The layers from the input to this output."""
    build = Builder(Source(model, output))
    build.read(READERS)
    net, params, state = build.finish()
    for path, array in tree.paths(params):
        if array.dtype.name not in ("float32", "float64"):
            raise OnnxError(
                f"parameter {path}: expected float32 or float64, got {array.dtype.name}. To fix "
                "it: export the network in float32"
            )
    return net, params, state
