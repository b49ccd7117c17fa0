"""ONNX: networks as files that other programs run, and networks out of such files.

The only package of tinynn that imports onnx, and only when a file is written or read.
"""

from . import operators
from .emitter import OnnxError
from .network import Call, ChannelsFirst, GraphNetwork, Scan
from .reading import read
from .writing import pack

__all__ = ["Call", "ChannelsFirst", "GraphNetwork", "OnnxError", "Scan", "pack", "read"]

#: What networks that were read consist of besides `tinynn.layers`, by name.
KNOWN = {
    **operators.KNOWN,
    **{kind.__name__: kind for kind in (Call, ChannelsFirst, GraphNetwork, Scan)},
}
