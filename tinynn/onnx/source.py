"""An ONNX file as steps: its operators, the arrays that are known, and the shapes of the others."""

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from typing import Any

from tinynn.onnx import bodies
from tinynn.onnx.emitter import OnnxError, library
from tinynn.onnx.lengths import Lengths, Undecided, result

#: The size of the batch in shapes, where the file leaves it open: no other length is a multiple.
OPEN = 1_000_003
#: Another one, for which what follows from the size differs.
OTHER = 2_000_029
#: What takes a shape as its second input, which the result's own shape says as well.
SHAPED = ("Reshape", "Expand")
#: The places of first states among the inputs of RNN, GRU and LSTM.
RECURRENT, STATES = ("RNN", "GRU", "LSTM"), (5, 6)
#: What makes arrays of lengths that are its inputs.
SIZED = ("ConstantOfShape", "Expand", "Tile", "Range", "Resize", "Pad", "OneHot")
#: What makes zeros of zeros.
PASSING = ("Slice", "Split", "Squeeze", "Unsqueeze", "Transpose", "Reshape", "Expand", "Identity")
#: Attributes that say nothing, or what the shapes of other inputs say too.
HARMLESS = {
    "kernel_shape", "consumed_inputs", "is_test", "storage_order", "stash_type", "broadcast",
    "saturate", "allowzero", "seed", "num_outputs", "classlabels_int64s", "classlabels_strings",
}  # fmt: skip


