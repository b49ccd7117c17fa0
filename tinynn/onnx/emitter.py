"""Emitter: the ONNX graph under construction, and the names of its values."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from backends import Backend
from tinynn.transforms.graph import Constant, Dim, Graph, Input, Node

#: The standard's dtypes: their numbers in ONNX.
DTYPES = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "uint16": 4,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float64": 11,
    "uint32": 12,
    "uint64": 13,
}
INT64 = DTYPES["int64"]
PRODUCER = "tinynn"
LAST = "tinynn"  # what stands last in a file of ours, so that one that was cut short is known


class OnnxError(ValueError):
    """A network that ONNX has no form for, or an ONNX file that there is no network for."""


def library() -> Any:
    """The package onnx; ImportError that says how to install it."""
    try:
        return import_module("onnx")
    except ModuleNotFoundError as error:
        raise ImportError(
            "ONNX files: expected the package onnx, found none. To fix it: run "
            'pip install "tinynn-xp[onnx]"'
        ) from error


class Emitter:
    """Nodes and initializers, and what stands in the file for each value of a recorded graph.

    Args:
        backend: where the arrays of the recorded graph are.
        known: the name of an array of parameters or state, by its id.
        calls: writes the calls of a graph, for those inside of `scan` and `cond`.
    """

    def __init__(
        self,
        backend: Backend,
        known: dict[int, str],
        calls: Callable[["Emitter", Graph], None] = lambda out, graph: None,
    ) -> None:
        self.onnx = library()
        self.backend = backend
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.names: dict[int, Any] = {}  # of values: by their id. Of several results: a list
        self.known = known
        self._taken: set[str] = set()
        self._numbers: dict[Any, str] = {}
        self._place = ""
        self.float_dtype = DTYPES["float32"]  # of the network's output
        self._batch: tuple[str, int, Dim] | None = None
        self.written_out: list[Graph] = []  # definitions of calls, whose values have names
        self._calls = calls

    # --- names

    def unique(self, name: str) -> str:
        """The name, or with a number behind it if it is taken."""
        found, count = name, 1
        while found in self._taken:
            count += 1
            found = f"{name}_{count}"
        self._taken.add(found)
        return found

    def at(self, node: Node) -> None:
        """Make what is emitted from here on belong to this call, named by its layer."""
        place = node.origin.place
        layer = place.removeprefix("layer ").partition(",")[0] if place else ""
        self._place = f"{layer}/" if layer else ""

    def reserve(self, names: Sequence[str]) -> None:
        """Keep names for the outputs."""
        self._taken.update(names)

    def add_input(self, given: Input) -> str:
        """An input of the file; the first with a batch is where its size is read from."""
        name = self.names[id(given)] = self.unique(given.label)
        for axis, length in enumerate(given.shape):
            if isinstance(length, Dim) and self._batch is None:
                self._batch = name, axis, length
        return name

    def read_batch_from(self, name: str) -> None:
        """The first axis of that input is the batch."""
        self._batch = name, 0, Dim(1)

    # --- values

    def dtype(self, dtype: Any) -> int:
        """The number that ONNX has for a dtype of the standard."""
        name = self.backend.dtype_name(dtype)
        if name not in DTYPES:
            raise OnnxError(f"expected a dtype of {', '.join(DTYPES)}, got {name}")
        return DTYPES[name]

    def value(self, value: Any, dtype: Any = None) -> str:
        """The name of an argument, cast to `dtype` where it has another one.

        A Python number becomes an array of no axes, of that dtype.
        """
        if isinstance(value, Dim):
            size = self.emit("Squeeze", [self._length(value)])
            return size if dtype is None else self.emit("Cast", [size], to=self.dtype(dtype))
        if not isinstance(value, Node):
            return self.number(value, DTYPES["float32"] if dtype is None else self.dtype(dtype))
        if isinstance(value, Constant) and id(value) not in self.names:
            self.names[id(value)] = self._initializer(value)
        name: str = self.names[id(value)]
        if dtype is None or value.dtype == dtype:
            return name
        return self.emit("Cast", [name], to=self.dtype(dtype))

    def _initializer(
        self, constant: Constant, change: Callable[[Any], Any] = lambda host: host
    ) -> str:
        other = f"{self._place[:-1]}.constant" if self._place else "constant"
        name = self.unique(self.known.get(id(constant.value), other))
        self.dtype(constant.dtype)  # refuse one that ONNX lacks
        host = change(self.backend.to_host(constant.value)).copy()
        self.initializers.append(self.onnx.numpy_helper.from_array(host, name))
        return name

    def number(self, value: Any, dtype: int) -> str:
        """An array of no axes."""
        return self.tensor(dtype, (), [value])

    def integers(self, values: Sequence[int]) -> str:
        """A vector of int64, as ONNX takes axes and shapes."""
        return self.tensor(INT64, (len(values),), [int(each) for each in values])

    def tensor(self, dtype: int, shape: tuple[int, ...], values: list[Any]) -> str:
        """An array of these numbers or texts; asked for again it is the same."""
        key = (dtype, shape, repr(values))
        if key not in self._numbers:
            name = self._numbers[key] = self.unique("constant")
            self.initializers.append(self.onnx.helper.make_tensor(name, dtype, shape, values))
        return self._numbers[key]

    def texts(self, values: Sequence[str], shape: tuple[int, ...]) -> str:
        """An array of texts."""
        return self.tensor(self.onnx.TensorProto.STRING, shape, [v.encode() for v in values])

    # --- calls

    def emit(
        self, operator: str, inputs: Sequence[str], domain: str = "", **attributes: Any
    ) -> str:
        """A call of an operator with one result, whose name is returned."""
        return self.emit_all(operator, inputs, 1, domain, **attributes)[0]

    def emit_all(
        self,
        operator: str,
        inputs: Sequence[str],
        count: int,
        domain: str = "",
        **attributes: Any,
    ) -> list[str]:
        """A call of an operator with so many results, whose names are returned."""
        names = [self.unique(f"{self._place}{operator}") for _ in range(count)]
        made = self.onnx.helper.make_node(
            operator, list(inputs), names, name=names[0], domain=domain, **attributes
        )
        self.nodes.append(made)
        return names

    def transpose(self, name: str, order: Sequence[int]) -> str:
        """The axes in another order; `layouts.settle` leaves out those that need not be."""
        return self.emit("Transpose", [name], perm=list(order))

    def turned(self, value: Any, dtype: Any, order: Sequence[int]) -> str:
        """The name of an argument with its axes in another order; a known array is stored so."""
        if not isinstance(value, Constant) or value.dtype != dtype:
            return self.transpose(self.value(value, dtype), order)
        return self.stored(value, tuple(order), lambda host: host.transpose(order))

    def stored(self, constant: Constant, key: Any, change: Callable[[Any], Any]) -> str:
        """A known array, changed on the host before it is stored; `key` says how."""
        key = id(constant), key
        if key not in self._numbers:
            self._numbers[key] = self._initializer(constant, change)
        return self._numbers[key]

    def inlined(
        self, graph: Graph, given: Sequence[str], rest: Sequence[Input] = ()
    ) -> list[tuple[str, Node]]:
        """The calls of a graph, written here: the names of its results, and these.

        given: the names of its first inputs; the others, `rest`, have one.
        """
        first = graph.inputs[: len(graph.inputs) - len(rest)]
        self.names |= dict(zip(map(id, first), given, strict=True))
        self._calls(self, graph)
        return [(self.value(each), each) for each in graph.outputs]

    def body(
        self,
        name: str,
        entries: Sequence[Input],
        write: Callable[[], list[tuple[str, Node]]],
        unused: Sequence[tuple[int, tuple[int, ...]]] = (),
        front: bool = False,
    ) -> Any:
        """A graph inside of a call: `write` writes its calls and gives the results.

        entries: its inputs; unused: dtypes and shapes of others that stand behind them, or in
        front, and that nothing reads.
        """
        around, self.nodes = self.nodes, []
        inputs = [self.declared(self.add_input(each), each) for each in entries]
        make = self.onnx.helper.make_tensor_value_info
        others = [make(self.unique("step"), dtype, shape) for dtype, shape in unused]
        outputs = [
            self.declared(self.emit_all("Identity", [given], 1)[0], value)
            for given, value in write()
        ]
        inputs = [*others, *inputs] if front else [*inputs, *others]
        made = self.onnx.helper.make_graph(self.nodes, name, inputs, outputs)
        self.nodes = around
        return made

    def declared(self, name: str, value: Node) -> Any:
        """Name, dtype and shape of an input or output; lengths that follow the batch have names."""
        shape = [str(n) if type(n) is not int else n for n in value.shape]
        return self.onnx.helper.make_tensor_value_info(name, self.dtype(value.dtype), shape)

    def rename(self, name: str, new: str) -> None:
        """Let the result of a call have another name, one that was reserved."""
        renamed(self.nodes, name, new)
        for key, known in self.names.items():
            if known == name:
                self.names[key] = new

    def needed(self, outputs: Sequence[str]) -> tuple[list[Any], list[Any]]:
        """The calls and the stored arrays that these values need, in order."""
        wanted, kept = set(outputs), []
        for node in reversed(self.nodes):
            if not wanted.isdisjoint(node.output):
                kept.append(node)
                wanted.update(read_by(node))
        return kept[::-1], [each for each in self.initializers if each.name in wanted]

    # --- shapes

    def shape(self, shape: Sequence[int], one_is_left: bool = False) -> str:
        """A shape as a vector; lengths that follow the batch are computed from its size.

        one_is_left: a single such length may be written as -1, as Reshape takes it.
        """
        following = [length for length in shape if isinstance(length, Dim)]
        if not following:
            return self.integers(shape)
        if one_is_left and len(following) == 1 and 0 not in [int(length) for length in shape]:
            return self.integers([-1 if isinstance(n, Dim) else n for n in shape])
        parts = [self._length(n) if isinstance(n, Dim) else self.integers([n]) for n in shape]
        return parts[0] if len(parts) == 1 else self.emit("Concat", parts, axis=0)

    def _length(self, length: Dim) -> str:
        """factor * batch + offset as a vector of one."""
        if self._batch is None:
            raise OnnxError("expected an input with a batch, got none")
        name, axis, seen = self._batch
        size = self.emit("Shape", [name], start=axis, end=axis + 1)
        if seen.offset:
            size = self.emit("Sub", [size, self.integers([seen.offset])])
        if seen.factor != 1:
            size = self.emit("Div", [size, self.integers([seen.factor])])
        if length.factor != 1:
            size = self.emit("Mul", [size, self.integers([length.factor])])
        return self.emit("Add", [size, self.integers([length.offset])]) if length.offset else size


def _graphs(node: Any) -> list[Any]:
    return [a.g for a in node.attribute if a.HasField("g")]


def renamed(nodes: Any, name: str, new: str) -> None:
    """Let a value have another name, wherever it is made or read."""
    for node in nodes:
        for names in (node.input, node.output):
            for place, each in enumerate(names):
                if each == name:
                    names[place] = new
        for graph in _graphs(node):
            renamed(graph.node, name, new)


def read_by(node: Any) -> set[str]:
    """The names of what a call reads, inside of its graphs too."""
    inside = [read_by(each) for graph in _graphs(node) for each in graph.node]
    return set(node.input).union(*inside)
