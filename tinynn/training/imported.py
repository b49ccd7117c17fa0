"""A model out of an ONNX file."""

import os

import backends
from tinynn import tree
from tinynn.data import host
from tinynn.onnx import read
from tinynn.training.model import Model


def from_onnx(
    path: str | os.PathLike[str],
    backend: str | backends.Backend | None = None,
    output: str | None = None,
) -> Model:
    """Read a network that another program exported to ONNX, as layers of tinynn's own.

    A chain becomes a `Sequential`, a graph with branches a `tinynn.onnx.GraphNetwork`; docs/onnx.md
    lists the operators. The model can be trained on, saved and exported.

    Parameters
    ----------
    path
        Of the file.
    backend
        Where the parameters are put; None: the host's own library.
    output
        The name of the output to compute, of several; None: "output", or the last.

    Raises
    ------
    OnnxError
        The file is cut short, of an unknown opset, or holds an operator without a layer.
    ImportError
        The package onnx is not installed.
    BackendUnavailable
        No such library or device here.
    OSError
        There is no such file, or it may not be read.
    """
    home = host() if backend is None else backends.get(backend)
    net, params, state = read(path, output)
    with home.scope():
        params, state = (tree.map(home.asarray, part) for part in (params, state))
    return Model(net, params, state)