class Attributes(dict[str, Any]):
    """The attributes of a step, which notes those that a row has looked at."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.seen: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        """Its value, or the default."""
        self.seen.add(name)
        return super().get(name, default)

    def __getitem__(self, name: str) -> Any:
        self.seen.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self.seen.add(str(name))
        return super().__contains__(name)


class Step:
    """One operator: the names of its inputs ("" where one is left out) and results.

    It notes what a row looks at: `check_read` refuses what none has.
    """

    def __init__(self, node: Any, source: "Source") -> None:
        value = library().helper.get_attribute_value
        self.operator = node.op_type
        self.name = node.name or next(filter(None, node.output), "")
        self.outputs, self._inputs = tuple(node.output), tuple(node.input)
        self.attributes = Attributes({a.name: value(a) for a in node.attribute})
        self.source, self._domain, self.node = source, node.domain, node
        self._seen: set[int] = set()

    @property
    def inputs(self) -> list[str]:
        """The names of all inputs that are given."""
        self._seen.update(range(len(self._inputs)))
        return [name for name in self._inputs if name]

    def input(self, place: int) -> str:
        """The name of an input; "" for none."""
        self._seen.add(place)
        return self._inputs[place] if place < len(self._inputs) else ""

    def given(self, place: int) -> Any:
        """The array that is known of an input; None if it follows from the network's."""
        return self.source.given(self.input(place))

    def check_read(self) -> None:
        """OnnxError if no row looked at an input, or at an attribute that is not the default."""
        for place, name in enumerate(self._inputs):
            shape = place == 1 and self.operator in SHAPED
            if name and place not in self._seen and not shape:
                raise self.fail(f"no input {place}")
        for name, value in self.attributes.items():
            usual = self._usual(name)
            if name not in self.attributes.seen | HARMLESS and value != usual:
                raise self.fail(f"{name} to be {usual}" if usual is not None else f"no {name}")

    def _usual(self, name: str) -> Any:
        """The default of an attribute."""
        onnx = library()
        try:
            schema = onnx.defs.get_schema(self.operator, self.source.opset, self._domain)
            return onnx.helper.get_attribute_value(schema.attributes[name].default_value)
        except (onnx.defs.SchemaError, KeyError, ValueError):
            return None

    def known(self, place: int, said: str) -> Any:
        """The array that an input has to be."""
        array = self.given(place)
        if array is None:
            raise self.fail(f"constant {said}")
        return array

    def shape(self, place: int = 0) -> tuple[int | None, ...]:
        """The shape of an input, with None for what is not known."""
        shape = self.source.shape(self.input(place))
        if shape is None:
            raise self.fail("an input whose number of axes the file shows")
        return shape

    def rank(self, place: int = 0) -> int:
        """The number of axes of an input."""
        return len(self.shape(place))

    def integers(self, name: str, place: int | None = None) -> list[int] | None:
        """A setting that is an attribute or, in newer opsets, an input; None where it is neither.

        A single one is a list of one.
        """
        value = self.attributes.get(name)
        if value is None and place is not None and self.input(place):
            value = self.known(place, name)
        if value is None:
            return None
        flat = value.reshape(-1) if hasattr(value, "reshape") else value
        return [int(each) for each in (flat if hasattr(flat, "__len__") else [flat])]

    def scalar(self, name: str, default: Any, place: int | None = None) -> Any:
        """A number that is an attribute or an input, the shortest that is it in float32."""
        value = self.attributes.get(name)
        if value is None and place is not None and self.input(place):
            value = self.known(place, name).reshape(-1)[0].item()
        value = default if value is None else value
        return float(f"{value:.7g}") if isinstance(value, float) else value

    def text(self, name: str, default: str) -> str:
        """An attribute that is a text."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else str(value)

    def fail(self, expected: str) -> OnnxError:
        """The error for a step of a kind that is not read."""
        return OnnxError(
            f"operator {self.operator} ({self.name}): expected {expected}. To fix it: export the "
            "network without it, or name another output"
        )


class Source:
    """The graph of a file, for one of its outputs.

    Attributes
    ----------
    opset : of the standard's operators
    constants : the arrays that do not depend on the input, by name
    trained : the names of those that the file keeps as parameters, or that follow from such
    inputs : the names of the network's inputs
    uses : how many operators take a value, by its name
    outside : of the graph inside a Scan, the names that it takes from the one around
    """

    def __init__(self, model: Any, output: str) -> None:
        onnx = library()
        graph = model.graph
        self.opset = max(e.version for e in model.opset_import if e.domain in ("", "ai.onnx"))
        self.output = output
        bodies.check_names(graph, self.opset)
        arrays = bodies.initializers(graph)
        self.constants = {e.name: onnx.numpy_helper.to_array(e) for e in arrays}
        self.trained = set(self.constants)
        self.inputs = [each.name for each in graph.input if each.name not in self.constants]
        for each in graph.input:
            if not each.type.HasField("tensor_type"):
                raise OnnxError(
                    f"input {each.name}: expected an array, got a sequence, a mapping or nothing. "
                    "To fix it: export a network of arrays"
                )
        self.batch = OPEN
        self._kinds: dict[str, int] = {}
        self._zeros: set[str] = set()  # as long as the batch
        self._lengths: dict[str, Lengths] = {}  # what follows from its size
        self._undecided: set[str] = set()  # results of operators that do so otherwise
        self._shapes = self._inferred(model)
        self._fold(bodies.inside_first(graph.node))
        self.inside, self.outside = False, list[str]()
        self._parts: dict[str, Source] = {}
        self._walk(graph.node, [output])
        self._check_decided()
        if self.outside:
            raise OnnxError(
                f"expected {self.outside[0]!r} to follow from the network's input; nothing makes it"
            )

    def part(self, scan: Any) -> "Source":
        """The graph inside a Scan, all of whose outputs are needed."""
        key = " ".join(scan.output)
        if key not in self._parts:
            body, made = bodies.body_of(scan), copy(self)
            made.inside, made.outside, made._parts, made.inputs = True, [], {}, body.inputs
            made._walk(body.graph.node, body.outputs)
            made._check_decided()
            made.inputs = list(dict.fromkeys([*self.inputs[:1], *made.outside, *body.inputs]))
            self._parts[key] = made
        return self._parts[key]

    def _walk(self, nodes: Iterable[Any], outputs: list[str]) -> None:
        """Find the operators that the outputs need, and how often each value is taken."""
        self._made = {name: node for node in nodes for name in node.output if name}
        needed = self._walked(outputs)
        self.nodes = [node for node in nodes if id(node) in needed]
        self.uses: dict[str, int] = dict.fromkeys(outputs, 1)
        for node in self.nodes:
            for name in self.read_by(node):
                self.uses[name] = self.uses.get(name, 0) + 1

    def read_by(self, node: Any) -> list[str]:
        """The names of what an operator takes, in the graph inside of it too."""
        return [*node.input, *(self.part(node).outside if node.op_type == "Scan" else ())]

    def given(self, name: str) -> Any:
        """The array that is known of a value; None if it follows from the network's input.

        Inside a Scan an array of floating-point numbers counts as an input: it may be trained.
        """
        array = self.constants.get(name)
        hidden = self.inside and array is not None and array.ndim and array.dtype.kind == "f"
        return None if hidden else array

    def steps(self) -> Iterator[Step]:
        """The operators that the output needs, in order."""
        for node in self.nodes:
            yield Step(node, self)

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """The shape of a value; None if even the number of axes is unknown."""
        if name in self.constants:
            return tuple(self.constants[name].shape)
        return self._shapes.get(name)

    def kind(self, name: str) -> int:
        """The number of its dtype; 0 if that is unknown."""
        return self._kinds.get(name, 0)

    def vector(self, numbers: Any) -> Any:
        """Numbers as a vector of float32."""
        onnx = library()
        tensor = onnx.helper.make_tensor("", onnx.TensorProto.FLOAT, (len(numbers),), numbers)
        return onnx.numpy_helper.to_array(tensor)

    def follows(self, length: int | None) -> bool:
        """True for a length that is the batch's, or a multiple."""
        return bool(length) and self.batch == OPEN and length % OPEN == 0  # type: ignore[operator]

    def is_zero(self, name: str) -> bool:
        """True for an array of zeros, perhaps as long as the batch."""
        return name in self._zeros or (name in self.constants and not self.constants[name].any())

    def _inferred(self, model: Any) -> dict[str, tuple[int | None, ...]]:
        """The shapes of all values that ONNX finds, for a batch of OPEN where it is left open."""
        found = self._inferred_for(model, OPEN)
        lengths = {n for shape in found.values() for n in shape if n}
        if self.batch == OPEN and any(n > OPEN // 100 and n % OPEN for n in lengths):
            # Such as that of x[1:], which is no multiple: what has another ratio is not known.
            others = self._inferred_for(model, OTHER)
            for name, shape in found.items():
                found[name] = tuple(
                    n if n is not None and m is not None and (n == m or n * OTHER == m * OPEN)
                    else None for n, m in zip(shape, others[name], strict=True)
                )  # fmt: skip
        return found

    def _inferred_for(self, model: Any, size: int) -> dict[str, tuple[int | None, ...]]:
        onnx = library()
        copied = onnx.ModelProto()
        copied.CopyFrom(model)
        for each in copied.graph.input:
            axes = each.type.tensor_type.shape.dim
            if each.name in self.inputs and len(axes):
                if axes[0].HasField("dim_value"):
                    self.batch = axes[0].dim_value
                else:
                    axes[0].dim_value = size
        for kind in ("value_info", "output"):  # of the exporter's batch
            copied.graph.ClearField(kind)
        bodies.flatten(copied.graph, self.opset)
        for node in copied.graph.node:
            if node.op_type in ("Scaler", "ZipMap"):  # ONNX finds no shape for it: the input's
                node.op_type, node.domain = "Identity", ""
                node.ClearField("attribute")
        try:
            copied = onnx.shape_inference.infer_shapes(copied, data_prop=True, strict_mode=True)
        except Exception as error:
            raise OnnxError(
                f"expected shapes that fit each other, got others: {error}. To fix it: export it "
                "again"
            ) from error
        found = {}
        for each in (*copied.graph.input, *copied.graph.value_info):
            self._kinds[each.name] = each.type.tensor_type.elem_type
            if each.type.tensor_type.HasField("shape"):
                found[each.name] = tuple(
                    axis.dim_value if axis.HasField("dim_value") else None
                    for axis in each.type.tensor_type.shape.dim
                )
        return found

    def _fold(self, nodes: Any) -> None:
        """More constants: what follows from constants, and from lengths other than the batch's."""
        for node in nodes:
            given = [name for name in node.input if name]
            if node.op_type in PASSING and given[0] in self._zeros:
                self._zeros.update(node.output)
                continue
            if node.op_type in SIZED and any(n in self._lengths for n in given):
                if _fills_zeros(node, self.constants):
                    self._zeros.add(node.output[0])
                continue
            if node.op_type == "Shape" and given[0] in self._shapes:
                lengths = self._shapes[given[0]]
                values = None if None in lengths else [self._length(node, lengths)]
            elif all(n in self.constants or n in self._lengths for n in given):
                values = self._values(node) if _repeatable(node) else None
            else:
                continue
            for name, value in zip(node.output, values or (), strict=False):
                if isinstance(value, Lengths):
                    if not value.fixed:
                        self._lengths[name] = value
                        continue
                    value = value.offsets
                if hasattr(value, "dtype"):  # no sequence
                    self.constants[name] = value
                    if any(each in self.trained for each in given):
                        self.trained.add(name)

    def _values(self, node: Any) -> list[Any] | None:
        """The results of an operator of what is known; None where they are no lengths."""
        given = [self._lengths.get(n, self.constants.get(n)) for n in node.input]
        if not any(isinstance(each, Lengths) for each in given):
            return _evaluated(node, given, self.opset)
        attributes = {a.name: a.i for a in node.attribute}
        try:
            return result(
                node.op_type, attributes, given, lambda values: _evaluated(node, values, self.opset)
            )
        except Undecided:
            self._undecided.update(node.output)
            return None

    def _length(self, node: Any, lengths: Any) -> Lengths:
        """The result of Shape."""
        factors = [n // OPEN if self.follows(n) else 0 for n in lengths]
        offsets = [0 if self.follows(n) else n for n in lengths]
        return Lengths(_lengths(node, factors), _lengths(node, offsets))

    def lengths(self, name: str) -> list[int] | None:
        """Lengths that an operator computes, with -1 for one that follows the batch; None for
        others."""
        found = self._lengths.get(name)
        if found is None:
            return None
        pairs = list(zip(*[part.reshape(-1).tolist() for part in found], strict=True))
        if any(factor and (offset or factor < 0) for factor, offset in pairs):
            return None
        wanted = [-1 if factor else offset for factor, offset in pairs]
        return wanted if wanted.count(-1) == 1 else None

    def _check_decided(self) -> None:
        """OnnxError if the output needs what is not the same for batches of every size."""
        for node in self.nodes:
            if not self._undecided.isdisjoint(node.output):
                raise Step(node, self).fail(
                    "the same meaning for batches of every size, got numbers that depend on it "
                    "otherwise than a length does"
                )

    def _walked(self, outputs: list[str]) -> set[int]:
        """The ids of the operators that these need; what no operator makes is from outside."""
        wanted, seen = list(outputs), set[int]()
        while wanted:
            name = wanted.pop()
            node = self._made.get(name)
            known = name in self.constants or name in self.inputs
            if known or (node and id(node) in seen):
                continue
            if node is None:
                if name not in self.outside:
                    self.outside.append(name)
                continue
            seen.add(id(node))
            shaped = node.op_type in SHAPED and None not in (
                self._shapes.get(node.output[0]) or (None,)
            )
            if node.op_type == "Reshape" and len(node.input) > 1:
                shaped = shaped or self.lengths(node.input[1]) is not None
            given = enumerate(node.input[:1] if shaped else self.read_by(node))
            wanted += [n for i, n in given if n and not self._is_first_state(node, i, n)]
        return seen

    def _is_first_state(self, node: Any, place: int, name: str) -> bool:
        """True for zeros that a recurrent operator starts with."""
        return node.op_type in RECURRENT and place in STATES and name in self._zeros


def _fills_zeros(node: Any, constants: Any) -> bool:
    if node.op_type == "ConstantOfShape":
        value = [library().numpy_helper.to_array(a.t) for a in node.attribute]
        return not any(each.any() for each in value)
    first = constants.get(node.input[0])
    return node.op_type in ("Expand", "Tile") and first is not None and not first.any()


def _lengths(node: Any, lengths: Any) -> Any:
    """The result of Shape, a vector of int64."""
    ends = {a.name: a.i for a in node.attribute}
    onnx = library()
    cut = lengths[ends.get("start", 0) : ends.get("end")]
    tensor = onnx.helper.make_tensor("shape", onnx.TensorProto.INT64, (len(cut),), cut)
    return onnx.numpy_helper.to_array(tensor)


def _repeatable(node: Any) -> bool:
    """True if the reference evaluator can compute it: no draws, no subgraphs."""
    graphs = any(a.type in (5, 10) for a in node.attribute)  # GRAPH, GRAPHS
    return not graphs and not node.op_type.startswith("Random") and node.domain in ("", "ai.onnx")


def _evaluated(node: Any, values: Sequence[Any], opset: int) -> list[Any]:
    """The results of an operator of constants."""
    onnx = library()
    if node.op_type == "Identity":
        return list(values)
    if node.op_type == "Transpose":
        turned = {a.name: list(a.ints) for a in node.attribute}
        return [values[0].transpose(turned.get("perm"))]
    if node.op_type == "Constant" and node.attribute[0].name == "value":
        return [onnx.numpy_helper.to_array(node.attribute[0].t)]
    from onnx.reference import ReferenceEvaluator  # few files need it, and it takes its time

    helper = onnx.helper
    given = {name: each for name, each in zip(node.input, values, strict=True) if name}
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for name, a in given.items()
    ]
    outputs = [helper.make_value_info(name, onnx.TypeProto()) for name in node.output]
    body = helper.make_graph([node], "made", inputs, outputs)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)])
    found: list[Any] = ReferenceEvaluator(model).run(None, given)
    return found
