"""ONNX files of trained models: `export` writes them. It needs the extra `onnx`."""

try:
    import onnx as _onnx
except ImportError as error:
    raise ImportError(
        "tinynn.onnx: expected the package onnx, which is not installed. To fix it: "
        'pip install "tinynn-xp[onnx]"'
    ) from error

from tinynn.onnx.builder import UnsupportedFunctionError
from tinynn.onnx.exporting import export

__all__ = ["UnsupportedFunctionError", "export"]

del _onnx
