"""The builder of an ONNX graph: names of values, initializers, and nodes in order."""

from collections.abc import Sequence
from typing import Any

import onnx
from onnx import helper, numpy_helper

from backends import Backend
from tinynn.transforms.graph import Constant, Dim, Graph, Input, Node

#: dtypes by the names of the standard, from the narrowest on.
TYPES = {
    "bool": onnx.TensorProto.BOOL,
    "uint8": onnx.TensorProto.UINT8,
    "int8": onnx.TensorProto.INT8,
    "uint16": onnx.TensorProto.UINT16,
    "int16": onnx.TensorProto.INT16,
    "uint32": onnx.TensorProto.UINT32,
    "int32": onnx.TensorProto.INT32,
    "uint64": onnx.TensorProto.UINT64,
    "int64": onnx.TensorProto.INT64,
    "float32": onnx.TensorProto.FLOAT,
    "float64": onnx.TensorProto.DOUBLE,
}


class UnsupportedFunctionError(ValueError):
    """A call of the network that ONNX has no operator for."""

    def __init__(self, what: str, node: Node) -> None:
        where = str(node.origin) or "the network"
        super().__init__(
            f"onnx.export: {where}: expected functions that have an ONNX operator, got {what}. To "
            "fix it: write the layer with the functions that docs/onnx.md lists"
        )


class GraphBuilder:
    """The nodes and initializers of an ONNX graph, and the name of each value of the recording.

    graph: the recording.
    backend: where it was made.
    """

    def __init__(self, graph: Graph, backend: Backend) -> None:
        self.graph, self.backend = graph, backend
        self.names = {str(dtype): name for name, dtype in backend.dtypes().items()}
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}
        self.known: dict[int, str] = {}
        self.types: dict[str, str] = {}  # of numbers and casts by name, to make each once
        self.scope = ""

    def add_input(self, node: Input, name: str) -> Any:
        """A value that is given in each call."""
        self.known[id(node)] = name
        shape = ["batch" if isinstance(length, Dim) else int(length) for length in node.shape]
        return helper.make_tensor_value_info(name, TYPES[self.dtype_of(node)], shape)

    def add_initializer(self, node: Node, name: str, array: Any) -> None:
        """An array that is part of the model."""
        self.known[id(node)] = name
        self.initializers[name] = numpy_helper.from_array(self.backend.to_host(array), name)

    def dtype_of(self, node: Node) -> str:
        """The standard's name of a value's dtype."""
        name = self.names.get(str(node.dtype))
        if name not in TYPES:
            raise UnsupportedFunctionError(f"the dtype {node.dtype}", node)
        return name

    def value(self, x: Any, like: Node | None = None) -> str:
        """The name of a value: of a node, of an array from outside, or of a number.

        like: the node whose dtype it takes.
        """
        if not isinstance(x, Node):
            assert like is not None, "a number takes the dtype of a node"
            return self._scalar(x, self.dtype_of(like))
        if isinstance(x, Constant) and id(x) not in self.known:
            self.add_initializer(x, f"constant_{len(self.initializers)}", x.value)
        name = self.known[id(x)]
        wanted = self.dtype_of(x if like is None else like)
        return name if wanted == self.dtype_of(x) else self.cast(name, wanted)

    def alike(self, args: Sequence[Any]) -> list[str]:
        """Arguments as values of the widest dtype among them; numbers take it."""
        ranks = list(TYPES)
        arrays = [a for a in args if isinstance(a, Node)]
        widest = max(arrays, key=lambda a: ranks.index(self.dtype_of(a)))
        return [self.value(a, like=widest) for a in args]

    def number(self, value: float, like: Node) -> str:
        """A number in the dtype of a node."""
        return self._scalar(value, self.dtype_of(like))

    def integers(self, values: Sequence[int]) -> str:
        """A vector of integers: axes, lengths, ends of slices."""
        name = "integers_" + "_".join(map(str, values)).replace("-", "m")
        if name not in self.initializers:
            vector = helper.make_tensor(name, TYPES["int64"], [len(values)], list(map(int, values)))
            self.initializers[name] = vector
        return name

    def scalar_integer(self, value: int) -> str:
        """An integer of no axes."""
        return self._scalar(value, "int64")

    def lengths(self, node: Node) -> str:
        """The shape of a node; the one length that follows the batch is found by the reader."""
        following = [length for length in node.shape if isinstance(length, Dim)]
        if len(following) > 1:
            raise UnsupportedFunctionError(
                "a shape with several lengths that follow the batch", node
            )
        return self.integers([-1 if isinstance(d, Dim) else int(d) for d in node.shape])

    def cast(self, name: str, dtype: str) -> str:
        """A value in another dtype."""
        return self.node("Cast", [name], to=TYPES[dtype])

    def node(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        """Write a node; gives the name of its value, which has the path of its layer in front."""
        name = f"{self.scope}{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def _scalar(self, value: Any, dtype: str) -> str:
        name = f"{dtype}_{value!r}"
        if name not in self.initializers:
            whole = dtype.startswith(("int", "uint"))
            number = int(value) if whole else bool(value) if dtype == "bool" else float(value)
            self.initializers[name] = helper.make_tensor(name, TYPES[dtype], [], [number])
        return name
