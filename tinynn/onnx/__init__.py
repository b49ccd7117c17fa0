"""ONNX: networks as files that other programs run, and networks out of such files.

The only room that imports the package onnx, and only when a file is written or read.
"""

from .emitter import OnnxError
from .reading import read
from .writing import pack

__all__ = ["OnnxError", "pack", "read"]
