"""ONNX files: `export` writes models to them, `from_onnx` reads them. It needs the extra `onnx`."""

try:
    import onnx as _onnx
except ImportError as error:
    raise ImportError(
        "tinynn.onnx: expected the package onnx, which is not installed. To fix it: "
        'pip install "tinynn-xp[onnx]"'
    ) from error

from tinynn.onnx.builder import UnsupportedFunctionError
from tinynn.onnx.exporting import export
from tinynn.onnx.importing import OnnxFileError, from_onnx

__all__ = ["OnnxFileError", "UnsupportedFunctionError", "export", "from_onnx"]

del _onnx
